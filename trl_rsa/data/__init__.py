"""Preference data: adapters from published formats to TRL's `prompt`, `chosen`, `rejected`.

Names are imported on first use, and nothing here imports torch or transformers.
"""

from importlib import import_module
from typing import Any


_MODULE_OF = {
    "DataReport": "report",
    "DatasetSpec": "spec",
    "FORMATS": "formats",
    "PAIR_RULES": "pair_rules",
    "PreferenceData": "load",
    "TEMPLATES": "templates",
    "fingerprint": "report",
    "load_preferences": "load",
    "parse_dataset_spec": "spec",
    "split_by_prompt": "split",
}

__all__ = [
    "FORMATS",
    "PAIR_RULES",
    "TEMPLATES",
    "DataReport",
    "DatasetSpec",
    "PreferenceData",
    "fingerprint",
    "load_preferences",
    "parse_dataset_spec",
    "split_by_prompt",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'trl_rsa.data' has no attribute {name!r}")
    value = getattr(import_module(f"trl_rsa.data.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
