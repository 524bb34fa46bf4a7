"""What this machine computes with."""

import torch


def has_accelerator() -> bool:
    """Whether torch finds a GPU or another accelerator that can be used now."""
    return torch.accelerator.current_accelerator(check_available=True) is not None
