"""Clopper–Pearson and the bootstrap against scipy, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from trl_rsa.evaluation import bootstrap as module
from trl_rsa.evaluation.bootstrap import Bootstrap, deletions, resamples
from trl_rsa.evaluation.intervals import clopper_pearson, clopper_pearson_lower, clopper_pearson_upper
from trl_rsa.evaluation.tails import sorted_cvar


def mean_of(values):
    values = np.asarray(values, dtype=float)
    return lambda w: (w @ values / w.sum(-1))[:, None]


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (17, 400)])
def test_clopper_pearson_is_scipys(k, n):
    ours, theirs = clopper_pearson(k, n, 0.9), stats.binomtest(k, n).proportion_ci(0.9, "exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    one_sided = stats.binomtest(k, n, alternative="less").proportion_ci(0.9, "exact")
    assert clopper_pearson_upper(k, n, 0.9) == pytest.approx(one_sided.high)


def test_clopper_pearson_by_hand():
    """0 of 100: (1 − p)^100 = 0.05, p = 1 − 0.05^0.01 = 0.02951. 100 of 100: the mirror image."""
    assert clopper_pearson_upper(0, 100) == pytest.approx(1 - 0.05**0.01)
    assert clopper_pearson_lower(100, 100) == pytest.approx(0.05**0.01)
    with pytest.raises(ValueError, match="no more successes than trials"):
        clopper_pearson(5, 4)


def test_resamples_count_draws_and_do_not_depend_on_the_chunk(monkeypatch):
    whole = np.concatenate(list(resamples(7, 20, np.random.default_rng(0))))
    monkeypatch.setattr(module, "_CHUNK", 21)  # three resamples at a time
    chunks = list(resamples(7, 20, np.random.default_rng(0)))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 3, 3, 2]
    assert np.array_equal(np.concatenate(chunks), whole)
    assert (whole.sum(1) == 7).all() and (whole >= 0).all()


def test_deletions_leave_each_block_out_once():
    weights = np.concatenate(list(deletions(1000)))
    assert weights.shape == (400, 1000)
    assert ((weights == 0).sum(0) == 1).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_against_scipy(method):
    """scipy's bootstrap of the mean of a skewed sample: the same interval, up to the noise of 9,999 resamples."""
    x = np.random.default_rng(3).exponential(size=60)
    theirs = stats.bootstrap(
        (x,), np.mean, method={"bca": "BCa"}.get(method, method), rng=np.random.default_rng(1), vectorized=True
    ).confidence_interval
    [ours] = Bootstrap(n_resamples=9999, method=method).estimates(mean_of(x), 60)
    assert ours.value == pytest.approx(x.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    assert ours.method == method


def test_the_jackknife_s_blocks_are_samples_of_sorted_records():
    """The acceleration of a mean is the skewness over 6√n: of 5,000 exponential costs 2/(6·√5000) = 0.0047, whatever
    their order. Blocks of neighbours gave 2/(6·√400), as if there were 400."""
    x = np.random.default_rng(0).exponential(size=5000)
    for values in (x, np.sort(x)):
        means = np.concatenate([w @ values / w.sum(-1) for w in deletions(x.size)])
        deviation = means.mean() - means
        assert (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5) == pytest.approx(0.0047, abs=0.004)


def test_bca_shifts_towards_the_long_tail():
    x = np.random.default_rng(3).exponential(size=60)
    [plain] = Bootstrap().estimates(mean_of(x), 60)
    [corrected] = Bootstrap(method="bca").estimates(mean_of(x), 60)
    assert corrected.low > plain.low and corrected.high > plain.high


def test_coverage_of_cvar_intervals():
    """95 % intervals for CVaR_0.1 of an exponential law, which is 1 + ln 10 = 3.303, n = 400, 300 data sets.

    The percentile interval is only asymptotically right; between 88 % and 99 % is what it should do here. Half of the
    sample in place of all of it, or a CVaR of another tail, falls outside.
    """
    rng = np.random.default_rng(0)
    truth, hits = 1 + np.log(10), 0
    for _ in range(300):
        x = -np.sort(-rng.exponential(size=400))
        boot = Bootstrap(n_resamples=200, seed=int(rng.integers(2**31)))
        [e] = boot.estimates(lambda w, x=x: sorted_cvar(x, np.cumsum(w, -1), [0.1]), 400)
        hits += e.low <= truth <= e.high
    assert 0.88 * 300 <= hits <= 0.99 * 300


def test_clusters_widen_the_interval():
    """Ten identical responses to each of 30 prompts carry the information of 30: √10 times the naive width."""
    prompts = np.repeat(np.arange(30), 10)
    values = np.random.default_rng(0).normal(size=30)[prompts]
    [naive] = Bootstrap().estimates(mean_of(values), 300)
    [honest] = Bootstrap().estimates(mean_of(values), 300, prompts)
    assert honest.method == "percentile by prompt"
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(10**0.5, rel=0.15)
    [alone] = Bootstrap().estimates(mean_of(np.repeat(values[::10], 1)), 30)
    assert (honest.low, honest.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_memory_does_not_grow_with_resamples_or_responses_per_prompt(method):
    """Ten prompts with 5,000 responses each: no more weights at once than fit a chunk (or one resample)."""
    sizes = []

    def statistic(w):
        sizes.append(w.size)
        return w.mean(-1, keepdims=True)

    Bootstrap(n_resamples=100, method=method).estimates(statistic, 50_000, np.arange(50_000) % 10)
    assert max(sizes) <= max(module._CHUNK, 50_000)


def test_one_unit_has_no_interval():
    [e] = Bootstrap().estimates(mean_of([1.0, 3.0]), 2, ["same", "same"])
    assert (e.value, e.low, e.high, e.method) == (2.0, None, None, "none")


def test_settings_are_checked():
    for options, sentence in [
        ({"method": "magic"}, "percentile"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"n_resamples": 0}, "at least one resample"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Bootstrap(**options)
    with pytest.raises(ValueError, match="one label per record"):
        Bootstrap().estimates(mean_of([1, 2]), 2, ["a"])
