"""The neural part of the pressure track in miniature: its sources, pressures, choice, and restart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.alignment import pressure_choice as choice
from benchmarks.alignment import pressure_neural as track
from benchmarks.alignment.constraint_methods import Sizes
from benchmarks.alignment.pressure_arms import (
    ALPHA_ZERO,
    ARMS,
    BASE,
    CANDIDATES,
    FORCED,
    PRIMARIES,
    SHAPES,
    TEST_SEEDS,
    TUNED,
    TUNING_SEED,
    WORLDS,
    Shape,
)
from benchmarks.alignment.pressure_lab import PressureLab
from benchmarks.alignment.pressure_neural_page import neural_part
from benchmarks.alignment.store import Results
from trl_rsa.sandbox import build_sandbox
from trl_rsa.sandbox.build import SandboxSettings
from trl_rsa.sandbox.policy import PolicySettings


SIZES = Sizes(prompts=8, draws=4, steps=2, helpful_rungs=1.0, decide=24, test=16, test_draws=1)
TINY = Shape(8, 4, 2)
HEAT = ARMS[4]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> PressureLab:
    policy = PolicySettings(hidden_size=64, intermediate_size=96, layers=1, heads=2, steps=150, batch_size=16)
    splits = {"train": 40, "decide": 24, "certify": 0, "test": 16}
    settings = SandboxSettings(policy=policy, splits=splits)
    sandbox = build_sandbox("tail", 0, tmp_path_factory.mktemp("sandbox"), settings)
    return PressureLab("tail", 0, SIZES, tmp_path_factory.mktemp("lab"), sandbox)


# Shapes and arms


def test_sizes_are_spent_in_two_ways():
    """At each size few prompts with many draws have the pairs and the scorer calls of many prompts with few."""
    for size in (384, 1536, 6144):
        same = [shape for shape in SHAPES if shape.pairs == size and not shape.equal_steps]
        assert len(same) == 2 and len({shape.prompts * shape.draws for shape in same}) == 1
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) and len({arm.name for arm in ARMS}) == len(ARMS) == 7


@pytest.mark.slow
@pytest.mark.parametrize("arm", [ARMS[0], ARMS[3], ARMS[5]], ids=lambda arm: arm.name)
def test_ladders(lab, arm):
    """Enough responses for an unsafe one: among safe ones all pairs are ties, and nothing is learned."""
    shape = Shape(24, 4, 2)
    policies, scored = lab.ladder(arm, shape)
    assert len(set(policies)) == 4 and scored == 3 * 24 * 4
    first, last = (lab.load(policy).state_dict() for policy in (policies[0], policies[-1]))
    assert any(not torch.equal(first[name], last[name]) for name in first)


@pytest.mark.slow
def test_sources(lab):
    """Half of the draws are the policy's own, in every arm the same; the others come from where the arm says."""
    own = lab.drawn(lab.helpful, lab.prompts["train"][:8], 2)
    seen = {}
    for arm in ARMS:
        answers = lab._rung_answers([lab.helpful, lab.helpful], arm, TINY)
        assert [p.text for p in answers.prompts] == [p.text for p in lab.prompts["train"][:8] for _ in range(4)]
        assert answers.costs.tolist() == lab.world.cost([p.text for p in answers.prompts], answers.texts)
        if arm.source != "own":
            assert [t for i, t in enumerate(answers.texts) if i % 4 < 2] == own.texts
            seen[arm.source] = tuple(t for i, t in enumerate(answers.texts) if i % 4 >= 2)
    assert len(set(seen.values())) == 3
    starts = lab.beginnings(lab.prompts["train"][:8])
    for i, text in enumerate(seen["prefill"]):
        begun = lab.tokenizer.decode(starts[i // 2], skip_special_tokens=True)
        assert len(starts[i // 2]) <= FORCED and text.startswith(begun)


@pytest.mark.slow
def test_forced_beginnings_are_those_of_the_costliest_answers(lab):
    prompts = lab.prompts["test"][:8]
    answers = lab.drawn("sft", prompts, 4)
    for i, begun in enumerate(lab.beginnings(prompts)):
        worst = answers.texts[4 * i + int(np.argmax(answers.costs[4 * i : 4 * i + 4]))]
        assert lab.tokenizer(worst, add_special_tokens=False)["input_ids"][:FORCED] == begun


@pytest.mark.slow
def test_pressures(lab):
    numbers = lab.judge(lab.helpful)
    assert set(numbers) == {*PRIMARIES, "cvar_05"} and all(np.isfinite([*numbers.values()]))
    half, sft, policy = (lab.load(p) for p in (lab.between("sft", lab.helpful, 0.5), "sft", lab.helpful))
    for mine, first, second in zip(half.parameters(), sft.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(mine, (first + second) / 2)
    tuned = lab.load(lab.fine_tuned(lab.helpful))
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), policy.parameters(), strict=True))
    data = lab.benign_data()
    asked, said = ([row[-1]["content"] for row in data[name]] for name in ("prompt", "completion"))
    assert max(lab.world.cost(asked, said)) <= 0


@pytest.mark.slow
def test_the_policy_at_the_budget(lab, monkeypatch):
    """The first quarter of a rung whose tail is within it; the last policy if there is none."""
    tails = {"a": 5.0, "b": 4.0, "c": 1.0, "b-c-0.25": 3.0, "b-c-0.5": 2.0, "b-c-0.75": 1.5}
    monkeypatch.setattr(lab, "tail", tails.__getitem__)
    monkeypatch.setattr(lab, "between", lambda before, after, f: f"{before}-{after}-{f}")
    assert lab.at_budget(["a", "b", "c"], 2.5) == ("b-c-0.5", True)
    assert lab.at_budget(["a", "b", "c"], 5.5) == ("a", True)
    assert lab.at_budget(["a", "b", "c"], 0.5) == ("c", False)


# The choice and the rule


def made_up(arm, shape, world, seed, **numbers):
    row = {"world": world, "seed": str(seed), "arm": arm.name, "shape": shape.name}
    return row | dict.fromkeys(PRIMARIES, "1.0") | {name: str(value) for name, value in numbers.items()}


def tuning_rows(**best):
    rows = [made_up(a, s, w, TUNING_SEED) for a, s in TUNED for w in WORLDS]
    for row in rows:
        if (row["arm"], row["shape"]) == (HEAT.name, BASE.name):
            row |= {name: str(value) for name, value in best.items()}
    return rows


def test_candidates():
    """The least tails among those whose reward is not lower; none before the tuning seed is complete."""
    assert choice.candidates(tuning_rows(heat=0.1))[0] == (HEAT, BASE)
    assert (HEAT, BASE) not in choice.candidates(tuning_rows(heat=0.1, reward=0.5))
    assert choice.candidates(tuning_rows()[:-1]) == []
    cells = list(track.test_cells(tuning_rows(heat=0.1)))
    assert len(cells) == len(TEST_SEEDS) * len(WORLDS) * (1 + CANDIDATES) and cells[0][2:] == (ALPHA_ZERO, BASE)


@pytest.mark.parametrize(
    ("gains", "shipped"),
    [
        ({"heat": -0.5, "halfway": -0.5}, True),
        ({"heat": -0.5}, False),  # one tail is not enough
        ({"heat": -0.5, "halfway": -0.5, "reward": -0.2}, False),  # reward is lower
        ({"heat": 0.5, "halfway": 0.5}, False),
    ],
)
def test_the_rule(gains, shipped):
    rng = np.random.default_rng(0)
    rows = []
    for seed in TEST_SEEDS:
        for world in WORLDS:
            base = {name: rng.normal() for name in PRIMARIES}
            mine = {name: base[name] + gains.get(name, 0.0) + 0.05 * rng.normal() for name in PRIMARIES}
            rows += [made_up(ALPHA_ZERO, BASE, world, seed, **base), made_up(HEAT, BASE, world, seed, **mine)]
    assert choice.ships(choice.primaries(rows, HEAT.name, BASE.name)) == shipped


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(lab, tmp_path: Path, capsys):
    cells = [("tail", 0, ALPHA_ZERO, shape) for shape in (TINY, replace(TINY, pairs_per_prompt=1))]
    path = tmp_path / "neural.csv"
    track.run(cells[:1], Results(path, track.KEY), lambda world, seed: lab)
    before = path.read_text()
    track.run(cells, Results(path, track.KEY), lambda world, seed: lab)
    rows = choice.read(path)
    assert path.read_text().startswith(before) and [row["shape"] for row in rows] == [cell[3].name for cell in cells]
    capsys.readouterr()
    track.print_plan([*cells, ("tail", 1, ALPHA_ZERO, BASE)], Results(path, track.KEY), lambda world, seed: lab)
    assert "1 runs ×" in capsys.readouterr().out


# The page


def test_the_page_says_what_is_there():
    assert "Not run" in neural_part([])
    numbers = {"met": "1", "scored": "2304"}
    tuning = [row | numbers for row in tuning_rows(heat=0.1)]
    few = neural_part(tuning[:-1])
    assert "1 of its 56 runs are missing" in few and "fresh seeds" not in few
    assert "Not run yet" in neural_part(tuning)
    rng = np.random.default_rng(0)
    fresh = []
    for seed in TEST_SEEDS:
        for world in WORLDS:
            base = {name: rng.normal() for name in PRIMARIES}
            mine = base | {name: base[name] - 0.5 + 0.05 * rng.normal() for name in ("heat", "halfway")}
            fresh += [made_up(ALPHA_ZERO, BASE, world, seed, **base) | numbers]
            fresh += [made_up(HEAT, BASE, world, seed, **mine) | numbers]
    page = neural_part([*tuning, *fresh])
    name = f"{HEAT.name}, {BASE.name}"
    assert f"**{name}** changes the default" in page and "| 40 | 40 of 40 | +0.00 (1) | **-0.5" in page
    assert f"**{name}** has 39 of 40 runs: nothing is decided yet" in neural_part([*tuning, *fresh[:-2]])
