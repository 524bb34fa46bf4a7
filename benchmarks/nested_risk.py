"""How far the estimates of one wrong token are from the truth, with few branches and few continuations.

    python -m benchmarks.nested_risk            # a minute; writes results/nested_risk.csv and prints the table

In two worlds of the sandbox the risk is known: the law of answers is a tree. Trees of continuations are drawn from it
at 2,000 places, and each estimate is compared with the mean of the true risk at the same places.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trl_rsa.evaluation.nested import cross_fitted, plug_in
from trl_rsa.sandbox import WORLDS, PrefixTree, all_prompts


OUT = Path(__file__).parent / "results" / "nested_risk.csv"
TAIL = 0.25
SHAPES = ((4, 2), (4, 4), (8, 2), (8, 8), (16, 4), (32, 16))
PLACES = 2000


def measure(world: str, places: int, shapes: Sequence[tuple[int, int]]) -> list[dict[str, str | int | float]]:
    """One row per number of branches and continuations."""
    prompt = next(prompt for prompt in all_prompts() if prompt.kind == "adversarial")
    nodes = list(PrefixTree.of(WORLDS[world].law(prompt)).places())
    rng = np.random.default_rng(0)
    chances = np.array([node.probability for node in nodes])
    chosen = [nodes[i] for i in rng.choice(len(nodes), size=places, p=chances / chances.sum())]
    risk = {id(node): node.one_token_risk(TAIL) for node in chosen}
    truth = float(np.mean([risk[id(node)] for node in chosen]))
    rows: list[dict[str, str | int | float]] = []
    for m, k in shapes:
        costs = np.array([_tree(rng, node, m, k) for node in chosen])
        row: dict[str, str | int | float] = {"world": world, "branches": m, "continuations": k, "truth": truth}
        row["mean"] = float(costs.mean())
        for name, estimate in (("plug_in", plug_in), ("cross_fitted", cross_fitted)):
            values = estimate(costs, TAIL)
            row[name] = float(values.mean())
            row[f"{name}_error"] = float((values - [risk[id(node)] for node in chosen]).std() / np.sqrt(places))
        rows.append(row)
    return rows


def _tree(rng: np.random.Generator, node: PrefixTree, m: int, k: int) -> list[np.ndarray]:
    children, law = list(node.children.values()), list(node.next_law().values())
    leaves = []
    for branch in rng.choice(len(law), size=m, p=law):
        costs, chances = children[branch].costs()
        leaves.append(rng.choice(costs, size=k, p=np.array(chances) / sum(chances)))
    return leaves


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nested_risk", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the CSV (default: %(default)s)")
    parser.add_argument("--places", type=int, default=PLACES, help="places per world (default: %(default)s)")
    args = parser.parse_args(arguments)
    rows = [row for world in ("tail", "delayed") for row in measure(world, args.places, SHAPES)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print("| world | branches × continuations | true risk | plug-in | cross-fitted | mean cost |")
    print("|---|---|---:|---:|---:|---:|")
    for row in rows:
        shape = f"{row['branches']} × {row['continuations']}"
        print(f"| {row['world']} | {shape} | " + " | ".join(f"{row[k]:.2f}" for k in _SHOWN) + " |")


_SHOWN = ("truth", "plug_in", "cross_fitted", "mean")


if __name__ == "__main__":
    main()
