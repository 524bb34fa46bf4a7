"""Seconds and memory of a step in one process and in two, by engine, at the same global batch.

    python -m benchmarks.scaling        # about two minutes on two quiet cores

Writes results/scaling.csv. On a CPU each process has one thread, so that two have twice the cores of one: it shows
what an engine costs, not what it gains on accelerators. Linux only. Uses CUDA devices where PyTorch sees two.
"""

import argparse
import csv
import os
from pathlib import Path

from benchmarks.engine_step import Step, measure
from benchmarks.kernels.run import provenance


RESULTS = Path(__file__).parent / "results" / "scaling.csv"
# About 17 million weights.
SHAPE = {
    "vocab_size": 16_384,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
PAIRS, TOKENS = 4, 64  # per step of all processes
ENGINES = (("single", 1), ("multi_gpu", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2))
COLUMNS = [
    "engine",
    "processes",
    "threads",
    "pairs",
    "tokens",
    "seconds",
    "lowest",
    "highest",
    "repeats",
    "bytes",
    "load before",
]
COLUMNS += ["commit", "date", "device", "torch", "trl", "transformers", "accelerate", "deepspeed"]


def rows() -> list[dict[str, object]]:
    from importlib.metadata import version

    measured, source = [], provenance()
    for engine, processes in ENGINES:
        load = os.getloadavg()[0]  # what else the machine was doing
        found = measure(Step(SHAPE, engine, processes, PAIRS // processes, TOKENS))
        seconds = found["seconds"]
        row = {"engine": engine, "processes": processes, "pairs": PAIRS, "tokens": TOKENS, "bytes": found["bytes"]}
        row |= {"seconds": found["median seconds"], "lowest": min(seconds), "highest": max(seconds)}
        row |= {"repeats": len(seconds), "load before": round(load, 1), **source, "threads": found["threads"]}
        measured.append(row | {name: version(name) for name in ("accelerate", "deepspeed")})
        print(f"{engine}: {found['median seconds']:.3f} s, {found['bytes'] / 1e6:.0f} MB per process", flush=True)
    return measured


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    args = parser.parse_args(argv)
    measured = rows()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(measured)


if __name__ == "__main__":
    main()
