"""results.md beside the CSV files: what a GPU has shown, with empty cells for what none has yet."""

from pathlib import Path

from benchmarks.gpu.kernels import MEASURES, TOLERANCE
from benchmarks.gpu.results import read
from benchmarks.gpu.step import BASELINE, CASES, METHODS
from benchmarks.kernels.page import table


Rows = list[dict[str, str]]


def write_page(folder: Path) -> None:
    """From the newest run of each part. Rehearsals are left out."""
    sections = [kernels, steps, heads, ladder]
    path = folder / "results.md"
    path.write_text("\n\n".join(section(folder) for section in sections) + "\n", encoding="utf-8")


def newest(folder: Path, part: str) -> Rows:
    rows = [row for row in read(folder, part) if row["size"] == "full"]
    last = max((row["run"] for row in rows), default="")
    return [row for row in rows if row["run"] == last]


def source(rows: Rows) -> str:
    if not rows:
        return "Not measured yet."
    r = rows[0]
    return (
        f"{r['device']}; torch {r['torch']}, triton {r['triton']}, trl {r['trl']}, transformers {r['transformers']}; "
        f"commit {r['commit'] or 'unknown'}, {r['date']}."
    )


def kernels(folder: Path) -> str:
    rows, lines = newest(folder, "kernels"), []
    for dtype in TOLERANCE:
        for measure in MEASURES:
            of = [r for r in rows if r["measure"] == str(measure) and r["dtype"] == str(dtype)[6:]]
            done = [r for r in of if r["outcome"] in ("passed", "failed")]
            passed = sum(r["outcome"] == "passed" for r in done)
            shares = [_largest(done, name) for name in ("values of tolerance", "gradients of tolerance")]
            lines.append([str(measure), str(dtype)[6:], f"{passed} of {len(of)}" if of else "", *shares])
    header = ["measure", "dtype", "cases passed", "values: largest error of its tolerance", "gradients: the same"]
    kind = f" Kernels: {rows[0]['kernel']}." if rows and rows[0]["kernel"] else ""
    return f"**The risk head against float64.**{kind} {source(rows)}\n\n{table(header, lines)}"


def _largest(rows: Rows, name: str) -> str:
    numbers = [float(r[name]) for r in rows if r[name]]
    return f"{max(numbers):.2f}" if numbers else ""


def steps(folder: Path) -> str:
    rows, lines = newest(folder, "step"), []
    for case in CASES:
        line = [case.name, case.weights]
        for method in METHODS:
            of = _of(rows, "step", case.name, case.weights, method)
            seconds = _mean(of, "seconds")
            line.append("" if seconds is None else f"{1e3 * seconds:.0f} ms")
            if method != BASELINE:
                line.append(_format(_mean(of, "ratio"), "{:.3f}"))
            peak = _mean(of, "peak bytes")
            line += ["" if peak is None else f"{peak / 1e9:.1f} GB", _format(_mean(of, "of peak flops"), "{:.0%}")]
        lines.append(line)
    header = ["model", "weights"]
    for method in METHODS:
        header += [method, *([] if method == BASELINE else ["to DPO"]), "peak", "of peak FLOP/s"]
    size = f"{CASES[0].pairs} pairs of {CASES[0].tokens:,} tokens a sequence"
    return f"**A training step**, {size}, bfloat16, AdamW. {source(rows)}\n\n{table(header, lines)}"


def heads(folder: Path) -> str:
    rows, lines = newest(folder, "step"), []
    for case in CASES:
        if case.weights == "float32":
            continue
        baseline, risk = (_of(rows, "head", case.name, case.weights, m) for m in (BASELINE, "RSA CVaR"))
        seconds = [_mean(of, "seconds") for of in (baseline, risk)]
        lines.append(
            [case.name, *("" if s is None else f"{1e3 * s:.0f} ms" for s in seconds)]
            + [_format(_mean(risk, name), form) for name, form in FRACTIONS.items()]
        )
    header = ["model", BASELINE, "RSA CVaR", "to DPO", "of peak FLOP/s", "of bandwidth"]
    return f"**The head alone**, forward and backward. {source(rows)}\n\n{table(header, lines)}"


FRACTIONS = {"ratio": "{:.2f}", "of peak flops": "{:.0%}", "of bandwidth": "{:.0%}"}


def ladder(folder: Path) -> str:
    rows = newest(folder, "ladder")
    numbers = {r["quantity"]: r["value"] for r in rows if r["outcome"] == "measured"}
    seconds = max((float(r["seconds"]) for r in rows if r["seconds"]), default=None)
    names = ("mean_cost", "unsafe_rate", "estimate", "upper_bound", "cut")
    lines = [[name, *(numbers.get(f"{name} after {n} rungs", "")[:8] for n in (0, 1))] for name in names]
    took = "" if seconds is None else f" {seconds:.0f} s."
    return f"**One ladder of a real model.**{took} {source(rows)}\n\n{table(['', 'start', 'after a rung'], lines)}"


def _of(rows: Rows, benchmark: str, model: str, weights: str, method: str) -> Rows:
    wanted = {"benchmark": benchmark, "model": model, "weights": weights, "method": method, "outcome": "measured"}
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


def _mean(rows: Rows, name: str) -> float | None:
    numbers = [float(r[name]) for r in rows if r[name]]
    return sum(numbers) / len(numbers) if numbers else None


def _format(number: float | None, form: str) -> str:
    return "" if number is None else form.format(number)
