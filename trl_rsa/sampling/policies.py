"""Loading a policy to sample from, and letting go of it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl_rsa.scoring.batches import pick_device, pick_dtype
from trl_rsa.scoring.weights import quiet_loading


def load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    with _named(path):
        return AutoTokenizer.from_pretrained(path)


def load_model(path: str, device: str | None = None, dtype: str | None = None) -> Any:
    """A causal language model (or an adapter's folder), ready to answer. `dtype` None: as saved."""
    from transformers import AutoModelForCausalLM

    with _named(path), quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=pick_dtype(dtype))
    return model.to(pick_device(device)).eval()


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"You set a model to {path!r}, but it cannot be loaded: {reason} Give the folder or the Hub id of a "
            "causal language model."
        ) from error


def release() -> None:
    """Frees the memory of a model that nobody holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
