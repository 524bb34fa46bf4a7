"""(b) A training step of RSATrainer beside one of TRL's DPOTrainer, and the heads alone.

Models have the shapes of real ones and random weights. Each method trains for a few steps with `trainer.train()`, in
turns: DPO, RSA with a CVaR, RSA with α = 0, and again. `ratio` is to DPO's seconds in the same round. A prompt of one
token makes all methods score the same number of tokens, which is the harder case for RSA.
"""

import gc
import statistics
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.results import Results
from benchmarks.gpu.roofline import card, head_flops, risk_head_bytes, step_flops
from benchmarks.gpu.settings import Deadline, Settings
from benchmarks.kernels.subjects import SHAPE as QWEN_SHAPE


LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
QWEN_15B = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TINY = {
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Case:
    """A model and how it is trained.

    Args:
        name (`str`), kind (`str`), shape (`dict`):
            Of the model, with its `model_type` and the arguments of its configuration.
        weights (`str`):
            Their dtype. Float32 weights are trained under autocast to bfloat16, as TRL does by default.
        pairs (`int`), tokens (`int`), prompt (`int`):
            Pairs of a step, and tokens of each sequence, `prompt` of them the prompt's.
    """

    name: str
    kind: str
    shape: dict[str, Any]
    weights: str = "bfloat16"
    pairs: int = 4
    tokens: int = 1024
    prompt: int = 1


CASES = [
    Case("Qwen2.5-0.5B", "qwen2", QWEN_SHAPE),
    Case("Llama-3.2-1B", "llama", LLAMA_1B),
    Case("Qwen2.5-1.5B", "qwen2", QWEN_15B),
    Case("Qwen2.5-0.5B", "qwen2", QWEN_SHAPE, weights="float32"),
]
SMALL_CASES = [
    Case("tiny Qwen2", "qwen2", TINY, "float32", pairs=2, tokens=16),
    Case("tiny Llama", "llama", TINY, "float32", pairs=2, tokens=16),
]
BASELINE = "TRL DPO"
# Options of RSAConfig, and the products of the head.
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    BASELINE: ({}, 5.0),
    "RSA CVaR": ({"risk_measure": "cvar", "risk_tail": 0.1}, 5.5),
    "RSA alpha 0": ({"risk_measure": "cvar", "risk_tail": 0.1, "risk_alpha": 0.0}, 5.0),
}
WARM_UP, STEPS, ROUNDS = 2, 6, 2


@dataclass
class Turn:
    """What one method's turn has shown."""

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None


def make_models(case: Case, device: str) -> tuple[Any, Any]:
    """The policy and its reference, with other weights, so that no loss is 0; made where they are trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(case.kind, **case.shape, max_position_embeddings=max(2048, case.tokens))
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case.weights))
        model.config._name_or_path = case.name
        made.append(model)
    return made[0], made[1]


def take_turn(case: Case, method: str, models: tuple[Any, Any], device: str, deadline: Deadline) -> Turn:
    """Trains a few steps as a user would, and counts those after the warm-up."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    from benchmarks.kernels.subjects import make_tokenizer
    from trl_rsa import RSAConfig, RSATrainer

    for model in models:
        # What the last turn's trainer has put around the model: its head, and accelerate's autocast. A model with
        # accelerate's mark would get no autocast again.
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            model.__dict__.pop(name, None)
    gc.collect()
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
    turn = Turn()
    options, _ = METHODS[method]
    trainer_class, config_class = (DPOTrainer, DPOConfig) if method == BASELINE else (RSATrainer, RSAConfig)
    answer = case.tokens - case.prompt - 1  # and the end of the sequence
    row = {"prompt": "a " * case.prompt, "chosen": "b " * answer, "rejected": "c " * answer}
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            folder,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch",
            learning_rate=1e-6,
            per_device_train_batch_size=case.pairs,
            max_length=case.tokens,
            max_steps=WARM_UP + STEPS,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = trainer_class(
            model=models[0],
            ref_model=models[1],
            args=args,
            train_dataset=Dataset.from_list([row] * (case.pairs * (WARM_UP + STEPS))),
            processing_class=make_tokenizer(),
            callbacks=[_clock(turn, on_gpu, deadline)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    models[0].zero_grad()
    return turn


def _clock(turn: Turn, on_gpu: bool, deadline: Deadline) -> Any:
    """Times each step from its begin to the optimizer's end, the device's work included."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
                if state.global_step == WARM_UP:
                    torch.cuda.reset_peak_memory_stats()
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            if state.global_step > WARM_UP:  # it counts the step that has ended
                turn.seconds.append(time.perf_counter() - self.start)
                turn.peak = torch.cuda.max_memory_allocated() if on_gpu else None
            control.should_training_stop |= deadline.left() < 5

    return Clock()


def summary(seconds: list[float]) -> dict[str, object]:
    return {
        "seconds": statistics.median(seconds),
        "lowest": min(seconds),
        "highest": max(seconds),
        "repeats": len(seconds),
    }


def measure_trainers(case: Case, settings: Settings, results: Results, deadline: Deadline) -> bool:
    """The rounds of one model; a method that fails is not tried again."""
    models = make_models(case, settings.device)
    peak_of_card = card(torch.cuda.get_device_name()) if settings.device == "cuda" else None
    scored, failed = case.tokens - case.prompt, set()
    for number in range(1, ROUNDS + 1):
        of_baseline = None
        for method, (_, products) in METHODS.items():
            cells = _cells("step", case, method) | {"round": number}
            if method in failed:
                continue
            if deadline.left() < 15 and not settings.small:
                results.add("skipped", "no time was left", **cells)
                continue
            try:
                turn = take_turn(case, method, models, settings.device, deadline)
            except Exception as error:
                failed.add(method)
                _say_failure(results, error, cells)
                continue
            if not turn.seconds:
                results.add("skipped", "no time was left for a step after the warm-up", **cells)
                continue
            found = summary(turn.seconds)
            flops = step_flops(case.shape, 2 * case.pairs, case.tokens, scored, products)
            of_baseline = found["seconds"] if method == BASELINE else of_baseline
            found |= {"flops": flops, "peak bytes": "" if turn.peak is None else turn.peak}
            if of_baseline is not None:
                found["ratio"] = found["seconds"] / of_baseline
            if peak_of_card is not None:
                found["of peak flops"] = flops / found["seconds"] / peak_of_card.flops
            results.add("measured", **(cells | found))
    return not failed


def measure_head(case: Case, settings: Settings, results: Results, deadline: Deadline) -> bool:
    """Forward and backward of the heads alone, over the tokens of a step; half of them have a gradient of the risk."""
    from benchmarks.kernels.run import interleave
    from benchmarks.kernels.subjects import HeadProblem

    vocabulary, hidden = case.shape["vocab_size"], case.shape["hidden_size"]
    scored = 2 * case.pairs * (case.tokens - case.prompt)
    names = {BASELINE: "TRL DPO", "RSA CVaR": "RSA tiled"}
    if settings.device == "cuda" and case.weights == "float32":
        return True  # without autocast it would multiply in float32, which no step does
    if deadline.left() < 15 and not settings.small:
        for method in names:
            results.add("skipped", "no time was left", **_cells("head", case, method))
        return True
    try:
        problem = HeadProblem(scored, vocabulary, hidden, getattr(torch, case.weights), settings.device)
    except Exception as error:
        _say_failure(results, error, _cells("head", case, ""))
        return False
    fine, of_baseline = True, None
    for method, name in names.items():
        cells = _cells("head", case, method)

        try:
            if settings.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            found = summary(interleave({method: partial(problem.run, name)}, repeats=5)[method])
        except Exception as error:
            fine = False
            _say_failure(results, error, cells)
            continue
        flops = head_flops(case.shape, scored, METHODS[method][1])
        of_baseline = found["seconds"] if method == BASELINE else of_baseline
        found |= {"flops": flops, "ratio": found["seconds"] / of_baseline if of_baseline else ""}
        moved = risk_head_bytes(vocabulary, hidden, scored, problem.head.weight.element_size())
        if method != BASELINE:
            found["head bytes"] = moved
        if settings.device == "cuda":
            found["peak bytes"] = torch.cuda.max_memory_allocated()
            if (peak := card(torch.cuda.get_device_name())) is not None:
                found["of peak flops"] = flops / found["seconds"] / peak.flops
                if method != BASELINE:
                    found["of bandwidth"] = moved / found["seconds"] / peak.bytes
        results.add("measured", **(cells | found))
    return fine


def _cells(benchmark: str, case: Case, method: str) -> dict[str, object]:
    return {
        "benchmark": benchmark,
        "model": case.name,
        "weights": case.weights,
        "method": method,
        "pairs": case.pairs,
        "tokens": case.tokens,
        "prompt": case.prompt,
    }


def _say_failure(results: Results, error: Exception, cells: dict[str, object]) -> None:
    """A model that does not fit is left out; anything else has failed."""
    traceback.print_exception(error)
    out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError)
    note = "the device's memory is too small" if out_of_memory else f"{type(error).__name__}: {str(error)[:300]}"
    results.add("skipped" if out_of_memory else "failed", note, **cells)


def measure_part(settings: Settings, results: Results, deadline: Deadline) -> bool:
    """Every model in turn; whether nothing failed."""
    fine = True
    for case in SMALL_CASES if settings.small else CASES:
        for measure in (measure_trainers, measure_head):
            fine &= measure(case, settings, results, deadline)
            gc.collect()
            if settings.device == "cuda":
                torch.cuda.empty_cache()
    return fine
