"""`make bench`: every benchmark, one after the other, each in a process of its own.

    python -m benchmarks.run                 # all of them: about an hour and a half on two cores
    python -m benchmarks.run exact kernels   # some

Each can also be run alone, as `python -m MODULE`; its module says what it measures and what it writes.
"""

import argparse
import subprocess
import sys


BENCHMARKS = {
    "exact": "benchmarks.alignment.exact",
    "scheduler": "benchmarks.alignment.scheduler_rules",
    "constraint": "benchmarks.alignment.constraint",  # rows that are in its CSV are not made again
    "kernels": "benchmarks.kernels.run",
    "memory": "benchmarks.memory",
    "scaling": "benchmarks.scaling",
    "evaluation": "benchmarks.evaluation_speed",
    "sampling": "benchmarks.sampling",
    "token_risk": "benchmarks.token_risk",
    "step_size": "benchmarks.alignment.step_size",
    "audits": "benchmarks.audits",  # rows that are in its CSVs are not made again
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all if none is given"
    )
    names = parser.parse_args(argv).names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"you asked for {', '.join(unknown)}, but the benchmarks are {', '.join(BENCHMARKS)}")
    failed = []
    for name in names:
        print(f"== {name}: python -m {BENCHMARKS[name]}", flush=True)
        if subprocess.run([sys.executable, "-m", BENCHMARKS[name]]).returncode:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
