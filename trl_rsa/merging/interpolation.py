"""The model a fraction of the way from one policy to the next, by their weight updates: a walk-back, or a pressure."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trl_rsa.merging.merge import merge_models
from trl_rsa.sampling.policies import is_adapter


def interpolate(
    before: str,
    after: str,
    fraction: float,
    folder: str | Path,
    init_kwargs: dict[str, Any],
    processing_class: PreTrainedTokenizerBase | None = None,
) -> None:
    """Saves to `folder` the model with weights W_before + fraction·(W_after − W_before).

    Args:
        before, after (`str`):
            Folders (or Hub ids) of two models of one architecture; or of an adapter, `after`, and the adapter or the
            base model that it was trained from. Adapters stay adapters: theirs is exact, with the ranks added up.
        fraction (`float`):
            In [0, 1].
        folder (`str` or `Path`):
            Where to save.
        init_kwargs (`dict`):
            Arguments of `from_pretrained`; full weights are saved in its `dtype`. A Hub id is read at its `revision`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer to save; by default the models' own.

    Raises:
        ValueError: if `fraction` is outside [0, 1], or the two do not belong together.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"You set fraction to {fraction!r}, but beyond [0, 1] it is no walk back. Set it between.")
    dtype = init_kwargs.get("dtype")
    merge_models(
        [before, after],
        [1.0 - fraction, fraction],
        folder,
        dtype=str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) and not is_adapter(after) else None,
        init_kwargs=init_kwargs,
        processing_class=processing_class,
        revision=init_kwargs.get("revision"),
    )
