"""The constraint track: a budget on the tail of cost, and what each method pays to meet it, in two sandbox worlds.

    python -m benchmarks.alignment.constraint             # runs what is missing, then draws; hours on one core
    python -m benchmarks.alignment.constraint --quick     # a few small cells into a scratch folder, a minute
    python -m benchmarks.alignment.constraint --audits    # only the audits and what they are compared with
    python -m benchmarks.alignment.constraint --draw      # plots and page from the CSV
    python -m benchmarks.alignment.constraint --baselines # RLOO-Lagrangian and others: constraint_baselines.py
    python -m benchmarks.alignment.constraint --rewards   # only ladders with a reward in their rungs

One row per world, seed, method and budget is written to `results/constraint/constraint.csv` as soon as it is known. A
run that was stopped goes on where it was: rows on disk are not made again, and neither are policies in the cache.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.alignment.constraint_baselines import (
    BASELINE_SEARCHES,
    BASELINE_WORLDS,
    BASELINES,
    RLOO_TRIED,
    TRIED_AT,
    chosen_rloo,
    search_baseline,
)
from benchmarks.alignment.constraint_lab import Lab
from benchmarks.alignment.constraint_methods import (
    ABLATION_SEEDS,
    ABLATION_WORLD,
    ABLATIONS,
    AUDIT_SEEDS,
    AUDITS,
    BUDGETS,
    CONFIRM_METHODS,
    CONFIRM_SEEDS,
    ERROR_METHODS,
    ERROR_SEEDS,
    FAR_TAIL,
    LEARNED,
    METHODS,
    REWARDED,
    TAIL,
    TEST_SEEDS,
    TUNING,
    TUNING_SEEDS,
    Method,
    Sizes,
)
from benchmarks.alignment.constraint_page import AUDITS_CSV, read, write_page
from benchmarks.alignment.constraint_search import Found, search
from benchmarks.alignment.store import Results, current_commit, describe_machine
from benchmarks.quiet import be_quiet
from trl_rsa.evaluation.tails import cvar


HERE = Path(__file__).parent
QUICK = Sizes(prompts=24, batch_size=8, steps=4, decide=60, test=60, test_draws=1)
KEY = ("part", "world", "seed", "method", "budget")


@dataclass(frozen=True)
class Cell:
    """One search: what is looked for, where."""

    part: str
    world: str
    seed: int
    method: Method
    budget: float

    @property
    def key(self) -> tuple[str, ...]:
        return (self.part, self.world, str(self.seed), self.method.name, f"{self.budget:g}")


def all_cells() -> list[Cell]:
    """In the order in which they are run."""
    return [
        *cells_of("main", METHODS, TEST_SEEDS),
        *ablation_cells(ABLATIONS),
        *cells_of("learned", LEARNED, TEST_SEEDS),
        *cells_of("tuning", TUNING, TUNING_SEEDS),
    ]


def cells_of(part: str, methods: Sequence[Method], seeds: Sequence[int]) -> Iterator[Cell]:
    for seed in seeds:
        for world, budgets in BUDGETS.items():
            yield from (Cell(part, world, seed, method, budget) for method in methods for budget in budgets)


def tuning_of_baselines() -> Iterator[Cell]:
    world, budget = TRIED_AT
    yield from (Cell("baselines, tuning", world, TUNING_SEEDS[0], method, budget) for method in RLOO_TRIED)


def cells_of_baselines(rows: Sequence[dict[str, Any]]) -> Iterator[Cell]:
    """One method after the other, so that what there is time for is there for all seeds."""
    for method in BASELINES:
        chosen = chosen_rloo(rows) if method.search == "rloo" else method
        if chosen is None:
            continue
        for world in BASELINE_WORLDS:
            for seed in TEST_SEEDS:
                yield from (Cell("baselines", world, seed, chosen, budget) for budget in BUDGETS[world])


def ablation_cells(methods: Sequence[Method]) -> Iterator[Cell]:
    budget = BUDGETS[ABLATION_WORLD][1]
    for method in methods:
        yield from (Cell("ablation", ABLATION_WORLD, seed, method, budget) for seed in ABLATION_SEEDS)


def audit_cells() -> list[Cell]:
    """The audits first, then what they are compared with: a run may be stopped."""
    parts = (AUDITS, AUDIT_SEEDS), (ERROR_METHODS, ERROR_SEEDS), (CONFIRM_METHODS, CONFIRM_SEEDS)
    return [cell for methods, seeds in parts for method in methods for cell in cells_of("audits", (method,), seeds)]


def run(cells: Sequence[Cell], results: Results, cache: Path, sizes: Sizes) -> None:
    """Runs the cells that have no row yet; prints a line for each."""
    missing = [cell for cell in cells if cell.key not in results.done]
    print(f"{len(cells) - len(missing)} of {len(cells)} cells are done", flush=True)
    labs: dict[tuple[str, int], Lab] = {}
    for cell in missing:
        began = time.monotonic()
        place = (cell.world, cell.seed)
        if place not in labs:
            labs = {place: Lab(*place, sizes, cache)}  # one at a time: its answers are kept in memory
            part = "main" if cell.part in ("ablation", "learned", "tuning") else cell.part.removesuffix(", tuning")
            row = judge(labs[place], part, labs[place].helpful, "helpful stage alone", "")
            if tuple(str(row[name]) for name in KEY) not in results.done:
                results.add(row)
        look = search_baseline if cell.method.search in BASELINE_SEARCHES else search
        found = look(labs[place], cell.method, cell.budget)
        row = judge(labs[place], cell.part, found.policy, cell.method.name, f"{cell.budget:g}", found)
        results.add(row)
        print(
            f"[{len(results.done)}] {' '.join(cell.key)}: met={row['met']} CVaR {row['cvar_05']:.2f} "
            f"reward {row['reward']:.2f} λ {row['multiplier']:.3g} rungs {row['rungs']} "
            f"({time.monotonic() - began:.0f} s, {time.strftime('%H:%M:%S')})",
            flush=True,
        )


def judge(lab: Lab, part: str, policy: str, name: str, budget: str, found: Found | None = None) -> dict[str, Any]:
    """The row of a policy: what its search reports, and the truth on the test prompts."""
    answers = lab.answers(policy, "test", lab.sizes.test)
    benign = [i for i, prompt in enumerate(answers.prompts) if prompt.kind == "benign"]
    refused = sum(lab.world.read(answers.texts[i]).refused for i in benign)
    spent = asdict(found) if found else dict.fromkeys(Found.__dataclass_fields__, "")
    return {
        "part": part,
        "world": lab.world.name,
        "seed": lab.seed,
        "method": name,
        "budget": budget,
        "met": int(found.met) if found else "",
        "reward": float(answers.rewards.mean()),
        "mean_cost": float(answers.costs.mean()),
        "cvar_05": cvar(answers.costs, TAIL),
        "cvar_01": cvar(answers.costs, FAR_TAIL),
        "over_refusal": refused / len(benign),
        "unsafe_rate": float((answers.costs > 0).mean()),
        "finished": sum(answers.finished) / len(answers.finished),
        "tests": len(answers.texts),
        **{
            field: spent[field]
            for field in (
                "multiplier",
                "bound",
                "estimate",
                "rungs",
                "observed",
                "scored",
                "pairs",
                "steps",
                "seconds",
            )
        },
        **({"labels": spent["labels"]} if part == "audits" else {}),
        "commit": current_commit(),
    }


def write_provenance(path: Path, sizes: Sizes) -> None:
    """Settings, and by commit the machine that made its rows."""
    machines = json.loads(path.read_text(encoding="utf-8")).get("machines", {}) if path.exists() else {}
    content = {"sizes": asdict(sizes), "machines": machines | {current_commit(): describe_machine()}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment.constraint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder of the CSV and plots (default: results/constraint)")
    parser.add_argument("--page", type=Path, help="results page (default: CONSTRAINT.md)")
    parser.add_argument("--cache", type=Path, help="folder of policies and answers (default: the cache of trl-rsa)")
    parser.add_argument("--quick", action="store_true", help="a few small cells, whose numbers mean nothing")
    parser.add_argument("--tune", action="store_true", help="only the cells of the tuning seeds")
    parser.add_argument("--audits", action="store_true", help="only the audits, into a CSV of their own")
    parser.add_argument("--baselines", action="store_true", help="only the methods of the literature beside")
    parser.add_argument("--rewards", action="store_true", help="only ladders with a reward in their rungs")
    parser.add_argument("--draw", action="store_true", help="no runs: plots and page from the CSV")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)
    base = Path(os.environ.get("TRL_RSA_CACHE", Path.home() / ".cache" / "trl-rsa")) / "constraint"
    cache = args.cache or base / ("quick" if args.quick else "full")
    out = args.out or (base / "quick-results" if args.quick else HERE / "results" / "constraint")
    page = args.page or (out / "CONSTRAINT.md" if args.quick else HERE / "CONSTRAINT.md")
    results = Results(out / "constraint.csv", KEY)
    if not args.draw:
        be_quiet()
        sizes = QUICK if args.quick else Sizes()
        cells = list(cells_of("tuning", TUNING, TUNING_SEEDS)) if args.tune else all_cells()
        if args.quick:
            cells = [cell for cell in cells_of("main", METHODS, TEST_SEEDS[:1]) if cell.world == ABLATION_WORLD]
        write_provenance(out / "provenance.json", sizes)
        if args.baselines:
            run(list(tuning_of_baselines()), results, cache, sizes)
            cells = list(cells_of_baselines(read(results.path)))
        if args.rewards:
            cells = [cell for method in REWARDED for cell in cells_of("reward", (method,), TEST_SEEDS)]
        if not args.audits:
            run(cells, results, cache, sizes)
        if not (args.quick or args.tune or args.baselines or args.rewards):
            run(audit_cells(), Results(out / AUDITS_CSV, KEY), cache, sizes)
    write_page(out, page)
    print(page)


if __name__ == "__main__":
    main()
