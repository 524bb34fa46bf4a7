"""TRL's parser, strict about what it does not know, with a help that fits on a screen."""

import argparse
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl import TrlParser

from trl_rsa.alignment.typed import load_yaml
from trl_rsa.scripts._command import did_you_mean
from trl_rsa.scripts._launch import launch_names


class ScreenParser(TrlParser):
    """
    [`~trl.TrlParser`] whose `--help` shows chosen arguments and an example; `--help_all` shows every argument.

    Flags that no dataclass has, and keys of the YAML file that none has, are errors; keys of `accelerate launch` are
    kept in `launch`.

    Args:
        dataclass_types (sequence of dataclasses):
            As in [`~trl.TrlParser`].
        description (`str`):
            One line on the command.
        shown (`dict[str, dict[str, str]]` or `dict[str, list[str]]`):
            Headings of `--help`, and under each the arguments shown: with one line on each, or by their names, with
            the help that their dataclass states.
        example (`str`):
            A command that works as it stands.
        renamed (`dict[str, str]`, *optional*):
            Arguments that had another name, by that name: who writes the old one is told the new one.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type],
        description: str,
        shown: Mapping[str, Mapping[str, str] | Sequence[str]],
        example: str,
        renamed: Mapping[str, str] | None = None,
    ):
        super().__init__(dataclass_types, add_help=False, allow_abbrev=False, description=description)
        self.shown, self.example, self.renamed = shown, example, renamed or {}
        self.launch: dict[str, Any] = {}
        self._before: dict[str, Any] = {}  # defaults that the file replaces
        self.add_argument("-h", "--help", action=_Help, help="Show the arguments that most runs need.")
        self.add_argument("--help_all", "--help-all", action=_HelpAll, help="Show every argument.")
        self.add_argument(
            "--config", default=argparse.SUPPRESS, help="YAML file with any of the arguments; flags go before it."
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """The dataclasses, filled from `args` and from the YAML file that `--config` names."""
        # The file's values become defaults, so it is read before anything else is parsed.
        config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        config.error = self.error  # type: ignore[method-assign]
        config.add_argument("--config")
        found, rest = config.parse_known_args(args)
        if found.config is not None:
            self._read_config(found.config)
        _, unknown = self.parse_known_args(rest)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        try:
            return self.parse_args_into_dataclasses(rest, look_for_args_file=False)
        except (TypeError, AttributeError) as error:  # A YAML file gives any type to any argument.
            name = self._culprit(rest)
            if name is None:
                raise ValueError(f"An argument has a value of the wrong type: {error}.") from error
            value = self.get_default(name)
            raise ValueError(
                f"You set {name} to {value!r} in {found.config}, but it cannot be that: {error}. Correct it."
            ) from error

    def _culprit(self, rest: Sequence[str]) -> str | None:
        """The argument of the file without which the others can be taken."""
        for name, default in self._before.items():
            value = self.get_default(name)
            self.set_defaults(**{name: default})
            try:
                self.parse_args_into_dataclasses(rest, look_for_args_file=False)
            except (TypeError, AttributeError):
                continue
            except Exception:  # without it something else is missing: it was this one
                return name
            else:
                return name
            finally:
                self.set_defaults(**{name: value})
        return None

    def _read_config(self, path: str) -> None:
        values = load_yaml(Path(path), "file of arguments")
        environment = values.pop("env", None) or {} if isinstance(values, dict) else {}
        if not isinstance(values, dict) or not isinstance(environment, dict):
            self.error(f"{path} does not hold `argument: value` lines (`env` holds `VARIABLE: value` lines)")
        known = {action.dest for action in self._actions}
        for name in [name for name in values if name not in known]:
            if name in self.renamed:
                self.error(f"{path} sets {name}, which is called {self.renamed[name]} now. Write {self.renamed[name]}")
            elif name in launch_names():
                self.launch[name] = values.pop(name)
            else:
                self.error(f"unrecognized argument in {path}: {name}{did_you_mean(str(name), known)}")
        os.environ.update({name: str(value) for name, value in environment.items()})
        actions = {action.dest: action for action in self._actions}
        # What is needed and set to nothing is not set.
        values = {name: value for name, value in values.items() if value is not None or not actions[name].required}
        self._before = {name: self.get_default(name) for name in values}
        self.set_defaults_with_config(
            **{name: self._typed(path, actions[name], value) for name, value in values.items()}
        )

    def _typed(self, path: str, action: argparse.Action, value: Any) -> Any:
        """A number of the file as one, also where YAML takes it for text (1e-5); what is none is an error."""
        if action.type not in (int, float) or (value is None and action.default is None):
            return value
        several = value if isinstance(value, list) else [value]
        try:
            typed = [action.type(v) if isinstance(v, str) else v for v in several]
            if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in typed):
                raise ValueError
            if action.type is int:
                if any(v != int(v) for v in typed):
                    raise ValueError
                typed = [int(v) for v in typed]  # 1.0 is one, and a library may want it so
        except (ValueError, OverflowError):
            kind = "whole number" if action.type is int else "number"
            self.error(f"{path} sets {action.dest} to {value!r}, which is no {kind}")
        return typed if action.nargs in ("+", "*") else typed[0] if not isinstance(value, list) else typed

    def format_screen(self) -> str:
        """The text of `--help`."""
        lines = [
            f"usage: {self.prog} [--config FILE.yaml] [arguments]",
            "",
            *textwrap.wrap(self.description or "", 100),
        ]
        for heading, arguments in self.shown.items():
            lines += ["", f"{heading}:"]
            if not isinstance(arguments, Mapping):
                arguments = {name: self._help_of(name) for name in arguments}
            lines += [f"  --{name:<28} {text}{self._default_of(name)}" for name, text in arguments.items()]
        return "\n".join([*lines, "", "example:", textwrap.indent(self.example, "  "), ""])

    def _help_of(self, name: str) -> str:
        return next(str(action.help) for action in self._actions if action.dest == name)

    def _default_of(self, name: str) -> str:
        default = self.get_default(name)
        if default is None or default is False or default == []:
            return ""
        return f" [{' '.join(map(str, default)) if isinstance(default, list) else default}]"


class Extend(argparse.Action):
    """For lists: a flag that is given again adds to the first; flags together replace what a file says."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **kwargs)

    def text(self, parser: Any) -> str:
        return parser.format_screen()

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self.text(parser), end="")
        parser.exit()


class _HelpAll(_Help):
    def text(self, parser: Any) -> str:
        return parser.format_help()
