"""README's script runs as it stands, on a CPU: only the Hub is replaced by local stand-ins."""

import csv
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.alignment.constraint_methods import AUDIT_BUDGET, CONFIRM_SEEDS, CONFIRMED, TRUE_COST
from benchmarks.alignment.constraint_page import paired, verdict
from benchmarks.gpu.page import newest
from benchmarks.real.settings import CONFIDENCE


README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tiny_model_path, make_preference_dataset, tmp_path, monkeypatch):
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert script.count('"Qwen/Qwen2.5-0.5B-Instruct"') == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: make_preference_dataset(8))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    exec(script.replace("Qwen/Qwen2.5-0.5B-Instruct", tiny_model_path), {"__name__": "__main__"})
    assert list((tmp_path / "Qwen2.5-0.5B-RSA").glob("checkpoint-*"))


def as_numbers(row):
    return row | {name: float(row[name]) for name in ("seed", "budget", "reward", "cvar_01")}


def rows_of(path):
    with (README.parent / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_of_the_real_chat_model():
    text = " ".join(README.read_text(encoding="utf-8").replace("\n>", "\n").split())
    rows = {
        (row["arm"], row["seed"]): row for row in rows_of("benchmarks/real/results/real.csv") if row["part"] == "main"
    }
    assert {seed for arm, seed in rows if arm in ("neutral", "cvar")} == {"0"}, "and so: in one seed"
    start, ladder, risky = (rows[arm, "0"] for arm in ("sft", "neutral", "cvar"))

    def number(row, name, form=".2f"):
        return format(float(row[name]), form)

    assert (
        f"was to be at most {number(ladder, 'budget')}, and fell from {number(start, 'a_cvar_0.5')} to "
        f"{number(ladder, 'a_cvar_0.5')} in {ladder['rungs']} rungs, certified on fresh prompts with a confidence of "
        f"{100 * CONFIDENCE:.0f} %" in text
    )
    assert float(ladder["certify_bound"]) <= float(ladder["budget"]) and ladder["bound_held"] == "1"
    assert f"agrees: {number(start, 'b_cvar_0.5')} before, {number(ladder, 'b_cvar_0.5')} after" in text
    assert float(ladder["r_mean_low"]) < 0 < float(ladder["r_mean_high"]), "about kept"
    rise = float(ladder["perplexity"]) / float(start["perplexity"]) - 1
    assert f"rose by {100 * rise:.0f} %" in text
    helped = rows["rewarded", "0"]
    assert f"gave {number(helped, 'reward')} with it and {number(ladder, 'reward')} without" in text
    assert {seed for arm, seed in rows if arm == "rewarded"} == {"0"}, "and so: in its one seed"
    sacpo = rows["sacpo", "0"]
    assert (
        f"SACPO's grid met it as well, at {number(sacpo, 'a_cvar_0.5')} by the learned cost and "
        f"{number(sacpo, 'b_cvar_0.5')} by the judge's, in {sacpo['steps']} optimizer steps where the ladder took "
        f"{ladder['steps']}" in text
    )
    assert float(sacpo["a_cvar_0.5"]) <= float(sacpo["budget"]) and sacpo["bound_held"] == "1"
    assert f"the judge's cost fell further, to {number(risky, 'b_cvar_0.5')}" in text
    assert float(risky["r_mean_high"]) < 0, "clearly fell"


def test_the_figures_of_the_audits():
    text = " ".join(README.read_text(encoding="utf-8").replace("\n>", "\n").split())
    rows = rows_of("benchmarks/alignment/results/constraint/audits.csv")
    true, audited = (
        {(r["world"], r["seed"], r["budget"]): r for r in rows if r["method"] == method.name}
        for method in (TRUE_COST, CONFIRMED)
    )
    assert {int(seed) for _, seed, _ in audited} == set(CONFIRM_SEEDS)
    assert all(float(row["labels"]) <= AUDIT_BUDGET for row in audited.values())

    def share(*worlds):
        keys = [key for key in audited if key[0] in worlds]
        return sum(float(audited[key]["reward"]) for key in keys) / sum(float(true[key]["reward"]) for key in keys)

    kept = sum(float(row["cvar_05"]) <= float(row["budget"]) for row in audited.values())
    assert (
        f"With at most {AUDIT_BUDGET} labels a search, a tenth of them wrong ([audits](docs/audits.md)), {kept} of "
        f"{len(audited)} were kept on fresh seeds, with {share('tail', 'aligned'):.2f} of the reward that the ladder "
        f"on the true cost keeps: {share('tail'):.2f} of it in the world whose cost is blind, "
        f"{share('aligned'):.2f} in the other" in text
    )


def test_the_figures_are_those_of_the_tables():
    """Every number in the section about results, computed again from the CSV files of the benchmarks."""
    text = " ".join(README.read_text(encoding="utf-8").replace("\n>", "\n").split())
    rows = rows_of("benchmarks/alignment/results/constraint/constraint.csv")

    def of(part, *methods, world=None):
        return [r for r in rows if r["part"] == part and r["method"] in methods and world in (None, r["world"])]

    def kept(found):
        return sum(float(row["cvar_05"]) <= float(row["budget"]) for row in found)

    def mean(found, column):
        return statistics.fmean(float(row[column]) for row in found)

    ours, again = (of(part, "α = 0, truncated") for part in ("main", "baselines"))
    assert (
        f"kept {kept(ours)} of {len(ours)} budgets by true cost ({kept(again)} when it was run again), with "
        f"{mean(ours, 'rungs'):.1f} rungs on average" in text
    )
    share = mean(ours, "steps") / mean(of("main", "SACPO", "DPO-Lagrangian"), "steps")
    assert round(1 / share) == 5 and "a fifth of the optimizer steps of a search over multipliers" in text
    assert len({row["world"] for row in ours}) == 2 and "In two small worlds" in text
    assert len({(row["world"], row["budget"]) for row in ours}) == 6 and "three budgets and five seeds" in text
    for world in ("tail", "aligned"):
        for name in ("DPO-Lagrangian", "SACPO"):
            several = (list(map(as_numbers, of("main", m, world=world))) for m in ("α = 0, truncated", name))
            assert verdict(paired(*several, "reward")) == "higher"
    assert "clearly above that of DPO-Lagrangian and of SACPO in both worlds" in text
    assert mean(ours, "reward") > mean(of("main", "RSA"), "reward")
    rloo = {world: of("baselines", "RLOO-Lagrangian", world=world) for world in ("tail", "aligned")}
    missed = len(rloo["aligned"]) - kept(rloo["aligned"])
    assert f"missed {missed} of {len(rloo['aligned'])} budgets in one" in text
    rewarded = of("reward", "α = 0, with a learned reward and SFT")
    assert f"With a *learned* reward the ladder kept {kept(rewarded)} of {len(rewarded)} budgets" in text
    assert f"budgets (without a reward {kept(of('baselines', 'α = 0, truncated'))})" in text
    for world in ("tail", "aligned"):
        mine = [row for row in rewarded if row["world"] == world]

        def duel(name, column="reward", mine=mine, world=world):
            rivals = of("baselines", name, world=world)
            return verdict(paired(*(list(map(as_numbers, several)) for several in (mine, rivals)), column))

        assert duel("α = 0, truncated") == duel("SafeDPO") == "higher"
        assert duel("RLOO-Lagrangian") == "undecided", "about that of RLOO"
        assert duel("α = 0, truncated", "cvar_01") != "lower"
        assert duel("RLOO-Lagrangian", "cvar_01") == "higher", "a clearly lower far tail in both worlds"
        start = mean(of("reward", "helpful stage alone", world=world), "reward")
        assert 0.9 < mean(mine, "reward") / start < 1.1, "nearly as much as before"
    broken = of("reward", "α = 0, with a learned reward")
    assert min(float(row["reward"]) for row in broken) < 0.0 < min(float(row["reward"]) for row in rewarded)
    learned = {world: of("learned", "RSA, learned cost", world=world) for world in ("tail", "aligned")}
    missed = len(learned["tail"]) - kept(learned["tail"])
    assert missed == len(learned["tail"]) and f"all {missed} true budgets were missed" in text
    assert kept(learned["aligned"]) == len(learned["aligned"])
    assert f"In the other world all {kept(learned['aligned'])} were kept" in text

    steps = rows_of("benchmarks/kernels/results/results.csv")

    def ratio(benchmark, quantity, tokens):
        found = {
            row["method"]: float(row["value"])
            for row in steps
            if (row["benchmark"], row["quantity"], row["tokens"]) == (benchmark, quantity, tokens)
            and row["prompt"] in ("", "1")
        }
        return found["RSA tiled"] / found["TRL DPO"]

    on_a_gpu = newest(README.parent / "benchmarks" / "gpu" / "results", "step")

    def of_dpo(model, method):
        wanted = {"benchmark": "step", "outcome": "measured", "model": model, "method": method, "weights": "bfloat16"}
        found = [float(row["ratio"]) for row in on_a_gpu if wanted.items() <= row.items()]
        return f"{statistics.fmean(found):.2f}"

    names = "Qwen2.5-0.5B", "Llama-3.2-1B"
    risky, plain = ([of_dpo(name, f"RSA {method}") for name in names] for method in ("CVaR", "alpha 0"))
    assert f"it took {risky[0]} of DPO's step at that shape and {risky[1]} at Llama-3.2-1B's;" in text
    assert f"as rungs are by default, {plain[0]} and {plain[1]} " in text
    assert f"{ratio('step', 'seconds', '128'):.2f} of TRL's DPO step at 128 tokens" in text
    assert f"and {ratio('step', 'seconds', '512'):.2f} at 512" in text
    assert (
        f"in {ratio('memory', 'peak bytes', '128'):.2f} and {ratio('memory', 'peak bytes', '512'):.2f} of its memory"
        in text
    )
