"""Adapters merged into their weights while one samples: otherwise every token pays for two more products a layer."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def merged_adapters(model: Any) -> Iterator[bool]:
    """
    Merges the active adapters of a PEFT model, and puts the weights back afterwards, to the last bit: a copy of them
    is kept meanwhile, since taking the adapters' share off again would leave rounding behind.

    Left as they are: models without adapters, adapters that are switched off or merged already, quantised weights
    (merging would round the adapter to their few levels), tied weights (merging would change the other owner too), and
    kinds of adapters that cannot be merged. In bfloat16 a merged weight is rounded, as it is when a merged model is
    saved.

    Yields:
        `bool`: whether anything was merged.
    """
    layers = _layers_to_merge(model)
    if not layers:
        yield False
        return
    originals = [(parameter, parameter.detach().clone()) for layer in layers for parameter in _weights(layer)]
    try:
        for layer in layers:
            layer.merge()
        yield True
    finally:
        for layer in layers:
            if layer.merged:
                layer.unmerge()
        for parameter, original in originals:
            parameter.data.copy_(original)


def base_of_adapted(model: Any) -> Any:
    """The model inside a PEFT model, with the adapters in its layers; None if the adapters are not in its layers."""
    if "peft" not in sys.modules:
        return model
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    if not isinstance(model, PeftModel):
        return model
    return model.get_base_model() if isinstance(model.base_model, BaseTuner) else None


def _layers_to_merge(model: Any) -> list[Any]:
    if "peft" not in sys.modules:  # then there are none, and importing it takes a second
        return []
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers or any(layer.merged or layer.disable_adapters for layer in layers):
        return []
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    weights = [parameter for layer in layers for parameter in _weights(layer)]
    plain = all(_is_plain(parameter) and owners.get(id(parameter), 0) == 1 for parameter in weights)
    return layers if weights and plain else []


def _weights(layer: Any) -> list[Any]:
    return list(layer.get_base_layer().parameters(recurse=False))


def _is_plain(parameter: Any) -> bool:
    """Not quantised (bitsandbytes, torchao, GPTQ have classes or integers of their own), and all here."""
    from torch.nn import Parameter

    return type(parameter) is Parameter and parameter.is_floating_point() and parameter.device.type != "meta"
