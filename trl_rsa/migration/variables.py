"""Variables of a shell script: what is assigned to them, and the words that come of them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trl_rsa.migration.tokens import Piece, Word, tokenize


SECRET = re.compile(r"KEY|TOKEN(?!I[SZ])|SECRET|PASSW", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"(\w+)(\+?=)", re.ASCII)

Value = str | list[str] | None  # None: it has a value, which nobody knows before the script runs


class Variables:
    """
    Args:
        arguments (`Sequence[str]`):
            What the script is called with.

    Attributes:
        values (`dict[str, Value]`): By name.
        loops (`dict[str, list[str]]`): Values of a loop's variable, of which the first is taken.
        secrets (`set[str]`): Values of keys, tokens and passwords.
        taken (`set[str]`): Flags that the script takes by the patterns of a `case`: `"$@"` is empty behind it.
        is_function (`bool`): Whether the arguments are a function's, so that `$1` may be a flag too.
        conditional (`dict`): What is looked up after it was set behind a condition of which nothing is known: the
            line where it was set, and the value that was taken.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self.values: dict[str, Value] = {}
        self.loops: dict[str, list[str]] = {}
        self.secrets: set[str] = set()
        self.taken: set[str] = set()
        self.is_function = False
        self.conditional: dict[str, tuple[int, Value]] = {}
        self._unsure: dict[str, int] = {}
        self._scopes: list[dict[str, Value]] = []
        self._lines: dict[str, int] = {}  # where each name was set last

    def enter(self) -> None:
        """Begins what may run, or may not."""
        self._scopes.append(dict(self.values))

    def leave(self) -> None:
        """Ends it: what had a value keeps that; else what was set is better than nothing. Neither is sure."""
        before, inside = self._scopes.pop(), self.values
        self.values = inside | {name: value for name, value in before.items() if value or name not in inside}
        for name in inside:
            if inside[name] != before.get(name):
                self._unsure[name] = self._lines.get(name, 0)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """[`enter`] and [`leave`]."""
        self.enter()
        yield
        self.leave()

    def assign(self, word: Word) -> bool:
        """Sets what `word` assigns, and says whether it does."""
        found = assigned(word)
        if found is None:
            return False
        name, operator, rest = found
        before = self.values.get(name)
        self._lines[name] = word.line
        if word.items is not None:
            items = [value for item in word.items for value in self.expand(item)]
            self.set(name, [*(before if isinstance(before, list) else []), *items] if operator == "+=" else items)
            return True
        value: Value = self._text(rest)
        if any(piece.kind == "output" for piece in rest):
            # The folder of the script is where its user starts; a folder that is made whole is the same folder.
            output = " ".join(piece.text for piece in rest if piece.kind == "output")
            here = re.search(r"\b(?:dirname|BASH_SOURCE|pwd|realpath|readlink)\b", output)
            value = (before or ".") if here else before
        if value == f"${{{name}}}":  # what the environment gives, if it does
            value = None
        self.set(name, f"{before or ''}{value}" if operator == "+=" and isinstance(value, str) else value)
        return True

    def set(self, name: str, value: Value) -> None:
        """A value that a name makes a secret is remembered as one."""
        self.values[name] = value
        self._unsure.pop(name, None)
        if SECRET.search(name) and isinstance(value, str) and len(value) > 7 and "${" not in value:
            self.secrets.add(value)

    def notes(self) -> list[str]:
        """What the plan has of what a condition decides of which nothing is known."""
        notes = []
        for name, (line, value) in self.conditional.items():
            shown = " ".join(value) if isinstance(value, list) else value
            has = f"the plan has {name}={shown}" if shown else f"the plan has no {name}"
            notes.append(f"line {line}: what is set depends on a condition; {has}")
        return notes

    def shift(self, count: int) -> None:
        self.arguments = self.arguments[count:]

    def known(self, word: Word) -> str | None:
        """The word as one text; None if a piece of it is not known before the script runs."""
        text = self._text(word.pieces)
        return None if "${" in text or "$(…)" in text else text

    def is_filled(self, piece: Piece) -> bool:
        """Whether a variable holds something. One that is not set, or only from another such, does not."""
        text = self._look_up(piece)
        return bool(text) and re.fullmatch(r"\$\{[^}]*\}", text) is None

    def set_loop(self, name: str, values: list[str], words: Sequence[Word]) -> None:
        """The first value of a loop's variable; `$(seq …)` is counted."""
        counted = [p.text for word in words for p in word.pieces if p.kind == "output"]
        found = re.fullmatch(r"\s*seq\s+(\d+)(?:\s+(\d+))?\s*", counted[0]) if len(counted) == 1 else None
        if found:
            first, last = (1, int(found[1])) if found[2] is None else (int(found[1]), int(found[2]))
            values = [str(number) for number in range(first, last + 1)]
        if values:
            self._lines[name] = words[0].line
            self.set(name, values[0])
            if len(values) > 1:
                self.loops[name] = values

    def expand(self, word: Word) -> list[str]:
        """A word as the words that a shell makes of it: quoted text stays whole, an array becomes several."""
        if len(word.pieces) == 1 or all(not p.text for p in word.pieces if p.kind == "text"):
            variables = [p for p in word.pieces if p.kind == "variable"]
            if len(variables) == 1:
                if variables[0].text in ("@", "*"):
                    return [] if self.taken else self.arguments
                name, _, index = variables[0].text.partition("[")
                value = self._get(name)
                if isinstance(value, list) and index in ("@]", "*]"):
                    return value
        text = self._text(word.pieces)
        is_quoted = any(p.quoted or (p.kind == "variable" and {*"'\""} & {*p.text}) for p in word.pieces)
        if is_quoted or all(piece.kind == "text" for piece in word.pieces):
            return [text]
        return text.split()

    def _text(self, pieces: Sequence[Piece]) -> str:
        return "".join(self._look_up(piece) for piece in pieces)

    def _look_up(self, piece: Piece) -> str:
        if piece.kind == "text":
            return piece.text
        if piece.kind == "output":
            return "$(…)"
        text = piece.text
        found = re.fullmatch(r"(\w+|[@*#])(?:\[([^\]]*)\])?(?:(:?[-+=?])(.*)|([#%/].*))?", text, re.DOTALL)
        if found is None:  # what is not understood is not known
            return f"${{{text}}}"
        name, index, operator, other, change = found.groups()
        value = self._argument(int(name)) if name.isdigit() else self._get(name)
        if isinstance(value, list):
            value = self._item(value, index)
        is_set = bool(value)
        if operator in (":-", "-", ":=", "="):
            if is_set:
                return value or ""
            other = self._text(_pieces(other))
            if operator in (":=", "="):
                self.set(name, other)
            return other
        if operator in (":+", "+"):
            return self._text(_pieces(other)) if is_set else ""
        if value is None:
            return f"${{{name}}}"
        return _changed(value, change) if change else value

    def _get(self, name: str) -> Value:
        if name in self._unsure:
            self.conditional.setdefault(name, (self._unsure[name], self.values.get(name)))
        return self.values.get(name)

    def _argument(self, number: int) -> str | None:
        """A script's own flags are taken by its `case`, and are no places."""
        places = self.arguments[:number]
        is_given = 0 < number == len(places) and (self.is_function or not any(w.startswith("--") for w in places))
        return places[number - 1] if is_given else None

    def _item(self, values: list[str], index: str | None) -> str | None:
        if index in ("@", "*"):
            return " ".join(values)
        number = self.values.get((index or "0").lstrip("$")) if index and not index.isdigit() else index or "0"
        place = int(number) if isinstance(number, str) and number.isdigit() else 0
        return values[place] if place < len(values) else None


def assigned(word: Word) -> tuple[str, str, list[Piece]] | None:
    """Name, `=` or `+=`, and what stands behind it, if the word is an assignment."""
    if not word.pieces or word.pieces[0].kind != "text" or word.pieces[0].quoted:
        return None
    found = _ASSIGNMENT.match(word.pieces[0].text)
    if found is None or word.pieces[0].text[0].isdigit():
        return None
    rest = Piece("text", word.pieces[0].text[found.end() :], False)
    return found[1], found[2], [rest, *word.pieces[1:]]


def _pieces(text: str) -> tuple[Piece, ...]:
    """What stands behind `:-` in braces, which may hold variables and quotes."""
    return tuple(piece for token in tokenize(text) if isinstance(token, Word) for piece in token.pieces)


def _changed(value: str, change: str) -> str:
    """`${name##*/}` and `${name%/}`, with patterns of a star and text; anything else leaves the value as it is."""
    found = re.fullmatch(r"(##?|%%?)(\*?)([^*?\[\]]*)(\*?)", change)
    if found is None or not found[3]:
        return value
    operator, text = found[1], found[3]
    if operator[0] == "#":
        if not found[2]:
            return value.removeprefix(text)
        return value.rpartition(text)[2] if operator == "##" else value.partition(text)[2] or value
    if not found[4]:
        return value.removesuffix(text)
    return value.partition(text)[0] if operator == "%%" else value.rpartition(text)[0] or value
