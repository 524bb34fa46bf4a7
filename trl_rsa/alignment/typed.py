"""Values as their types want them: YAML whose numbers are numbers, and sentences for what does not fit.

Pydantic says whether a value has a type and turns what is meant into it (`"false"` into False, 3.0 into 3). What it
accepts and a plan must not, such as true for a number, is refused here.
"""

import dataclasses
import difflib
import enum
import inspect
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError


LARGEST_FILE = 200_000  # bytes
MOST_VALUES = 100_000  # with every alias written out


class InMemory:
    """Stands for types whose objects exist in Python only, such as a dataset: nothing in a YAML file is one."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but `1e-1` is a number and a date is a text, as in YAML 1.2, and a key stands once in a mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key, times in Counter(keys).items():
            if times > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def load_yaml(path: Path, what: str = "plan") -> Any:
    """What a YAML file says; `what` it is meant to be, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or says more than a plan can.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(f"You set the {what} to {path}, but there is no such file. Check the path.") from error
    except ValueError as error:  # a NUL character
        raise ValueError(f"You set the {what} to {str(path)!r}, but {error}. Check the path.") from error
    if len(content) > LARGEST_FILE:
        raise ValueError(f"You gave the {what} {path}, but it is larger than {LARGEST_FILE:,} bytes. Give a plan.")
    try:
        text = content.decode("utf-8")
        loaded = yaml.load(text, _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"You gave the {what} {path}, but it is not UTF-8 ({error.reason}). Save it so.") from error
    except RecursionError as error:
        raise ValueError(f"You gave the {what} {path}, but it is nested too deeply. Correct it.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"You gave the {what} {path}, but it is not valid YAML: {said}. Correct it.") from error
    try:
        count = _count_values(loaded, {}, set())
    except RecursionError as error:
        raise ValueError(f"You gave the {what} {path}, but it is nested too deeply. Correct it.") from error
    if count > MOST_VALUES:
        raise ValueError(
            f"You gave the {what} {path}, but an alias (*name) in it stands for itself, or for too much. Write it out."
        )
    return loaded


def _count_values(value: Any, known: dict[int, int], above: set[int]) -> int:
    """How many values there are with aliases written out, and too many for one that holds itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in above:
        return MOST_VALUES + 1
    if id(value) not in known:
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(item, known, above | {id(value)}) for item in items)
    return known[id(value)]


def read_dataclass(cls: type, content: Mapping[Any, Any], where: str, more: Mapping[str, Any] | None = None) -> Any:
    """
    Makes a `cls` of a mapping.

    Args:
        cls (`type`):
            A dataclass.
        content (`Mapping`):
            Its arguments by name. What is null is left out.
        where (`str`):
            Where the mapping stands, in words.
        more (`Mapping`, *optional*):
            Arguments that have been read already.

    Raises:
        ValueError: if a key is unknown or missing, or a value has not the type of its field.
    """
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    given = read_arguments(hints_of(cls), content, where) | dict(more or {})
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise ValueError(f"You left out {name!r} in {where}, but it is needed. Add it.")
    return cls(**given)


def read_arguments(
    hints: Mapping[str, Any], content: Mapping[Any, Any], where: str, none_such: str = "there is no such key"
) -> dict[str, Any]:
    """The values of `content` as the types of their names want them; those that are null are left out.

    Raises:
        ValueError: if there is no such name, or a value has not its type.
    """
    for key in content:
        if key not in hints:
            raise ValueError(f"You set {key!r} in {where}, but {none_such}.{suggest(key, hints)}")
    return {key: read_value(hints[key], value, key, where) for key, value in content.items() if value is not None}


def suggest(key: Any, known: Iterable[str], otherwise: str = "Remove it.") -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else f" {otherwise}"


def read_value(hint: Any, value: Any, name: str, where: str) -> Any:
    """The value as the type `hint` wants it.

    Raises:
        ValueError: if it has not that type.
    """
    problem = _unwritable(value)
    if problem:
        raise ValueError(f"You set {name!r} to {shown(value)} in {where}, but {problem}. Correct it.")
    if _names_enum(hint) and isinstance(value, str):
        if value not in _choices(hint):
            raise _misfit(hint, value, name, where)
        return value
    if typing.get_origin(hint) is list and isinstance(value, str):
        value = [value]  # one is a list of one
    try:
        result = _adapter(hint).validate_python(value)
    except (ValidationError, RecursionError) as error:
        raise _misfit(hint, value, name, where) from error
    if _turned_into_number(value, result):
        raise _misfit(hint, value, name, where)
    # 2 of a share or a number is a number, 2.0 is a share.
    return value if type(value) is int and isinstance(result, float) else result


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError, TypeError):
        return TypeAdapter(Any)  # a type that pydantic does not know


def _misfit(hint: Any, value: Any, name: str, where: str) -> ValueError:
    choices = _choices(hint)
    close = difflib.get_close_matches(str(value), choices, n=1)
    advice = f"Did you mean {close[0]!r}?" if close else "Set such a value."
    if isinstance(value, bool) and str in (hint, *typing.get_args(hint)):
        advice = "YAML reads yes, no, on and off as true or false: put the text in quotes."
    return ValueError(f"You set {name!r} to {shown(value)} in {where}, but it is {in_words(hint)}. {advice}")


def _names_enum(hint: Any) -> bool:
    """Whether a text is meant to be one of the values of an enumeration: `SchedulerType | str`."""
    return any(isinstance(one, type) and issubclass(one, enum.Enum) for one in (hint, *typing.get_args(hint)))


def _unwritable(value: Any) -> str:
    """Why a value cannot be in a plan, whatever the type; nothing for a sound one."""
    if isinstance(value, float) and not math.isfinite(value):
        return "it is no finite number"
    if isinstance(value, str) and "\0" in value:
        return "it holds a NUL character"
    if isinstance(value, str) and not _is_unicode(value):
        return "it holds half of a surrogate pair, which is no character"
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = [*value, *value.values()]
    elif isinstance(value, (list, tuple)):
        items = value
    return next((problem for item in items if (problem := _unwritable(item))), "")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _turned_into_number(value: Any, result: Any) -> bool:
    """Whether true or false became a number: pydantic counts them as 1 and 0."""
    if isinstance(value, (list, tuple)) and isinstance(result, (list, tuple)) and len(value) == len(result):
        return any(map(_turned_into_number, value, result))
    return isinstance(value, bool) and isinstance(result, (int, float)) and not isinstance(result, bool)


def shown(value: Any) -> str:
    """A value in a message: short."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    Mapping: "a mapping",
    list: "a list",
    set: "a list",
    tuple: "a list",
    types.NoneType: "null",
    Callable: "a function",
}


def in_words(hint: Any) -> str:
    """A type as a reader knows it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        names = [in_words(one) for one in arguments if one is not types.NoneType and not _is_in_memory(one)]
        return " or ".join(dict.fromkeys(names)) or "an object in Python"
    if choices := _choices(hint):
        return f"one of {', '.join(map(repr, choices))}"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(map(in_words, arguments))}"
    if origin in (list, set, tuple) and arguments:
        return f"a list, each {in_words(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        value = arguments[-1]
        return "a mapping" if value is Any else f"a mapping, each value {in_words(value)}"
    if hint in _WORDS:
        return _WORDS[hint]
    if dataclasses.is_dataclass(hint):
        return "a mapping"
    return f"a {getattr(hint, '__name__', str(hint))}"


def _is_in_memory(hint: Any) -> bool:
    return hint is InMemory or typing.get_origin(hint) is Callable


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(choice) for choice in typing.get_args(hint)]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [str(member.value) for member in hint]
    return [choice for one in typing.get_args(hint) for choice in _choices(one)]


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name. Those that only a type checker knows stand for objects in memory."""
    fields = [f for f in dataclasses.fields(cls) if f.init]
    return {f.name: _resolve(_annotation(cls, f), cls, f.name) for f in fields}


def _annotation(cls: type, field: "dataclasses.Field[Any]") -> Any:
    """As it is written in the class: transformers' argument parser replaces `field.type` of some, for good."""
    written = (inspect.get_annotations(one) for one in cls.__mro__)
    return next((hints[field.name] for hints in written if field.name in hints), field.type)


@cache
def hints_of_arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's arguments, by name."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    return {p.name: Any if p.annotation is p.empty else _resolve(p.annotation, function, p.name) for p in named}


def _resolve(hint: Any, owner: Any, name: str) -> Any:
    if not isinstance(hint, str):
        return hint
    for one in getattr(owner, "__mro__", (owner,)):
        if name in getattr(one, "__annotations__", {}) or one is owner:
            module = inspect.getmodule(one)
            try:
                return eval(hint, _Names(vars(module) if module else {}))
            except Exception:  # an annotation may be any expression
                continue
    return Any


class _Names(dict[str, Any]):
    """The names of a module, where what it does not know is an object in memory. `eval` asks it for every name."""

    def __missing__(self, name: str) -> Any:
        import builtins

        if hasattr(builtins, name):
            return getattr(builtins, name)
        return InMemory


def check_positive(value: Any, name: str, where: str) -> None:
    """
    Raises:
        ValueError: if the value is not a finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise ValueError(f"You set {name!r} to {shown(value)} in {where}, but it is above 0 and finite. Set it so.")
