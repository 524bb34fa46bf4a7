"""The flags of a command: each is asked for once, and what nobody has asked for is named at the end."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from trl_rsa.migration.variables import SECRET


NEVER = 1_000_000  # Safe RLHF's interval for what is not to happen
# A value such as -.5 or -1e-3 is no flag; trl_rsa/scripts/_command.py has the same.
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TRUE = ("true", "t", "yes", "y", "on", "1")


class Flags:
    """
    `--flag value …` and `--flag=value`, the last of a flag counting, as text until someone asks for a number.

    Args:
        values (`Mapping[str, list[str]]`):
            By name without dashes.

    Attributes:
        without (`list[tuple[str, str]]`): Flags that have no equivalent, and why.
        notes (`list[str]`): What had to be assumed.
    """

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._left = dict(values)
        self.without: list[tuple[str, str]] = []
        self.notes: list[str] = []

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Flags":
        values: dict[str, list[str]] = {}
        current: list[str] | None = None
        for word in words:
            if word.startswith("-") and word.lstrip("-") and not _NEGATIVE.fullmatch(word):
                name, equals, value = word.lstrip("-").partition("=")
                current = values[name] = [value] if equals else []
            elif current is not None:
                current.append(word)
        return cls(values)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def several(self, *names: str) -> list[str]:
        """Values of the first of these names that is given."""
        found: list[str] = []
        for name in names:
            values = self._left.pop(name, None)
            found = found or values or []
        return found

    def text(self, *names: str, default: str = "") -> str:
        name = self._given(names)
        values = self.several(*names)
        if values and " --" in values[0]:
            self.notes.append(f"the value of --{name} holds other flags: a quote is missing in the script")
        return values[0] if values else default

    def number(self, *names: str, default: float) -> float:
        """A number; where the script has something else, the default, which a note says.

        Raises:
            ValueError: if the flag stands there without a value: what its number was meant to be is not known.
        """
        name = self._given(names)
        given = self.text(*names)
        if name is None:
            return default
        if not given:
            raise ValueError(
                f"You give a script that sets --{name} to nothing, but it is a number. Write one into the script."
            )
        try:
            return float(given)
        except ValueError:
            return self._no_number(name, given, "number", default)

    def numbers(self, name: str) -> list[float]:
        """Several numbers, none where one of them is no number, which a note says."""
        given = self.several(name)
        try:
            return [float(text) for text in given]
        except ValueError:
            self.notes.append(f"--{name} is {' '.join(given)} in the script, which are no numbers: the plan has none")
            return []

    def count(self, *names: str, default: int) -> int:
        name, given = self._given(names), self._shown(names)
        value = self.number(*names, default=default)
        if float(value).is_integer():
            return int(value)
        return int(self._no_number(str(name), given, "whole number", default))

    def _no_number(self, name: str, given: str, kind: str, default: float) -> float:
        self.notes.append(
            f"--{name} is {given} in the script, which is no {kind}: the plan has the default {as_word(default)}"
        )
        return default

    def _given(self, names: Sequence[str]) -> str | None:
        """The one of these names that the script has."""
        return next((name for name in names if name in self._left), None)

    def _shown(self, names: Sequence[str]) -> str:
        name = self._given(names)
        return "" if name is None else " ".join(self._left[name])

    def truth(self, *names: str, default: bool = False) -> bool:
        """On where it stands alone; yes, true, 1, … and anything else for no."""
        given = self._given(names)
        values = self.several(*names)
        return default if given is None else not values or values[0].lower() in _TRUE

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Names those of the flags that are left and that a pattern of `reasons` knows; the first that fits counts."""
        for name in list(self._left):
            for pattern, reason in reasons.items():
                if fnmatchcase(name, pattern):
                    values = self._left.pop(name)
                    shown = "" if SECRET.search(name) else " ".join(values)
                    self.without.append((f"--{name} {shown}".rstrip(), reason))
                    break

    def silence(self, *names: str) -> None:
        """Flags of which nothing has to be said: they do here what they did."""
        for name in names:
            self._left.pop(name, None)

    def finish(self, program: str) -> None:
        for name in self._left:  # without its value: it may be a key
            self.without.append((f"--{name}", f"{program} has no such flag that is known here"))
        self._left = {}


def evaluation_of(flags: Flags) -> dict[str, Any]:
    """`--eval_strategy` and `--eval_interval`, by epochs where the script says nothing, as `TrainingArguments`."""
    strategy = flags.text("eval_strategy", default="epoch")
    interval = flags.count("eval_interval", default=NEVER)
    return {"eval_strategy": strategy} | ({"eval_steps": interval} if strategy == "steps" else {})


_ON_IN_TRL = ("bf16", "gradient_checkpointing")


def as_words(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as a command has them. What is off is off without a word, but for what TRL has on."""
    words = list[str]()
    for name, value in arguments.items():
        if isinstance(value, bool):
            words += [f"--{name}", str(value).lower()] if value or name in _ON_IN_TRL else []
        else:
            words += [f"--{name}", as_word(value) if isinstance(value, float) else str(value)]
    return words


def as_word(value: float) -> str:
    """A number as a command has it, with all its digits."""
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
