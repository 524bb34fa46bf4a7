"""How a policy is to be loaded, for engines that load it by themselves: what they are told, and what they cannot."""

import warnings
from collections.abc import Mapping
from typing import Any


_TO_ENGINE = {"vllm": ("dtype", "revision", "trust_remote_code"), "server": ("revision", "trust_remote_code")}
# They decide how transformers computes, not what.
_OF_TRANSFORMERS = {
    *("attn_implementation", "device_map", "experts_implementation", "low_cpu_mem_usage", "max_memory"),
    *("offload_buffers", "offload_folder", "tp_plan", "use_cache", "use_kernels", "use_safetensors"),
    *("cache_dir", "force_download", "local_files_only", "token"),
}


def engine_options(engine: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Args:
        engine (`str`):
            `"vllm"` or `"server"`.
        options (`Mapping`, *optional*):
            Arguments of `from_pretrained`.

    Returns:
        `dict`: those that the engine is given.

    Raises:
        ValueError: if one changes what the policy says and cannot be handed on.
    """
    set_ones = {name: value for name, value in (options or {}).items() if value not in (None, False)}
    if set_ones.pop("quantization_config", None) is not None:
        warnings.warn(
            f"The policy is trained on quantised weights, and engine={engine!r} samples from them as they were "
            "before: its responses, and what is certified, are those of the model with its weights whole.",
            stacklevel=2,
        )
    for name in set_ones:
        if name not in _TO_ENGINE[engine] and name not in _OF_TRANSFORMERS:
            other = "the server has a policy loaded already" if engine == "server" else "vLLM does not take that"
            raise ValueError(
                f"You set {name} for a model with engine={engine!r}, but {other}. Remove {name}, or leave the engine "
                "out to draw with transformers."
            )
    return {name: set_ones[name] for name in _TO_ENGINE[engine] if name in set_ones}
