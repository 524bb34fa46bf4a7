"""Audited bounds in simulation: do they cover, and what do labels buy? And what do decide draws buy a ladder?

    python -m benchmarks.audits               # all four parts, about six minutes on one core; rows that are there stay
    python -m benchmarks.audits --only gaps
    python -m benchmarks.audits --write       # the tables of docs/certificates.md and docs/scheduler.md, from the CSVs

* `coverage`: 1,000 data sets per law at 95 %. A right bound misses at most 73 with probability 99.9 %.
* `gaps`: upper bound less true CVaR, of an audit as `trl-rsa certify --labels` makes it, against as many labels drawn
  from all responses alike with the plain betting bound on them, which is the best that uses no score.
* `draws`: upper bound less true CVaR on the decide prompts of a ladder with one, two or three responses per prompt.
  Costs are drawn from the exact laws of sandbox worlds, tilted to the safe side as a ladder tilts a policy.
* `ladders`: whole searches on policies that are tilted exactly, with the defaults and one setting changed at a time.
  How far below the budget does the true CVaR end, and what reward does this cost?

Laws are in tests/audits/laws.py. Seeds are those below; no number was chosen on them.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from benchmarks.evaluation_speed import provenance
from tests.audits import laws
from trl_rsa.audits.bound import audited_cvar_bound
from trl_rsa.audits.selection import choose
from trl_rsa.evaluation.bounds import betting_cvar_upper_bound
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.tails import cvar
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.sandbox import get_world
from trl_rsa.sandbox.prompts import split_prompts


Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
PAGES = {name: Path(__file__).parents[1] / "docs" / f"{name}.md" for name in ("certificates", "scheduler")}
BEGIN, END = "<!-- begin: python -m benchmarks.audits --write -->", "<!-- end -->"

COVERAGE = {"data_sets": 1000, "n": 400, "labels": 120, "tail": 0.2, "confidence": 0.95, "seed": 2026}
ALLOWED = int(binom.ppf(0.999, COVERAGE["data_sets"], 0.05))
# Where labels are a few hundred, of prompts as many as a certificate has.
GAPS = {"data_sets": 40, "n": 3000, "tail": 0.05, "confidence": 0.95, "seed": 2027}
NUMBERS = (300, 600, 1200)
GAP_LAWS: dict[str, laws.Draw] = {
    "graded, 15 % unsafe": laws.graded([0.85, 0.09, 0.04, 0.02], 0.6),
    "graded, 3 % unsafe": laws.graded([0.97, 0.018, 0.009, 0.003], 0.6),
    "graded, 3 % unsafe, poor score": laws.graded([0.97, 0.018, 0.009, 0.003], 2.5),
    "graded, blind spot of 0.5 %": laws.graded([0.97, 0.018, 0.009, 0.003], 0.6, 0.005),
    "heavy tail": laws.continuous,
}
DRAWS = {"data_sets": 100, "tail": 0.05, "confidence": 0.95, "seed": 2028}
DECIDE = (200, 400, 800)
TILTS = {"tail": (0.0, 1.0), "aligned": (0.0, 1.0)}  # λ of the policy π ∝ π₀ exp(−λ cost)
# Whole searches with the defaults of RungSettings, one setting changed at a time.
LADDERS = {"searches": 60, "prompts": 400, "tail": 0.05, "confidence": 0.95, "seed": 2029}
BUDGETS = {"tail": 2.0, "aligned": 1.0}
LADDER_SETTINGS = {
    "1 draw": {"draws": 1, "margin": 1 / 20},
    "2 draws": {"draws": 2, "margin": 1 / 20},
    "3 draws": {"draws": 3, "margin": 1 / 20},
    "half the margin": {"draws": 1, "margin": 1 / 40},
    "twice the margin": {"draws": 1, "margin": 1 / 10},
    "2 draws, half the margin": {"draws": 2, "margin": 1 / 40},
}
BOUNDS = {"tail": (-2.0, 12.0), "aligned": (-2.0, 4.0)}  # as in the constraint track


# Coverage


def label_noise(rng: np.random.Generator, harm: Array) -> Array:
    """One label in ten is any grade."""
    return np.where(rng.random(harm.size) < 0.1, rng.choice(laws.COSTS, harm.size), harm)


def clustered(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Four alike responses to each prompt."""
    latent = 0.9 * np.repeat(rng.normal(size=n // 4), 4) + np.sqrt(1 - 0.81) * rng.normal(size=n)
    harm = laws.COSTS[np.searchsorted(norm.ppf([0.8, 0.9, 0.96]), latent)]
    return latent + 0.5 * rng.normal(size=n), harm


def audit(
    scores: Array,
    harm: Array,
    labels: int,
    uniform: float,
    seed: int,
    tail: float,
    per_prompt: int = 1,
    given: Any = None,
) -> float:
    """The upper bound of one audit. `given`: labels that differ from the harm."""
    keys = [f"{seed} {i}" for i in range(scores.size)]
    prompts = [f"{seed} {i // per_prompt}" for i in range(scores.size)]
    drawn = choose(keys, scores, labels, uniform, seed, prompts)
    said = harm if given is None else given
    seen = np.where(drawn.chosen.reshape(-1, *[1] * (said.ndim - 1)), said, np.nan)
    found = audited_cvar_bound(
        scores,
        seen,
        drawn.probabilities,
        tail=tail,
        bounds=laws.BOUNDS,
        confidence=0.95,
        keys=prompts,
        seed=seed,
        least=drawn.least,
    )
    return found.upper_bound


def coverage(done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    n, labels, tail = (COVERAGE[name] for name in ("n", "labels", "tail"))
    cases: dict[str, tuple[laws.Draw, Callable[..., float], float]] = {}
    for name, law in laws.LAWS.items():
        cases[name] = (law, lambda s, h, i: audit(s, h, labels, 0.85, i, tail), true_cvar(name, tail))
    cases["graded, half uniform"] = (
        laws.LAWS["graded"],
        lambda s, h, i: audit(s, h, labels, 0.5, i, tail),
        true_cvar("graded", tail),
    )
    cases["blind spot, a tenth uniform"] = (
        laws.LAWS["blind spot"],
        lambda s, h, i: audit(s, h, 200, 0.1, i, tail),
        true_cvar("blind spot", tail),
    )
    big = laws.LAWS["graded"](np.random.default_rng(99), 1_000_000)[1]

    def noisy(s: Array, h: Array, i: int) -> float:
        rng = np.random.default_rng([COVERAGE["seed"], 1, i])
        second = np.where(rng.random(h.size) < 0.2, label_noise(rng, h), np.nan)
        return audit(s, h, labels, 0.85, i, tail, given=np.stack([label_noise(rng, h), second], axis=-1))

    cases["noisy labels, mean label"] = (laws.LAWS["graded"], noisy, cvar(0.9 * big + 0.1 * laws.COSTS.mean(), tail))
    cases["noisy labels, one label"] = (
        laws.LAWS["graded"],
        lambda s, h, i: audit(
            s, h, labels, 0.85, i, tail, given=label_noise(np.random.default_rng([COVERAGE["seed"], 2, i]), h)
        ),
        cvar(label_noise(np.random.default_rng(98), big), tail),
    )
    cases["four responses per prompt"] = (
        clustered,
        lambda s, h, i: audit(s, h, 160, 0.85, i, tail, per_prompt=4),
        true_cvar("graded", tail),
    )
    for name, (law, bound, truth) in cases.items():
        if (name,) in done:
            continue
        found = [bound(*law(np.random.default_rng([COVERAGE["seed"], i]), n), i) for i in range(COVERAGE["data_sets"])]
        yield {
            "law": name,
            **COVERAGE,
            "true_cvar": round(truth, 4),
            "mean_bound": round(float(np.mean(found)), 4),
            "misses": int((np.array(found) < truth - 1e-9).sum()),
            "allowed": ALLOWED,
        }


@cache
def true_cvar(name: str, tail: float) -> float:
    law = (laws.LAWS | GAP_LAWS)[name]
    return cvar(law(np.random.default_rng(99), 4_000_000)[1], tail)


# Gaps


def gaps(done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    n, tail = GAPS["n"], GAPS["tail"]
    for name, law in GAP_LAWS.items():
        truth = true_cvar(name, tail)
        for labels in NUMBERS:
            if (name, str(labels)) in done:
                continue
            found: dict[str, list[float]] = {"uniform": [], "predicted": [], "audit": [], "half": []}
            for i in range(GAPS["data_sets"]):
                scores, harm = law(np.random.default_rng([GAPS["seed"], i]), n)
                keys = [f"{i} {j}" for j in range(n)]
                known = harm[choose(keys, scores, labels, 1.0, i).chosen]
                sizes = np.ones(known.size, dtype=int)
                found["uniform"].append(betting_cvar_upper_bound(known, sizes, tail, 0.05, *laws.BOUNDS)[0])
                for part, uniform in (("predicted", 1.0), ("audit", 0.85), ("half", 0.5)):
                    found[part].append(audit(scores, harm, labels, uniform, i, tail))
            means = {part: float(np.mean(values)) - truth for part, values in found.items()}
            differences = np.array(found["audit"]) - np.array(found["uniform"])
            yield {
                "law": name,
                **GAPS,
                "labels": labels,
                "true_cvar": round(truth, 4),
                "gap_uniform": round(means["uniform"], 4),
                "gap_predicted": round(means["predicted"], 4),
                "gap_audit": round(means["audit"], 4),
                "gap_half_uniform": round(means["half"], 4),
                "gain": round(1 - means["audit"] / means["uniform"], 4),
                "gain_error": round(float(differences.std() / np.sqrt(differences.size) / means["uniform"]), 4),
                "misses": int((np.array(found["audit"]) < truth - 1e-9).sum()),
            }


# Draws


@cache
def kinds_of(world: str) -> tuple[tuple[str, ...], dict[str, tuple[Array, Array, Array]]]:
    """The kinds of 2,000 prompts, and of each kind the clipped costs, the rewards and the law of the responses."""
    prompts = split_prompts(0, {"train": 2000})["train"]
    found = {}
    for prompt in prompts:
        if prompt.kind not in found:
            law = get_world(world).law(prompt)
            costs = np.clip(np.asarray(law.costs), *BOUNDS[world])
            found[prompt.kind] = (costs, np.asarray(law.rewards), np.asarray(law.probabilities))
    return tuple(prompt.kind for prompt in prompts), found


def tilted(world: str, tilt: float) -> dict[str, Array]:
    """The law of the responses to a prompt of each kind, π ∝ π₀ exp(−λ cost)."""
    found = {}
    for kind, (costs, _, p) in kinds_of(world)[1].items():
        weights = p * np.exp(-tilt * (costs - costs.min()))
        found[kind] = weights / weights.sum()
    return found


def exact(world: str, tilt: float, tail: float) -> tuple[float, float]:
    """CVaR of cost and mean reward of the tilted policy over the 2,000 prompts."""
    kinds, of = kinds_of(world)
    shares = {kind: kinds.count(kind) / len(kinds) for kind in of}
    p = np.concatenate([shares[kind] * law for kind, law in tilted(world, tilt).items()])
    costs, rewards = (np.concatenate([each[k] for each in of.values()]) for k in (0, 1))
    return cvar(costs, tail, p), float(p @ rewards)


def sampled(world: str, tilt: float, prompts: NDArray[np.intp], number: int, rng: np.random.Generator) -> Array:
    """Costs of `number` responses to each of these prompts, prompt after prompt."""
    kinds, of = kinds_of(world)
    laws_now = tilted(world, tilt)
    result = np.empty((prompts.size, number))
    own = np.array(kinds)[prompts]
    for kind, (costs, _, _) in of.items():
        result[own == kind] = rng.choice(costs, ((own == kind).sum(), number), p=laws_now[kind])
    return result.ravel()


def draws(done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    tail = DRAWS["tail"]
    for world, tilts in TILTS.items():
        for tilt in tilts:
            truth, _ = exact(world, tilt, tail)
            for prompts in DECIDE:
                for number in (1, 2, 3):
                    if (world, str(tilt), str(prompts), str(number)) in done:
                        continue
                    above, beside = [], []
                    for i in range(DRAWS["data_sets"]):
                        rng = np.random.default_rng([DRAWS["seed"], i])
                        picked = rng.integers(2000, size=prompts)
                        found = cvar_upper_bound(
                            sampled(world, tilt, picked, number, rng),
                            tail,
                            DRAWS["confidence"],
                            BOUNDS[world],
                            groups=np.repeat(np.arange(prompts), number),
                            seed=0,
                        )
                        above.append(found.bound - found.estimate)
                        beside.append(found.bound - truth)
                    yield {
                        "world": world,
                        "tilt": tilt,
                        **DRAWS,
                        "prompts": prompts,
                        "draws": number,
                        "true_cvar": round(truth, 4),
                        "bound_less_estimate": round(float(np.mean(above)), 4),
                        "bound_less_truth": round(float(np.mean(beside)), 4),
                        "bound_deviation": round(float(np.std(beside)), 4),
                        "error": round(float(np.std(beside) / np.sqrt(len(beside))), 4),
                        "margin": (BOUNDS[world][1] - BOUNDS[world][0]) / 20,
                    }


# Ladders


def ladders(done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Searches on exactly tilted policies: how far below its budget the true CVaR ends, and what that costs in reward.

    `reward_lost` is against the policy whose true CVaR is the budget. The same prompts decide at every observation.
    """
    tail, n = LADDERS["tail"], LADDERS["prompts"]
    for world, budget in BUDGETS.items():
        best = exact(world, _least_tilt(world, budget, tail), tail)[1]
        start = exact(world, 0.0, tail)[1]
        for name, of in LADDER_SETTINGS.items():
            if (world, name) in done:
                continue
            margin = (BOUNDS[world][1] - BOUNDS[world][0]) * of["margin"]
            ends = [_search(world, budget, margin, of["draws"], n, i) for i in range(LADDERS["searches"])]
            met = [end for end in ends if end["met"]]
            rewards = np.array([exact(world, end["tilt"], tail)[1] for end in met])
            costs = np.array([exact(world, end["tilt"], tail)[0] for end in met])
            yield {
                "world": world,
                "setting": name,
                **LADDERS,
                "budget": budget,
                "draws": of["draws"],
                "margin": round(margin, 4),
                "met": len(met),
                "truly": int((costs <= budget).sum()),
                "below_budget": round(float(budget - costs.mean()), 4),
                "reward_lost": round(float(best - rewards.mean()), 4),
                "reward_lost_error": round(float(rewards.std() / np.sqrt(rewards.size)), 4),
                "reward_range": round(start - best, 4),
                "observations": round(float(np.mean([end["observations"] for end in ends])), 3),
                "responses": round(float(np.mean([end["observations"] for end in ends])) * n * of["draws"]),
            }


def _least_tilt(world: str, budget: float, tail: float) -> float:
    """The least λ whose policy keeps the budget in truth, by bisection."""
    low, high = 0.0, 64.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if exact(world, middle, tail)[0] <= budget else (middle, high)
    return high


def _search(world: str, budget: float, margin: float, number: int, n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([LADDERS["seed"], seed])
    prompts = rng.integers(2000, size=n)
    scheduler = RungSettings().scheduler(budget, margin)
    tilt, seen = 0.0, 0
    while True:
        costs = sampled(world, tilt, prompts, number, rng)
        groups = np.repeat(np.arange(n), number)
        found = cvar_upper_bound(costs, LADDERS["tail"], LADDERS["confidence"], BOUNDS[world], groups=groups, seed=0)
        decision = scheduler.observe(estimate=found.estimate, upper_bound=found.bound)
        seen += 1
        if decision.action == "stop":
            return {"met": decision.met, "tilt": decision.multiplier, "observations": seen}
        tilt = decision.multiplier


# Files


# What makes the rows of a part, and which columns tell them apart.
PARTS: dict[str, tuple[Callable[[set[tuple[str, ...]]], Iterator[dict[str, Any]]], tuple[str, ...]]] = {
    "coverage": (coverage, ("law",)),
    "gaps": (gaps, ("law", "labels")),
    "draws": (draws, ("world", "tilt", "prompts", "draws")),
    "ladders": (ladders, ("world", "setting")),
}


def path_of(part: str) -> Path:
    return RESULTS / f"audits_{part}.csv"


def read(part: str) -> list[dict[str, str]]:
    with path_of(part).open() as file:
        return list(csv.DictReader(file))


def tables() -> dict[str, str]:
    """The Markdown of each page, from the CSVs that there are."""
    found: dict[str, list[str]] = {name: [] for name in PAGES}
    makers = {"gaps": _gaps_table, "coverage": _coverage_sentence, "draws": _draws_table, "ladders": _ladders_table}
    for part, make in makers.items():
        if path_of(part).exists():
            page = found["certificates" if part in ("gaps", "coverage") else "scheduler"]
            page += ([""] if page else []) + make(read(part))
    return {name: "\n".join(lines) for name, lines in found.items()}


def _gaps_table(rows: list[dict[str, str]]) -> list[str]:
    lines = [
        "The gap between bound and true CVaR with labels drawn from all responses alike → the gap of an audit with as "
        f"many: {rows[0]['n']} prompts, tail {rows[0]['tail']}, harm from −1 to 10, means of {rows[0]['data_sets']} "
        "data sets.",
        "",
        "| Harm | true CVaR | " + " | ".join(f"{labels} labels" for labels in NUMBERS) + " |",
        "|---|---|" + "---|" * len(NUMBERS),
    ]
    for name in GAP_LAWS:
        own = [row for row in rows if row["law"] == name]
        cells = [
            f"{float(row['gap_uniform']):.2f} → {float(row['gap_audit']):.2f} (−{100 * float(row['gain']):.0f} %)"
            for row in own
        ]
        lines.append(f"| {name} | {float(own[0]['true_cvar']):.2f} | {' | '.join(cells)} |")
    return lines


def _coverage_sentence(rows: list[dict[str, str]]) -> list[str]:
    worst = max(rows, key=lambda row: int(row["misses"]))
    return [
        f"Of {worst['data_sets']} data sets per law at 95 % a right bound misses at most {worst['allowed']}. Of the "
        f"{len(rows)} laws simulated, blind spots, noisy labels and unequal probabilities among them, the worst has "
        f"{worst['misses']} misses ({worst['law']})."
    ]


def _draws_table(rows: list[dict[str, str]]) -> list[str]:
    gap = {(r["world"], r["tilt"], int(r["prompts"]), int(r["draws"])): float(r["bound_less_truth"]) for r in rows}
    places = [(world, tilt, n) for world, tilt, n, draws in gap if draws == 1 and n < max(DECIDE)]
    second = [100 * (1 - gap[world, tilt, n, 2] / gap[world, tilt, n, 1]) for world, tilt, n in places]
    double = [100 * (1 - gap[world, tilt, 2 * n, 1] / gap[world, tilt, n, 1]) for world, tilt, n in places]
    lines = [
        "Upper bound less true CVaR on the decide prompts, where policies are tilted exactly, tail "
        f"{rows[0]['tail']}, means of {rows[0]['data_sets']} data sets. With 200 or 400 prompts a second draw takes "
        f"{min(second):.0f} to {max(second):.0f} % off it, and twice as many prompts, which cost as many responses, "
        f"{min(double):.0f} to {max(double):.0f} %.",
        "",
        "| World, tilt λ | prompts | true CVaR | 1 draw | 2 draws | 3 draws | deviation, 1 draw | margin |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for i in range(0, len(rows), 3):
        one = rows[i]
        cells = " | ".join(f"{float(row['bound_less_truth']):.2f}" for row in rows[i : i + 3])
        lines.append(
            f"| {one['world']}, {float(one['tilt']):g} | {one['prompts']} | {float(one['true_cvar']):.2f} | {cells} | "
            f"{float(one['bound_deviation']):.2f} | {float(one['margin']):.2f} |"
        )
    return lines


def _ladders_table(rows: list[dict[str, str]]) -> list[str]:
    lines = [
        "| World, budget | setting | met, truly | CVaR below the budget | reward lost | observations | responses |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['world']}, {float(row['budget']):g} | {row['setting']} | {row['met']}, {row['truly']} of "
            f"{row['searches']} | {float(row['below_budget']):.2f} | {float(row['reward_lost']):.3f} ± "
            f"{float(row['reward_lost_error']):.3f} | {float(row['observations']):.1f} | {row['responses']} |"
        )
    return lines


def write_pages() -> None:
    for name, text in tables().items():
        before, rest = PAGES[name].read_text(encoding="utf-8").split(BEGIN)
        PAGES[name].write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
        print(f"Wrote {PAGES[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--write", action="store_true", help="write the tables from the CSVs, and measure nothing")
    args = parser.parse_args()
    if args.write:
        write_pages()
        return
    where = provenance()
    for part in args.only:
        measure, key = PARTS[part]
        rows: list[dict[str, Any]] = [*read(part)] if path_of(part).exists() else []
        for row in measure({tuple(row[name] for name in key) for row in rows}):
            rows.append(row | where)
            print(part, row, flush=True)
            write(part, rows)
        print(f"{path_of(part)}: {len(rows)} rows")


def write(part: str, rows: list[dict[str, Any]]) -> None:
    with path_of(part).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
