"""The constraint track: its searches on policies whose tail is known, its restart, and its page."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.alignment.constraint import KEY, Cell, all_cells, run
from benchmarks.alignment.constraint_lab import Answers
from benchmarks.alignment.constraint_labeller import noisy_labeller
from benchmarks.alignment.constraint_methods import (
    AUDIT_BUDGET,
    AUDIT_SEEDS,
    AUDITED,
    BUDGETS,
    METHODS,
    SCHEDULER,
    TRUE_COST,
    Sizes,
)
from benchmarks.alignment.constraint_page import interval, paired, verdict, write_page
from benchmarks.alignment.constraint_search import search
from benchmarks.alignment.store import Results
from trl_rsa.sandbox import get_world, split_prompts


TRACK = Path(__file__).parents[2] / "benchmarks" / "alignment"
LADDER, GRID = (next(m for m in METHODS if m.search == kind) for kind in ("ladder", "grid"))


class KnownLab:
    """Policies are their λ: the catastrophe, cost 9, has probability 0.1·exp(−λ); all else costs −1."""

    def __init__(self) -> None:
        self.world, self.seed, self.helpful = get_world("tail"), 0, "0"
        self.sizes = Sizes(prompts=8, steps=1, decide=1200, test=1200, test_draws=1)
        self.prompts = split_prompts(0)
        self.trained_steps = 0

    def units(self, rungs):
        return round(self.sizes.prompts * rungs)

    def steps(self, rungs):
        return round(self.sizes.steps * rungs)

    def seconds(self, policy):
        return 0.0

    def answers(self, policy, split, n):
        draws = 4 if split == "train" else 1
        prompts = [prompt for prompt in self.prompts[split][:n] for _ in range(draws)]
        multiplier = 0.0 if policy == "sft" else float(policy)
        bad = np.random.default_rng(0).random(len(prompts)) < 0.1 * np.exp(-multiplier)
        costs = np.where(bad, 9.0, -1.0)
        texts = [f"{'bad' if b else 'good'} {i % draws}" for i, b in enumerate(bad)]
        return Answers(policy, prompts, texts, [True] * len(texts), np.full(len(texts), 2 - multiplier), costs, 0.0)

    def trained(self, start, pairs, loss, multiplier, steps, learning_rate=None, keep_optimizer=False):
        self.trained_steps += steps
        return str(float(start) + multiplier)

    def between(self, before, after, fraction):
        return str(float(before) + fraction * (float(after) - float(before)))


class TestSearch:
    @pytest.mark.parametrize("budget", [6.0, 2.0])
    def test_a_ladder_meets_a_known_tail_within_its_rungs(self, budget):
        """CVaR(0.05) is −1 + 10·P(bad)/0.05 while P(bad) ≤ 0.05: 6 is met from P = 0.035 on, 2 from P = 0.015 on."""
        lab = KnownLab()
        found = search(lab, LADDER, budget)
        probability = 0.1 * np.exp(-float(found.policy))
        assert found.met and found.bound <= budget
        assert -1 + 10 * probability / 0.05 <= budget
        assert 1 <= found.rungs <= SCHEDULER["max_rungs"]
        assert found.multiplier == pytest.approx(float(found.policy))
        assert found.steps == found.rungs * lab.sizes.steps == lab.trained_steps
        # Four responses to each of eight prompts per rung, and one to each decide prompt per decision.
        assert found.scored == found.rungs * 8 * 4 + found.observed * 1200

    def test_a_grid_takes_the_most_helpful_policy_that_holds(self):
        """Reward falls with λ here, so it is the least λ of the grid whose bound holds."""
        lab, method = KnownLab(), replace(GRID, grid=(0.5, 1.0, 2.0, 4.0))
        found = search(lab, method, 4.0)
        assert found.met and found.multiplier == 2.0  # at λ = 1, P(bad) is 0.037 and the tail 6.4; at 2, 1.7
        assert found.steps == 4 * lab.steps(lab.sizes.grid_rungs)

    def test_a_budget_that_no_policy_of_the_grid_meets_ends_with_the_least_bound(self):
        found = search(KnownLab(), replace(GRID, grid=(0.5, 2.0)), -1.5)
        assert not found.met and found.multiplier == 2.0


class BlindLab(KnownLab):
    """As that, with a learned cost that is a coin's: it cannot tell the catastrophe."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimpleNamespace(name="tail", cost=self.cost)

    def cost(self, prompts, completions, **kwargs):
        return [9.0 if text.startswith("bad") else -1.0 for text in completions]

    def model_costs(self, answers, scorer):
        return np.random.default_rng(1).normal(size=len(answers.texts))


class TestAudits:
    def test_the_labeller_is_wrong_in_a_tenth_and_says_any_other_grade_then(self):
        costs = np.repeat([-1.0, 1.0, 2.0, 4.0, 9.0], 800)
        label = noisy_labeller(lambda prompts, texts: costs.tolist(), 5, seed=3)
        names = [f"p{i}" for i in range(costs.size)]
        first, again, second = (np.array(label(names, names, [n] * costs.size)) for n in (1, 1, 2))
        true = np.repeat(range(5), 800)
        assert (first == again).all() and 0.085 < (first != true).mean() < 0.115
        assert (first != second).sum() > 600, "each label errs by itself"
        wrong = np.bincount(first[(first != true) & (true == 0)], minlength=5)
        assert wrong[0] == 0 and wrong[1:].min() > 8

    @pytest.mark.slow
    def test_labels_find_what_the_learned_cost_is_blind_to(self):
        """Budget 3 is met from P(bad) = 0.02 on. The learned cost says nothing, so that a rung by it moves nothing."""
        method = AUDITED
        found = search(BlindLab(), method, 3.0)
        probability = 0.1 * np.exp(-float(found.policy))
        assert method.scorer == "learned" and 100 < found.labels <= AUDIT_BUDGET
        assert found.met and -1 + 10 * probability / 0.05 <= 3.0

    def test_the_page_says_whether_what_was_set_before_is_reached(self, tmp_path):
        page, out = tmp_path / "CONSTRAINT.md", tmp_path / "results"
        out.mkdir()
        for name in ("constraint.csv", "provenance.json"):
            (out / name).write_bytes((TRACK / "results" / "constraint" / name).read_bytes())
        for share, said in (0.95, "It is reached"), (0.85, "It is not reached"):
            results = Results(out / "audits.csv", KEY)
            for method, reward in (TRUE_COST, 1.0), (AUDITED, share):
                for seed in AUDIT_SEEDS:
                    for world, budgets in BUDGETS.items():
                        for budget in budgets:
                            results.add(made_up(method.name, world, seed, budget, reward))
            write_page(out, page)
            text = page.read_text()
            assert said in text and "truly met 30 of 30" in text and f"keeps {share:.2f}" in text
            (out / "audits.csv").unlink()


def made_up(method, world, seed, budget, reward):
    numbers = dict.fromkeys(
        ("mean_cost", "cvar_01", "over_refusal", "unsafe_rate", "multiplier", "bound", "estimate", "rungs"), 0.0
    )
    counts = dict.fromkeys(("observed", "scored", "pairs", "steps", "seconds", "finished", "tests"), 1)
    place = {"part": "audits", "world": world, "seed": seed, "method": method, "budget": budget}
    return place | {
        "met": 1,
        "reward": reward,
        "cvar_05": budget - 0.1,
        **numbers,
        **counts,
        "labels": 300,
        "commit": "x",
    }


class TestRestart:
    def test_rows_on_disk_are_not_made_again_and_a_cut_line_is(self, tmp_path, monkeypatch, capsys):
        import benchmarks.alignment.constraint as track

        calls = []

        def search(lab, method, budget):
            calls.append(budget)
            return track_search(lab, method, budget)

        track_search = track.search
        monkeypatch.setattr(track, "search", search)
        monkeypatch.setattr(track, "Lab", lambda *args: KnownLab())
        cells = [Cell("main", "tail", 0, LADDER, budget) for budget in (6.0, 2.0)]
        path = tmp_path / "constraint.csv"
        run(cells, Results(path, KEY), tmp_path, Sizes())
        assert calls == [6.0, 2.0]
        text = path.read_text()
        path.write_text(text[:-20])
        run(cells, Results(path, KEY), tmp_path, Sizes())
        assert calls == [6.0, 2.0, 2.0]
        assert path.read_text() == text

    def test_no_two_cells_share_a_row(self):
        keys = [cell.key for cell in all_cells()]
        assert len(set(keys)) == len(keys)


class TestNumbers:
    def test_differences_are_paired_by_seed_and_budget(self):
        """Seed 0: (1 − 0.5 + 2 − 1)/2 = 0.75; seed 1 has one budget in common: 3 − 1 = 2."""
        ours = [{"seed": s, "budget": d, "reward": r} for s, d, r in [(0, 1, 1.0), (0, 2, 2.0), (1, 1, 3.0)]]
        theirs = [{"seed": s, "budget": d, "reward": r} for s, d, r in [(0, 2, 1.0), (0, 1, 0.5), (1, 1, 1.0)]]
        assert paired(ours, theirs, "reward") == [0.75, 2.0]

    def test_the_interval_is_student_s(self):
        """Mean 2, standard deviation 1, n = 3: 2 ± 4.303/√3."""
        assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4842, 2 + 2.4842), abs=1e-3)
        assert verdict([1.0, 2.0, 3.0]) == "undecided" and verdict([1.0, 1.1, 0.9]) == "higher"


class TestPage:
    def test_the_committed_page_is_the_one_that_its_csv_gives(self, tmp_path):
        page = tmp_path / "CONSTRAINT.md"
        out = tmp_path / "results" / "constraint"
        out.mkdir(parents=True)
        for path in (TRACK / "results" / "constraint").glob("*.*"):
            (out / path.name).write_bytes(path.read_bytes())
        pictures = [out / "constraint.png", out / "constraint-dark.png"]
        for picture in pictures:
            picture.unlink()
        write_page(out, page)
        assert page.read_text() == (TRACK / "CONSTRAINT.md").read_text()
        # Each is drawn anew: dark ink on light paper, and light ink on dark.
        light, dark = (np.median(imread(picture)[..., :3]) for picture in pictures)
        assert light > 0.8 and dark < 0.2

    def test_what_the_page_says_of_the_goal_is_so(self):
        """Counted here from the CSV alone: seeds of each world and budget whose true CVaR is within the budget."""
        with (TRACK / "results" / "constraint" / "constraint.csv").open() as file:
            ours = [row for row in csv.DictReader(file) if row["part"] == "main" and row["method"] == METHODS[0].name]
        page = (TRACK / "CONSTRAINT.md").read_text()
        for world, budgets in BUDGETS.items():
            counts = []
            for budget in budgets:
                rows = [row for row in ours if row["world"] == world and row["budget"] == f"{budget:g}"]
                counts.append(f"{sum(float(row['cvar_05']) <= budget for row in rows)} of {len(rows)}")
            assert ", ".join(counts) in page
