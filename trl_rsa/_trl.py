"""The seam with TRL: the only module that imports names which TRL does not export at its top level.

TRL's public names (`DPOConfig`, `DPOTrainer`, `TrlParser`, …) are imported where they are used. Everything else moves
between TRL's minors, so it is gathered here, and `tests/test_trl_contract.py` names what moved when it does.
"""

import os
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

from packaging.version import Version


SUPPORTED_TRL = (Version("1.13"), Version("1.17"))  # from, below
ALLOW = "TRL_RSA_ALLOW_UNTESTED_TRL"  # set to 1, another TRL is tried, with a warning

_installed = Version(version("trl"))
# 1.17.0.dev0 comes before 1.17 in the order of versions, but it is the one that nobody has tested.
IS_TESTED = SUPPORTED_TRL[0] <= Version(_installed.base_version) < SUPPORTED_TRL[1]
if not IS_TESTED:
    if os.environ.get(ALLOW) != "1":
        raise ImportError(
            f"You have TRL {_installed}, but this trl-rsa works with trl>={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]}. Run "
            f"`pip install 'trl>={SUPPORTED_TRL[0]},<{SUPPORTED_TRL[1]}'`, or install a trl-rsa whose CHANGELOG names "
            f"your TRL, or set {ALLOW}=1 to try it all the same."
        )
    warnings.warn(
        f"You have TRL {_installed}, with which this trl-rsa is not tested ({ALLOW}=1 allows it). Compare a short run "
        "with a tested TRL before you trust its numbers.",
        stacklevel=2,
    )

from trl.models.utils import disable_gradient_checkpointing  # noqa: E402
from trl.trainer.dpo_trainer import DataCollatorForPreference  # noqa: E402
from trl.trainer.utils import get_config_model_id, maybe_gather_lm_head_ctx, use_adapter  # noqa: E402


__all__ = [
    "ALLOW",
    "IS_TESTED",
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
