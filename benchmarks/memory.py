"""Peak memory of a training step per process: predicted from shapes, and measured where this machine can.

    python -m benchmarks.memory                  # the plans of examples/configs, and small models on this machine
    python -m benchmarks.memory --predict_only   # nothing is trained

Writes results/memory.csv and results/memory.md. `predicted` comes from models on the meta device and from what each
engine is known to keep; `measured` is the peak of a real step, above the interpreter and its libraries on a CPU, as
`torch.cuda.max_memory_allocated` has it on a GPU. A cell is empty where nothing was predicted or measured.
"""

import argparse
import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_step import Step, measure
from benchmarks.kernels.page import table
from benchmarks.kernels.run import provenance


HERE = Path(__file__).parent
RESULTS = HERE / "results" / "memory.csv"
CONFIGS = HERE.parent / "examples" / "configs"

LLAMA_7B = {
    "vocab_size": 32_001,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LLAMA_3_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
# Large enough that weights and activations stand out of an allocator's rounding.
SMALL = {
    "vocab_size": 16_384,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "tie_word_embeddings": False,
}
SMALL_LORA = {"r": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass
class Job:
    """What is trained, and on what.

    Args:
        name (`str`):
            For the table.
        shape (`dict`):
            Arguments of `LlamaConfig`.
        engine (`str`), processes (`int`):
            As in [`Step`].
        pairs (`int`), tokens (`int`), lora (`dict`, *optional*), checkpointing (`bool`):
            As in [`Step`].
        half (`bool`):
            Whether weights are loaded in bfloat16 and computed in it; otherwise everything is in float32.
        four_bits (`bool`):
            Whether linear layers other than the head are quantised to four bits.
        on_cpu (`bool`):
            Where it runs: memory that is reserved but never written does not count on a CPU.
    """

    name: str
    shape: dict[str, Any]
    engine: str
    processes: int
    pairs: int
    tokens: int
    lora: dict[str, Any] | None = None
    checkpointing: bool = False
    half: bool = False
    four_bits: bool = False
    on_cpu: bool = False


# Prediction


@dataclass
class Parts:
    """Bytes per process."""

    weights: float = 0.0
    reference: float = 0.0
    optimizer: float = 0.0
    gradients: float = 0.0
    engine: float = 0.0  # copies, buckets and gathered weights
    activations: float = 0.0
    head: float = 0.0  # tiles and kept bits of the risk head

    def total(self) -> float:
        # Gradients grow while activations are given back.
        states = self.weights + self.reference + self.optimizer + self.engine
        return states + max(self.gradients, self.activations + self.head)


@dataclass
class Count:
    """Numbers of weights."""

    linear: int = 0  # those that are quantised
    other: int = 0
    trained: int = 0
    whole: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.whole = self.linear + self.other


def count(job: Job) -> Count:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**job.shape))
        head = model.get_output_embeddings()
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
        other = sum(p.numel() for p in model.parameters()) - linear
        if job.lora is not None:
            model = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", **job.lora}))
        return Count(linear, other, sum(p.numel() for p in model.parameters() if p.requires_grad))


class _Attention(torch.autograd.Function):
    """Keeps what fused attention kernels keep: inputs, output and a number per row, no square of the tokens."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, torch.empty(query.shape[:-1], dtype=torch.float32))
        return output


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def kept_by_autograd(job: Job, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that autograd keeps of one layer, and of the norm after the last: distinct memories, without weights."""
    from transformers import AttentionInterface, LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

    # On the meta device PyTorch's own attention has no fused kernel.
    AttentionInterface.register("counted", _attend)
    config = LlamaConfig(**job.shape, attn_implementation="counted")
    rows, width = 2 * job.pairs, config.hidden_size // config.num_attention_heads
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, 0).to(dtype)
        norm = LlamaRMSNorm(config.hidden_size).to(dtype)
        hidden = torch.zeros(rows, job.tokens, config.hidden_size, dtype=dtype, requires_grad=True)
        angles = torch.zeros(1, job.tokens, width, dtype=dtype), torch.zeros(1, job.tokens, width, dtype=dtype)
        in_layer = _kept(layer, lambda: layer(hidden, position_embeddings=angles))
        return in_layer, _kept(norm, lambda: norm(hidden))


def _kept(module: torch.nn.Module, forward: Callable[[], object]) -> int:
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:  # a weight may be kept as a view
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    del output
    return sum(storage.nbytes() for storage in kept.values())


def activations(job: Job, width: int) -> float:
    """Of both answers of every pair. With checkpointing one state per layer, and all of one layer."""
    rows, layers = 2 * job.pairs, job.shape["num_hidden_layers"]
    per_layer, rest = kept_by_autograd(job, torch.bfloat16 if job.half else torch.float32)
    if job.checkpointing:
        return rest + per_layer + layers * rows * job.tokens * job.shape["hidden_size"] * width
    return rest + layers * per_layer


def head_bytes(job: Job) -> float:
    """The risk head: two bits per word, and two tiles of logits in float32.

    The forward's tiles are larger than the backward's, beside which is a trained head's gradient in float32.
    """
    from trl_rsa.kernels.tiled import GRADIENTS_PER_TILE, LOGITS_PER_TILE

    tokens, vocabulary = 2 * job.pairs * (job.tokens - 1), job.shape["vocab_size"]
    device = "cpu" if job.on_cpu else "cuda"
    forward, backward = (8 * min(size[device], tokens * vocabulary) for size in (LOGITS_PER_TILE, GRADIENTS_PER_TILE))
    gradient = 4 * vocabulary * job.shape["hidden_size"] if job.lora is None else 0
    return max(forward, backward + gradient) + tokens * vocabulary / 4


def predict(job: Job) -> Parts:
    """Sources: PyTorch's DDP and AdamW; DeepSpeed's ZeRO stages with accelerate's defaults."""
    counts, shards = count(job), job.processes
    width = 2 if job.half else 4
    # PEFT keeps new adapters in float32; TRL casts those of quantised models, and DeepSpeed those of all, to bfloat16.
    zero = int(job.engine[4]) if job.engine.startswith("zero") else 0
    trained_width = width if job.lora is None or zero or job.four_bits else 4
    adapter = 0 if job.lora is None else counts.trained * trained_width
    # NF4: half a byte per weight, and a float32 per block of 64.
    base = counts.linear * (0.5 + 4 / 64) + counts.other * width if job.four_bits else counts.whole * width
    parts = Parts(weights=base + adapter, reference=base if job.lora is None else adapter)
    parts.gradients = counts.trained * trained_width
    parts.optimizer = 2 * counts.trained * trained_width
    if job.engine == "multi_gpu":
        parts.engine = parts.gradients  # DDP's buckets
    if zero:
        # A copy of the weights in float32 and Adam's two moments, shared; one bucket for the reduction.
        parts.optimizer = 12 * counts.trained / shards
        bucket = min(DEEPSPEED_BUCKET, counts.trained) if job.on_cpu else DEEPSPEED_BUCKET
        parts.engine = bucket * width
    if zero >= 2:
        parts.gradients /= shards
    if zero == 3:
        gathered = (1 + (job.lora is None)) * min(DEEPSPEED_LIVE, counts.whole) * width
        parts.weights, parts.reference = parts.weights / shards, parts.reference / shards
        parts.engine += gathered
    parts.activations = activations(job, width)
    parts.head = head_bytes(job)
    return parts


# Weights: DeepSpeed's `reduce_bucket_size` and `stage3_max_live_parameters`, as accelerate leaves them.
DEEPSPEED_BUCKET, DEEPSPEED_LIVE = 500_000_000, 1_000_000_000


# Jobs


def plan_job(file: str, shape: dict[str, Any], model: str, engine: str, processes: int) -> Job:
    """The job of an example plan, on the machine that its name says."""
    from trl_rsa import Plan

    plan = Plan.from_yaml(CONFIGS / file)
    quantised = bool(plan.model_init_kwargs.get("quantization_config"))
    return Job(
        f"{file}, {model}",
        shape,
        engine,
        processes,
        plan.args["per_device_train_batch_size"],
        plan.args["max_length"],
        dict(plan.peft_config) if plan.peft_config else None,
        checkpointing=plan.args.get("gradient_checkpointing", True),
        half=plan.args["bf16"],
        four_bits=quantised,
    )


def plan_jobs() -> list[Job]:
    return [
        plan_job("qlora_7b_1x24gb.yaml", LLAMA_7B, "7B", "single", 1),
        plan_job("qlora_7b_1x24gb.yaml", LLAMA_3_8B, "8B", "single", 1),
        plan_job("lora_7b_2x80gb.yaml", LLAMA_7B, "7B", "multi_gpu", 2),
        plan_job("full_7b_8x80gb.yaml", LLAMA_7B, "7B", "zero3", 8),
    ]


def small_jobs() -> list[Job]:
    engines = (("single", 1), ("multi_gpu", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2))
    jobs = [Job("small, full", SMALL, engine, n, 4 // n, 128, on_cpu=True) for engine, n in engines]
    jobs += [Job("small, full, checkpointing", SMALL, "single", 1, 4, 128, checkpointing=True, on_cpu=True)]
    return [*jobs, Job("small, LoRA", SMALL, "single", 1, 4, 128, lora=SMALL_LORA, on_cpu=True)]


def measured_bytes(job: Job) -> int:
    # Freed memory goes back at once. Otherwise the peak is that of glibc's heap, not of what lives in it.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    fields = (job.shape, job.engine, job.processes, job.pairs, job.tokens, job.lora, job.checkpointing)
    return measure(Step(*fields, steps=4))["bytes"]


COLUMNS = ["name", "engine", "processes", "pairs", "tokens", "predicted", "measured"]
PARTS = list(Parts.__dataclass_fields__)
PROVENANCE = ["commit", "date", "device", "torch", "trl", "transformers"]


def row(job: Job, measured: int | None, source: dict[str, object]) -> dict[str, object]:
    parts = predict(job)
    cells: dict[str, object] = {name: getattr(job, name) for name in COLUMNS[:5]}
    cells |= {"predicted": round(parts.total()), "measured": "" if measured is None else measured}
    cells |= {f"predicted {name}": round(getattr(parts, name)) for name in PARTS}
    return cells | source | {"device": source["device"] if measured is not None else ""}


def write_page(path: Path, out: Path) -> None:
    """`memory.csv` → `memory.md` beside it."""
    with path.open() as file:
        rows = list(csv.DictReader(file))

    def size(text: str) -> str:
        return "" if not text else f"{float(text) / 1e9:.2f}"

    header = ["", "engine", "processes", "pairs per process", "tokens", "predicted (GB)", "measured (GB)"]
    lines = [[r[c] for c in COLUMNS[:5]] + [size(r["predicted"]), size(r["measured"])] for r in rows]
    device = next((r for r in rows if r["device"]), rows[0])
    source = f"torch {device['torch']}, trl {device['trl']}; commit {device['commit']}, {device['date']}."
    measured_on = f" Measured on {device['device']}." if device["device"] else ""
    out.write_text(
        f"Peak memory of a step per process, GB = 10⁹ bytes.{measured_on} {source}\n\n{table(header, lines)}\n"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results; the table goes beside it")
    parser.add_argument("--predict_only", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    source = provenance()
    rows = [row(job, None, source) for job in plan_jobs()]
    for job in small_jobs():
        rows.append(row(job, None if args.predict_only else measured_bytes(job), source))
        print({name: rows[-1][name] for name in COLUMNS}, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        columns = [*COLUMNS, *(f"predicted {name}" for name in PARTS), *PROVENANCE]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    write_page(args.out, args.out.with_suffix(".md"))


if __name__ == "__main__":
    main()
