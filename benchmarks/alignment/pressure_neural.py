"""The neural part of the pressure track: what buys robustness with a trained model, in the sandbox's worlds.

    python -m benchmarks.alignment.pressure_neural           # what is missing; about five hours on two cores
    python -m benchmarks.alignment.pressure_neural --tune    # only the tuning seed
    python -m benchmarks.alignment.pressure_neural --plan    # runs × seconds on this machine, and nothing else

What is compared, and by which rule, stands in `pressure_arms.py`. One row per world, seed, arm and shape is written to
`results/pressure/neural.csv` as soon as it is known; policies and answers are kept, so that a run that was stopped
goes on where it was. PRESSURE.md is written anew by `python -m benchmarks.alignment.pressure --draw`.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.alignment.cells import Row
from benchmarks.alignment.constraint_methods import Sizes
from benchmarks.alignment.pressure_arms import (
    ALPHA_ZERO,
    BASE,
    BATCH,
    BUDGET_SHARE,
    DELTAS,
    REFUSING,
    STEPS,
    TEST_SEEDS,
    TUNED,
    TUNING_SEED,
    WORLDS,
    Arm,
    Shape,
)
from benchmarks.alignment.pressure_choice import candidates, read
from benchmarks.alignment.pressure_lab import PressureLab
from benchmarks.alignment.store import Results, current_commit
from benchmarks.quiet import be_quiet


OUT = Path(__file__).parent / "results" / "pressure" / "neural.csv"
KEY = ("world", "seed", "arm", "shape")
Cell = tuple[str, int, Arm, Shape]
MakeLab = Callable[[str, int], PressureLab]


def tuning_cells() -> Iterator[Cell]:
    for world in WORLDS:
        yield from ((world, TUNING_SEED, arm, shape) for arm, shape in TUNED)


def test_cells(rows: Sequence[Row]) -> Iterator[Cell]:
    """α = 0 in the base shape and the candidates, once the tuning seed is done."""
    chosen = candidates(rows)
    for seed in TEST_SEEDS if chosen else ():
        for world in WORLDS:
            yield from ((world, seed, arm, shape) for arm, shape in [(ALPHA_ZERO, BASE), *chosen])


def run(cells: Iterator[Cell] | Sequence[Cell], results: Results, make_lab: MakeLab) -> None:
    """Runs the cells that have no row yet."""
    budgets: dict[str, float] = {}
    labs: dict[tuple[str, int], PressureLab] = {}
    for world, seed, arm, shape in cells:
        if (world, str(seed), arm.name, shape.name) in results.done:
            continue
        began = time.monotonic()
        if world not in budgets:
            tuning = make_lab(world, TUNING_SEED)
            helpful = tuning.tail(tuning.helpful)
            budgets[world] = helpful + BUDGET_SHARE * (REFUSING - helpful)
        if (world, seed) not in labs:
            labs = {(world, seed): make_lab(world, seed)}
        row = measure(labs[world, seed], world, seed, arm, shape, budgets[world])
        results.add(row | {"seconds": time.monotonic() - began, "commit": current_commit()})
        print(f"[{len(results.done)}] {world} {seed} {arm.name}, {shape.name}: {row['reward']:.2f}", flush=True)


def measure(lab: PressureLab, world: str, seed: int, arm: Arm, shape: Shape, budget: float) -> Row:
    policies, scored = lab.ladder(arm, shape)
    policy, met = lab.at_budget(policies, budget)
    row: Row = {"world": world, "seed": seed, "arm": arm.name, "shape": shape.name, "pairs": shape.pairs}
    return row | {"budget": budget, "met": int(met), "scored": scored} | lab.judge(policy)


def print_plan(cells: Sequence[Cell], results: Results, make_lab: MakeLab) -> None:
    """Runs × seconds: a few steps of training and a few responses are timed on this machine."""
    left = [cell for cell in cells if (cell[0], str(cell[1]), cell[2].name, cell[3].name) not in results.done]
    if not left:
        print("Nothing is left of these cells")
        return
    lab = make_lab(left[0][0], TUNING_SEED)
    step, response = lab.seconds_of_a_step(), lab.seconds_of_a_response()
    total = 0.0
    for shape in dict.fromkeys(cell[3] for cell in left):
        steps = STEPS if shape.equal_steps else shape.pairs // BATCH
        pairs = steps * (shape.pairs / STEPS if shape.equal_steps else BATCH)
        judged = len(DELTAS) * lab.base.decide + 5 * lab.base.test * lab.base.test_draws
        each = len(DELTAS) * (pairs * step + shape.prompts * shape.draws * response) + judged * response
        runs = sum(cell[3] == shape for cell in left)
        total += runs * each
        print(f"{shape.name}: {runs} runs × {each:.0f} s = {runs * each / 3600:.1f} h")
    print(f"In all about {total / 3600:.1f} hours on one core", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment.pressure_neural",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the CSV (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of policies and answers (default: the cache of trl-rsa)")
    parser.add_argument("--tune", action="store_true", help="only the cells of the tuning seed")
    parser.add_argument("--plan", action="store_true", help="runs × seconds, and nothing else")
    args = parser.parse_args(arguments)
    be_quiet()
    base = Path(os.environ.get("TRL_RSA_CACHE", Path.home() / ".cache" / "trl-rsa"))
    cache = args.cache or base / "pressure"
    results = Results(args.out, KEY)

    def make_lab(world: str, seed: int) -> PressureLab:
        return PressureLab(world, seed, Sizes(), cache)

    print_plan(list(tuning_cells()), results, make_lab)
    if args.plan:
        return
    run(tuning_cells(), results, make_lab)
    if args.tune:
        return
    cells = list(test_cells(read(args.out)))
    print_plan(cells, results, make_lab)
    run(cells, results, make_lab)


if __name__ == "__main__":
    main()
