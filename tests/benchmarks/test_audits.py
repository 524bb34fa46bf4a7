"""The tables of the audits benchmark in the documentation are those of its CSVs, and its policies are exact."""

import numpy as np
import pytest

from benchmarks.audits import BEGIN, BUDGETS, END, PAGES, exact, kinds_of, path_of, read, sampled, tables
from benchmarks.audits import _least_tilt as least_tilt
from trl_rsa.evaluation.tails import cvar


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_in_the_documentation_are_current(name):
    assert f"{BEGIN}\n{tables()[name]}\n{END}" in PAGES[name].read_text(encoding="utf-8")


@pytest.mark.skipif(not path_of("coverage").exists(), reason="not measured yet")
def test_the_simulated_bounds_cover():
    rows = read("coverage")
    assert all(int(row["misses"]) <= int(row["allowed"]) == 73 for row in rows)


def test_tilted_policies_are_exact():
    """At λ = 0 the law of the grammar; its CVaR is met by 40,000 sampled costs; a budget is met by the least tilt."""
    kinds, of = kinds_of("aligned")
    shares = [kinds.count(kind) / 2000 for kind in of]
    assert exact("aligned", 0.0, 0.05)[1] == pytest.approx(
        sum(share * float(p @ rewards) for share, (_, rewards, p) in zip(shares, of.values(), strict=True))
    )
    costs = sampled("aligned", 0.5, np.arange(2000), 20, np.random.default_rng(0))
    assert cvar(costs, 0.05) == pytest.approx(exact("aligned", 0.5, 0.05)[0], abs=0.05)
    tilt = least_tilt("aligned", BUDGETS["aligned"], 0.05)
    assert exact("aligned", tilt, 0.05)[0] == pytest.approx(BUDGETS["aligned"], abs=1e-6)
