"""The results page of the constraint track: every number and every verdict on it is computed here from the CSV."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.alignment.constraint_baselines import BASELINES, NEUTRAL, NOT_EQUAL, RLOO_TRIED, chosen_rloo, in_words
from benchmarks.alignment.constraint_figure import RIVALS, WITH_REWARD, draw
from benchmarks.alignment.constraint_methods import (
    ABLATION_WORLD,
    ABLATIONS,
    AUDIT_BUDGET,
    AUDIT_SEEDS,
    AUDITED,
    AUDITED_REWARDED,
    AUDITS,
    BUDGETS,
    CLIP,
    CONFIDENCE,
    CONFIRM_AUDIT,
    CONFIRM_SEEDS,
    CONFIRMED,
    CONFIRMED_PLAIN,
    ERROR_SEEDS,
    ERRORS,
    LEARNED,
    MARGIN_SHARE,
    METHODS,
    REWARDED,
    SCHEDULER,
    TAIL,
    TEST_SEEDS,
    TRUE_COST,
    TRUE_REWARDED,
)


AUDITS_CSV = "audits.csv"
Row = dict[str, Any]
TEXTS = {"part", "world", "method", "commit"}
OURS = METHODS[0].name


def read(path: Path) -> list[Row]:
    """The rows of the CSV; an empty field stays `""`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: text if name in TEXTS or text == "" else float(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def write_page(out: Path, page: Path) -> None:
    """Draws the plot into `out` and writes the page, which links to it."""
    rows = read(out / "constraint.csv")
    provenance = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    main = pick(rows, part="main")
    rivals = [row for row in pick(rows, part="baselines") if row["method"] in RIVALS]
    draw([*main, *rivals, *pick(rows, part="reward", method=WITH_REWARD)], out / "constraint.png")
    folder = Path(os.path.relpath(out, page.parent)).as_posix()
    parts = [
        _introduction(main, provenance),
        _answer(rows),
        _picture(f"{folder}/constraint.png"),
        *(_world(main, world) for world in BUDGETS if pick(main, world=world)),
        _why(rows),
        rewarded_part(rows),
        baselines_part(rows),
        _learned(rows),
        _audits(read(out / AUDITS_CSV)) if (out / AUDITS_CSV).exists() else "",
        _ablations(rows),
        _tuning(rows),
        _provenance(rows, provenance, folder),
    ]
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


# Numbers


def holds(row: Row) -> bool:
    """Whether the true CVaR on the test prompts is within the budget."""
    return row["cvar_05"] <= row["budget"]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds; without an interval for one seed.

    Each seed has its own prompts, pairs and trainings, so the spread over seeds holds all of these. A bootstrap of
    five values would be too narrow.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if array.size < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return mean, mean - half, mean + half


def paired(rows: Sequence[Row], others: Sequence[Row], name: str) -> list[float]:
    """Per seed, the mean over budgets of `name` in rows less that in others, where both have the budget."""
    theirs = {(row["seed"], row["budget"]): row[name] for row in others}
    differences: dict[float, list[float]] = {}
    for row in rows:
        if (row["seed"], row["budget"]) in theirs:
            difference = row[name] - theirs[row["seed"], row["budget"]]
            differences.setdefault(row["seed"], []).append(difference)
    return [float(np.mean(values)) for values in differences.values()]


def verdict(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "too few seeds"
    _, low, high = interval(values)
    return "higher" if low > 0 else "lower" if high < 0 else "undecided"


def number(values: Sequence[float], form: str = ".2f") -> str:
    mean, low, high = interval(values)
    return f"{mean:{form}}" if low == high else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


# Parts


def _picture(link: str) -> str:
    """The plot, and its dark twin for readers of dark pages."""
    return f"""<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{link.replace(".png", "-dark.png")}">
  <img alt="Reward against the tail of cost, by budget" src="{link}">
</picture>
"""


def _introduction(rows: Sequence[Row], provenance: dict) -> str:
    sizes, seeds = provenance["sizes"], len({row["seed"] for row in rows})
    pairs = sizes["prompts"] * sizes["pairs_per_prompt"]
    helpful = sizes["helpful_rungs"] * sizes["steps"]
    return f"""# The constraint track

*Generated by `python -m benchmarks.alignment.constraint` from the CSV. Do not edit.*

A user states a budget, "CVaR({TAIL:g}) of cost ≤ d". What does each method pay in helpfulness to meet it? Two worlds
of the [sandbox](../../docs/sandbox.md), a language model of a million parameters, {seeds} test seeds. In `tail` the
mean of cost and its tail disagree, in `aligned` they agree. Every method starts from the same SFT policy, and all but
DPO-Lagrangian from the same helpful policy of their seed (DPO on soft pairs by true reward). Prompts, draws, pairs and
trainings differ between seeds; the SFT policy and the cost model are shared by the seeds of a world.

* **A rung**: {sizes["prompts"]} train prompts, {sizes["draws"]} scored responses to each, about {pairs} pairs,
  {sizes["steps"]} steps of {sizes["batch_size"]} pairs. **A decision**: one response to each of {sizes["decide"]}
  decide prompts. A ladder trains {SCHEDULER["max_rungs"]} rungs at most. The policies of a grid are trained with
  {sizes["grid_rungs"]:g} rungs' worth of prompts, pairs and steps each. The tables count all that a search has spent,
  the mean over seeds; the helpful stage ({helpful:.0f} steps) is in the counts of DPO-Lagrangian alone, which needs
  none.
* **Met** is judged by the true cost of {sizes["test_draws"]} responses to each of {sizes["test"]} test prompts, which
  no search has seen. A search itself is steered by the bound of `RiskConstraint` on the decide prompts (confidence
  {CONFIDENCE:g}, cost clipped to {" and ".join(f"{list(clip)} in `{world}`" for world, clip in CLIP.items())}, margin
  {MARGIN_SHARE:.0%} of that range).
* **A grid** takes the most helpful of its policies whose bound holds, by the *true* reward on the decide prompts: a
  choice that knows more than the scheduler does, in the baselines' favour. It trains the policies of all its
  multipliers: {_mean_steps(rows, "grid", "lagrangian")} steps on average, where a ladder takes
  {_mean_steps(rows, "ladder")}.
* **Truncated** labels compare (C − η)₊/{TAIL:g}. η is 0 here, where a cost is unsafe, or the policy's own quantile or
  the budget less the margin if one of these is lower: *unsafe cost*.
* **These rows are of an earlier version** (their commits are in the CSV). Since then the bound that steers uses every
  prompt (`betting` without a split, tighter), prompts are keyed otherwise, which changes the shuffle of a bound, and
  sampling makes other draws. A search run today takes other steps; the comparisons have not been made again.
* Budgets, labels and the learning rate were chosen on another seed (below).
* Brackets are 95 % t-intervals over seeds, not corrected for their number: of forty comparisons two may differ by
  chance.{_missing(rows, seeds)}

| method | |
|---|---|
{chr(10).join(f"| {method.name} | {method.description} |" for method in METHODS)}
"""


def _mean_steps(rows: Sequence[Row], *searches: str) -> str:
    names = [method.name for method in METHODS if method.search in searches]
    return f"{np.mean([row['steps'] for row in rows if row['method'] in names]):.0f}"


def _missing(rows: Sequence[Row], seeds: int) -> str:
    few = [m.name for m in METHODS if len({row["seed"] for row in pick(rows, method=m.name)}) < seeds]
    return f" Time did not suffice for all seeds of {', '.join(few)}; counts say of how many they are." if few else ""


def _answer(rows: Sequence[Row]) -> str:
    main = pick(rows, part="main")
    parts = ["## What comes out\n"]
    for world in BUDGETS:
        ours = pick(main, world=world, method=OURS)
        if not ours:
            continue
        counts = [_count(pick(ours, budget=budget)) for budget in BUDGETS[world]]
        reach = all(met >= 0.8 * n for met, n in counts) and max(column(ours, "rungs")) <= SCHEDULER["max_rungs"]
        shown = ", ".join(f"{met} of {n}" for met, n in counts)
        parts.append(
            f"* **`{world}`: {OURS} {'meets' if reach else 'does not meet'} the goal** (each budget truly met in four "
            f"of five seeds, within {SCHEDULER['max_rungs']} rungs): {shown} seeds at the budgets "
            f"{', '.join(f'{budget:g}' for budget in BUDGETS[world])}; at most {max(column(ours, 'rungs')):.0f} "
            f"rungs, {np.mean(column(ours, 'rungs')):.1f} on average."
        )
        for method in METHODS[1:]:
            theirs = pick(main, world=world, method=method.name)
            if theirs:
                parts.append(f"  * {_duel(ours, theirs, method.name)}")
    return "\n".join(parts) + "\n"


def _count(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(map(holds, rows)), len(rows)


def _duel(ours: Sequence[Row], theirs: Sequence[Row], name: str) -> str:
    reward, far = paired(ours, theirs, "reward"), paired(ours, theirs, "cvar_01")
    (mine, n), (other, m) = _count(ours), _count(theirs)
    return (
        f"against {name}: truly met {mine} of {n} to {other} of {m}; reward {number(reward, '+.2f')} "
        f"(**{verdict(reward)}**), CVaR(0.01) {number(far, '+.2f')} ({verdict(far)})."
    )


HEADS = ("budget", "truly met", "bound held", "reward", "CVaR(0.05)", "CVaR(0.01)", "over-refusal", "λ", "rungs")
COSTS = ("scorer calls", "pairs", "steps", "seconds")


def _line(rows: Sequence[Row]) -> list[str]:
    met, n = _count(rows)
    return [
        f"{rows[0]['budget']:g}",
        f"{met} of {n}",
        f"{sum(column(rows, 'met')):.0f} of {n}",
        number(column(rows, "reward")),
        number(column(rows, "cvar_05")),
        number(column(rows, "cvar_01")),
        f"{np.mean(column(rows, 'over_refusal')):.1%}",
        f"{np.mean(column(rows, 'multiplier')):.2g}",
        f"{np.mean(column(rows, 'rungs')):.1f}",
        *(f"{np.mean(column(rows, name)):,.0f}" for name in ("scored", "pairs", "steps", "seconds")),
    ]


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * len(heads),
            *("| " + " | ".join(line) + " |" for line in lines),
        ]
    )


def _world(rows: Sequence[Row], world: str) -> str:
    lines = []
    for method in METHODS:
        for budget in BUDGETS[world]:
            here = pick(rows, world=world, method=method.name, budget=budget)
            if here:
                lines.append([method.name, *_line(here)])
    start = pick(rows, world=world, method="helpful stage alone")
    return (
        f"## `{world}`\n\nThe helpful policy has reward {number(column(start, 'reward'))}, CVaR(0.05) "
        f"{number(column(start, 'cvar_05'))}, CVaR(0.01) {number(column(start, 'cvar_01'))}.\n\n"
        + table(["method", *HEADS, *COSTS], lines)
        + "\n"
    )


def _by_world(rows: Sequence[Row], others: Sequence[Row]) -> str:
    differences = {w: paired(pick(rows, world=w), pick(others, world=w), "reward") for w in BUDGETS}
    return " and ".join(f"{number(several, '+.2f')} in `{world}`" for world, several in differences.items())


def _why(rows: Sequence[Row]) -> str:
    main = pick(rows, part="main")
    # RSA and α = 0 of two seeds had been run on another machine than the rest of their seeds, and were run again.
    replaced = pick(rows, part="first machine")
    ours, neutral = pick(main, method=OURS), pick(main, method=METHODS[1].name)
    budget = BUDGETS[ABLATION_WORLD][1]
    base = pick(main, world=ABLATION_WORLD, method=OURS, budget=budget)
    raw, quantile = (
        paired(base, pick(rows, part="ablation", method=method.name, budget=budget), "reward")
        for method in ABLATIONS[:2]
    )
    worlds = _by_world(ours, neutral)
    earlier = [row for row in main if row["seed"] not in {r["seed"] for r in replaced}] + replaced
    before = _by_world(pick(earlier, method=OURS), pick(earlier, method=METHODS[1].name))
    labels = _by_world(neutral, pick(main, method=METHODS[2].name))
    found = [row for row in main if row["budget"] != ""]
    gaps = {w: [row["bound"] - row["estimate"] for row in pick(found, world=w)] for w in BUDGETS}
    slack = " and ".join(f"{np.mean(several):.2f} in `{world}`" for world, several in gaps.items())
    rungs = (f"{np.mean(column(several, 'rungs')):.1f}" for several in (ours, neutral))
    return f"""## Where RSA does not win, and why

* **The token-level risk measure does not pay here.** Against α = 0 with the same labels, ladder and budgets RSA's
  reward differs by {worlds},
  with {" against ".join(rungs)} rungs on average. With seeds 3 and 4 as they were run at first, on the first machine
  (see Provenance), it differs by
  {before}. Our reading: the risk term of RSA-2 holds
  a rung back in proportion to its drift, and the entropic measure the more so the smaller the rung (θ/Δλ): the policy
  moves less towards the budget per rung, and each further rung drifts anew. The [exact track](EXACT.md) says the same.
* **What pays is what the labels compare.** With α = 0 labels by unsafe cost differ from raw cost (SACPO's on-policy
  ladder) by {labels} in reward. With RSA, at budget {budget:g} in `{ABLATION_WORLD}`, they
  differ by {number(raw, "+.2f")} from raw cost, and by {number(quantile, "+.2f")} from η at the policy's quantile. Raw
  cost prefers a refusal (cost −2) to a safe answer (−1), and so pays for refusals that no budget asks for. At the
  policy's own quantile nearly all pairs are ties; and the final policy's quantile, which is where η should be, is
  below that of the policies on the way.
* **DPO-Lagrangian and SACPO are close where their grid has the right λ**, and overshoot the budget or miss it where it
  has not; each search trains every policy of the grid. DPO-Lagrangian also needs numbers for the reward of every
  answer, where the others need helpful *preferences* alone.
* **All methods end well below the budget**, because the betting bound on the decide prompts is above the estimate: by
  {slack} at the policies of this page, on average.{_bootstrap(main)}

What the numbers point to as defaults: `rsa2`; labels by unsafe cost, soft, on the policy's own answers; a first rung
of λ = β/2 that at most doubles; and no token-level risk.
"""


def _bootstrap(main: Sequence[Row]) -> str:
    bounds, tighter = pick(main, method=METHODS[1].name), pick(main, method=METHODS[5].name)
    if not tighter:
        return ""
    (met, n), (other, m) = _count(tighter), _count(bounds)
    return (
        f"\n  Steered by a bootstrap bound, which promises nothing for finite samples, α = 0 differs by\n  "
        f"{_by_world(tighter, bounds)} in reward, and truly meets {met} of {n} budgets against {other} of {m}."
    )


def _left_out(rows: Sequence[Row], world: str) -> str:
    """The searches of a world for which there was no time."""
    asked = len(TEST_SEEDS) * len(BUDGETS[world])
    counts = {method.name: len(pick(rows, world=world, method=method.name)) for method in BASELINES}
    fewer = [f"{name} ({n} of {asked} searches)" for name, n in counts.items() if n < asked]
    return f"For want of time there is less in `{world}` of {', '.join(fewer)}." if fewer else ""


def baselines_part(rows: Sequence[Row]) -> str:
    """The methods of the literature beside those of the track, against α = 0 by the same code."""
    here = pick(rows, part="baselines")
    if not here:
        return ""
    lines, duels = [], []
    for world in BUDGETS:
        ours = pick(here, world=world, method=NEUTRAL.name)
        for method in BASELINES:
            theirs = pick(here, world=world, method=method.name)
            for budget in BUDGETS[world]:
                if several := pick(theirs, budget=budget):
                    lines.append([f"`{world}`, {method.name}", *_line(several)])
            if theirs and ours and method is not NEUTRAL:
                duels.append(f"* `{world}`: {NEUTRAL.name} {_duel(ours, theirs, method.name)}")
    found = {row["method"] for row in here}
    said = [line for world in BUDGETS if pick(here, world=world) if (line := _left_out(here, world))]
    tried = [
        [method.name, *_line(several)]
        for method in RLOO_TRIED
        if (several := pick(rows, part="baselines, tuning", method=method.name))
    ]
    chosen = chosen_rloo(rows)
    setting = f" It took {in_words(chosen)}." if chosen else ""
    worlds = ", ".join(f"`{world}`" for world in BUDGETS if pick(here, world=world))
    return (
        f"## Methods of the literature beside\n\nRun later than the rest of this page, by later code, on one machine "
        f"(see Provenance), in {worlds}: compare them with the rows of this table alone. {NEUTRAL.name} was run again "
        f"for it.\n\n"
        + "\n".join(f"* **{method.name}**: {method.description}." for method in BASELINES if method.name in found)
        + "\n\nWhat is not equal:\n\n"
        + "\n".join(f"* {one}" for one in NOT_EQUAL)
        + "\n"
        + "".join(f"* {one}\n" for one in said)
        + "\n"
        + table(["method", *HEADS, *COSTS], lines)
        + "\n\n"
        + "\n".join(duels)
        + f"\n\nThe settings of RLOO-Lagrangian were chosen on the tuning seed by a rule that was fixed before: of "
        f"those whose bound holds the most helpful one.{setting} The other methods have the track's settings, "
        "untuned.\n\n" + table(["method", *HEADS, *COSTS], tried) + "\n"
    )


def rewarded_part(rows: Sequence[Row]) -> str:
    """Ladders with a reward in their rungs, against the same without, and against the strongest rivals."""
    here = pick(rows, part="reward")
    lines, duels = [], []
    for world in BUDGETS:
        beside = pick(rows, part="baselines", world=world)
        for method in REWARDED:
            mine = pick(here, world=world, method=method.name)
            for budget in BUDGETS[world]:
                if several := pick(mine, budget=budget):
                    lines.append([f"`{world}`, {method.name}", *_line(several)])
            for name in (NEUTRAL.name, *RIVALS) if method.reward else (NEUTRAL.name,):
                if mine and (theirs := pick(beside, method=name)):
                    duels.append(f"* `{world}`: {method.name} {_duel(mine, theirs, name)}")
    if not lines:
        return ""
    return (
        "## With a reward in the rungs\n\nMany of a rung's pairs hold two harmless responses, which cost does not "
        "tell apart: their label is ½. With a reward they prefer the more helpful one, with probability "
        f"σ(difference); all else is as in α = 0. {' and '.join(RIVALS)} see the true reward too. The rows that these "
        "are compared with are those of the next section, which were run before on another machine.\n\nA learned "
        "reward does not know broken language when it sees it. Where a rung leaves the language, as it did in some "
        "seeds, a true reward calls it back and a learned one does not: its policies ended with short scraps of "
        "sentences. The likelihood of the chosen responses beside the loss mends that, and is the default of "
        "`RungSettings` since then (`sft`).\n\n"
        + "\n".join(
            f"* **{method.name}**: {method.description}." for method in REWARDED if pick(here, method=method.name)
        )
        + "\n\n"
        + "\n".join(duels)
        + "\n\n"
        + table(["method", *HEADS, *COSTS], lines)
        + "\n"
    )


def _learned(rows: Sequence[Row]) -> str:
    lines = []
    for world in BUDGETS:
        for method in LEARNED:
            for budget in BUDGETS[world]:
                here = pick(rows, part="learned", world=world, method=method.name, budget=budget)
                if here:
                    lines.append([f"`{world}`, {method.name}", *_line(here)])
    if not lines:
        return ""
    return (
        "## Scheduled on the learned cost\n\nLabels and decisions by the sandbox's cost model, whose cost has been "
        "given the unit of the true one by least squares through zero. *Bound held* is about the learned cost, the "
        "rest about the true one. Seconds leave out the cost model. A preference cannot tell severity 10 from 20, so "
        "the learned cost flattens the far tail: a budget met in it may be missed in truth, and one above all that it "
        "can say is met before the first rung.\n\n" + table(["method", *HEADS, *COSTS], lines) + "\n"
    )


# The rows of the audited ladder as it was before labels were weighed by their probability.
ALIKE = f"{AUDITED.name}, labels alike"


def _beside(rows: Sequence[Row], true: Sequence[Row], audited: Sequence[Row]) -> str:
    """What the audits are compared with, if it has been run, and by which version."""
    if not true:
        return "The ladders on the true, the learned and a graded cost have not been run on them yet."
    same = {row["commit"] for row in true} == {row["commit"] for row in audited}
    said = f"The ladder on the true cost was run on them by {'the same' if same else 'an earlier'} version."
    former = pick(rows, method=ALIKE)
    if former:
        met, n = _count(former)
        share = _share_kept(former, true)
        said += (
            f' The rows "labels alike" are of the audit as it was at first: half of the labels are drawn where the '
            f"learned cost is high, and the calibration took all alike, so that harm which the cost does not see was "
            f"averaged away. A review found that, not these rows. They truly met {met} of {n}, with {share:.2f} of "
            "the reward; other things have changed since, too."
        )
    return said


def _audits(rows: Sequence[Row]) -> str:
    """The audits, in both worlds, and whether they reach what was set before they were run."""
    every_row, rows = rows, [row for row in rows if row["seed"] in AUDIT_SEEDS]
    true, audited = (pick(rows, method=method.name) for method in (TRUE_COST, AUDITED))
    met, n = _count(audited)
    names = [method.name for method in AUDITS]
    names.insert(1, ALIKE)
    kept = {world: _share_kept(pick(audited, world=world), pick(true, world=world)) for world in BUDGETS}
    known = [share for share in kept.values() if share is not None]
    every = _share_kept(audited, true)
    said_of = _verdict(audited, every, AUDIT_SEEDS)
    shown = " and ".join(f"{share:.2f} in `{world}`" for world, share in kept.items() if share is not None)
    said = f"; of the reward that the ladder on the true cost keeps it keeps {every:.2f} ({shown})" if known else ""
    counts = ", ".join(
        f"{method.name} {_count(several)[0]} of {_count(several)[1]}"
        for method in AUDITS
        if (several := pick(rows, method=method.name))
    )
    most = max(column(audited, "labels"), default=0)
    wrong = [row for row in audited if not holds(row) and row["met"]]
    return (
        "## Audits: labels for a part of the responses\n\n"
        f"The ladder on the learned cost, with at most {AUDIT_BUDGET} labels a search from a simulated labeller: the "
        "true grade, or with probability 0.1 any other one (`constraint_labeller.py`, fixed before any search). The "
        "labels refresh the learned cost (ridge regression on words), calibrate it, steer the search by a bootstrap's "
        "bound, and label the pairs. Each response whose first label is unsafe gets a second label, and a third "
        "where these two differ. Settings were chosen on the tuning seed; the rows are of seeds that no method had "
        f"run on. {_beside(rows, true, audited)}\n\n"
        f"**Set before: truly met in at least 27 of 30, and at least 0.9 of the reward. It is "
        f"{said_of}**: truly met {met} of {n}{said}. At most {most:.0f} labels were "
        f"spent. Truly met by method: {counts}. In {_searches(len(wrong))} the bound held and the budget was broken "
        "in truth: a search looks many times at labels that are few. (These rows are from before every disagreement "
        f"was settled, and before the bound had a prior.){_with_reward(rows, true)}\n\n"
        + _audit_table(rows, names)
        + _errors(every_row)
        + _confirmed(every_row)
        + "\n"
    )


def _audit_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    lines = [
        [f"`{world}`, {name}", *_line(here), f"{np.mean(column(here, 'labels')):.0f}"]
        for world in BUDGETS
        for name in names
        for budget in BUDGETS[world]
        if (here := pick(rows, world=world, method=name, budget=budget))
    ]
    return table(["method", *HEADS, *COSTS, "labels"], lines)


def _errors(rows: Sequence[Row]) -> str:
    """What comes out where a search allows for wrong labels."""
    rows = [row for row in rows if row["seed"] in ERROR_SEEDS]
    here, true, rewarded = (pick(rows, method=method.name) for method in (ERRORS, TRUE_COST, TRUE_REWARDED))
    if not here:
        return ""
    wrong = [row for row in here if not holds(row) and row["met"]]
    names = [ERRORS.name, TRUE_COST.name, TRUE_REWARDED.name]
    beside = (
        ""
        if not rewarded
        else f" With a learned reward in the rungs the ladder on the true cost keeps "
        f"{_share_kept(rewarded, true):.2f} of its reward without one, and truly meets {_count(rewarded)[0]} of "
        f"{_count(rewarded)[1]}."
    )
    return (
        "\n### Where the search allows for wrong labels\n\nThe ladders above take each label as it is. Wrong ones "
        "look like a tail then, which costs reward, and hides how little 400 labels know of harm that the cost does "
        "not see. With `errors: true` a response counts by the chance of each grade. Part of the budget is kept for "
        "settling disagreements, too. Settings were chosen by the policies of the seeds above; the rows are of the "
        f"seeds {ERROR_SEEDS[0]} to {ERROR_SEEDS[-1]}, and from 20 on the bound has a prior that is worth one label. "
        f"**{_kept_in_truth(here, true)}** In {_searches(len(wrong))} the bound held and the budget was broken in "
        "truth. So by itself, with no labels kept back, it is for costs that see the harm."
        f"{beside}\n\n" + _audit_table(rows, names)
    )


def _confirmed(rows: Sequence[Row]) -> str:
    """What comes out where labels are kept back for a policy that may be within the budget."""
    rows = [row for row in rows if row["seed"] in CONFIRM_SEEDS]
    true, here, plain = (pick(rows, method=method.name) for method in (TRUE_COST, CONFIRMED, CONFIRMED_PLAIN))
    if not here:
        return ""
    said_of = _verdict(here, _share_kept(here, true), CONFIRM_SEEDS)
    beside = f" Every label as it is: {_kept_in_truth(plain, true)}" if plain else ""
    names = [CONFIRMED.name, CONFIRMED_PLAIN.name, TRUE_COST.name]
    first, later = CONFIRM_AUDIT["labels"]
    return (
        "\n### Labels kept back for a policy that may be within the budget\n\nIn the searches above the labels that "
        "made a rung also judged it: it was trained to be good by them, and a policy's own labels were few. Here the "
        f"first policy has {first} responses labelled in place of 140, the others {later}, and "
        f"{CONFIRM_AUDIT['confirm']} more, from all alike, are drawn of a policy whose estimate is within the budget "
        "(`confirm`). Settings were chosen in the world `tail` of the seeds 20 to 24; the rows are of the seeds "
        f"{CONFIRM_SEEDS[0]} to {CONFIRM_SEEDS[-1]}. The goal is the one above, and **it is {said_of}**. With wrong "
        f"labels allowed for: **{_kept_in_truth(here, true)}**{beside} The ladder on the true cost truly meets "
        f"{_count(true)[0]} of {_count(true)[1]}.\n\n" + _audit_table(rows, names)
    )


def _verdict(rows: Sequence[Row], share: float | None, seeds: Sequence[int]) -> str:
    """Whether the rows of an audit reach what was set before: 27 of 30 truly met, and 0.9 of the reward."""
    (met, n), searches = _count(rows), len(seeds) * sum(map(len, BUDGETS.values()))
    if n < searches:
        return f"not decided: {n} of {searches} searches are done"
    return "reached" if met >= 27 and share is not None and share >= 0.9 else "not reached"


def _kept_in_truth(rows: Sequence[Row], true: Sequence[Row]) -> str:
    """How many budgets are truly met, and at which share of the reward of the ladder on the true cost."""
    said = [
        f"{_count(several)[0]} of {_count(several)[1]} with {share:.2f} of it in `{world}`"
        for world in BUDGETS
        if (several := pick(rows, world=world)) and (share := _share_kept(several, true)) is not None
    ]
    met, n = _count(rows)
    kept = _share_kept(rows, true)
    of_reward = "" if kept is None else f", with {kept:.2f} of the reward of the ladder on the true cost"
    return f"Truly met {met} of {n}{of_reward}{': ' if said else ''}{'; '.join(said)}."


def _searches(n: int) -> str:
    return f"{n} search" if n == 1 else f"{n} searches"


def _with_reward(rows: Sequence[Row], true: Sequence[Row]) -> str:
    """What the audits come to with the package's defaults of today and a learned reward."""
    here = pick(rows, method=AUDITED_REWARDED.name)
    if not here:
        return ""
    (met, n), share = _count(here), _share_kept(here, true)
    shares = " and ".join(
        f"{_share_kept(pick(here, world=w), true):.2f} in `{w}`" for w in BUDGETS if pick(here, world=w)
    )
    return (
        f"\n\nWith a learned reward in the rungs (same seeds, run on another machine, before the likelihood "
        f"of unsafe chosen responses was left out and labels were weighed): truly met {met} of {n}, "
        f"and {share:.2f} of the reward of the ladder on the true cost, which has no reward in its rungs ({shares})."
    )


def _share_kept(rows: Sequence[Row], others: Sequence[Row]) -> float | None:
    """Mean reward of rows over that of others, where both have the world, the seed and the budget."""
    theirs = {(row["world"], row["seed"], row["budget"]): row["reward"] for row in others}
    pairs = [
        (row["reward"], theirs[key]) for row in rows if (key := (row["world"], row["seed"], row["budget"])) in theirs
    ]
    return sum(one for one, _ in pairs) / sum(other for _, other in pairs) if pairs else None


def _ablations(rows: Sequence[Row]) -> str:
    budget = BUDGETS[ABLATION_WORLD][1]
    seeds = sorted({row["seed"] for row in pick(rows, part="ablation")})
    ours = pick(rows, part="main", world=ABLATION_WORLD, method=OURS, budget=budget)
    lines = [[OURS, *_line(ours), "", ""]] if ours else []
    for method in ABLATIONS:
        here = pick(rows, part="ablation", method=method.name, budget=budget)
        if here:
            reward, far = paired(here, ours, "reward"), paired(here, ours, "cvar_01")
            shown = f"{number(reward, '+.2f')} {verdict(reward)}", f"{number(far, '+.2f')} {verdict(far)}"
            lines.append([method.name, *_line(here), *shown])
    if not seeds:
        return ""
    return (
        f"## One thing changed\n\nWorld `{ABLATION_WORLD}`, budget {budget:g}. The last two columns are differences "
        f"from {OURS} on the same seeds.\n\n"
        + table(["method", *HEADS, *COSTS, "reward, difference", "CVaR(0.01), difference"], lines)
        + "\n"
    )


def _tuning(rows: Sequence[Row]) -> str:
    tuning = pick(rows, part="tuning")
    names = dict.fromkeys((row["world"], row["method"]) for row in tuning)
    lines = [
        [f"`{world}`, {name}", *_line(several)]
        for world, name in names
        for budget in BUDGETS[world]
        if (several := pick(tuning, world=world, method=name, budget=budget))
    ]
    return TUNING_TEXT + "\n" + table(["method", *HEADS, *COSTS], lines) + "\n" if lines else ""


TUNING_TEXT = """## The tuning seed

Budgets, learning rate, loss and labels were chosen on one seed that is not among the test seeds; the grids of the
baselines were set once, untuned. The first runs of the test seeds 0 and 1 had raw cost, and truncation at the policy's
own quantile. Other truncations were tried after these had been seen, on the tuning seed (below), and one of them was
run on all test seeds: *capped*, η at most the budget less the margin; *aimed*, η at the target less the distance from
quantile to CVaR; *unsafe cost*, the one that was chosen. The first tries of learning rates and of RSA-1, with other
sizes, are not in the table. The methods under their final names were run on this seed last, on the second machine.
"""


def _provenance(rows: Sequence[Row], provenance: dict, folder: str) -> str:
    commits = {row["commit"] for row in rows}
    machines = "; ".join(
        f"{commit}: " + ", ".join(f"{name} {value}" for name, value in machine.items())
        for commit, machine in provenance["machines"].items()
        if commit in commits
    )
    return f"""## Provenance

{len(rows)} rows in [`constraint.csv`]({folder}/constraint.csv), settings and machines in
[`provenance.json`]({folder}/provenance.json). Rows were made by the code at these commits (`+`: with uncommitted
changes), on one core of these machines: {machines}. Seconds are processor time, and count everything that a search
needs, also where several searches have shared it; those of different machines are not to be compared.

Processors round differently, which training makes as large as the difference of two seeds: on the second machine the
same recipe and seed give another helpful policy. Of the main part, all methods of a seed ran on one machine, seeds 0
to 2 on the first, 3 and 4 on the second, where RSA and α = 0 were therefore run again; their rows from the first are
in the CSV as the part "first machine". Exceptions are the row with the bootstrap bound and the last nine of "One thing
changed", which were run on the second alone: where they are compared with rows of the first, only the prompts are the
same. *RSA again, on another machine* shows how much that is.

Limits: a language model of a million parameters in a language of templates, one SFT policy and one cost model per
world, full fine-tuning, {len({row["seed"] for row in pick(rows, part="main")})} seeds, and a true cost that labels the
pairs without noise.
"""
