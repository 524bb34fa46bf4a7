"""Where a stage starts and what it is measured against: its policy, and its reference, given explicitly.

With `ref_model=None` TRL loads the reference *by the name in the model's configuration*: a stage that goes on from a
trained model would silently be anchored at the base model.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from trl_rsa.sampling.policies import base_of, is_adapter, load_policy, refuse_score_model, whole_model
from trl_rsa.storage.files import write_json
from trl_rsa.storage.folders import model_fingerprint


START = "00-start"


class StartFile(TypedDict):
    """complete.json beside a model that was given in memory: it is saved whole."""

    saved: bool


def described(settings: Any) -> str:
    """Settings and configurations of adapters as JSON, alike in every process: the order of a set is not."""
    return json.dumps(settings, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, PeftConfig):
        return value.to_dict()
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


@dataclass
class Anchor:
    """What a stage needs from the one before: the keyword arguments of [`RSATrainer`] that hold models."""

    model: PreTrainedModel | PeftModel
    ref_model: PreTrainedModel | None
    peft_config: PeftConfig | None


def starting_point(
    model: "str | PreTrainedModel | PeftModel", output_dir: Path, models: "ModelSettings", processing_class: Any
) -> str:
    """The folder or Hub id that the first stage starts from. A model in memory is saved first, once.

    Raises:
        ValueError: if the model is an adapter, and another one is asked for.
    """
    if isinstance(model, str):
        if is_adapter(model) and models.peft_config is not None:
            raise ValueError(
                f"You set the model to {model}, which holds an adapter, and a peft_config, but only one adapter "
                "is trained. Remove peft_config to go on with the adapter, or start from a merged model."
            )
        return model
    folder = output_dir / START
    marker = folder / "complete.json"
    if not marker.exists():
        model.save_pretrained(folder)
        if processing_class is not None:
            processing_class.save_pretrained(folder)
        complete: StartFile = {"saved": True}
        write_json(marker, complete)
    return str(folder)


@dataclass(frozen=True)
class ModelSettings:
    """How every model of a plan is loaded, and what of it is trained.

    Args:
        init_kwargs (`dict`):
            Arguments of `from_pretrained` for every model.
        peft_config (`PeftConfig` or `dict`, *optional*):
            Trains an adapter instead of all weights.
        use_cpu (`bool`):
            Whether to sample on the CPU where there is an accelerator. (Training has an argument of this name.)
    """

    init_kwargs: dict[str, Any]
    peft_config: "PeftConfig | dict[str, Any] | None"
    use_cpu: bool

    @classmethod
    def of(
        cls,
        model_init_kwargs: Mapping[str, Any],
        peft_config: "PeftConfig | dict[str, Any] | None",
        args: Mapping[str, Any],
    ) -> "ModelSettings":
        """From what a plan says: arguments of `from_pretrained` as in YAML, adapters, and [`RSAConfig`] arguments."""
        return cls(init_kwargs(model_init_kwargs), peft_config, bool(args.get("use_cpu")))

    def anchor_at(self, previous: str, with_reference: bool = True) -> Anchor:
        """Loads the policy `previous` (a folder or Hub id) and a reference equal to it, if it is wanted."""
        if is_adapter(previous):
            model = PeftModel.from_pretrained(self._load(previous), previous, is_trainable=True)
            # TRL copies the adapter that comes with the model to a frozen one named "ref".
            return Anchor(model, None, None)
        if self.peft_config is not None:
            return Anchor(self._load(previous), None, make_peft_config(self.peft_config))
        return Anchor(self._load(previous), self._load(previous) if with_reference else None, None)

    def fingerprint(self, name: str) -> str:
        """Of a policy (a folder or Hub id), of the model that it is an adapter of, and of how both are loaded."""
        settings = described([self.init_kwargs, self.peft_config])
        identity = model_identity(name, self.init_kwargs.get("revision"))
        return f"{identity}, loaded as {sha256(settings.encode()).hexdigest()[:32]}"

    def reference(self, previous: str) -> str:
        """The reference of a stage that starts from `previous`, in words."""
        if is_adapter(previous):
            return f"the adapter in {previous} on {base_of(previous)}"
        return previous if self.peft_config is None else f"{previous}, with the new adapter switched off"

    def load_policy(self, name: str) -> PreTrainedModel | PeftModel:
        """The policy `name` (a folder or Hub id), on this process's device, for sampling."""
        return load_policy(name, "cpu" if self.use_cpu else None, **self.init_kwargs)

    def _load(self, name: str) -> PreTrainedModel:
        """The model `name`, or the base model of an adapter."""
        refuse_score_model(name)
        whole, init_kwargs = whole_model(name, self.init_kwargs)
        return AutoModelForCausalLM.from_pretrained(whole, **init_kwargs)


def init_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained`, where names stand for a dtype and a mapping for a quantization config."""
    kwargs = {"dtype": "float32", **given}
    if isinstance(kwargs["dtype"], str) and kwargs["dtype"] != "auto":
        kwargs["dtype"] = getattr(torch, kwargs["dtype"])
    if isinstance(kwargs.get("quantization_config"), dict):
        kwargs["quantization_config"] = BitsAndBytesConfig(**kwargs["quantization_config"])
    return kwargs


def make_peft_config(config: PeftConfig | dict[str, Any]) -> PeftConfig:
    """From the arguments of [`~peft.LoraConfig`], or a copy."""
    if isinstance(config, dict):
        return LoraConfig(**{"task_type": "CAUSAL_LM", **config})
    return copy.deepcopy(config)  # PEFT writes the base model's name into it


def model_identity(name: str, revision: str | None = None) -> str | None:
    """What tells a model from another of the same name: a digest of its folder, or the commit of a Hub repository;
    of an adapter, also of its base model. None for what has not been fetched yet."""
    if Path(name).is_dir():
        identity = model_fingerprint(Path(name))
        if not is_adapter(name):
            return identity
        base, options = whole_model(name, {} if revision is None else {"revision": revision})
        return f"{identity} on {model_identity(base, options.get('revision'))}"
    try:
        several = [
            try_to_load_from_cache(name, config, revision=revision) for config in (CONFIG_NAME, ADAPTER_CONFIG_NAME)
        ]
    except HFValidationError:  # a path to nothing: whoever loads it says so
        return None
    return next((f"commit {Path(found).parent.name}" for found in several if isinstance(found, str)), None)
