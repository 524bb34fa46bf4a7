"""The seam with TRL: the only module that imports names which TRL does not export at its top level.

TRL's public names (`DPOConfig`, `DPOTrainer`, `TrlParser`, …) are imported where they are used. Everything else moves
between TRL's minors, so it is gathered here, and `tests/test_trl_contract.py` names what moved when it does.
"""

import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

from packaging.version import Version


SUPPORTED_TRL = (Version("1.13"), Version("1.17"))  # from, below

_installed = Version(version("trl"))
if not SUPPORTED_TRL[0] <= _installed < SUPPORTED_TRL[1]:
    raise ImportError(
        f"You have TRL {_installed}, but this trl-rsa works with trl>={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]}. Run "
        f"`pip install 'trl>={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]}'`, or install a trl-rsa whose CHANGELOG names "
        "your TRL."
    )

from trl.models.utils import disable_gradient_checkpointing  # noqa: E402
from trl.trainer.dpo_trainer import DataCollatorForPreference  # noqa: E402
from trl.trainer.utils import get_config_model_id, maybe_gather_lm_head_ctx, use_adapter  # noqa: E402


__all__ = [
    "SUPPORTED_TRL",
    "DataCollatorForPreference",
    "disable_gradient_checkpointing",
    "find_trainer",
    "get_config_model_id",
    "maybe_gather_lm_head_ctx",
    "use_adapter",
    "vllm_client",
]


def vllm_client() -> Any:
    """TRL's client of a vLLM server, which sends it weights. Imported on use: it brings requests, and wants vLLM."""
    from trl.generation.vllm_client import VLLMClient

    return VLLMClient


def find_trainer(name: str) -> tuple[type, type] | None:
    """The classes `{name}Config` and `{name}Trainer` of TRL, or of its experiments; None where it has neither."""
    import trl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the experiments are experiments
        for place in (trl, f"trl.experimental.{name.lower()}"):
            try:
                module = import_module(place) if isinstance(place, str) else place
                return getattr(module, f"{name}Config"), getattr(module, f"{name}Trainer")
            except (ImportError, AttributeError):
                continue
    return None
