"""Makes accelerate shard with FSDP2 on a CPU, for tests. Call `enable` before the training arguments are made.

accelerate 1.15 turns `ACCELERATE_USE_FSDP` into FSDP only for types of devices with an accelerator; on several CPU
processes it falls back to DDP without a word. torch itself shards on gloo.
"""

import os


SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "ACCELERATE_TORCH_DEVICE": "cpu",
}


def enable() -> None:
    import torch.distributed
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def on_gloo(self: PartialState, *args: object, **kwargs: object) -> tuple[str, DistributedType]:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        # The type of several GPUs is one that FSDP is made from.
        return "gloo", DistributedType.MULTI_GPU

    os.environ.update(SETTINGS)
    PartialState._prepare_backend = on_gloo
