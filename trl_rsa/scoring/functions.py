"""Scorers that are Python functions: callables, and `module:function` or `file.py:function` by name."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.scoring.scorer import Direction, Kind, RawScore, RewardFunction, Scorer, Sign


class FunctionScorer(Scorer):
    """
    A function with TRL's reward signature. Columns that it takes no argument for are not passed on.

    Args:
        function (`Callable`):
            `(prompts, completions, **kwargs) -> list[float | None]`.
        kind, higher_is, zero, name:
            As [`Scorer`]; the default name is `module:function`. The fingerprint covers the function's source, not
            the state of an object or what the function calls.
    """

    def __init__(
        self,
        function: RewardFunction,
        kind: Kind,
        higher_is: Direction | None = None,
        zero: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(kind, higher_is, zero, name or _qualified_name(function))
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            raise ValueError(
                f"You set the scorer {self.name!r}, but it is an async function. Give a function that returns the "
                "scores, such as `lambda *args, **kwargs: asyncio.run(function(*args, **kwargs))`."
            )
        self.function = function
        self._source = _source_digest(function)  # now: a file may change under a scorer that is in use
        self._accepted = _accepted_columns(function)
        if self._accepted is not None and "completions" not in self._accepted:
            raise ValueError(
                f"You set the scorer {self.name!r}, but its arguments are {sorted(self._accepted)}, and a reward "
                "function is called with prompts=… and completions=…. Name its arguments so."
            )

    @classmethod
    def from_spec(cls, rest: str, sign: Sign, options: dict[str, Any]) -> "FunctionScorer":
        return cls(import_function(rest), **sign, **options)

    def identity(self) -> dict[str, object]:
        bound = _bound_arguments(self.function)
        arguments = {"arguments": bound} if bound else {}
        return {"function": _qualified_name(self.function), "source": self._source, **arguments}

    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> Sequence[RawScore]:
        given = {"prompts": prompts, "completions": completions, **columns}
        if self._accepted is not None:
            given = {name: values for name, values in given.items() if name in self._accepted}
        return self.function(**given)


def _accepted_columns(function: Callable[..., Any]) -> set[str] | None:
    """Names of the function's arguments; None if it takes any, or if that cannot be found out."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters)


def _bound_arguments(function: Any) -> list[str]:
    """What a `functools.partial` has set, as texts that are the same in another process."""
    found = []
    while isinstance(function, functools.partial):
        found += [*map(_stable, function.args)]
        found += [f"{name}={_stable(value)}" for name, value in sorted(function.keywords.items())]
        function = function.func
    return found


def _stable(value: Any) -> str:
    text = repr(sorted(map(repr, value)) if isinstance(value, set | frozenset) else value)
    # An address is another one in each process.
    return text if " at 0x" not in text else f"{_qualified_name(value)} {_source_digest(value)}"


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function)


def _qualified_name(function: Any) -> str:
    function = _unwrapped(function)
    return f"{function.__module__}:{function.__qualname__}"


def _source_digest(function: Any) -> str | None:
    try:
        return sha256(inspect.getsource(_unwrapped(function)).encode()).hexdigest()[:16]
    except (OSError, TypeError):  # built in a console, or in C
        return None


def import_function(spec: str) -> Callable[..., Any]:
    """The function that `module:function` or `path/to/file.py:function` names. Modules are also looked for here.

    Raises:
        ValueError: if there is no such module or function, or if importing it fails.
    """
    module_name, _, path = spec.rpartition(":")
    if not module_name or not path:
        raise ValueError(
            f"You set the scorer to {spec!r}, but a function is named as module:function or file.py:function. "
            "Write it so."
        )
    found: Any = _import_module(module_name, spec)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise ValueError(
                f"You set the scorer to {spec!r}, but {module_name} has no {path!r}. Correct the name, or define it."
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise ValueError(f"You set the scorer to {spec!r}, but that is a {type(found).__name__}. Name a function.")
    return found


def _import_module(name: str, spec: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _import_file(Path(name))
        if not all(part.isidentifier() for part in name.split(".")):
            raise ImportError(f"{name!r} is not the name of a module")
        # An installed command does not look in the working directory, where people keep such functions.
        here = str(Path.cwd())
        sys.path.append(here)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(here)
    except Exception as error:
        raise ValueError(
            f"You set the scorer to {spec!r}, but importing {name} failed ({type(error).__name__}: {error}). Correct "
            "the name, or mend the module."
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    digest = sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name, content = f"{path.stem}_{digest}", path.read_bytes()
    known = sys.modules.get(name)
    if known is not None and vars(known).get(_CONTENT) == content:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    setattr(module, _CONTENT, content)
    sys.modules[name] = module  # where pickle and dataclasses look for it
    try:
        # Not through the loader: its cache takes a file of the same size and second for the same file.
        exec(compile(content, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


_CONTENT = "__trl_rsa_content__"  # what a module was made of
