"""A few steps of one RSATrainer on an engine: their seconds and the memory of every process.

`measure` is what memory.py and scaling.py call; it launches this module in as many processes as asked.
"""

import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trl_rsa.training.launcher import Launcher, end_with_parent


STEPS = 6  # the first makes the optimizer's state and is not counted


@dataclass
class Step:
    """What is trained.

    Args:
        shape (`dict`):
            Arguments of `LlamaConfig`.
        engine (`str`), processes (`int`):
            Name of a bundled accelerate configuration, and the number of processes.
        pairs (`int`):
            Pairs per process and step.
        tokens (`int`):
            Tokens of each answer with its prompt, a quarter of them the prompt's.
        lora (`dict`, *optional*):
            Arguments of `LoraConfig`; without it all weights are trained.
        checkpointing (`bool`):
            Whether layers are computed again in the backward.
    """

    shape: dict[str, Any]
    engine: str
    processes: int
    pairs: int
    tokens: int
    lora: dict[str, Any] | None = None
    checkpointing: bool = False
    steps: int = STEPS
    output: str = field(default="", repr=False)


def measure(step: Step) -> dict[str, Any]:
    """`seconds` of the counted steps in the first process, and `bytes`, the largest peak of a process."""
    with tempfile.TemporaryDirectory() as folder:
        step.output = folder
        _save_model(step.shape, folder)
        Path(folder, "step.json").write_text(json.dumps(asdict(step)))
        os.environ["OMP_NUM_THREADS"] = "1"  # more threads than cores would measure the scheduler
        launcher = Launcher(step.engine, ("--num_processes", str(step.processes)))
        if launcher.run("benchmarks.engine_step", [folder]):
            raise RuntimeError(f"{step} failed; see above")
        results = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
    assert len(results) == step.processes
    return {
        "seconds": results[0]["seconds"],
        "median seconds": statistics.median(results[0]["seconds"]),
        "bytes": max(result["bytes"] for result in results),
        "threads": results[0]["threads"],
    }


def _save_model(shape: dict[str, Any], folder: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.kernels.subjects import make_tokenizer

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


# In every process


def _run(step: Step) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, LlamaForCausalLM, TrainerCallback  # noqa: F401 (loaded lazily)

    from trl_rsa import RSAConfig, RSATrainer
    from trl_rsa.training.anchor import ModelSettings

    on_gpu = torch.cuda.is_available()
    before = 0 if on_gpu else _resident("VmRSS")
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                _restart_peak(on_gpu)
            self.start = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.start)

    args = RSAConfig(
        step.output + "/run",
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=step.checkpointing,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        risk_measure="cvar",
        per_device_train_batch_size=step.pairs,
        max_steps=step.steps,
        max_length=step.tokens,
    )
    prompt, answer = step.tokens // 4, step.tokens - step.tokens // 4 - 1
    row = {"prompt": "a " * prompt, "chosen": "b " * answer, "rejected": "c " * answer}
    anchor = ModelSettings({"dtype": torch.float32}, LoraConfig(**step.lora) if step.lora else None, False).anchor_at(
        step.output
    )
    trainer = RSATrainer(
        model=anchor.model,
        ref_model=anchor.ref_model,
        peft_config=anchor.peft_config,
        args=args,
        train_dataset=Dataset.from_list([row] * (step.pairs * step.processes * step.steps)),
        processing_class=AutoTokenizer.from_pretrained(step.output),
        callbacks=[Clock()],
    )
    trainer.train()
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
    trainer.accelerator.wait_for_everyone()
    return {"seconds": seconds[1:], "bytes": peak - before, "threads": torch.get_num_threads()}


def _restart_peak(on_gpu: bool) -> None:
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free, but not yet returned, is nobody's
        Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def main(folder: Path) -> None:
    end_with_parent()
    step = Step(**json.loads((folder / "step.json").read_text()))
    result = _run(step)
    (folder / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(result))

    from accelerate import PartialState

    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
