"""What is trained on every engine: the engines, the ways of tuning, and the global batch that they share.

Read by the tests, and by `engine_worker.py` inside the launched processes. Standard library only.
"""

from dataclasses import dataclass, field
from typing import Any


ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")
# ZeRO-1 shares its code with ZeRO-2, and offloading shares all but the place of the weights with ZeRO-3: they run only
# the cases in which they could differ.
FEWER = ("zero1", "zero3-offload")
PAIRS_PER_STEP = 4
STEPS = 4


def processes(engine: str) -> int:
    return 1 if engine == "single" else 2


def deepspeed_config(engine: str) -> dict[str, Any] | None:
    """The DeepSpeed configuration of a `zero…` engine, `None` for the others."""
    if not engine.startswith("zero"):
        return None
    zero: dict[str, Any] = {"stage": int(engine[4]), "overlap_comm": False, "contiguous_gradients": True}
    if engine.startswith("zero3"):
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if engine.endswith("offload"):
        zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    return {
        "zero_optimization": zero,
        # The optimizer is torch's, so that its steps can be compared with those of the other engines.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
    }


@dataclass
class Case:
    """One way of tuning.

    Args:
        model (`str`):
            `"untied"`, `"tied"`, or `"adapter"`, a trained LoRA adapter on the untied model.
        lora (`dict`, *optional*):
            Options of a new adapter.
        quantised (`bool`):
            Whether the model is loaded in 4 bits (NF4).
        data (`str`):
            `"pairs"`, or `"uneven"`: the first rank has answers of 40 words, the second of one word.
        args (`dict`):
            Changes to the arguments of `RSAConfig`.
        resumed_from (`int`, *optional*):
            The step of the checkpoint that it is also resumed from.
        reanchored_every (`int`, *optional*):
            Steps after which the reference is moved to the policy, in memory.
        engines (`tuple` of `str`):
            Where it runs.
        everywhere (`bool`):
            Whether the engines of `FEWER` run it too.
    """

    model: str = "untied"
    lora: dict[str, Any] | None = None
    quantised: bool = False
    data: str = "pairs"
    args: dict[str, Any] = field(default_factory=dict)
    resumed_from: int | None = None
    reanchored_every: int | None = None
    engines: tuple[str, ...] = ENGINES
    everywhere: bool = False

    @property
    def in_bf16(self) -> bool:
        return bool(self.args.get("bf16"))


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
BF16 = {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}

CASES = {
    "full": Case(resumed_from=1, everywhere=True),
    "full-tied": Case(model="tied", args={"gradient_checkpointing": True}),
    "full-accumulation": Case(args={"gradient_accumulation_steps": 2, "loss_type": "rsa2"}),
    "full-uneven": Case(
        data="uneven", args={"train_sampling_strategy": "sequential", "eval_strategy": "steps", "eval_steps": 2}
    ),
    "full-reanchored": Case(reanchored_every=2, resumed_from=3),
    "full-bf16": Case(args={"bf16": True}, everywhere=True),
    "lora": Case(lora=LORA, resumed_from=3),
    "lora-tied": Case(model="tied", lora=LORA, args={"gradient_checkpointing": True}),
    "lora-head": Case(lora={**LORA, "modules_to_save": ["lm_head"]}, resumed_from=2, everywhere=True),
    "lora-bf16": Case(lora=LORA, args=BF16),
    "adapter": Case(model="adapter", resumed_from=2),
    "adapter-accumulation": Case(model="adapter", args={"gradient_accumulation_steps": 2}),
    "adapter-reanchored": Case(model="adapter", reanchored_every=2, resumed_from=3),
    "qlora": Case(lora=LORA, quantised=True, args=BF16, resumed_from=2, engines=("single", "ddp")),
}


def cases_of(engine: str) -> list[str]:
    return [
        name for name, case in CASES.items() if engine in case.engines and (case.everywhere or engine not in FEWER)
    ]
