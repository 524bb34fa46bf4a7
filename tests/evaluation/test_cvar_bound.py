"""Upper bounds on CVaR: by hand, exactly on small worlds, and by coverage in simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from trl_rsa.evaluation.bounds import (
    betting_cvar_upper_bound,
    betting_mean_upper_bound,
    binary_cvar_upper_bound,
    brown_cvar_upper_bound,
    dkw_cvar_upper_bound,
)
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.tails import cvar


DATA_SETS = 1000
# At 95 % a right bound misses at most 73 of 1,000 with probability 99.9 %.
ALLOWED = int(stats.binom.ppf(0.999, DATA_SETS, 0.05))

# Laws of a cost in [0, 1], by their quantile functions.
LAWS = {
    "uniform": lambda u: u,
    "beta(2, 9)": lambda u: BETA[(u * (BETA.size - 1)).astype(int)],
    "U-shaped": lambda u: np.sin(np.pi * u / 2) ** 2,  # beta(1/2, 1/2)
    "rare disaster": lambda u: np.where(u > 0.99, 1.0, 0.05 * u),
    "lattice": lambda u: np.floor(u * 5) / 5,
    "clipped Pareto": lambda u: np.minimum(0.02 * ((1 - u) ** (-1 / 1.5) - 1), 1.0),
    "clipped normal": lambda u: np.clip(0.3 + 0.2 * NORMAL[(u * (NORMAL.size - 1)).astype(int)], 0.0, 1.0),
    "yes/no": lambda u: (u > 0.97).astype(float),
    "constant": lambda u: np.full_like(u, 0.4),
}
# scipy's quantile functions are slow: read them once on a grid, which is then the (discrete) law itself.
_GRID = (np.arange(100_000) + 0.5) / 100_000
BETA, NORMAL = stats.beta.ppf(_GRID, 2, 9), stats.norm.ppf(_GRID)


def true_cvar(law, tail):
    """The mean of the quantile function over its last `tail`, by the midpoint rule."""
    return float(law(1 - tail + tail * (np.arange(2_000_000) + 0.5) / 2_000_000).mean())


def test_allowed_misses():
    assert ALLOWED == 73


@pytest.fixture(autouse=True)
def seeds(monkeypatch):
    """The seeds that a bound draws for itself, the same in every run of the tests."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr("trl_rsa.evaluation.cvar_bound.fresh_seed", lambda: int(rng.integers(2**32)))


def misses(bound, draw, truth, seed):
    rng = np.random.default_rng(seed)
    return sum(bound(draw(rng)) < truth - 1e-6 for _ in range(DATA_SETS))


# A rare disaster, ties, a heavy tail, and a tail that crowds at the largest cost: where bounds have failed.
HARD = ("rare disaster", "lattice", "clipped Pareto", "U-shaped")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("betting", name) for name in HARD),
        ("betting-split", "clipped Pareto"),
        ("dkw", "clipped Pareto"),
        ("brown", "clipped Pareto"),
    ],
)
def test_coverage(method, name):
    """1,000 data sets of 400 prompts; tail 0.2, so that no method is vacuous."""
    law = LAWS[name]
    count = misses(
        lambda costs: float(cvar_upper_bound(costs, 0.2, method=method)),
        lambda rng: law(rng.random(400)),
        true_cvar(law, 0.2),
        seed=5,
    )
    assert count <= ALLOWED


def test_the_coverage_test_can_fail():
    """The same simulation convicts an estimate that poses as a bound."""
    law = LAWS["clipped Pareto"]
    assert misses(lambda x: cvar(x, 0.2), lambda rng: law(rng.random(400)), true_cvar(law, 0.2), seed=5) > 3 * ALLOWED


def test_coverage_of_yes_no_labels():
    count = misses(
        lambda costs: float(cvar_upper_bound(costs, 0.05, method="binary")),
        lambda rng: (rng.random(600) < 0.02).astype(float),
        0.02 / 0.05,
        seed=5,
    )
    assert count <= ALLOWED


def test_sorted_records():
    """The order of the file has no influence; without the shuffle, betting on ascending values misses."""
    law = LAWS["uniform"]
    truth = true_cvar(law, 0.2)
    count = misses(lambda x: float(cvar_upper_bound(np.sort(x), 0.2)), lambda rng: law(rng.random(400)), truth, seed=6)
    assert count <= ALLOWED
    naive = misses(lambda x: betting_mean_upper_bound(np.sort(x), 0.05), lambda rng: law(rng.random(400)), 0.5, seed=6)
    assert naive > 3 * ALLOWED


@pytest.mark.parametrize(("method", "n", "share"), [("betting", 608, 0.008257), ("betting-split", 1028, 0.007933)])
def test_yes_no_costs_of_one_length(method, n, share):
    """There are few such samples, and of sorted costs one seed makes the same order of each: in 254 and 392 of 2,000
    samples the bound was then below the truth."""

    def count(**options):
        rng = np.random.default_rng(8)
        samples = (np.sort(rng.random(n) < share).astype(float) for _ in range(400))
        return sum(float(cvar_upper_bound(x, 0.05, method=method, **options)) < share / 0.05 - 1e-6 for x in samples)

    # At 95 % a right bound misses at most 35 of 400, with a probability of 99.9 %.
    assert count() <= 35 < count(seed=0)


def _clustered(rng):
    """100 prompts with ten responses each, which differ little within a prompt: a mean of 0.5·u + 0.5·u·v."""
    prompts = np.repeat(np.arange(100), 10)
    return rng.random(100)[prompts] ** 2 * (0.5 + 0.5 * rng.random(1000)), prompts


def _clustered_truth(tail):
    """u²·(0.5 + 0.5·v) on a grid of 1,500 × 1,500 midpoints."""
    u = (np.arange(1500) + 0.5) / 1500
    return cvar((u[:, None] ** 2 * (0.5 + 0.5 * u)).ravel(), tail)


@pytest.mark.parametrize("method", ["betting", "dkw", "brown"])
def test_several_responses_per_prompt(method):
    rng, truth = np.random.default_rng(7), _clustered_truth(0.3)
    honest = naive = 0
    for i in range(DATA_SETS):
        costs, prompts = _clustered(rng)
        honest += float(cvar_upper_bound(costs, 0.3, method=method, groups=prompts)) < truth
        if method == "betting" and i < 200:  # the others are too loose to be caught
            naive += float(cvar_upper_bound(costs, 0.3, method=method)) < truth
    assert honest <= ALLOWED
    assert method != "betting" or naive > 1.5 * 0.2 * ALLOWED


def test_clipped_costs():
    """An unbounded cost: the claim is about the clipped one, and the parts say how many were clipped."""
    tail, bounds = 0.2, (-1.0, 2.0)
    truth = true_cvar(lambda u: np.clip(NORMAL[(u * (NORMAL.size - 1)).astype(int)], *bounds), tail)
    count = misses(
        lambda x: float(cvar_upper_bound(x, tail, bounds=bounds)),
        lambda rng: NORMAL[rng.integers(0, NORMAL.size, 400)],
        truth,
        seed=8,
    )
    assert count <= ALLOWED
    bound = cvar_upper_bound([-3, -1, 0, 1, 2, 2.5, 7], tail, bounds=bounds)
    assert (bound.n_clipped_above, bound.n_clipped_below, bound.n_clipped) == (2, 1, 3)
    assert any("clipped cost" in words for words in bound.assumptions)


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.9])
def test_betting_exactly_on_coin_flips(mean):
    """All 2^10 outcomes of ten flips, each with its probability: the bound misses with probability at most δ."""
    missed = 0.0
    for outcome in product((0.0, 1.0), repeat=10):
        heads = sum(outcome)
        if betting_mean_upper_bound(np.array(outcome), 0.05) < mean:
            missed += mean**heads * (1 - mean) ** (10 - heads)
    assert missed <= 0.05


def test_betting_by_hand():
    """One value 0, δ = ½: the stake √(2 ln 2 / ¼) = 2.35 is capped at ¾/(1 − m); 1 + ¾m/(1 − m) = 2 at m = 4/7."""
    assert betting_mean_upper_bound(np.array([0.0]), 0.5) == pytest.approx(4 / 7)
    assert betting_mean_upper_bound(np.array([1.0]), 0.5) == 1.0


def test_dkw_by_hand():
    """Costs 0.1 … 0.4, largest 1, δ = e^−0.5: ε = √(0.5/8) = ¼ moves from the mildest to 1.

    That leaves 1, 0.4, 0.3, 0.2 with mass ¼ each. Tail ½: (1 + 0.4) / 2 = 0.7.
    """
    costs = np.array([0.3, 0.1, 0.4, 0.2])
    assert dkw_cvar_upper_bound(costs, 0.5, np.exp(-0.5), 1.0) == pytest.approx(0.7)
    assert dkw_cvar_upper_bound(costs, 0.25, np.exp(-0.5), 1.0) == 1.0


@pytest.mark.parametrize("tail", [0.1, 0.33, 1.0])
def test_dkw_is_the_published_formula(tail):
    """Thomas and Learned-Miller: Z_{n+1} − (1/α) Σ (Z_{i+1} − Z_i)·(i/n − √(ln(1/δ)/2n) − (1 − α))₊, Z_{n+1} = b."""
    costs = np.random.default_rng(0).random(900)
    z = np.append(np.sort(costs), 1.3)
    inside = np.arange(1, 901) / 900 - np.sqrt(np.log(20) / 1800) - (1 - tail)
    expected = 1.3 - (np.diff(z) * np.maximum(inside, 0)).sum() / tail
    assert dkw_cvar_upper_bound(costs, tail, 0.05, 1.3) == pytest.approx(expected)


def test_brown_by_hand():
    """n = 2,000, tail ½, δ = 3/e²: √(5·2 / 1000) = 0.1 of the range, above the mean of the worst half."""
    costs = np.repeat([0.2, 0.4], 1000)
    assert brown_cvar_upper_bound(costs, 0.5, 3 / np.e**2, 0.0, 2.0) == pytest.approx(0.4 + 2 * 0.1)


def test_binary_by_hand():
    """0 of 600: p ≤ 1 − 0.05^(1/600) = 0.00498; divided by the tail 0.05, 0.0996. With bounds −1, 1: −1 + 2·0.0996."""
    expected = (1 - 0.05 ** (1 / 600)) / 0.05
    assert binary_cvar_upper_bound(0, 600, 0.05, 0.05) == pytest.approx(expected)
    assert binary_cvar_upper_bound(300, 600, 0.05, 0.05) == 1.0
    bound = cvar_upper_bound(np.full(600, -1.0), 0.05, bounds=(-1, 1), method="binary")
    assert float(bound) == pytest.approx(-1 + 2 * expected)
    with pytest.raises(ValueError, match="strictly between the bounds"):
        cvar_upper_bound([0, 0.5, 1], 0.05, method="binary")


@pytest.mark.parametrize("name", LAWS)
def test_betting_is_not_looser_than_the_others(name):
    """n = 2,000, tail 0.05, 20 data sets of each law.

    On every data set, but for the U-shaped law: there a tail crowds at the largest cost, no bound says anything
    (the CVaR is 0.998 of 1), and betting, which wagers nothing before it knows an η, can be the looser by less than
    0.001. On average it is the tightest there too.
    """
    rng = np.random.default_rng(11)
    margins = []
    for _ in range(20):
        costs = LAWS[name](rng.random(2000))
        betting, dkw, brown = (
            float(cvar_upper_bound(costs, 0.05, method=method)) for method in ("betting", "dkw", "brown")
        )
        margins.append(min(dkw, brown) - betting)
    assert np.mean(margins) > 0
    assert min(margins) >= (-0.001 if name == "U-shaped" else 0)


def test_cvar_betting_by_hand():
    """Tail ½, four costs 0 in [0, 1], δ = ½. From the third prompt on η = 0, and no excess is ever seen.

    Where CVaR c is tested, each of the two factors is 1 + λ·x with x = c/2. The stake √(2 ln 2 / (4·v)) = 1.67, v =
    0.5/4 the variance so far, is capped at ¾/(1 − x) = 1.16. The product reaches 2 where 1 + ¾x/(1 − x) = √2.
    """
    ratio = (np.sqrt(2) - 1) / 0.75
    expected = 2 * ratio / (1 + ratio)
    bound, eta = betting_cvar_upper_bound(np.zeros(4), np.ones(4, dtype=int), 0.5, 0.5, 0.0, 1.0)
    assert (bound, eta) == (pytest.approx(expected), 0.0)


def test_cvar_betting_exactly_on_coin_flips():
    """All 2^10 outcomes of ten flips with P(1) = p: the CVaR at tail ½, 2p, is missed with probability at most δ."""
    for p in (0.1, 0.3, 0.45):
        missed = 0.0
        for outcome in product((0.0, 1.0), repeat=10):
            bound, _ = betting_cvar_upper_bound(np.array(outcome), np.ones(10, dtype=int), 0.5, 0.05, 0.0, 1.0)
            if bound < 2 * p:
                missed += p ** sum(outcome) * (1 - p) ** (10 - sum(outcome))
        assert missed <= 0.05


def test_betting_wastes_no_prompts():
    """Against the η of a held-out fifth: on average less above the estimate, at n = 5,000 by an eighth or more."""
    rng, gaps = np.random.default_rng(12), {"betting": 0.0, "betting-split": 0.0}
    for name in ("beta(2, 9)", "clipped Pareto", "clipped normal"):
        for _ in range(10):
            costs = LAWS[name](rng.random(5000))
            for method in gaps:
                bound = cvar_upper_bound(costs, 0.05, method=method)
                gaps[method] += bound.bound - bound.estimate
    assert gaps["betting"] < 0.875 * gaps["betting-split"]


def test_the_order_of_the_records_does_not_matter():
    """Also of a prompt's responses."""
    rng = np.random.default_rng(13)
    costs, groups, order = rng.random(600), np.repeat(np.arange(200), 3), rng.permutation(600)
    for method in ("betting", "betting-split", "dkw"):
        named = cvar_upper_bound(costs, 0.3, method=method, groups=groups, seed=0)
        assert cvar_upper_bound(costs[order], 0.3, method=method, groups=groups[order], seed=0) == named


def test_never_below_the_estimate():
    """Costs 1 once and −1 else: a lucky order can bring the bare bound below what was seen."""
    costs = np.where(np.random.default_rng(1).random(60) < 0.1, 1.0, -1.0)
    for seed in range(40):
        for method in ("betting", "betting-split"):
            bound = cvar_upper_bound(costs, 0.9, 0.05, bounds=(-1, 1), method=method, seed=seed)
            assert bound.bound >= bound.estimate


def test_parts():
    costs = np.random.default_rng(0).random(1000)
    bound = cvar_upper_bound(costs, 0.1, 0.9)
    assert (bound.n, bound.n_groups, bound.n_eta, bound.n_bound) == (1000, 1000, 0, 1000)
    bound = cvar_upper_bound(costs, 0.1, 0.9, method="betting-split")
    assert (bound.n, bound.n_groups, bound.n_eta, bound.n_bound) == (1000, 1000, 200, 800)
    assert float(bound) == bound.bound == pytest.approx(bound.eta + bound.excess_bound / 0.1)
    assert bound.estimate == pytest.approx(cvar(costs, 0.1))
    bound = cvar_upper_bound(costs, 0.1, 0.9)
    assert bound == cvar_upper_bound(costs, 0.1, 0.9, seed=bound.seed)
    assert float(bound) != float(cvar_upper_bound(costs, 0.1, 0.9))
    assert float(bound) < float(cvar_upper_bound(costs, 0.1, 0.99, seed=bound.seed))
    prompts = [f"p{i // 4}" for i in range(1000)]
    grouped = cvar_upper_bound(costs, 0.1, 0.9, groups=prompts, method="betting-split")
    assert (grouped.n, grouped.n_groups, grouped.n_eta, grouped.n_bound) == (1000, 250, 50, 200)
    assert any("several responses" in words for words in grouped.assumptions)
    assert cvar_upper_bound(np.ones(50), 0.1).bound == 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"costs": [1.0, np.nan]}, "not finite"),
        ({"tail": 5}, "probability mass that is kept"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"bounds": (1, 0)}, "finite a < b"),
        ({"bounds": (0, np.inf)}, "finite a < b"),
        ({"method": "hope"}, "the methods are betting, betting-split, dkw, brown, binary"),
        ({"groups": ["a"]}, "One group|one group"),
        ({"groups": ["a", "a"]}, "a single prompt"),
    ],
)
def test_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        cvar_upper_bound(**{"costs": [0.1, 0.2], "tail": 0.05} | arguments)
