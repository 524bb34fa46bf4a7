"""Draws the figures and writes the kernels' section of benchmarks/README.md, from results.csv alone."""

import csv
from pathlib import Path


Rows = list[dict[str, str]]
METHODS = {"TRL DPO": "tab:gray", "RSA tiled": "tab:blue", "RSA dense": "tab:red"}
STEP_METHODS = ["TRL DPO", "RSA tiled", "RSA-1 tiled", "RSA dense"]


def write_page(path: Path, out: Path) -> None:
    """`results.csv` → `sweep.png` and `results.md` beside it."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    if of(rows, "sweep"):
        draw_sweep(of(rows, "sweep"), out / "sweep.png")
    text = "\n\n".join(section(rows) for section in (steps, memory, solvers) if section(rows))
    (out / "results.md").write_text(text + "\n")


def of(rows: Rows, benchmark: str, **where: str) -> Rows:
    return [r for r in rows if r["benchmark"] == benchmark and all(r[k] == v for k, v in where.items())]


def source(rows: Rows) -> str:
    r = rows[0]
    return (
        f"{r['device']}, {r['threads']} threads, {r['dtype']}; torch {r['torch']}, trl {r['trl']}, transformers "
        f"{r['transformers']}; commit {r['commit']}, {r['date']}."
    )


def table(header: list[str], lines: list[list[str]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def steps(rows: Rows) -> str:
    rows, lines = of(rows, "step"), []
    for tokens, prompt in dict.fromkeys((r["tokens"], r["prompt"]) for r in rows):
        times = {r["method"]: float(r["value"]) for r in rows if (r["tokens"], r["prompt"]) == (tokens, prompt)}
        lines.append([tokens, prompt] + [f"{times[m]:.2f} s" if m in times else "" for m in STEP_METHODS])
        lines[-1].append(f"{times['RSA tiled'] / times['TRL DPO']:.3f}")
    if not rows:
        return ""
    header = ["tokens per sequence", "of them prompt", *STEP_METHODS, "tiled / TRL"]
    return f"**A training step**, one pair, AdamW. {source(rows)}\n\n{table(header, lines)}"


def memory(rows: Rows) -> str:
    rows, lines = of(rows, "memory"), []
    for tokens in dict.fromkeys(r["tokens"] for r in rows):
        for quantity in ("extra bytes", "peak bytes"):
            size = {r["method"]: float(r["value"]) for r in rows if (r["tokens"], r["quantity"]) == (tokens, quantity)}
            lines.append(
                [tokens, quantity.removesuffix(" bytes")]
                + [f"{size[m] / 1e9:.2f} GB" if m in size else "" for m in METHODS]
            )
            for over, under, digits in ("RSA tiled", "TRL DPO", 3), ("RSA dense", "RSA tiled", 2):
                both = over in size and under in size
                lines[-1].append(f"{size[over] / size[under]:.{digits}f}" if both else "")
    if not rows:
        return ""
    header = ["tokens per sequence", "memory", *METHODS, "tiled / TRL", "dense / tiled"]
    return (
        f"**Peak memory of a step**; extra: above weights, gradients, optimizer state and the interpreter. "
        f"{source(rows)}\n\n{table(header, lines)}"
    )


def solvers(rows: Rows) -> str:
    rows = of(rows, "solver")
    if not rows:
        return ""
    times = {r["method"]: float(r["value"]) for r in rows}
    lines = [[name, f"{1e3 * t:.0f} ms", f"{t / times['two projections']:.2f}"] for name, t in times.items()]
    header = ["[128, 151936] tile", "time", "of the two projections"]
    return f"**The CVaR of a tile.** {source(rows)}\n\n{table(header, lines)}"


def draw_sweep(rows: Rows, path: Path) -> None:
    """Time against the vocabulary at the most tokens, and against the tokens at the largest vocabulary."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, along, fixed in zip(axes, ("vocabulary", "tokens"), ("tokens", "vocabulary"), strict=True):
        at = max((r[fixed] for r in rows), key=int)
        for method, colour in METHODS.items():
            line = sorted((int(r[along]), float(r["value"])) for r in rows if r["method"] == method and r[fixed] == at)
            axis.plot(*zip(*line, strict=True), marker="o", color=colour, label=method)
        axis.set(xlabel=along, title=f"{int(at):,} {'words' if fixed == 'vocabulary' else fixed}", xlim=0, ylim=0)
    axes[0].set_ylabel("head, forward + backward (s)")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
