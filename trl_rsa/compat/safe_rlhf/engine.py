"""`--zero_stage` and `--offload` as a DeepSpeed configuration that needs no file."""

import os
from importlib.util import find_spec
from typing import Any


def deepspeed_config(zero_stage: int, offload: str = "none") -> dict[str, Any] | None:
    """
    Args:
        zero_stage (`int`):
            0 to 3.
        offload (`str`):
            `"none"`, `"parameter"`, `"optimizer"` or `"all"`.

    Returns:
        `dict`, or `None` for stage 0, which is DDP: `Trainer` does that itself.

    Raises:
        ValueError: if nothing of that kind can be offloaded in this stage.
    """
    parameters, optimizer = offload in ("parameter", "all"), offload in ("optimizer", "all")
    needed = 3 if parameters else 1 if optimizer else 0
    if zero_stage < needed:
        raise ValueError(
            f"You set offload={offload} with zero_stage={zero_stage}, but DeepSpeed offloads the optimizer from "
            f"stage 1 on and parameters only in stage 3. Set --zero_stage {needed}, or --offload none."
        )
    if zero_stage == 0:
        return None
    zero: dict[str, Any] = {"stage": zero_stage}
    if parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if zero_stage == 3:
        # The saved model is whole, so that nobody needs zero_to_fp32.py.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        # The optimizer is torch's: DeepSpeed's own for offloading has to be compiled at the first start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }


def start_engine(zero_stage: int, use_cpu: bool) -> None:
    """What DeepSpeed needs before the first configuration object is made.

    Raises:
        ValueError: if the launcher has chosen an engine too.
        ImportError: if DeepSpeed is not installed.
    """
    if zero_stage == 0:
        return
    for variable, engine in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if os.environ.get(variable, "false").lower() == "true":
            raise ValueError(
                f"You set zero_stage={zero_stage}, and the configuration of accelerate sets {engine}, but only one "
                "of them can choose the engine. Set --zero_stage 0, or take the engine out of that configuration."
            )
    if find_spec("deepspeed") is None:
        raise ImportError(
            f"You set zero_stage={zero_stage}, but DeepSpeed is not installed. Run pip install "
            "'trl-rsa[deepspeed]', or set --zero_stage 0."
        )
    if "RANK" not in os.environ:  # one process, without a launcher
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone | {"MASTER_PORT": str(_free_port())})
    if use_cpu:
        import deepspeed

        # accelerate does this itself, but not on a CPU.
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
