"""The quantile by selection by bins against the one by sorting."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trl_rsa.kernels.block import pack_sides, unpack_sides
from trl_rsa.kernels.cvar import upper_quantiles


TAILS = [0.3, 0.05, 0.5, 1e-7, 0.999]


def by_sorting(x, p, tail):
    """The first loss, from the worst down, at which the mass reaches the tail."""
    worst_first, order = x.sort(-1, descending=True)
    mass = p.double().gather(-1, order).cumsum(-1)
    place = (mass < tail * mass[:, -1:]).sum(-1, keepdim=True).clamp(max=x.shape[-1] - 1)
    return worst_first.gather(-1, place)


LOSSES = {
    "normal": lambda x: x,
    "nearly equal": lambda x: 1 + 1e-6 * x,
    "tied": lambda x: x.round(),
    "huge": lambda x: 1e30 * x,
    "tiny": lambda x: 1e-30 * x,
    "heavy tails": lambda x: x / x.flip(-1),
    "infinite": lambda x: torch.where(x > 1, torch.inf, x),
}


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("words", [1, 2, 3, 123, 5000, 40000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_sorting(losses, words, dtype):
    """Exactly the same loss, not one near it; p from nearly uniform to a few heavy atoms."""
    generator = torch.Generator().manual_seed(words)
    x = LOSSES[losses](torch.randn(4, words, generator=generator, dtype=dtype))
    p = (torch.tensor([[0.1], [1.0], [3.0], [9.0]]) * torch.randn(4, words, generator=generator)).softmax(-1).to(dtype)
    etas = upper_quantiles(x, p, TAILS)
    for eta, tail in zip(etas.split(1, -1), TAILS, strict=True):
        assert torch.equal(eta, by_sorting(x, p, tail))


@settings(max_examples=100, deadline=None)
@example(rows=[(0.0, 1), (-1.1754943508222875e-38, 1)], tail=7 / 8, copies=2500)
@given(
    rows=st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(1, 8)), min_size=1, max_size=20),
    tail=st.sampled_from([1 / 64, 1 / 8, 1 / 4, 1 / 2, 7 / 8]),
    copies=st.sampled_from([1, 2500]),  # to be sorted at once, and to go through bins
)
def test_quantile_of_any_floats(rows, tail, copies):
    """Whatever the floats are, signed zeros and denormals included; whole weights, so that sums are exact."""
    x = torch.tensor([[x for x, _ in rows]], dtype=torch.float32).repeat(1, copies)
    p = torch.tensor([[p for _, p in rows]], dtype=torch.float32).repeat(1, copies)
    x = torch.cat([x, torch.full_like(x, x[0, 0].item())])  # beside a row of one value
    assert torch.equal(upper_quantiles(x, p.expand_as(x), [tail]), by_sorting(x, p.expand_as(x), tail))


def test_quantile_by_hand():
    """Losses 3, 1, 2 with mass .2, .5, .3: the worst .2 is {3}, and .4 needs 2 as well, .6 needs 1."""
    x, p = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.2, 0.5, 0.3]])
    assert upper_quantiles(x, p, [0.1, 0.4, 0.6]).tolist() == [[3.0, 2.0, 1.0]]


@pytest.mark.parametrize("words", [1, 3, 4095, 4096, 4097, 10000])
def test_sides_survive_packing(words):
    sides = torch.randint(3, (5, words), generator=torch.Generator().manual_seed(0)).float()
    packed = pack_sides(sides)
    assert packed.dtype == torch.uint8 and packed.shape[1] == -(-words // 4096) * 1024
    assert torch.equal(unpack_sides(packed, torch.empty_like(sides)), sides)
