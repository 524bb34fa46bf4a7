"""`trl-rsa doctor`: what is installed, what is available here, and what a plan lacks on this machine."""

import argparse
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from trl_rsa.scripts._command import add_plan
from trl_rsa.storage.provenance import versions


MISSING = 3  # exit status: the plan lacks something here
_LONGEST_BUILD = 1800.0  # seconds

_EPILOG = """\
exit status:
  0  nothing is missing
  2  the plan cannot be read: one sentence says why
  3  something that the plan needs is missing

Nothing is downloaded and no model is loaded. `trl-rsa align --config PLAN.yaml --dry_run` checks more and takes time.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa doctor",
        description="Print versions, what is available on this machine, and what a plan lacks here. For bug reports.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_plan(parser, "a plan for `trl-rsa align`")
    parser.add_argument(
        "--accelerate_config", metavar="NAME", help="the engine that the plan shall run on, as for `trl-rsa align`"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    _print("Versions", versions())
    _print("Available here", dict(abilities()))
    if args.plan is None:
        return 0
    from trl_rsa.alignment.needs import needs
    from trl_rsa.alignment.plan import Plan

    found = needs(Plan.from_yaml(args.plan), args.accelerate_config)
    lines = {need.what: ("" if need.found else "MISSING. ") + need.words for need in found}
    _print(f"Needed by {args.plan}", lines)
    missing = sum(not need.found for need in found)
    print(f"{missing} of {len(found)} are missing." if missing else "Nothing is missing.")
    return MISSING if missing else 0


def abilities() -> Iterator[tuple[str, str]]:
    """What can be used here, by what is installed; for the rest, how to get it."""
    yield "TRL supported", _trl_supported()
    yield "accelerators", _accelerators()
    yield "bfloat16", _bfloat16()
    yield "single, multi_gpu, fsdp2", "yes, with torch"
    yield "zero1 … zero3", _deepspeed()
    yield "4-bit weights", _needs("bitsandbytes", 'pip install "trl-rsa[quantization]"')
    yield "Triton kernels", _triton()
    yield "engine: vllm", _needs("vllm", "pip install vllm")
    yield "--benchmarks", _needs("lm_eval", 'pip install "trl-rsa[eval]"')


def _print(title: str, lines: dict[str, str]) -> None:
    print(f"{title}:")
    for name, value in lines.items():
        print(f"- {name}: {value}")
    print()


def _needs(package: str, remedy: str) -> str:
    return f"yes, {package} is installed" if find_spec(package) else f"no. {remedy}"


def _deepspeed() -> str:
    """torch takes the lock of a build that was killed for one that goes on: every later run waits without a word."""
    said = _needs("deepspeed", 'pip install "trl-rsa[deepspeed]"')
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    long_ago = time.time() - _LONGEST_BUILD
    stale = next((lock for lock in built.glob("**/lock") if lock.stat().st_mtime < long_ago), None)
    if stale is None:
        return said
    return f"{said}, but a build of one of its parts was killed, and runs would wait for it. Delete {stale}"


def _triton() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no. They need a GPU; the kernels in torch do the same"
    return _needs("triton", "The kernels in torch do the same, more slowly; pip install triton")


def _accelerators() -> str:
    """The toolkit that torch was built with, and the devices it finds."""
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{torch.version.cuda or torch.version.hip}: {', '.join(devices)}"
    built = f"with CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return f"none, so that training runs on the CPU (torch {built})"


def _bfloat16() -> str:
    from trl_rsa._device import has_slow_bfloat16

    said = {
        True: "slow on this processor. Set `bf16: false` and `dtype: float32`",
        False: "yes",
        None: "unknown: torch says from 2.13 on whether this processor has instructions for it",
    }
    return said[has_slow_bfloat16()]


def _trl_supported() -> str:
    try:
        from trl_rsa._trl import ALLOW, IS_TESTED, SUPPORTED_TRL
    except ImportError as error:  # TRL's version, or a name that has moved
        return f"no. {error}"
    tested = f">={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]}"
    return f"yes ({tested})" if IS_TESTED else f"not tested ({tested} is), but allowed by {ALLOW}"
