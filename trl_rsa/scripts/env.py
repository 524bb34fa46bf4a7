"""`trl-rsa env`: what a bug report has to say about the installation."""

import argparse

from trl_rsa.storage.provenance import versions


def make_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="trl-rsa env", description="Print the versions that a bug report needs, ready to paste."
    )


def main(args: argparse.Namespace) -> None:
    for name, value in environment().items():
        print(f"- {name}: {value}")


def environment() -> dict[str, str]:
    """Names of what is installed, and their versions; the last says whether this TRL is supported."""
    return {
        **versions(),
        "CUDA": _cuda(),
        "TRL supported": _trl_supported(),
    }


def _cuda() -> str:
    """The toolkit that torch was built with, and the devices it finds."""
    import torch

    if not torch.cuda.is_available():
        return f"{torch.version.cuda or 'torch without CUDA'}, no device"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(devices)}"


def _trl_supported() -> str:
    try:
        from trl_rsa._trl import SUPPORTED_TRL
    except ImportError as error:  # TRL's version, or a name that has moved
        return f"no. {error}"
    return f"yes (>={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]})"
