"""The commands that a shell script would run, with the values of its variables, without running anything."""

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile  # False too for what cannot be a name
from pathlib import Path

from trl_rsa.migration.tokens import Operator, Piece, Token, Word, tokenize
from trl_rsa.migration.variables import Variables, assigned


# What is longer than a word and looks like nothing but a key: W&B's are 40 hexadecimal digits.
_LOOKS_SECRET = re.compile(r"\b(?:[0-9a-f]{40}|(?:hf|sk|ghp|wandb_v1)[_-][A-Za-z0-9_-]{16,})\b")
_HIDDEN = "<secret>"
_WORDS_AROUND = ("then", "do", "else", "fi", "done", "{", "}", "!", "time", "esac")
_DECLARES = ("export", "declare", "local", "readonly", "typeset")
_TESTS = ("[[", "[", "test")
_PRINTS = ("echo", "printf")  # a command that is shown before it is run is one command


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
        depth (`int`, *optional*):
            How many scripts call each other up to this one.

    Attributes:
        commands (`list[Command]`): What would be run.
        variables ([`~migration.variables.Variables`]): Their values, and what is secret among them.
        missing (`list[str]`): Scripts that it calls and that are not there.
        refused (`list[str]`): Flags that it, or a script that it calls, is given and does not take.
    """

    def __init__(self, text: str, folder: Path | None = None, arguments: Sequence[str] = (), depth: int = 0) -> None:
        self.folder = Path() if folder is None else folder
        self.commands: list[Command] = []
        self.variables = Variables(arguments)
        self.missing: list[str] = []
        self.refused: list[str] = []
        self._given = _pairs(arguments)
        self._depth = depth
        self._line: int | None = None
        self._read(text)
        if self.variables.taken:
            self.refused += [flag for flag in self._given if flag not in self.variables.taken]

    def hide(self, text: str) -> str:
        """`text` without keys, tokens and passwords of the script."""
        for secret in sorted(self.variables.secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return _LOOKS_SECRET.sub(_HIDDEN, text)

    @property
    def has_secrets(self) -> bool:
        return bool(self.variables.secrets)

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
            values = [value for word in statement[3:] for value in self.variables.expand(word)]
            self.variables.set_loop(statement[1].plain, values, statement[3:])
            return
        if first in ("while", "until", *_TESTS, "shift", "exit", "set", "return"):
            return
        if first == "unset":
            for word in statement[1:]:
                self.variables.values.pop(word.plain, None)
            return
        if first in _DECLARES:
            for word in statement[1:]:
                self.variables.assign(word, maybe)
            return
        in_front = list(itertools.takewhile(assigned, statement))
        rest = statement[len(in_front) :]
        before = dict(self.variables.values)
        for word in in_front:
            self.variables.assign(word, maybe)
        if rest:
            if in_front:  # for this command only, and not for its words
                self.variables.values = before
            self._command([value for word in rest for value in self.variables.expand(word)], rest[0].line)

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
                self.variables.secrets |= {word for word in words[2:] if not word.startswith("-")}
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
            called = Script(path.read_text(encoding="utf-8", errors="replace"), path.parent, arguments, self._depth)
            self.commands += called.commands
            self.variables.loops |= called.variables.loops
            self.missing += called.missing
            self.refused += called.refused
            self.variables.secrets |= called.variables.secrets

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
        self.variables.taken |= set(flags)
        given = next((self._given[flag] for flag in flags if flag in self._given), None)
        for token in body:
            if given is not None and isinstance(token, Word) and (found := assigned(token)) is not None:
                self.variables.set(found[0], given)

    def _holds(self, words: Sequence[Word]) -> bool | None:
        """Whether `[ -z … ]` or `[ -n … ]` holds; None for any other test."""
        plain = [word.plain for word in words]
        if len(words) != 4 or plain[0] not in _TESTS or plain[1] not in ("-z", "-n"):
            return None
        is_empty = all(not self._known(piece) for piece in words[2].pieces)
        return is_empty if plain[1] == "-z" else not is_empty

    def _known(self, piece: Piece) -> bool:
        name = re.split(r"[^\w]", piece.text, maxsplit=1)[0]
        return bool(piece.text) if piece.kind == "text" else bool(self.variables.values.get(name))


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
