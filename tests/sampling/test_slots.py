"""The cache with rows that come and go, against lists of columns."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from trl_rsa.sampling.slots import SlotCache


HEADS, SIZE = 2, 3


def filled(rows: int, columns: int) -> DynamicCache:
    """A cache of two layers, as a forward over prompts leaves it."""
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.randn(rows, HEADS, columns, SIZE), torch.randn(rows, HEADS, columns, SIZE), layer)
    return cache


def step(cache, rows: int):
    """A new column; what the second layer's attention is given."""
    new = [torch.randn(rows, HEADS, 1, SIZE) for _ in range(4)]
    cache.update(new[0], new[1], 0)
    return new[2:], cache.update(new[2], new[3], 1)


def test_rows_are_placed_where_the_others_end():
    torch.manual_seed(0)
    prompts = filled(3, 7)
    cache = SlotCache(prompts, 4, 5)
    assert cache.get_seq_length() == 5
    cache.place(torch.tensor([3, 0]), prompts, torch.tensor([2, 1]), 4)
    new, (keys, values) = step(cache, 4)
    assert keys.shape == values.shape == (4, HEADS, 6, SIZE) and cache.get_seq_length() == 6
    for row, theirs in ((3, 2), (0, 1)):
        assert torch.equal(keys[row, :, 1:5], prompts.layers[1].keys[theirs, :, -4:])
        assert torch.equal(values[row, :, 1:5], prompts.layers[1].values[theirs, :, -4:])
    assert torch.equal(keys[:, :, 5:], new[0]) and torch.equal(values[:, :, 5:], new[1])
    assert keys[1].abs()[:, :5].max() == 0


def test_many_steps_with_columns_and_rows_that_go():
    """Like concatenated columns, whatever is trimmed and kept, and however often memory is moved."""
    torch.manual_seed(0)
    cache, rows = SlotCache(filled(4, 2), 4, 2), 4
    expected = torch.zeros(4, HEADS, 2, SIZE)
    for number in range(400):
        new, (keys, _) = step(cache, rows)
        expected = torch.cat([expected, new[0]], dim=-2)
        assert torch.equal(keys, expected)
        if number % 7 == 6:
            cache.trim(3)
            expected = expected[:, :, 3:]
        if number == 250:
            cache.keep(torch.tensor([3, 1]))
            rows, expected = 2, expected[[3, 1]]


def test_memory_does_not_grow_with_what_has_gone():
    cache = SlotCache(filled(1, 4), 1, 4)
    for _ in range(1000):
        step(cache, 1)
        cache.trim(1)
    assert cache.get_seq_length() == 4
    assert cache.slots[0].buffers[0].shape[-2] == 4 + 1 + 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_the_models(dtype):
    prompts = DynamicCache()
    prompts.update(torch.zeros(1, 1, 2, 3, dtype=dtype), torch.zeros(1, 1, 2, 5, dtype=dtype), 0)
    cache = SlotCache(prompts, 2, 2)
    keys, values = cache.update(torch.zeros(2, 1, 1, 3, dtype=dtype), torch.zeros(2, 1, 1, 5, dtype=dtype), 0)
    assert keys.dtype == values.dtype == dtype
    assert keys.shape == (2, 1, 3, 3) and values.shape == (2, 1, 3, 5)  # keys and values may differ in size
