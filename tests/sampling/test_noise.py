"""The noise of a draw: hashes, exponential, the same whether all of it is made or only what matters; and its law."""

import math

import pytest
import torch

from trl_rsa.sampling.noise import N_ARRIVALS, SeededSampling, arrival_times, draw_key, draw_tokens


MASK = 2**64 - 1


# The noise


def _mix(x: int) -> int:
    """SplitMix64's output function in Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def test_mix_is_splitmix64():
    """The published first outputs of SplitMix64 with state 1234567."""
    gamma = 0x9E3779B97F4A7C15
    outputs = [_mix(1234567 + i * gamma & MASK) for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_noise_is_the_hash(key):
    """In Python's integers: 128 arrivals, gaps of mean 1/8 since 7 tokens have room for 8; their tokens are the top 3
    bits of the next 128 hashes; −ln u, u the top 52 bits of a hash and a half; later arrivals are hashes by token."""
    gamma, step = 0x9E3779B97F4A7C15, 3
    state = _mix((key + _mix(step * gamma & MASK)) & MASK)

    def bits(counter):
        return _mix(state + counter * gamma & MASK)

    def exponential(counter):
        return -math.log(((bits(counter) >> 12) + 0.5) * 2.0**-52)

    assert N_ARRIVALS == 128
    expected, time = [math.inf] * 8, 0.0
    for i in range(128):
        time += exponential(1 + i) / 8
        token = bits(129 + i) >> 61
        expected[token] = min(expected[token], time)
    expected = [min(known, time + exponential(257 + token)) for token, known in enumerate(expected[:7])]
    found = arrival_times(torch.tensor([key]), torch.tensor([step]), 7)[0].tolist()
    assert found == pytest.approx(expected, rel=1e-12)


def _noise(n_rows: int, n_tokens: int) -> torch.Tensor:
    return arrival_times(torch.arange(n_rows), torch.zeros(n_rows, dtype=torch.long), n_tokens)


@pytest.mark.parametrize("n_tokens", [1000, 1024])
def test_noise_is_exponential(n_tokens):
    """Mean 1, variance 1 (that of a variance is 8): 400 rows, four standard errors: 0.0064 and 0.018."""
    noise = _noise(400, n_tokens)
    assert noise.mean().item() == pytest.approx(1, abs=0.0064)
    assert noise.var().item() == pytest.approx(1, abs=0.018)


def test_noise_has_no_seam_where_the_list_ends():
    """Shares of arrivals before x, 1 − exp(−x), around t_K = 128 / 1,024 = 0.125; four standard errors: 0.0032."""
    noise = _noise(400, 1000)
    for x in (0.01, 0.1, 0.12, 0.13, 0.15, 0.3, 2.0):
        assert (noise < x).double().mean().item() == pytest.approx(1 - math.exp(-x), abs=0.0032)


def test_tokens_are_independent():
    """Covariances of neighbours and of a token with itself a step later: 400,000 products, four standard errors."""
    noise, later = _noise(400, 1000), arrival_times(torch.arange(400), torch.ones(400, dtype=torch.long), 1000)
    for other in (noise.roll(1, -1), noise.roll(1, 0), later):
        assert ((noise - 1) * (other - 1)).mean().item() == pytest.approx(0, abs=0.0064)


def test_noise_of_a_row_is_its_own():
    keys, steps = torch.tensor([5, -9, 77]), torch.tensor([4, 0, 4])
    alone = torch.cat([arrival_times(keys[i, None], steps[i, None], 11) for i in range(3)])
    assert torch.equal(arrival_times(keys, steps, 11), alone)
    assert not torch.equal(arrival_times(keys, steps + 1, 11), alone)


def test_padding_the_vocabulary_changes_no_noise():
    assert torch.equal(_noise(8, 900), _noise(8, 1000)[:, :900])


@pytest.mark.parametrize("n_tokens", [1, 2, 24, 1000, 49152])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 9.0])
def test_little_noise_is_enough(n_tokens, spread):
    """From uniform laws to peaked ones: the token is the one that the whole vocabulary's noise gives."""
    generator = torch.Generator().manual_seed(n_tokens)
    scores = torch.randn(6, n_tokens, generator=generator) * spread
    scores[:3, 1 + n_tokens // 7 :] = -torch.inf  # as a filter leaves them
    keys, steps = torch.arange(6) ** 9, torch.arange(6)
    whole = (scores.double() - arrival_times(keys, steps, n_tokens).log()).argmax(-1)
    assert torch.equal(draw_tokens(scores, keys, steps), whole)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers(bad):
    scores = torch.zeros(2, 5)
    scores[1, 3] = bad
    with pytest.raises(ValueError, match="next-token scores are not finite"):
        draw_tokens(scores, torch.arange(2), torch.arange(2))


def test_two_models_mostly_draw_the_same():
    """1,000 laws of 2,000 tokens, logits N(0, 9), and others that differ by N(0, 0.3²): 86 of 100 tokens were the same
    with shared noise, against 49 with a shared uniform number and the inverse distribution function."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1000, 2000, generator=generator) * 3
    other = scores + torch.randn(1000, 2000, generator=generator) * 0.3
    keys, steps = torch.arange(1000), torch.zeros(1000, dtype=torch.long)
    same = (draw_tokens(scores, keys, steps) == draw_tokens(other, keys, steps)).double().mean().item()
    uniform = torch.rand(1000, 1, generator=generator)
    inverse = [torch.searchsorted(law.softmax(-1).cumsum(-1), uniform) for law in (scores, other)]
    assert same > 0.82 and (inverse[0] == inverse[1]).double().mean().item() < 0.55


def test_keys_differ():
    keys = {
        draw_key(s, p, d) for s in (0, 1, -1) for p in ("a", "b", [{"role": "user", "content": "a"}]) for d in (0, 1)
    }
    assert len(keys) == 18


# The law of a draw


def _shares(logits: list[float], **options) -> torch.Tensor:
    n = 20_000
    processor = SeededSampling(torch.arange(n), 0, **{"temperature": 1.0} | options)
    scores = processor(torch.zeros(n, 0, dtype=torch.long), torch.tensor(logits).expand(n, -1))
    return scores.argmax(-1).bincount(minlength=len(logits)) / n


def test_draws_follow_the_softmax():
    """Probabilities .1, .2, .3, .4; standard error of a share at most .0035."""
    assert _shares([math.log(p) for p in (0.1, 0.2, 0.3, 0.4)]).tolist() == pytest.approx(
        [0.1, 0.2, 0.3, 0.4], abs=0.014
    )


def test_temperature():
    """At temperature ½ probabilities 1 : 2 become 1 : 4."""
    assert _shares([0.0, math.log(2)], temperature=0.5).tolist() == pytest.approx([0.2, 0.8], abs=0.014)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.65}])
def test_filters_come_before_the_noise(options):
    """Of .1, .2, .3, .4 the largest two (.7 of the mass, the least set with .65) remain, as 3/7 and 4/7."""
    shares = _shares([math.log(p) for p in (0.1, 0.2, 0.3, 0.4)], **options).tolist()
    assert shares[:2] == [0, 0]
    assert shares[2:] == pytest.approx([3 / 7, 4 / 7], abs=0.014)
