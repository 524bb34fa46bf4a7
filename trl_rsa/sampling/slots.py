"""A key-value cache whose rows come and go: a finished response leaves its row, the next prompt takes it.

All rows end at the same column, so that one forward extends them all. Each begins at a column of its own, and what
lies before is masked. Keys and values are written into memory with room to spare. (`DynamicCache` copies all of it for
every token, a fifth of a step on a CPU.)
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from trl_rsa.sampling.contrast import Contrast


class _SlotLayer(DynamicLayer):
    """One layer's keys and values, `[rows, heads, columns, size]`; the columns from `first` to `end` are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.end = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:  # [B, H, 1, D] each
        n_new = key_states.shape[-2]
        self._make_room(n_new)
        assert self.buffers is not None
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.end : self.end + n_new] = new
        self.end += n_new
        self._show()
        return self.keys, self.values

    def _show(self) -> None:
        assert self.buffers is not None
        self.keys, self.values = (buffer[:, :, self.first : self.end] for buffer in self.buffers)

    def _make_room(self, n_new: int) -> None:
        """Moves the columns in use to the front when the end is reached, into larger memory unless a fifth is free."""
        assert self.buffers is not None
        columns, used = self.buffers[0].shape[-2], self.end - self.first
        if self.end + n_new <= columns:
            return
        columns = max(columns, used + n_new + max(64, used // 4))
        moved = []
        for buffer in self.buffers:
            new = buffer.new_zeros(*buffer.shape[:2], columns, buffer.shape[-1])
            new[:, :, :used] = buffer[:, :, self.first : self.end]
            moved.append(new)
        self.buffers = moved[0], moved[1]
        self.first, self.end = 0, used

    def open(self, like: DynamicLayer, rows: int, columns: int) -> None:
        """Memory for `rows` rows, with `columns` columns in use and nothing in them."""
        room = columns + 64
        self.buffers = tuple(
            states.new_zeros(rows, states.shape[1], room, states.shape[3]) for states in (like.keys, like.values)
        )
        self.first, self.end = 0, columns
        self.dtype, self.device, self.is_initialized = like.keys.dtype, like.keys.device, True
        self._show()

    def place(self, rows: Tensor, like: DynamicLayer, their_rows: Tensor, length: int) -> None:
        """Writes the last `length` columns of other rows where these rows end."""
        assert self.buffers is not None
        start = self.end - length
        for buffer, states in zip(self.buffers, (like.keys, like.values), strict=True):
            buffer[rows.to(buffer.device), :, start : self.end] = states[their_rows.to(states.device), :, -length:]

    def keep(self, rows: Tensor) -> None:
        assert self.buffers is not None
        self.buffers = tuple(buffer[rows.to(buffer.device)] for buffer in self.buffers)
        self._show()

    def trim(self, first: int) -> None:
        """Columns before the `first` of those in use are used no more."""
        self.first += first
        self._show()


class SlotCache(Cache):
    """
    A `DynamicCache` of plain layers with rows that can be replaced.

    Args:
        like (`DynamicCache`):
            What a first forward has filled; nothing of it is taken but shapes, dtypes and devices.
        rows (`int`):
            Number of rows.
        columns (`int`):
            Columns in use at the start.
    """

    def __init__(self, like: DynamicCache, rows: int, columns: int):
        layers = [_SlotLayer() for _ in like.layers]
        super().__init__(layers=layers)
        self.slots = layers
        for layer, other in zip(layers, like.layers, strict=True):
            layer.open(other, rows, columns)

    def place(self, rows: Tensor, like: DynamicCache, their_rows: Tensor, length: int) -> None:
        """Replaces `rows` by `their_rows` of another cache, of which the last `length` columns count."""
        for layer, other in zip(self.slots, like.layers, strict=True):
            layer.place(rows, other, their_rows, length)

    def keep(self, rows: Tensor) -> None:
        """Lets all other rows go."""
        for layer in self.slots:
            layer.keep(rows)

    def trim(self, first: int) -> None:
        """Lets the first columns go."""
        for layer in self.slots:
            layer.trim(first)


def has_plain_cache(model: Any) -> bool:
    """Whether the model keeps nothing between two tokens but the keys and values of all of them: not so for sliding
    windows, state-space and hybrid models, encoder-decoders, and models that prepare their inputs in a way of their
    own."""
    if isinstance(model, Contrast):
        return all(map(has_plain_cache, model.parts))
    own = type(model)
    if not isinstance(model, PreTrainedModel):
        return False
    config = model.config.get_text_config(decoder=True)
    if (
        model.config.is_encoder_decoder
        or own._is_stateful
        or own.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation
        or not own._supports_default_dynamic_cache()
        or not {"position_ids", "past_key_values", "logits_to_keep"} <= set(signature(own.forward).parameters)
    ):
        return False
    layers = DynamicCache(config=config).layers
    return len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)


def plain_cache(model: Any) -> DynamicCache:
    """An empty cache for a model for which [`has_plain_cache`] holds."""
    if isinstance(model, Contrast):
        return model.empty_cache()
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def read_prompts(model: Any, rows: list[list[int]]) -> tuple[Tensor, DynamicCache]:
    """One forward over prompts, padded on the left.

    Returns:
        The scores of the token after each prompt, `[N, V]`, and the keys and values, `[N, heads, width, size]`.
    """
    width, device = max(map(len, rows)), model.device
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    starts = torch.tensor([width - len(row) for row in rows], device=device)
    columns = torch.arange(width, device=device)
    cache = plain_cache(model)
    output = model(
        input_ids=ids,
        attention_mask=(columns >= starts[:, None]).long(),
        position_ids=(columns - starts[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], cache
