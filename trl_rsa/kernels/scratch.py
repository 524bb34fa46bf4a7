"""Memory for what a block of logits needs in passing, used again by the next block.

A row of a large vocabulary is bigger than what the C library keeps: it hands every temporary back to the system, and
asks for fresh pages for the next. On a CPU that took as long as the arithmetic (1,400 page faults per row for CVaR).
"""

import threading

import torch
from torch import Tensor


class Scratch:
    """Tensors that are valid until the next [`Scratch.of_thread`] on the same thread."""

    _threads = threading.local()

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, list[Tensor]] = {}
        self._used: dict[torch.dtype, int] = {}

    @classmethod
    def of_thread(cls) -> "Scratch":
        """The thread's memory, all of it free again."""
        if not hasattr(cls._threads, "scratch"):
            cls._threads.scratch = cls()
        scratch = cls._threads.scratch
        scratch._used.clear()
        return scratch

    def like(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the shape of `x` with anything in it."""
        dtype = dtype or x.dtype
        if x.device.type != "cpu":  # PyTorch keeps the memory of accelerators itself
            return torch.empty_like(x, dtype=dtype)
        memory, number = self._memory.setdefault(dtype, []), self._used.get(dtype, 0)
        self._used[dtype] = number + 1
        if number == len(memory):
            memory.append(torch.empty(0, dtype=dtype))
        if memory[number].numel() < x.numel():
            memory[number] = torch.empty(x.numel(), dtype=dtype)
        return memory[number][: x.numel()].view(x.shape)
