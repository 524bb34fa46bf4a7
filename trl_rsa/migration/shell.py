"""The commands that a shell script would run, with the values of its variables, without running anything."""

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile  # False too for what cannot be a name
from pathlib import Path

from trl_rsa.migration.tokens import Operator, Piece, Token, Word, tokenize


SECRET = re.compile(r"KEY|TOKEN(?!I[SZ])|SECRET|PASSW", re.IGNORECASE)
# What is longer than a word and looks like nothing but a key: W&B's are 40 hexadecimal digits.
_LOOKS_SECRET = re.compile(r"\b(?:[0-9a-f]{40}|(?:hf|sk|ghp|wandb_v1)[_-][A-Za-z0-9_-]{16,})\b")
_HIDDEN = "<secret>"
_ASSIGNMENT = re.compile(r"(\w+)(\+?=)", re.ASCII)
_WORDS_AROUND = ("then", "do", "else", "fi", "done", "{", "}", "!", "time", "esac")
_DECLARES = ("export", "declare", "local", "readonly", "typeset")
_TESTS = ("[[", "[", "test")
_PRINTS = ("echo", "printf")  # a command that is shown before it is run is one command

Value = str | list[str] | None  # None: it has a value, which nobody knows before the script runs


@dataclass
class Command:
    """
    A command with its words, after variables.

    Args:
        words (`list[str]`):
            Without variables set in front of it.
        line (`int`):
            Where it begins.
        stray (`list[tuple[int, list[str]]]`, *optional*):
            Lines of flags that follow it and do not belong to it: a backslash is missing before them.
    """

    words: list[str]
    line: int
    stray: list[tuple[int, list[str]]] = field(default_factory=list)


class Script:
    """
    A shell script, read once from top to bottom: every branch and the body of every loop and function, once.

    Args:
        text (`str`):
            The script.
        folder (`Path`, *optional*):
            Where it is: scripts that it calls or sources are looked for here, and in the folder above.
        arguments (`Sequence[str]`, *optional*):
            What it is called with, `--flag value` or `--flag=value`, as its own `case` takes them.

    Attributes:
        commands (`list[Command]`): What would be run.
        loops (`dict[str, list[str]]`): Values of a loop's variable, of which the first is taken.
        unknown (`set[str]`): Variables that have no value before the script runs.
        missing (`list[str]`): Scripts that it calls and that are not there.
        refused (`list[str]`): Flags that it, or a script that it calls, is given and does not take.
    """

    def __init__(self, text: str, folder: Path | None = None, arguments: Sequence[str] = ()) -> None:
        self.folder = Path() if folder is None else folder
        self.commands: list[Command] = []
        self.loops: dict[str, list[str]] = {}
        self.unknown: set[str] = set()
        self.missing: list[str] = []
        self.refused: list[str] = []
        self._variables: dict[str, Value] = {}
        self._arguments = list(arguments)
        self._given = _pairs(arguments)
        self._takes: set[str] = set()  # flags, by the patterns of a `case`
        self._positional = [word for word in arguments if not word.startswith("--")] if not self._given else []
        self._secrets: set[str] = set()
        self._depth = 0
        self._line: int | None = None
        self._read(text)
        if self._takes:
            self.refused += [flag for flag in self._given if flag not in self._takes]

    def hide(self, text: str) -> str:
        """`text` without keys, tokens and passwords of the script."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return _LOOKS_SECRET.sub(_HIDDEN, text)

    @property
    def has_secrets(self) -> bool:
        return bool(self._secrets)

    # Statements

    def _read(self, text: str, line: int | None = None) -> None:
        """`line`: where the text stands in the script, if it is not the script itself."""
        if self._depth > 8:  # a script that calls itself
            return
        self._depth += 1
        outside, self._line = self._line, line or self._line
        tokens = tokenize(text)
        skipped: list[bool] = []  # for each `if` that is open: whether this branch is known not to run
        at = 0
        while at < len(tokens):
            if isinstance(tokens[at], Operator):
                at += 1
                continue
            start = at
            while at < len(tokens) and isinstance(tokens[at], Word):
                at += 1
            statement = [token for token in tokens[start:at] if isinstance(token, Word)]
            while statement and statement[0].plain in _WORDS_AROUND:
                word = statement.pop(0).plain
                if word == "else" and skipped:
                    skipped[-1] = False  # it may run: a value that is there already stays
                if word == "fi" and skipped:
                    skipped.pop()
            if not statement:
                continue
            first = statement[0].plain
            if first == "case":
                at = self._case(tokens, at)
            elif first in ("if", "elif"):
                holds = self._holds(statement[1:])
                skipped[-1:] = [holds is False] if first == "elif" else [*skipped[-1:], holds is False]
            elif not any(skipped):
                self._statement(statement, maybe=bool(skipped))
        self._depth -= 1
        self._line = outside

    def _statement(self, statement: Sequence[Word], maybe: bool) -> None:
        first = statement[0].plain
        if first == "for" and len(statement) > 3 and statement[2].plain == "in":
            values = [value for word in statement[3:] for value in self._expand(word)]
            self._set_loop(statement[1].plain, values, statement[3:])
            return
        if first in ("while", "until", *_TESTS, "shift", "exit", "set", "return"):
            return
        if first == "unset":
            for word in statement[1:]:
                self._variables.pop(word.plain, None)
            return
        if first in _DECLARES:
            for word in statement[1:]:
                self._assign(word, maybe)
            return
        assigned = list(itertools.takewhile(_assigned, statement))
        rest = statement[len(assigned) :]
        before = dict(self._variables)
        for word in assigned:
            self._assign(word, maybe)
        if rest:
            if assigned:  # for this command only, and not for its words
                self._variables = before
            self._command([value for word in rest for value in self._expand(word)], rest[0].line)

    def _command(self, words: list[str], line: int) -> None:
        if not words:
            return
        name, line = Path(words[0]).name, self._line or line
        if words[0].startswith("-") and self.commands:
            self.commands[-1].stray.append((line, words))
        elif name == "eval":
            self._read(" ".join(words[1:]), line)
        elif name in ("bash", "sh", "source", "."):
            self._other_script(name, words[1:], words, line)
        elif name not in _PRINTS:
            if words[:2] == ["wandb", "login"]:
                self._secrets |= {word for word in words[2:] if not word.startswith("-")}
            self.commands.append(Command(words, line))

    def _other_script(self, name: str, words: list[str], whole: list[str], line: int) -> None:
        if "-c" in words[:-1] and name not in ("source", "."):
            self._read(words[words.index("-c") + 1], line)
            return
        files = [word for word in words if not word.startswith("-")]
        if not files:
            return
        path = next((p for p in (self.folder / files[0], self.folder.parent / files[0]) if isfile(p)), None)
        if path is None:
            self.missing.append(files[0])
        elif name in ("source", "."):
            self._read(path.read_text(encoding="utf-8", errors="replace"), line)
        else:
            arguments = words[words.index(files[0]) + 1 :]
            called = Script(path.read_text(encoding="utf-8", errors="replace"), path.parent, arguments)
            self.commands += called.commands
            self.loops |= called.loops
            self.unknown |= called.unknown
            self.missing += called.missing
            self.refused += called.refused
            self._secrets |= called._secrets

    def _case(self, tokens: Sequence[Token], at: int) -> int:
        """
        From behind `case … in`, to behind `esac`. Where a pattern is a flag, its body says which variable the flag
        sets; other bodies are read as if they ran.
        """
        while at < len(tokens):
            patterns = []
            while at < len(tokens) and not (isinstance(tokens[at], Operator) and tokens[at].text == ")"):  # type: ignore[union-attr]
                token = tokens[at]
                if isinstance(token, Word):
                    if token.plain == "esac":
                        return at + 1
                    patterns.append(token.plain)
                at += 1
            body, at, depth = list[Token](), at + 1, 0
            while at < len(tokens):
                token = tokens[at]
                if isinstance(token, Word) and token.plain in ("case", "esac"):
                    depth += 1 if token.plain == "case" else -1
                    if depth < 0:
                        break
                if isinstance(token, Operator) and token.text.startswith(";;") and depth == 0:
                    at += 1
                    break
                body.append(token)
                at += 1
            self._branch(patterns, body)
        return at

    def _branch(self, patterns: Sequence[str], body: Sequence[Token]) -> None:
        flags = [p.removesuffix("=*") for p in patterns if p.startswith("-")]
        if not flags:
            statement: list[Word] = []
            for token in [*body, Operator("\n", 0)]:
                if isinstance(token, Word):
                    statement.append(token)
                elif statement:
                    if "*" not in patterns and statement[0].plain not in ("case", "if", "fi", "then"):
                        self._statement(statement, maybe=True)
                    statement = []
            return
        self._takes |= set(flags)
        given = next((self._given[flag] for flag in flags if flag in self._given), None)
        for token in body:
            if given is not None and isinstance(token, Word) and (found := _assigned(token)) is not None:
                self._set(found[0], given)

    def _holds(self, words: Sequence[Word]) -> bool | None:
        """Whether `[ -z … ]` or `[ -n … ]` holds; None for any other test."""
        plain = [word.plain for word in words]
        if len(words) != 4 or plain[0] not in _TESTS or plain[1] not in ("-z", "-n"):
            return None
        is_empty = all(not self._known(piece) for piece in words[2].pieces)
        return is_empty if plain[1] == "-z" else not is_empty

    def _known(self, piece: Piece) -> bool:
        name = re.split(r"[^\w]", piece.text, maxsplit=1)[0]
        return bool(piece.text) if piece.kind == "text" else bool(self._variables.get(name))

    # Variables

    def _assign(self, word: Word, maybe: bool) -> bool:
        found = _assigned(word)
        if found is None:
            return False
        name, operator, rest = found
        before = self._variables.get(name)
        if word.items is not None:
            items = [value for item in word.items for value in self._expand(item)]
            self._set(name, [*(before if isinstance(before, list) else []), *items] if operator == "+=" else items)
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
        self._set(name, f"{before or ''}{value}" if operator == "+=" and isinstance(value, str) else value)
        return True

    def _set(self, name: str, value: Value) -> None:
        self._variables[name] = value
        if SECRET.search(name) and isinstance(value, str) and len(value) > 7 and "${" not in value:
            self._secrets.add(value)

    def _set_loop(self, name: str, values: list[str], words: Sequence[Word]) -> None:
        counted = [p.text for word in words for p in word.pieces if p.kind == "output"]
        found = re.fullmatch(r"\s*seq\s+(\d+)(?:\s+(\d+))?\s*", counted[0]) if len(counted) == 1 else None
        if found:
            first, last = (1, int(found[1])) if found[2] is None else (int(found[1]), int(found[2]))
            values = [str(number) for number in range(first, last + 1)]
        if values:
            self._variables[name] = values[0]
            if len(values) > 1:
                self.loops[name] = values

    def _expand(self, word: Word) -> list[str]:
        """A word as the words that a shell makes of it: quoted text stays whole, an array becomes several."""
        if len(word.pieces) == 1 or all(not p.text for p in word.pieces if p.kind == "text"):
            variables = [p for p in word.pieces if p.kind == "variable"]
            if len(variables) == 1:
                if variables[0].text in ("@", "*"):
                    return [] if self._takes else self._arguments
                name, _, index = variables[0].text.partition("[")
                value = self._variables.get(name)
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
        value = self._positional_value(name) if name.isdigit() else self._variables.get(name)
        if isinstance(value, list):
            value = self._item(value, index)
        is_set = bool(value)
        if operator in (":-", "-", ":=", "="):
            return value or "" if is_set else self._text(_pieces(other))
        if operator in (":+", "+"):
            return self._text(_pieces(other)) if is_set else ""
        if value is None:
            if name in self._variables or SECRET.search(name) is None:
                self.unknown.add(name)
            return f"${{{name}}}"
        return _changed(value, change) if change else value

    def _positional_value(self, name: str) -> str | None:
        number = int(name)
        return self._positional[number - 1] if 0 < number <= len(self._positional) else None

    def _item(self, values: list[str], index: str | None) -> str | None:
        if index in ("@", "*"):
            return " ".join(values)
        number = self._variables.get((index or "0").lstrip("$")) if index and not index.isdigit() else index or "0"
        place = int(number) if isinstance(number, str) and number.isdigit() else 0
        return values[place] if place < len(values) else None


def _assigned(word: Word) -> tuple[str, str, list[Piece]] | None:
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


def _pairs(arguments: Sequence[str]) -> Mapping[str, str]:
    """`--flag value` and `--flag=value`; the last of a flag counts."""
    found, words = {}, list(arguments)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag.startswith("-"):
            found[flag] = value if equals else words.pop(0) if words and not words[0].startswith("--") else "True"
    return found


def in_one_line(words: Sequence[str]) -> str:
    """The words as someone would type them."""
    return " ".join(shlex.quote(word) for word in words)
