"""The pressure track: what is left of safety when a policy is not used as it was trained, and what helps.

    python -m benchmarks.alignment.pressure            # the exact part: what is missing, then the page; 40 minutes
    python -m benchmarks.alignment.pressure --quick    # a few small cells into a scratch folder, seconds
    python -m benchmarks.alignment.pressure --draw     # figures and page from the CSV

Prints runs × seconds first. A row is on disk as soon as it is known; a run that was stopped goes on where it was.
`population.csv` holds 79 worlds with infinite data, `hot.csv` the finite pairs of `pressure_hot.py`.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.alignment.cells import Row
from benchmarks.alignment.optimum import Optimum, objective, searched_optimum
from benchmarks.alignment.pressure_criteria import judge
from benchmarks.alignment.pressure_hot import (
    CASES,
    COLD,
    FIRST_SEED,
    HOT,
    SEEDS,
    STEPS,
    HotCase,
    at_budget,
    at_equal_value,
)
from benchmarks.alignment.pressure_methods import Labels, Method, TokenLoss, insurance, match, published
from benchmarks.alignment.pressure_nested import NestedDirect, nested
from benchmarks.alignment.pressure_page import write_page
from benchmarks.alignment.pressure_worlds import COUNTS, make_pressure_world
from benchmarks.alignment.store import Results, current_commit, describe_machine
from benchmarks.alignment.worlds import World


HERE = Path(__file__).parent
OUT = HERE / "results" / "pressure"
KEY = ("kind", "seed", "method")
HOT_KEY = ("kind", "pairs", "seed", "arm")
PROBE = TokenLoss("published", "CVaR 0.1", 0.5, 1, "raw")


@dataclass(frozen=True)
class Sizes:
    """What is run."""

    worlds: dict[str, int]
    methods: tuple[Method, ...]
    hot: tuple[tuple[str, int], ...]
    seeds: int
    steps: int


def full() -> Sizes:
    others = (Labels("α = 0, raw"), Labels("α = 0, squared excess"))
    return Sizes(COUNTS, (*published(), *insurance(), *others, *nested()), CASES, SEEDS, STEPS)


def quick() -> Sizes:
    """Numbers that mean nothing: every family of methods and both parts, small."""
    methods = (PROBE, next(insurance()), Labels("α = 0, raw"), next(nested()), NestedDirect())
    return Sizes({"disagree": 2, "trap": 2}, methods, (("disagree", 100),), 2, 10)


def missing_methods(sizes: Sizes, results: Results, kind: str, seed: int) -> list[Method]:
    return [method for method in sizes.methods if (kind, str(seed), method.name) not in results.done]


def missing_cases(sizes: Sizes, results: Results) -> list[HotCase]:
    seeds = range(FIRST_SEED, FIRST_SEED + sizes.seeds)
    cases = []
    for kind, pairs in sizes.hot:
        left = tuple(seed for seed in seeds if (kind, str(pairs), str(seed), HOT) not in results.done)
        if left:
            cases.append(HotCase(kind, pairs, left, sizes.steps))
    return cases


def print_plan(sizes: Sizes, results: Results, hot: Results) -> None:
    """Runs × seconds on this machine: one rung of one method is timed in each kind of world that is left."""
    total = 0.0
    for kind, count in sizes.worlds.items():
        left = [method for seed in range(count) for method in missing_methods(sizes, results, kind, seed)]
        if not left:
            continue
        world = make_pressure_world(kind, 0)
        optimum = searched_optimum(world)
        began = time.perf_counter()
        match(world, PROBE, optimum)
        each = time.perf_counter() - began
        seconds = each * sum(method.passes for method in left)
        total += seconds
        print(f"{kind}: {len(left)} runs × {seconds / len(left):.2f} s = {seconds / 60:.1f} minutes")
    for case in missing_cases(sizes, hot):
        each = _seconds_of_a_world(case)
        seconds = 2 * len(case.seeds) * each
        total += seconds
        print(
            f"{case.kind}, {case.pairs} pairs: {2 * len(case.seeds)} runs × {each:.2f} s = {seconds / 60:.1f} minutes"
        )
    print(f"In all about {total / 60:.0f} minutes", flush=True)


def _seconds_of_a_world(case: HotCase) -> float:
    """Two short runs of one world tell the price of a step from the rest."""
    spent = []
    for steps in (5, 15):
        began = time.perf_counter()
        replace(case, seeds=case.seeds[:1], steps=steps).policies(COLD)
        spent.append(time.perf_counter() - began)
    return spent[0] + max(spent[1] - spent[0], 0.0) * case.steps / 10


def run_population(sizes: Sizes, results: Results, commit: str) -> None:
    """Every method in every world, matched with the rival at equal value."""
    began = time.perf_counter()
    for kind, count in sizes.worlds.items():
        for seed in range(count):
            left = missing_methods(sizes, results, kind, seed)
            if not left:
                continue
            world = make_pressure_world(kind, seed)
            optimum = searched_optimum(world)
            rivals: dict[float, dict[str, float]] = {}
            for method in left:
                results.add(_population_row(kind, seed, world, optimum, method, rivals) | {"commit": commit})
            print(f"{kind} {seed}: {len(results.done)} rows, {time.perf_counter() - began:.0f} s", flush=True)


def _population_row(
    kind: str, seed: int, world: World, optimum: Optimum, method: Method, rivals: dict[float, dict[str, float]]
) -> Row:
    """`rivals` keeps what the rival scores at the optimum's value, which most methods are matched at."""
    began = time.perf_counter()
    found = match(world, method, optimum)
    value = float(objective(world, found.joint))
    judged = judge(world, world.language.conditionals(found.joint))
    at = round(value, 9)
    if at not in rivals:
        rivals[at] = judge(world, world.language.conditionals(found.rival))
    row: Row = {"kind": kind, "seed": seed, "method": method.name, "family": method.family}
    row |= {
        "reached": int(found.reached),
        "multiplier": found.multiplier,
        "value": value,
        "budget": float(world.budget),
    }
    row |= {"budget": float(world.budget)} | judged | {f"rival_{name}": score for name, score in rivals[at].items()}
    return row | {"seconds": time.perf_counter() - began}


def run_hot(sizes: Sizes, results: Results, commit: str) -> None:
    """Both arms of every case. A world in which an arm cannot be matched has its rows, with `matched` 0."""
    for case in missing_cases(sizes, results):
        began = time.perf_counter()
        worlds, cold = case.policies(COLD)
        warm = case.policies(HOT)[1]
        seconds = (time.perf_counter() - began) / len(worlds)
        for seed, world, cold_joints, warm_joints in zip(case.seeds, worlds, cold, warm, strict=True):
            at = at_budget(world, cold_joints)
            value = float("nan") if at is None else float(objective(world, at))
            equal = None if at is None else at_equal_value(world, warm_joints, value)
            matched = int(equal is not None)
            for arm, joint in ((COLD, at), (HOT, equal)):
                if (case.kind, str(case.pairs), str(seed), arm) in results.done:
                    continue
                row: Row = {"kind": case.kind, "pairs": case.pairs, "seed": seed, "arm": arm, "matched": matched}
                shown = world.helpful_joint if joint is None else joint
                row |= {"value": float(objective(world, shown)), "budget": float(world.budget)}
                row |= judge(world, world.language.conditionals(shown)) | {"seconds": seconds, "commit": commit}
                results.add(row)
        print(f"{case.kind}, {case.pairs} pairs: {time.perf_counter() - began:.0f} s", flush=True)


def write_provenance(path: Path, sizes: Sizes) -> None:
    """Sizes, and by commit the machine that made the rows."""
    machines = json.loads(path.read_text(encoding="utf-8")).get("machines", {}) if path.exists() else {}
    content = {
        "worlds": sizes.worlds,
        "methods": [method.name for method in sizes.methods],
        "hot": sizes.hot,
        "seeds": sizes.seeds,
        "steps": sizes.steps,
        "machines": machines | {current_commit(): describe_machine()},
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment.pressure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder of the CSV files and figures (default: results/pressure)")
    parser.add_argument("--quick", action="store_true", help="a few small cells, whose numbers mean nothing")
    parser.add_argument("--draw", action="store_true", help="no runs: figures and page from the CSV files")
    return parser


def main(arguments: Sequence[str] | Iterable[str] | None = None) -> None:
    args = make_parser().parse_args(None if arguments is None else [*arguments])
    out = args.out or (Path("runs/pressure-quick") if args.quick else OUT)
    results, hot = Results(out / "population.csv", KEY), Results(out / "hot.csv", HOT_KEY)
    if not args.draw:
        torch.set_num_threads(1)
        sizes, commit = quick() if args.quick else full(), current_commit()
        print_plan(sizes, results, hot)
        write_provenance(out / "provenance.json", sizes)
        run_population(sizes, results, commit)
        run_hot(sizes, hot, commit)
    page = HERE / "PRESSURE.md" if out == OUT else out / "PRESSURE.md"
    write_page(out, page)
    print(page)


if __name__ == "__main__":
    main()
