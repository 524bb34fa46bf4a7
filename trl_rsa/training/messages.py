"""Python values as JSON and back, to hand a request to another process without pickle.

Numbers, texts, lists and dicts are themselves; a list or dict of another class comes back as a plain one. Everything
else is a mapping with one of the keys below: a tuple, a set, a dtype, a tensor, an enumeration's member, a function or
class by `module:name`, or an object by its class and its attributes. Reading sets attributes and calls nothing but
imports.
"""

import enum
import importlib
from collections.abc import Mapping
from typing import Any

import torch


TUPLE, SET, DTYPE, TENSOR, MEMBER, NAME, OBJECT, MAPPING = (
    *("$tuple", "$set", "$dtype", "$tensor", "$member", "$name", "$object", "$mapping"),
)

# Of a subclass of these the attributes alone would be an empty one.
_CONTENT = (str, bytes, bytearray, int, float, complex, tuple, set, frozenset, torch.Tensor)


def encode(value: Any, where: str = "the request") -> Any:
    """
    Args:
        value:
            What to send.
        where (`str`):
            Its place, for messages.

    Raises:
        ValueError: if it cannot be sent.
    """
    if isinstance(value, enum.Enum):
        return {MEMBER: _name(type(value), where), "member": value.name}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return _encode_mapping(value, where)
    if type(value) is tuple:
        return {TUPLE: [encode(item, f"{where}[{index}]") for index, item in enumerate(value)]}
    if type(value) in (set, frozenset):
        return {SET: [encode(item, where) for item in sorted(value, key=repr)], "frozen": type(value) is frozenset}
    if isinstance(value, torch.dtype):
        return {DTYPE: str(value).removeprefix("torch.")}
    if type(value) is torch.Tensor:
        tensor = value.detach().cpu()
        return {
            TENSOR: tensor.double().tolist() if tensor.is_floating_point() else tensor.tolist(),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return {NAME: _name(value, where)}
    return _encode_object(value, where)


def _encode_mapping(value: Mapping[Any, Any], where: str) -> Any:
    items = {key: encode(item, f"{where}.{key}") for key, item in value.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in items):
        return items
    return {MAPPING: [[encode(key, where), item] for key, item in items.items()]}


def _encode_object(value: Any, where: str) -> Any:
    if isinstance(value, _CONTENT):
        raise _cannot(value, where, "whose content is not in its attributes")
    state = getattr(value, "__dict__", None)
    if not isinstance(state, dict) or hasattr(type(value), "__slots__"):
        raise _cannot(value, where, "which has no attributes that could be written down")
    name = _name(type(value), where)
    return {OBJECT: name, "state": {key: encode(item, f"{where}.{key}") for key, item in state.items()}}


def _name(value: Any, where: str) -> str:
    """`module:name` of a class or function, if it is found again there."""
    module, name = value.__module__, value.__qualname__
    if module == "__main__":
        raise _cannot(value, where, "which is defined in the script that you run, and the others do not import it")
    try:
        found = _find(f"{module}:{name}")
    except (ImportError, AttributeError):
        found = None
    if found is not value:
        raise _cannot(value, where, "which no module defines at its top level")
    return f"{module}:{name}"


def _cannot(value: Any, where: str, why: str) -> ValueError:
    what = value.__qualname__ if hasattr(value, "__qualname__") else f"a {type(value).__name__}"
    return ValueError(
        f"You launch processes, but {where} holds {what}, {why}: it cannot be sent to them. Give it by name, or "
        "define it in a module of its own."
    )


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def decode(value: Any) -> Any:
    """What [`encode`] has written."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TUPLE in value:
        return tuple(decode(item) for item in value[TUPLE])
    if SET in value:
        return (frozenset if value["frozen"] else set)(decode(item) for item in value[SET])
    if MAPPING in value:
        return {decode(key): decode(item) for key, item in value[MAPPING]}
    if DTYPE in value:
        return _dtype(value[DTYPE])
    if TENSOR in value:
        return torch.tensor(value[TENSOR], dtype=_dtype(value["dtype"]))
    if NAME in value:
        return _find(value[NAME])
    if MEMBER in value:
        return _find(value[MEMBER])[value["member"]]
    if OBJECT in value:
        made = object.__new__(_find(value[OBJECT]))
        made.__dict__.update({key: decode(item) for key, item in value["state"].items()})
        return made
    return {key: decode(item) for key, item in value.items()}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found
