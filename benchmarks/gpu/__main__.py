"""One run on one GPU, in eight minutes: are the kernels right, what does a step cost, does a ladder climb?

    python -m benchmarks.gpu --out DIR                        # everything that needs no more than packages
    python -m benchmarks.gpu --out DIR --parts kernels,step   # some parts
    python -m benchmarks.gpu --out DIR --model FOLDER --prompts FILE --cost hf:FOLDER
    python -m benchmarks.gpu --out DIR --small                # a rehearsal on a CPU, in a minute

Each part runs in a process of its own and is killed when its seconds are over. Rows are written as they come.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu import versions
from benchmarks.gpu.page import write_page
from benchmarks.gpu.results import Results
from benchmarks.gpu.settings import SECONDS, Deadline, Settings
from trl_rsa.storage.provenance import now
from trl_rsa.training.launcher import end_with_parent


HERE = Path(__file__).parent
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# A part's status when it has written down what failed.
FAILED = 3


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--parts", default=",".join(SECONDS), help="some of them, with commas")
    parser.add_argument("--small", action="store_true", help="tiny shapes on the CPU: a rehearsal")
    parser.add_argument("--model", default="", help="ladder: folder of a causal language model")
    parser.add_argument("--prompts", default="", help="ladder: file of prompts")
    parser.add_argument("--cost", default="", help="ladder: a scorer, such as hf:FOLDER")
    parser.add_argument("--cost_options", type=json.loads, default={}, help="ladder: the scorer's options, as JSON")
    parser.add_argument("--cost_bounds", type=float, nargs=2, default=(-5.0, 5.0), help="ladder: costs that count")
    parser.add_argument("--cost_budget", type=float, default=0.0, help="ladder: largest CVaR allowed")
    parser.add_argument("--commit", default="", help="of the sources, where they are no git checkout")
    for name, seconds in SECONDS.items():
        parser.add_argument(f"--{name}_seconds", type=float, default=seconds, help=f"{seconds:g} by default")
    # How a part's process is started.
    parser.add_argument("--inside", choices=list(SECONDS), help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--run", default="", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.inside:
        return _inside(args)
    parts = args.parts.split(",")
    unknown = [part for part in parts if part not in SECONDS]
    if unknown:
        parser.error(
            f"You set --parts to {args.parts}, but there is no part {unknown[0]!r}. Use {', '.join(SECONDS)}."
        )
    if not (args.small or torch.cuda.is_available()):
        print(
            "You run this without a CUDA device, but it measures one. Add --small for a rehearsal on the CPU.",
            file=sys.stderr,
        )
        return 1
    differing = versions.differences(versions.CONSTRAINTS.read_text(encoding="utf-8"))
    if differing:
        print(f"Versions that differ from constraints.txt: {differing}.", flush=True)
    run, fine = now(), True
    for part in parts:
        fine &= _run_part(part, argv, run, args)
        write_page(args.out)
    print(f"Results: {args.out}", flush=True)
    return 0 if fine else 1


def _run_part(part: str, argv: list[str], run: str, args: argparse.Namespace) -> bool:
    """One part in a process of its own, which is killed with all that it has started when its seconds are over."""
    seconds, start = getattr(args, f"{part}_seconds"), time.time()
    inside = ["--inside", part, "--run", run, "--deadline", str(start + seconds)]
    with tempfile.TemporaryDirectory() as folder:  # a killed process leaves its temporary files
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", *argv, *inside],
            env=os.environ | ENVIRONMENT | {"TMPDIR": folder},
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    print(f"{part}: {time.time() - start:.0f} of {seconds:g} s", flush=True)
    if status is None:
        _results(args, part, run).add("stopped", f"killed after {seconds:g} seconds")
    elif status not in (0, FAILED):  # it has not said so itself
        _results(args, part, run).add("failed", f"ended with status {status}; see its output")
    return status == 0


def _results(args: argparse.Namespace, part: str, run: str) -> Results:
    return Results(args.out, part, run, "small" if args.small else "full", args.commit)


def _inside(args: argparse.Namespace) -> int:
    end_with_parent()
    settings = Settings(
        device="cpu" if args.small else "cuda",
        small=args.small,
        model=args.model,
        prompts=args.prompts,
        cost=args.cost,
        cost_options=args.cost_options,
        cost_bounds=tuple(args.cost_bounds),
        cost_budget=args.cost_budget,
    )
    module = importlib.import_module(f"benchmarks.gpu.{args.inside}")
    results = _results(args, args.inside, args.run)
    return 0 if module.measure_part(settings, results, Deadline(args.deadline)) else FAILED


if __name__ == "__main__":
    sys.exit(main())
