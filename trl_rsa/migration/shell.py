"""The commands that a shell script would run, with the values of its variables, without running anything."""

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile  # False too for what cannot be a name
from pathlib import Path

from trl_rsa.migration.conditions import BUILT_IN, RAN, TESTS, End, Flow, Runs, holds, matches
from trl_rsa.migration.tokens import Operator, Token, Word, tokenize
from trl_rsa.migration.variables import Variables, assigned


# What is longer than a word and looks like nothing but a key: W&B's are 40 hexadecimal digits.
_LOOKS_SECRET = re.compile(r"\b(?:[0-9a-f]{40}|(?:hf|sk|ghp|wandb_v1)[_-][A-Za-z0-9_-]{16,})\b")
_HIDDEN = "<secret>"
_KEYWORDS = ("then", "do", "else", "elif", "if", "fi", "done", "{", "}", "!", "time", "esac")
_DECLARES = ("export", "declare", "local", "readonly", "typeset")
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
        maybe (`bool`, *optional*):
            Whether it stands behind a condition of which nothing is known.
        stray (`list[tuple[int, list[str]]]`, *optional*):
            Lines of flags that follow it and do not belong to it: a backslash is missing before them.
    """

    words: list[str]
    line: int
    maybe: bool = False
    stray: list[tuple[int, list[str]]] = field(default_factory=list)


class Script:
    """
    A shell script, read once from top to bottom: the body of every loop once, of a function at each call, and of an
    `if` or a `case` what runs, as far as its condition is known. Where it is not, a value that is there already stays,
    else the first branch counts, and `conditional` has the line.

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
        conditional (`list[str]`): What is set behind a condition of which nothing is known, as sentences.
    """

    def __init__(self, text: str, folder: Path | None = None, arguments: Sequence[str] = (), depth: int = 0) -> None:
        self.folder = Path() if folder is None else folder
        self.commands: list[Command] = []
        self.variables = Variables(arguments)
        self.missing: list[str] = []
        self.refused: list[str] = []
        self.conditional: list[str] = []
        self._given = _pairs(arguments)
        self._depth = depth
        self._line: int | None = None
        self._functions: dict[str, list[Token]] = {}
        self._called: set[str] = set()
        self._read(text)
        for name in [name for name in self._functions if name not in self._called]:
            with self.variables.scope():
                self._call(name, (), None)  # by a trap, or by what is not read here
        if self.variables.taken:
            self.refused += [flag for flag in self._given if flag not in self.variables.taken]
        self.conditional += self.variables.notes()

    def hide(self, text: str) -> str:
        """`text` without keys, tokens and passwords of the script."""
        for secret in sorted(self.variables.secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return _LOOKS_SECRET.sub(_HIDDEN, text)

    @property
    def has_secrets(self) -> bool:
        return bool(self.variables.secrets)

    # Statements

    def _read(self, text: str, line: int | None = None, runs: Runs = True) -> None:
        """`line`: where the text stands in the script, if it is not the script itself."""
        outside, self._line = self._line, line or self._line
        self._run(tokenize(text), runs)
        self._line = outside

    def _run(self, tokens: Sequence[Token], runs: Runs) -> None:
        """Reads statements one after the other; `runs`: whether they do, None where nobody knows."""
        if self._depth > 8:  # a script or a function that calls itself
            return
        self._depth += 1
        flow, at = Flow(runs, self.variables), 0
        while at < len(tokens):
            token = tokens[at]
            if isinstance(token, Operator):
                flow.operator(token.text)
                at += 1
                continue
            after = self._define(tokens, at)
            if after is not None:
                at = after
                continue
            statement, at = _statement_at(tokens, at)
            negated = False
            while statement and statement[0].plain in _KEYWORDS:
                word = statement.pop(0).plain
                negated = negated != (word == "!")
                flow.keyword(word)
            if not statement:
                continue
            if statement[0].plain == "case":
                at = self._case(statement, tokens, at, flow.decide())
                continue
            decided = flow.decide()
            if decided is False:
                self._called |= {statement[0].plain} & self._functions.keys()
                continue
            if flow.is_linked_to_unknown:
                with self.variables.scope():
                    flow.ended(self._statement(statement, decided), negated)
            else:
                flow.ended(self._statement(statement, decided), negated)
        flow.close()
        self._depth -= 1

    def _define(self, tokens: Sequence[Token], at: int) -> int | None:
        """Behind the function that begins here; None if none does."""
        first, start = tokens[at], at + 1
        assert isinstance(first, Word)
        name = first.plain
        if name == "function" and start < len(tokens):
            name, start = _plain(tokens[start]), start + 1
        texts = [token.text for token in tokens[start : start + 2] if isinstance(token, Operator)]
        if texts == ["(", ")"]:
            start += 2
        elif first.plain != "function":
            return None
        while start < len(tokens) and isinstance(tokens[start], Operator) and tokens[start].text == "\n":  # type: ignore[union-attr]
            start += 1
        if not re.fullmatch(r"[\w.:-]+", name) or start >= len(tokens) or _plain(tokens[start]) != "{":
            return None
        end, depth = start + 1, 1
        while end < len(tokens) and depth:
            depth += {"{": 1, "}": -1}.get(_plain(tokens[end]), 0)
            end += 1
        self._functions[name] = list(tokens[start + 1 : end - 1])
        return end

    def _call(self, name: str, words: Sequence[str], runs: Runs) -> None:
        """A function with its own `$1`, `$2`, …; one that gets all that the script has takes the script's flags."""
        self._called.add(name)
        variables = self.variables
        outside = variables.arguments, variables.taken, variables.is_function, self._given
        if list(words) != variables.arguments:
            variables.arguments, variables.taken, variables.is_function = list(words), set(), True
            self._given = _pairs(words)
            self._run(self._functions[name], runs)
            variables.arguments, variables.taken, variables.is_function, self._given = outside
        else:
            self._run(self._functions[name], runs)

    def _statement(self, statement: Sequence[Word], runs: Runs) -> End:
        """Does what it says, and says how it ends: true, false, unknown, or "ran" for a command."""
        first = statement[0].plain
        if not first and len(statement) == 1:  # `if $FLAG`
            first = self.variables.known(statement[0]) or ""
        if first in TESTS:
            return holds(statement, self.variables)
        if first == "for" and len(statement) > 3 and statement[2].plain == "in":
            values = [value for word in statement[3:] for value in self.variables.expand(word)]
            self.variables.set_loop(statement[1].plain, values, statement[3:])
            return True
        if first in ("while", "until", "exit", "return", *BUILT_IN):
            for word in statement[1:]:
                self.variables.expand(word)  # `: "${X:=value}"` sets X
            return BUILT_IN.get(first)
        if first == "shift":
            self.variables.shift(int(statement[1].plain) if statement[1:] and statement[1].plain.isdigit() else 1)
            return True
        if first == "unset":
            for word in statement[1:]:
                self.variables.values.pop(word.plain, None)
            return True
        if first in _DECLARES:
            for word in statement[1:]:
                self.variables.assign(word)
            return True
        in_front = list(itertools.takewhile(assigned, statement))
        rest = statement[len(in_front) :]
        before = dict(self.variables.values)
        for word in in_front:
            self.variables.assign(word)
        if not rest:
            return RAN if any(piece.kind == "output" for word in in_front for piece in word.pieces) else True
        if in_front:  # for this command only, and not for its words
            self.variables.values = before
        self._command([value for word in rest for value in self.variables.expand(word)], rest[0].line, runs)
        return RAN

    def _command(self, words: list[str], line: int, runs: Runs) -> None:
        if not words:
            return
        name, line = Path(words[0]).name, self._line or line
        if words[0].startswith("-") and self.commands:
            self.commands[-1].stray.append((line, words))
        elif words[0] in self._functions:
            self._call(words[0], words[1:], runs)
        elif name == "eval":
            self._read(" ".join(words[1:]), line, runs)
        elif name in ("bash", "sh", "source", "."):
            self._other_script(name, words[1:], line, runs)
        elif name not in _PRINTS:
            if words[:2] == ["wandb", "login"]:
                self.variables.secrets |= {word for word in words[2:] if not word.startswith("-")}
            self.commands.append(Command(words, line, runs is None))

    def _other_script(self, name: str, words: list[str], line: int, runs: Runs) -> None:
        if "-c" in words[:-1] and name not in ("source", "."):
            self._read(words[words.index("-c") + 1], line, runs)
            return
        files = [word for word in words if not word.startswith("-")]
        if not files:
            return
        path = next((p for p in (self.folder / files[0], self.folder.parent / files[0]) if isfile(p)), None)
        if path is None:
            self.missing.append(files[0])
        elif name in ("source", "."):
            self._read(path.read_text(encoding="utf-8", errors="replace"), line, runs)
        else:
            arguments = words[words.index(files[0]) + 1 :]
            called = Script(path.read_text(encoding="utf-8", errors="replace"), path.parent, arguments, self._depth)
            for command in called.commands:
                command.maybe = command.maybe or runs is None
            self.commands += called.commands
            self.variables.loops |= called.variables.loops
            self.missing += called.missing
            self.refused += called.refused
            self.conditional += called.conditional
            self.variables.secrets |= called.variables.secrets

    def _case(self, statement: Sequence[Word], tokens: Sequence[Token], at: int, runs: Runs) -> int:
        """
        From behind `case … in`, to behind `esac`. Where a pattern is a flag, its body says which variable the flag
        sets. Of other bodies the one runs whose pattern fits; each may, where the word is not known.
        """
        branches, at = _branches(statement[3:], tokens, at)
        if any(pattern.startswith("-") for patterns, _ in branches for pattern in patterns):
            for patterns, body in branches:
                self._flag(patterns, body)
            return at
        value = self.variables.known(statement[1]) if len(statement) > 1 else None
        found = False
        for patterns, body in branches:
            fits = None if value is None else any(matches(value, pattern) for pattern in patterns)
            if runs is False or found or fits is False:
                self._run(body, False)
            elif fits:
                self._run(body, runs)
            else:
                with self.variables.scope():
                    self._run(body, None)
            found = found or fits is True
        return at

    def _flag(self, patterns: Sequence[str], body: Sequence[Token]) -> None:
        flags = [p.removesuffix("=*") for p in patterns if p.startswith("-")]
        self.variables.taken |= set(flags)
        given = next((self._given[flag] for flag in flags if flag in self._given), None)
        for token in body:
            if given is not None and isinstance(token, Word) and (found := assigned(token)) is not None:
                self.variables.set(found[0], given)
            elif not flags and isinstance(token, Word) and "*" not in patterns and assigned(token) is not None:
                with self.variables.scope():
                    self.variables.assign(token)


def _plain(token: Token) -> str:
    return token.plain if isinstance(token, Word) and not any(p.quoted for p in token.pieces) else ""


def _statement_at(tokens: Sequence[Token], at: int) -> tuple[list[Word], int]:
    """The words from `at` to the next operator; what stands between `[[` and `]]` is words alone."""
    statement: list[Word] = []
    is_open = False
    while at < len(tokens):
        token = tokens[at]
        if isinstance(token, Operator):
            if not is_open or token.text == "\n":
                break
            token = Word.of(token.text, token.line)
        is_open = (is_open or _plain(token) == "[[") and _plain(token) != "]]"
        statement.append(token)
        at += 1
    return statement, at


def _branches(
    first: Sequence[Word], tokens: Sequence[Token], at: int
) -> tuple[list[tuple[list[str], list[Token]]], int]:
    """Patterns and bodies of a `case`, and where it ends. `first`: patterns in the line of `case` itself."""
    found: list[tuple[list[str], list[Token]]] = []
    patterns = [word.plain for word in first]
    while at < len(tokens):
        while at < len(tokens) and not (isinstance(tokens[at], Operator) and tokens[at].text == ")"):  # type: ignore[union-attr]
            token = tokens[at]
            if isinstance(token, Word):
                if token.plain == "esac":
                    return found, at + 1
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
        found.append((patterns, body))
        patterns = []
    return found, at


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
