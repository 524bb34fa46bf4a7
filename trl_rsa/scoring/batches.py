"""Texts of different lengths through a model: tokens, batches of similar length, padding on the right."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trl_rsa.scoring.scorer import NotScored


Truncation = Literal["left"] | None

# Tokenizers without a limit say 1e30 or so.
_NO_LIMIT = 10**9


def longest(tokenizer: Any, config: Any) -> int | None:
    """The most tokens that the model takes: what its tokenizer says, else its positions. None if neither says."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(tokenizer, "model_max_length", None), getattr(text_config, "max_position_embeddings", None)]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    return min(known) if known else None


def tokenize(
    tokenizer: Any,
    texts: Sequence[str | NotScored],
    special_tokens: Sequence[bool],
    max_length: int | None,
    truncation: Truncation,
) -> list[list[int] | NotScored]:
    """Token ids of each text. One that is too long is cut on the left if asked for, and otherwise not scored: the
    score is read at the end, and a score of half a response would pass for that of the whole."""
    return [
        text if isinstance(text, NotScored) else _tokenize_one(tokenizer, text, special, max_length, truncation)
        for text, special in zip(texts, special_tokens, strict=True)
    ]


def _tokenize_one(
    tokenizer: Any, text: str, special: bool, max_length: int | None, truncation: Truncation
) -> list[int] | NotScored:
    try:
        ids = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    except (UnicodeEncodeError, TypeError) as error:  # half of a surrogate pair: no tokenizer can write it
        return NotScored(f"the tokenizer does not take this text ({error})")
    if not ids:
        return NotScored("prompt and completion are empty")
    if max_length is None or len(ids) <= max_length:
        return ids
    if truncation == "left":
        return ids[-max_length:]
    return NotScored(
        f"the text has {len(ids)} tokens and the scorer takes {max_length}; set max_length if it takes more, or "
        'truncation="left" to score the end'
    )


def score_batches(
    rows: Sequence[list[int] | NotScored],
    forward: Callable[[Any, Any], Any],
    pad_token_id: int,
    batch_size: int,
    device: Any,
) -> list[Any]:
    """
    Runs `forward` on batches of rows of similar length.

    Args:
        rows (`Sequence`):
            Token ids; a [`NotScored`] is handed through.
        forward (`Callable`):
            `(input_ids [B, T], attention_mask [B, T]) -> scores [B]`, or `[B, C]` for a list of scores per row.

    Returns:
        `list`: a float, a list of floats or a [`NotScored`] per row.
    """
    import torch

    results: list[Any] = [row if isinstance(row, NotScored) else NotScored("") for row in rows]
    # The longest first: what does not fit into memory fails at once.
    tokenized = [(i, row) for i, row in enumerate(rows) if not isinstance(row, NotScored)]
    tokenized.sort(key=lambda item: -len(item[1]))
    for start in range(0, len(tokenized), batch_size):
        indices = [i for i, _ in tokenized[start : start + batch_size]]
        batch = [torch.tensor(row) for _, row in tokenized[start : start + batch_size]]
        lengths = torch.tensor([len(row) for row in batch])
        input_ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad_token_id)
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            scores = forward(input_ids.to(device), attention_mask.to(device))
        for index, value in zip(indices, scores.double().cpu().tolist(), strict=True):
            results[index] = value
    return results


def check_batching_of(options: Mapping[str, Any]) -> None:
    """As [`check_batching`], of those that are set."""
    check_batching(options.get("batch_size", 1), options.get("max_length"), options.get("truncation"))


def check_batching(batch_size: Any, max_length: Any, truncation: Any) -> None:
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        optional = name == "max_length" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"You set {name}={value!r}, but it counts from 1. Set a whole number of at least 1.")
    if truncation not in (None, "left"):
        raise ValueError(
            f"You set truncation={truncation!r}, but the score is read at the end of the text, so that only its "
            'beginning can be left away. Set truncation="left", or leave it out.'
        )


def pick_device(device: Any) -> Any:
    """`None`: the accelerator of this process, which is made the current one, or the CPU."""
    import torch

    if not device:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return torch.device("cpu")
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.accelerator.set_device_index(index)
        return torch.device(accelerator.type, index)
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"You set device={device!r}, but torch does not know it. Set cpu, cuda or cuda:0.") from error


def pick_dtype(dtype: Any) -> Any:
    """`None` or "auto": as saved. Names as in `"bfloat16"`."""
    import torch

    if dtype is None or dtype == "auto":
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"You set dtype={dtype!r}, but torch has no such float type. Set float32, bfloat16 or auto.")
    return found
