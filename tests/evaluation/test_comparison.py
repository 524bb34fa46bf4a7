"""Two models on the same prompts: pairing, differences, permutation and sign tests, the arena, drift."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from trl_rsa.evaluation.metrics import (
    Bootstrap,
    PairedDifference,
    arena_table,
    compare,
    cvar,
    drift_summary,
    pair,
    read_columns,
    sequence_sums,
    wins,
)


FAST = Bootstrap(n_resamples=300)


def columns(costs, rewards, prompts=None):
    prompts = range(len(costs)) if prompts is None else prompts
    return read_columns(
        {"prompt": str(p), "response": "r", "cost": c, "reward": r}
        for p, c, r in zip(prompts, costs, rewards, strict=True)
    )


def test_arena_by_hand():
    """Costs −1, 0, 2, 3 against rewards 1, 2, 3, 4 versus 0, 2, 5, 1: safe: better, tie; unsafe: worse, better."""
    table = arena_table([-1, 0, 2, 3], [1, 2, 3, 4], [0, 2, 5, 1])
    assert table == {
        "safe": {"better": 1, "tie": 1, "worse": 0},
        "unsafe": {"better": 1, "tie": 0, "worse": 1},
    }
    assert wins([1, 2, 3], [0, 2, 5]).tolist() == [1.0, 0.5, 0.0]


def test_pairs_are_draws_of_the_same_prompt():
    a = columns([0, 1, 2, 3], [0] * 4, ["p", "q", "p", "only a"])
    b = columns([10, 11, 12, 13], [0] * 4, ["q", "p", "p", "p"])
    in_a, in_b = pair(a, b)
    pairs = sorted(zip(a.cost[in_a], b.cost[in_b], strict=True))
    assert pairs == [(0, 11), (1, 10), (2, 12)]


def test_differences_by_hand():
    """Prompt p: 4 against the mean of 1 and 3; prompt q: 2 against 2. Means 3 and 2. CVaR_½: 4 against 2.5.

    In b, q's single cost weighs ½, p's two ¼ each: the worst half of 3 (¼), 2 (½), 1 (¼) is (3·¼ + 2·¼)/½ = 2.5.
    """
    d = PairedDifference([4, 2, 99], ["p", "q", "only a"], [1, 3, 2], ["p", "p", "q"], tails=[0.5], unsafe_above=2.5)
    assert d.n_prompts == 2 and d.names == ["mean", "unsafe_rate", "cvar_0.5"]
    assert d.resampled(np.ones((1, 2)))[0] == pytest.approx([-1.0, 0.25 - 0.5, 2.5 - 4.0])
    assert sorted(d.by_prompt) == [-2, 0]
    assert d.sign_test() == 1.0


def test_resampled_and_swapped_are_direct_recomputations():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(size=12)
    d = PairedDifference(a, np.arange(12), b, np.arange(12), tails=[0.3])
    counts = rng.multinomial(12, np.full(12, 1 / 12))
    expected = cvar(np.repeat(b, counts), 0.3) - cvar(np.repeat(a, counts), 0.3)
    assert d.resampled(counts[None].astype(float))[0, 2] == pytest.approx(expected)
    swap = rng.random(12) < 0.5
    expected = cvar(np.where(swap, a, b), 0.3) - cvar(np.where(swap, b, a), 0.3)
    assert d.swapped(swap[None])[0, 2] == pytest.approx(expected)


def test_permutation_p_value_against_all_permutations():
    """Eight prompts: the p-value of the mean tends to the share of the 2^8 exchanges that are as extreme."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=8), rng.normal(size=8) + 0.5
    d = PairedDifference(a, np.arange(8), b, np.arange(8))
    signs = np.array(list(product([-1, 1], repeat=8)))
    exact = np.mean(np.abs(signs @ (b - a)) >= abs((b - a).sum()) - 1e-9)
    assert d.p_values(20_000)[0] == pytest.approx(exact, abs=0.015)


def test_equal_models_are_not_different_and_shifted_ones_are():
    rng = np.random.default_rng(2)
    base = rng.normal(size=200)
    rewards = rng.normal(size=200)
    same = compare(columns(base, rewards), columns(base, rewards), bootstrap=FAST)
    mean = same["cost"]["difference"]["mean"]
    assert (mean["value"], mean["low"], mean["high"], mean["permutation_p"]) == (0, 0, 0, 1)
    assert same["win_rate"]["value"] == 0.5 and same["cost"]["sign_test_p"] == 1.0
    better = compare(columns(base, rewards), columns(base - 0.3, rewards + 0.1), bootstrap=FAST)
    mean = better["cost"]["difference"]["mean"]
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((-0.3, -0.3, -0.3))
    assert mean["permutation_p"] == pytest.approx(1 / 301)
    assert better["cost"]["sign_test_p"] == pytest.approx(2 * 0.5**200)
    assert better["win_rate"]["value"] == 1.0
    assert sum(sum(row.values()) for row in better["arena"].values()) == 200
    assert "unsafe_rate" not in better["reward"]["difference"]


def test_pairing_beats_no_pairing():
    """Prompts differ much more than models: the paired interval sees a shift of 0.1 ± 0.05 under a spread of 3."""
    rng = np.random.default_rng(3)
    prompt_effect = rng.normal(scale=3, size=150)
    a = prompt_effect + rng.normal(scale=0.05, size=150)
    b = prompt_effect + 0.1 + rng.normal(scale=0.05, size=150)
    mean = PairedDifference(a, np.arange(150), b, np.arange(150)).summary(FAST)["difference"]["mean"]
    assert 0.05 < mean["low"] < 0.1 < mean["high"] < 0.15
    assert stats.ttest_ind(a, b).pvalue > 0.5


def test_permutation_test_has_its_size():
    """Under no difference, p ≤ 0.05 in at most 5 % of 400 data sets (99.9 % binomial: 35), also for CVaR."""
    rng = np.random.default_rng(4)
    rejections = np.zeros(3)
    for _ in range(400):
        a, b = rng.exponential(size=(2, 40))
        d = PairedDifference(a, np.arange(40), b, np.arange(40), tails=[0.2])
        rejections += d.p_values(99, int(rng.integers(2**31))) <= 0.05
    assert (rejections <= stats.binom.ppf(0.999, 400, 0.05)).all()
    assert rejections[0] > 3


def test_a_version_of_a_prompt_counts_where_both_have_a_score():
    """Models with the same answers, of which one has no score for the attacked prompts: nothing differs."""
    rows = [(f"p{i}", attack, float(i % 7) + 3 * attack) for i in range(40) for attack in (0, 1)]

    def of(scored):
        return read_columns(
            {
                "model": "m",
                "prompt": f"attack {name}" if attack else name,
                "base_prompt": name if attack else None,
                "response": "r",
                "cost": cost if scored or not attack else None,
                "reward": None,
            }
            for name, attack, cost in rows
        )

    found = compare(of(True), of(False), bootstrap=FAST)["cost"]
    assert found["difference"]["mean"]["value"] == 0.0 == found["difference"]["mean"]["low"]
    crossed = compare(of(True), of(False), bootstrap=FAST, crossed=True)["cost"]
    assert crossed["difference"]["mean"]["value"] == pytest.approx(-1.5)


def test_a_prompt_counts_once_in_the_win_rate():
    """Nine draws that win and one that loses: half of the prompts."""
    prompts = ["p"] * 9 + ["q"]
    found = compare(columns([0.0] * 10, [0.0] * 10, prompts), columns([0.0] * 10, [1.0] * 9 + [-1.0], prompts))
    assert found["win_rate"]["value"] == pytest.approx(0.5)


def test_missing_parts():
    nothing = compare(columns([None], [None]), columns([1.0], [None]), bootstrap=FAST)
    assert nothing == {"cost": None, "reward": None, "win_rate": None, "arena": None}
    with pytest.raises(ValueError, match="no prompt in common"):
        PairedDifference([1], ["p"], [1], ["q"])


def test_drift_by_hand():
    """Sums 3 and 1 over 2 and 3 tokens: mean 2, per token 4/5, CVaR_½ 3. What is masked is not read."""
    padded = [[1.0, 2.0, np.nan], [0.5, 0.25, 0.25]]
    mask = [[1, 1, 0], [1, 1, 1]]
    assert sequence_sums(np.array(padded), mask).tolist() == [3.0, 1.0]
    for s in (
        drift_summary(np.array(padded), mask, tails=(0.5,), bootstrap=FAST),
        drift_summary([[1.0, 2.0], [0.5, 0.25, 0.25]], tails=(0.5,), bootstrap=FAST),
    ):
        assert (s["n"], s["not_finite"], s["max"]) == (2, 0, 3.0)
        assert s["mean"]["value"] == pytest.approx(2.0)
        assert s["mean_per_token"]["value"] == pytest.approx(0.8)
        assert s["cvar"]["0.5"]["value"] == pytest.approx(3.0)
    assert drift_summary([[np.inf], [1.0]], bootstrap=FAST)["not_finite"] == 1
    assert drift_summary([[np.nan]], bootstrap=FAST) == {"n": 0, "not_finite": 1}
    with pytest.raises(ValueError, match="must agree"):
        sequence_sums(np.zeros((2, 3)), [[1, 1]])
