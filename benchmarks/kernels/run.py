"""The cost of the fused risk head: writes results.csv, figures and a table.

    python -m benchmarks.kernels.run                      # everything: about twenty minutes on two quiet cores
    python -m benchmarks.kernels.run --only solver sweep

* solver: the quantile of a whole-vocabulary tile of 128 tokens, against the two projections that make it.
* sweep: forward and backward of the head alone, over vocabularies and tokens.
* step: a whole training step of Qwen2.5-0.5B's shape, forward to optimizer. TRL, fused and dense in turns.
* memory: the peak of such a step, each method in a process of its own. Linux only.

Times are medians of interleaved repeats in one process. CPU, or CUDA for `sweep` where PyTorch sees a device.
"""

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.kernels.page import METHODS, STEP_METHODS, write_page


HERE = Path(__file__).parent
Row = dict[str, object]


def interleave(subjects: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each subject, one after the other, `repeats` times after one turn that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(repeats + 1):
        for name, subject in subjects.items():
            start = time.perf_counter()
            subject()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def timings(benchmark: str, seconds: dict[str, list[float]], **config: object) -> list[Row]:
    return [
        {"benchmark": benchmark, "method": name, **config, "quantity": "seconds"}
        | {"value": statistics.median(s), "lowest": min(s), "highest": max(s), "repeats": len(s)}
        for name, s in seconds.items()
    ]


def measure_solver(repeats: int, tokens: list[int]) -> Iterator[list[Row]]:
    from benchmarks.kernels.solvers import SOLVERS
    from benchmarks.kernels.subjects import MEASURE, HeadProblem
    from trl_rsa.kernels.parallel import map_blocks
    from trl_rsa.kernels.projection import slices
    from trl_rsa.kernels.scratch import Scratch
    from trl_rsa.kernels.tiled import LOGITS_PER_BLOCK
    from trl_rsa.kernels.tilts import solve

    problem = HeadProblem(128, 151_936)
    with torch.no_grad():
        tiles = torch.empty(2, 128, 151_936)
        pairs = (problem.hidden, problem.head), (problem.ref_hidden, problem.ref_head)

        def project() -> None:
            for tile, (hidden, head) in zip(tiles, pairs, strict=True):
                torch.mm(hidden, head.weight.t(), out=tile)

        project()
        log_pi, log_p = tiles.log_softmax(-1)
        x, p = log_p - log_pi, log_p.exp()
        weighted = p * x
        rows = slices(128, LOGITS_PER_BLOCK["cpu"] // 151_936)
        subjects: dict[str, Callable[[], object]] = {
            "two projections": project,
            "CVaR and its law": lambda: map_blocks(
                lambda b: solve(MEASURE, x[b], p[b], log_p[b], weighted[b], Scratch.of_thread()), rows, "cpu"
            ),
        }
        for name, solver in SOLVERS.items():
            subjects[name] = lambda s=solver: map_blocks(lambda b: s(x[b], p[b], MEASURE.tail), rows, "cpu")
        yield timings("solver", interleave(subjects, repeats), vocabulary=151_936, tokens=128)


def measure_sweep(repeats: int, tokens: list[int]) -> Iterator[list[Row]]:
    from benchmarks.kernels.subjects import HEAD_METHODS, HeadProblem

    on_gpu = torch.cuda.is_available()
    device, dtype, hidden = ("cuda", torch.bfloat16, 4096) if on_gpu else ("cpu", torch.float32, 896)
    for vocabulary in (32_768, 65_536, 131_072, 262_144):
        for n in (1024, 2048, 4096) if on_gpu else (64, 128, 256):
            problem = HeadProblem(n, vocabulary, hidden, dtype, device)
            subjects = {name: lambda m=name, p=problem: p.run(m) for name in HEAD_METHODS}
            seconds = interleave(subjects, repeats)
            # Both logits, the policy's again, two gradients; and for half of the tokens the reference's logits again.
            config = {"vocabulary": vocabulary, "tokens": n, "hidden": hidden, "dtype": str(dtype)[6:]}
            yield timings("sweep", seconds, **config, flops=11 * vocabulary * n * hidden)


def measure_step(repeats: int, tokens: list[int]) -> Iterator[list[Row]]:
    from benchmarks.kernels.subjects import make_batch, make_models, make_trainer, train_step

    models = make_models()
    optimizer = torch.optim.AdamW(models[0].parameters(), lr=1e-6)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: make_trainer(name, models, folder, optimizer) for name in STEP_METHODS}
        for n, prompt in (128, 1), (128, 64), (512, 1):
            if n not in tokens:
                continue
            batch = make_batch(n, prompt)
            subjects = {
                name: lambda m=name, t=trainer, b=batch: train_step(t, b, m)
                for name, trainer in trainers.items()
                if (n, prompt) == (128, 1) or name in ("TRL DPO", "RSA tiled") or (name == "RSA dense" and n == 512)
            }
            seconds = interleave(subjects, repeats if n == 128 else max(2, repeats - 2))
            yield timings("step", seconds, vocabulary=151_936, tokens=n, prompt=prompt)


def measure_memory(repeats: int, tokens: list[int]) -> Iterator[list[Row]]:
    for n in tokens:
        for method in METHODS:
            command = [sys.executable, "-m", "benchmarks.kernels.memory", method, str(n)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks = json.loads(output.splitlines()[-1])
            config = {"benchmark": "memory", "method": method, "vocabulary": 151_936, "tokens": n, "prompt": 1}
            yield [config | {"quantity": name, "value": value, "repeats": 1} for name, value in peaks.items()]


BENCHMARKS = {
    "solver": measure_solver,
    "sweep": measure_sweep,
    "step": measure_step,
    "memory": measure_memory,
}


def provenance(*sources: str) -> Row:
    """Machine and versions, without names or paths.

    Args:
        sources (`str`):
            Patterns of the files whose uncommitted changes count, beside the package's; by default this benchmark's.
    """
    changed = _git("status", "--porcelain", "--", "trl_rsa", *(sources or ("benchmarks/kernels/*.py",)))
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else model,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        **{name: installed(name) for name in ("torch", "trl", "transformers")},
    }


def _git(*arguments: str) -> str:
    """What git prints; nothing where the sources are no checkout, or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=HERE.parent.parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def installed(name: str) -> str:
    """The installed version; nothing without one: the kernels need no more than torch."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


COLUMNS = ["benchmark", "method", "vocabulary", "tokens", "prompt", "hidden", "flops", "quantity", "value", "lowest"]
COLUMNS += ["highest", "repeats", "commit", "date", "device", "threads", "dtype", "torch", "trl", "transformers"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--tokens", nargs="+", type=int, choices=[128, 512], default=[128, 512], help="step and memory"
    )
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.csv"
    # What is not measured again keeps its rows, and what is measured is written at once.
    kept = list(csv.DictReader(path.open())) if path.exists() else []
    for name in args.only:
        for group in BENCHMARKS[name](args.repeats, args.tokens):
            source = provenance()
            rows = [source | row for row in group]
            print("  ".join(str(rows[0].get(key, "")) for key in KEY[:-1]), flush=True)
            measured = {_key(row) for row in rows}
            kept = [row for row in kept if _key(row) not in measured] + rows
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, restval="")
                writer.writeheader()
                writer.writerows(kept)
    write_page(path, args.out)


KEY = ["benchmark", "vocabulary", "tokens", "prompt", "method"]


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(key, "")) for key in KEY)


if __name__ == "__main__":
    main()
