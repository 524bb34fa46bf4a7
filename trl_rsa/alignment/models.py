"""How a plan says that models are loaded and what of them is trained, checked before one is loaded."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.alignment.typed import hints_of, hints_of_arguments, read_arguments, read_value, shown


if TYPE_CHECKING:
    from peft import PeftConfig


# Arguments of `from_pretrained` that are not attributes of a model's configuration, with their types.
_LOADING: dict[str, Any] = {
    "dtype": str,
    "torch_dtype": str,
    "attn_implementation": str | dict[str, Any],
    "experts_implementation": str | dict[str, Any],
    "device_map": str | int | dict[str, Any],
    "max_memory": dict[Any, Any],
    "offload_folder": str,
    "offload_buffers": bool,
    "quantization_config": dict[str, Any],
    "revision": str,
    "code_revision": str,
    "variant": str,
    "subfolder": str,
    "cache_dir": str,
    "token": str | bool,
    "trust_remote_code": bool,
    "local_files_only": bool,
    "force_download": bool,
    "use_safetensors": bool,
    "use_kernels": bool,
    "ignore_mismatched_sizes": bool,
    "low_cpu_mem_usage": bool,
    "tp_plan": str | dict[str, Any],
    "tp_size": int,
    "key_mapping": dict[str, str],
    "gguf_file": str,
}


def read_model_init_kwargs(given: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """
    Args:
        given (`Mapping[str, Any]`):
            Arguments of `from_pretrained`. What is an object already, such as a dtype, stays as it is.
        model:
            The model of the plan: attributes of its configuration may be given too.

    Raises:
        ValueError: if there is no such argument, or a value has not its type.
    """
    where = "model_init_kwargs"
    read: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in _LOADING:
            _check_attribute(name, value, model)
        elif isinstance(value, (str, bool, int, float, dict, list)):
            value = read_value(_LOADING[name], value, name, where)
        read[name] = value
    for name in ("dtype", "torch_dtype"):
        if isinstance(read.get(name), str):
            _check_dtype(read[name], name, where)
    if isinstance(read.get("quantization_config"), dict):
        read["quantization_config"] = _read_quantization(read["quantization_config"])
    return read


def _check_dtype(value: str, name: str, where: str) -> None:
    import torch

    known = [name for name, one in vars(torch).items() if isinstance(one, torch.dtype) and one.is_floating_point]
    if value != "auto" and value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        raise ValueError(
            f"You set {name!r} to {shown(value)} in {where}, but weights are 'auto' or of a floating-point type of "
            f"torch. {f'Did you mean {close[0]!r}?' if close else 'Set float32 or bfloat16, say.'}"
        )


def _check_attribute(name: Any, value: Any, model: Any) -> None:
    """What is no argument of `from_pretrained` must be an attribute of the model's configuration."""
    close = difflib.get_close_matches(str(name), _LOADING, n=1, cutoff=0.75)
    attributes = _attributes(model)
    if isinstance(name, str) and (name in attributes if attributes is not None else not close):
        read_value(Any, value, name, "model_init_kwargs")
        return
    close = close or difflib.get_close_matches(str(name), [*_LOADING, *(attributes or ())], n=1)
    raise ValueError(
        f"You set {name!r} in model_init_kwargs, but it is neither an argument of from_pretrained nor an attribute of "
        f"the model's configuration. {f'Did you mean {close[0]!r}?' if close else 'Remove it.'}"
    )


def _attributes(model: Any) -> set[str] | None:
    """Names in the configuration of a model in a folder or in memory; None of one that is elsewhere."""
    if not isinstance(model, str):
        return set(model.config.to_dict()) if hasattr(model, "config") else None
    if not (Path(model) / "config.json").is_file():
        return None
    from transformers import AutoConfig

    try:
        return set(AutoConfig.from_pretrained(model).to_dict())
    except Exception:  # a configuration that cannot be read is named when the model is looked at
        return None


def _read_quantization(given: dict[str, Any]) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    hints = {name: hint for name, hint in hints_of_arguments(BitsAndBytesConfig.__init__).items() if name != "kwargs"}
    hints |= dict.fromkeys(("load_in_8bit", "load_in_4bit", "bnb_4bit_use_double_quant"), bool)
    where = "the quantization_config of model_init_kwargs"
    read = read_arguments(hints, given, where, "BitsAndBytesConfig has no such argument")
    for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        if isinstance(read.get(name), str):
            _check_dtype(read[name], name, where)
    return read


def read_peft_config(given: "PeftConfig | Mapping[str, Any] | None") -> "PeftConfig | dict[str, Any] | None":
    """A mapping as the arguments of `LoraConfig` want it; an object as it is.

    Raises:
        ValueError: if there is no such argument, or a value cannot be.
    """
    if not isinstance(given, Mapping):
        return given
    from peft import LoraConfig

    read = read_arguments(hints_of(LoraConfig), given, "peft_config", "LoraConfig has no such argument")
    if "r" in read and read["r"] < 1:
        raise ValueError(f"You set 'r' to {read['r']} in peft_config, but an adapter has a rank. Set 1 or more.")
    if not 0 <= read.get("lora_dropout", 0.0) < 1:
        raise ValueError(
            f"You set 'lora_dropout' to {read['lora_dropout']} in peft_config, but it is a probability below 1. Set "
            "it in [0, 1)."
        )
    try:
        LoraConfig(**{"task_type": "CAUSAL_LM", **read})
    except Exception as error:  # PEFT's own checks, of many kinds
        raise ValueError(
            f"You set peft_config to {shown(dict(given))}, but LoraConfig refuses it: {' '.join(str(error).split())}. "
            "Correct it."
        ) from error
    return read
