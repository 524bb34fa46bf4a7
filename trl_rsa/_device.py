"""What this machine computes with."""

import torch


def has_accelerator() -> bool:
    """Whether torch finds a GPU or another accelerator that can be used now."""
    return torch.accelerator.current_accelerator(check_available=True) is not None


def has_slow_bfloat16() -> bool:
    """Whether torch would compute in bfloat16 on this machine's processor, which has no instructions for it.

    Float32 is several times faster there. False with an accelerator, and where torch does not say what there is.
    """
    if has_accelerator() or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.13
        return False
    found = torch.cpu.get_capabilities()
    return not any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
