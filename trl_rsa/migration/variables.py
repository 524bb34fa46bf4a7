"""Variables of a shell script: what is assigned to them, and the words that come of them."""

import re
from collections.abc import Sequence

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
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self.values: dict[str, Value] = {}
        self.loops: dict[str, list[str]] = {}
        self.secrets: set[str] = set()
        self.taken: set[str] = set()

    def assign(self, word: Word, maybe: bool) -> bool:
        """Sets what `word` assigns, and says whether it does. `maybe`: only if there is no value yet."""
        found = assigned(word)
        if found is None:
            return False
        name, operator, rest = found
        before = self.values.get(name)
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
        if maybe and before:
            return True
        if value == f"${{{name}}}":  # what the environment gives, if it does
            value = None
        self.set(name, f"{before or ''}{value}" if operator == "+=" and isinstance(value, str) else value)
        return True

    def set(self, name: str, value: Value) -> None:
        """A value that a name makes a secret is remembered as one."""
        self.values[name] = value
        if SECRET.search(name) and isinstance(value, str) and len(value) > 7 and "${" not in value:
            self.secrets.add(value)

    def set_loop(self, name: str, values: list[str], words: Sequence[Word]) -> None:
        """The first value of a loop's variable; `$(seq …)` is counted."""
        counted = [p.text for word in words for p in word.pieces if p.kind == "output"]
        found = re.fullmatch(r"\s*seq\s+(\d+)(?:\s+(\d+))?\s*", counted[0]) if len(counted) == 1 else None
        if found:
            first, last = (1, int(found[1])) if found[2] is None else (int(found[1]), int(found[2]))
            values = [str(number) for number in range(first, last + 1)]
        if values:
            self.values[name] = values[0]
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
                value = self.values.get(name)
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
        if found is None:
            return ""
        name, index, operator, other, change = found.groups()
        value = self._argument(int(name)) if name.isdigit() else self.values.get(name)
        if isinstance(value, list):
            value = self._item(value, index)
        is_set = bool(value)
        if operator in (":-", "-", ":=", "="):
            return value or "" if is_set else self._text(_pieces(other))
        if operator in (":+", "+"):
            return self._text(_pieces(other)) if is_set else ""
        if value is None:
            return f"${{{name}}}"
        return _changed(value, change) if change else value

    def _argument(self, number: int) -> str | None:
        places = [word for word in self.arguments if not word.startswith("--")]
        is_given = 0 < number <= len(places) and len(places) == len(self.arguments)
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
