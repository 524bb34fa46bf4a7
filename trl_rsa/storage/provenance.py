"""When something was made and with which versions, and where two descriptions of it differ."""

import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from trl_rsa import __version__


# What decides a result, or stands in a bug report.
_PACKAGES = (
    "trl",
    "transformers",
    "torch",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "deepspeed",
    "bitsandbytes",
    "vllm",
    "lm-eval",
)


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, the platform, and the packages; those that are missing are said to be "not installed"."""
    # Our own is that of the code: what pip knows of an editable installation may be old.
    found = {"python": platform.python_version(), "platform": platform.platform(), "trl-rsa": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Sentences that name where two described plans differ, as `stages.1.beta: 0.1 before, 0.2 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}.{index}")
    elif old != new:
        yield f"{path}: {_short(old)} before, {_short(new)} now"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} items"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
