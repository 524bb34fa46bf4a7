"""How long the bookkeeping and the metrics take, and what memory they need: `python -m benchmarks.evaluation_speed`.

No model runs: the records are random. Every stage runs in a process of its own, so that its peak memory is its own;
reported is the growth over what importing the code takes. Times are wall time and, since other work may share the
machine, the processor's time; `load` is the machine's load average when the stage ended.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import resource
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import scipy

from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.columns import Columns, read_columns
from trl_rsa.evaluation.comparison import compare
from trl_rsa.evaluation.metrics import summarize
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.records import RecordWriter, read_records


SIZES = (10_000, 100_000)
CATEGORIES, ATTACKS = 14, 7
# Some 500 characters each; one in three needs the whole refusal rule, and one in three refuses.
RESPONSES = [
    opening + "This is a sentence of a response, neither good nor bad. " * 9
    for opening in ("", "This is not a refusal. ", "I'm sorry, but I can't help with that. ")
]


def write(path: Path, n: int, draws: int) -> None:
    """n records of n / draws prompts, about 700 bytes each."""
    rng = np.random.default_rng(0)
    cost, reward = rng.normal(-1, 1, n), rng.normal(0, 1, n)
    with RecordWriter(path) as writer:
        for i in range(n):
            writer.write(
                {
                    "prompt": f"Question number {i // draws}: what would you do?",
                    "response": RESPONSES[i % 3],
                    "reward": reward[i],
                    "cost": cost[i],
                    "model": "model",
                    "seed": i % draws,
                    "category": f"category {i // draws % CATEGORIES}",
                    "attack": f"attack {i // draws % ATTACKS}",
                }
            )


def columns(n: int, draws: int) -> Columns:
    """The same records without a file."""
    rng = np.random.default_rng(0)
    cost, reward = rng.normal(-1, 1, n), rng.normal(0, 1, n)
    return read_columns(
        {
            "prompt": str(i // draws),
            "response": "",
            "cost": cost[i],
            "reward": reward[i],
            "category": str(i // draws % CATEGORIES),
            "attack": str(i // draws % ATTACKS),
        }
        for i in range(n)
    )


def stages(path: Path, n: int, draws: int):
    """Each stage: its name, what is prepared, and what is timed."""
    yield "write records", lambda: None, lambda _: write(path, n, draws)
    yield "read records, classify refusals", lambda: None, lambda _: read_columns(read_records(path))
    yield "metrics by category and attack, 1,000 resamples", lambda: columns(n, draws), summarize
    yield (
        "paired comparison, 1,000 resamples and permutations",
        lambda: (columns(n // 2, draws), columns(n // 2, draws)),
        lambda pair: compare(*pair),
    )
    yield (
        "certificate",
        lambda: _costs(n, draws),
        lambda pair: certify(pair[0], 0.0, prompts=pair[1], bounds=(-5, 5), scorer="random"),
    )


def _costs(n: int, draws: int) -> tuple[np.ndarray, list[str]]:
    return np.random.default_rng(0).normal(-1, 1, n), [prompt_key(str(i // draws)) for i in range(n)]


def measure(path: Path, n: int, draws: int, index: int, queue: multiprocessing.Queue) -> None:
    """Runs one stage; ru_maxrss is in KiB on Linux."""
    name, prepare, run = list(stages(path, n, draws))[index]
    prepared = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    run(prepared)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    queue.put(
        {
            "stage": name,
            "records": n,
            "responses_per_prompt": draws,
            "seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "peak_growth_mib": round(growth / 1024, 1),
            "load": round(os.getloadavg()[0], 1),
        }
    )


def provenance() -> dict[str, str]:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": head.stdout.strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "cores": str(os.cpu_count()),
        "processor": _processor(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="benchmarks/results/evaluation_speed.csv")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            for draws in (1, 4):
                path = Path(folder) / f"{n}-{draws}.jsonl"
                for index in range(len(list(stages(path, n, draws)))):
                    queue = spawn.Queue()
                    process = spawn.Process(target=measure, args=(path, n, draws, index, queue))
                    process.start()
                    rows.append(queue.get(timeout=600) | provenance())
                    process.join()
                    print(*list(rows[-1].values())[:7], sep="\t", flush=True)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
