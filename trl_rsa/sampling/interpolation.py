"""The model a fraction of the way from one policy to the next, by their weight updates: a walk-back, or a pressure.

The update is what is interpolated, never an adapter's factors A and B separately: their product would not be that of
the interpolated model.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from trl_rsa.sampling.policies import base_of, is_adapter


def interpolate(before: str, after: str, fraction: float, folder: str | Path, init_kwargs: dict[str, Any]) -> None:
    """Saves to `folder` the model with weights W_before + fraction·(W_after − W_before).

    Args:
        before, after (`str`):
            Folders (or Hub ids) of two models of one architecture; or of an adapter, `after`, and the adapter or the
            base model that it was trained from. Adapters stay adapters: theirs is exact, with the ranks added up.
        fraction (`float`):
            In [0, 1].
        folder (`str` or `Path`):
            Where to save; the tokenizer is the caller's.
        init_kwargs (`dict`):
            Arguments of `from_pretrained`.

    Raises:
        ValueError: if `fraction` is outside [0, 1], or the two do not belong together.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"You set fraction to {fraction!r}, but beyond [0, 1] it is no walk back. Set it between.")
    if is_adapter(after):
        model = _between_adapters(before, after, fraction, init_kwargs)
        model.save_pretrained(folder, selected_adapters=["default"])
    else:
        model = _between_weights(before, after, fraction, init_kwargs)
        model.save_pretrained(folder)


@torch.no_grad()
def _between_weights(before: str, after: str, fraction: float, init_kwargs: dict[str, Any]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(after, **init_kwargs)
    start = AutoModelForCausalLM.from_pretrained(before, **init_kwargs)
    # Parameters, not the state dict: tied weights are one parameter, and must move once.
    earlier = dict(start.named_parameters())
    later = dict(model.named_parameters())
    if earlier.keys() != later.keys() or any(earlier[name].shape != p.shape for name, p in later.items()):
        raise ValueError(f"You interpolate between {before} and {after}, but their weights differ in name or shape.")
    for name, parameter in later.items():
        parameter.lerp_(earlier[name], 1 - fraction)
    return model


def _between_adapters(before: str, after: str, fraction: float, init_kwargs: dict[str, Any]) -> PeftModel:
    base = base_of(after)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, **init_kwargs), after, adapter_name="after"
    )
    names, weights = ["after"], [fraction]
    if is_adapter(before):
        if base_of(before) != base:
            raise ValueError(
                f"You interpolate between {before} and {after}, but they are adapters of different models "
                f"({base_of(before)} and {base})."
            )
        model.load_adapter(before, adapter_name="before")
        names, weights = ["before", "after"], [1 - fraction, fraction]
    elif before != base:
        raise ValueError(f"You interpolate between {before} and the adapter {after}, but that was trained on {base}.")
    kept = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight > 0]
    # "cat" puts the factors side by side, (1−f)·B₀A₀ + f·B₁A₁ exactly; the rank is the sum of the ranks.
    model.add_weighted_adapter(
        adapters=[name for name, _ in kept] or ["after"],
        weights=[weight for _, weight in kept] or [0.0],
        adapter_name="default",
        combination_type="cat",
    )
    model.set_adapter("default")
    return model
