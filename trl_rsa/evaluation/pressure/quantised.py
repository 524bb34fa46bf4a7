"""Quantised: the weights in 4 bits, as a model is often served."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from trl_rsa.evaluation.pressure.base import Load, Pressure, Work
from trl_rsa.scoring.batches import pick_device, pick_dtype


@dataclass(frozen=True)
class Quantised(Pressure):
    """Weights in 4 bits by bitsandbytes (NF4; Dettmers et al., 2023), which must be installed and work here."""

    kind = "quantised"
    by_itself = True

    @property
    def name(self) -> str:
        return "quantised"

    @property
    def in_words(self) -> str:
        return "with weights in 4 bits"

    @classmethod
    def read(cls, strength: str) -> Self:
        raise ValueError(f"You set the pressure quantised:{strength}, but it has no strength. Set quantised.")

    def check(self, models: Sequence[str], work: Work) -> None:
        try:
            _try(str(pick_device(work.device)))
        except Exception as error:  # whatever is wrong with the installation or the device
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                f"You set the pressure quantised, but bitsandbytes cannot work in 4 bits here ({said}). Install it "
                "(pip install bitsandbytes), or leave this pressure out."
            ) from error

    @contextmanager
    def policy(self, path: str, work: Work) -> Iterator[tuple[str, Load]]:
        yield path, lambda: _checked(work.load(path, quantization_config=_settings(work.dtype)), path)


def _checked(model: Any, path: str) -> Any:
    """The model, if it answers: on a CPU not every shape works."""
    import torch

    try:
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    except RuntimeError as error:
        raise ValueError(
            f"You set the pressure quantised, but bitsandbytes cannot multiply the weights of {path} in 4 bits here "
            f"({' '.join(str(error).split())[:200]}). Leave this pressure out; what is drawn is kept."
        ) from error
    return model


def _settings(dtype: str | None) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    compute = pick_dtype(dtype) if dtype is not None else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _try(device: str) -> None:
    """One small layer in 4 bits."""
    import torch
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(device)
    with torch.no_grad():
        if not bool(torch.isfinite(layer(torch.ones(1, 64, device=device))).all()):
            raise RuntimeError("its products are not finite")
