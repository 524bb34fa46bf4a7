"""What this machine computes with."""

import logging
from functools import cache
from typing import Any

import torch


logger = logging.getLogger(__name__)


def has_accelerator() -> bool:
    """Whether torch finds a GPU or another accelerator that can be used now."""
    return torch.accelerator.current_accelerator(check_available=True) is not None


def has_slow_bfloat16() -> bool | None:
    """Whether torch would compute in bfloat16 on this machine's processor, which has no instructions for it.

    Float32 is several times faster there. False with an accelerator; None where torch does not say what there is.
    """
    if has_accelerator():
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.13
        return None
    found = torch.cpu.get_capabilities()
    return not any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def warn_of_slow_bfloat16(arguments: Any) -> None:
    """Says once where the [`~transformers.TrainingArguments`] ask a processor for bfloat16 that has none."""
    if arguments.bf16 and arguments.use_cpu and has_slow_bfloat16():
        _warn()


@cache  # however many stages there are
def _warn() -> None:
    logger.warning(
        "bf16 is on, as it is by default, but this processor has no instructions for bfloat16: training will be "
        "several times slower than in float32. Set bf16 to false."
    )
