"""The flags of a command: each is asked for once, and what nobody has asked for is named at the end."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from trl_rsa.migration.variables import SECRET


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
            if word.startswith("-") and not word.lstrip("-")[:1].isdigit() and word.lstrip("-"):
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
        values = self.several(*names)
        if values and " --" in values[0]:
            self.notes.append(f"the value of --{names[0]} holds other flags: a quote is missing in the script")
        return values[0] if values else default

    def number(self, *names: str, default: float) -> float:
        """A number; where the script has none, the default, which a note says."""
        given = self.text(*names)
        if not given:
            return default
        try:
            value = float(given)
        except ValueError:
            self.notes.append(
                f"--{names[0]} is {given} in the script, which is no number: the plan has the default {default:g}"
            )
            return default
        return value

    def count(self, *names: str, default: int) -> int:
        return int(self.number(*names, default=default))

    def truth(self, *names: str, default: bool = False) -> bool:
        """On where it stands alone; yes, true, 1, … and anything else for no."""
        given = next((name for name in names if name in self._left), None)
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
