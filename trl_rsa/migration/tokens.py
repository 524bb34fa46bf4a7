"""A shell script as words and operators. Variables stay as they are written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


# Longest first. A newline ends a command as a semicolon does.
_OPERATORS = (";;&", ";;", ";&", "&&", "||", "|&", "\n", ";", "|", "&", "(", ")")
_ENDS_WORD = " \t\n;|&()<>"


@dataclass(frozen=True)
class Piece:
    """A stretch of a word.

    Args:
        kind (`str`):
            `"text"`; `"variable"`, whose text is what stands between the braces; `"output"`, of a command that would
            have to be run.
        text (`str`):
            What is written.
        quoted (`bool`):
            Whether it stands in quotes, so that it is never split at spaces.
    """

    kind: Literal["text", "variable", "output"]
    text: str
    quoted: bool


@dataclass(frozen=True)
class Word:
    """A word, or with `items` an array `NAME=(…)`, of which the pieces are `NAME=` or `NAME+=`."""

    pieces: tuple[Piece, ...]
    line: int
    items: "tuple[Word, ...] | None" = None

    @classmethod
    def of(cls, text: str, line: int) -> "Word":
        """A word of text alone."""
        return cls((Piece("text", text, False),), line)

    @property
    def plain(self) -> str:
        """The word, if nothing in it has to be looked up; else nothing."""
        return "".join(p.text for p in self.pieces) if all(p.kind == "text" for p in self.pieces) else ""


@dataclass(frozen=True)
class Operator:
    """What stands between commands."""

    text: str
    line: int


Token = Word | Operator


def tokenize(script: str) -> list[Token]:
    """The words and operators of a bash script, without comments, redirections and here-documents."""
    return list(_Tokenizer(script).tokens())


class _Tokenizer:
    def __init__(self, script: str) -> None:
        self.script, self.at, self.line = script.replace("\r\n", "\n"), 0, 1
        self.is_test = False  # between `[[` and `]]`, where < and > compare

    def tokens(self, until: str = "") -> Iterator[Token]:
        while self.at < len(self.script):
            self._skip_blanks()
            if self.at >= len(self.script):
                return
            if until and self.script.startswith(until, self.at):
                self._take(len(until))
                return
            if self.is_test and self.script[self.at] in "<>":
                yield Word.of(self._take(1), self.line)
                continue
            if self._skip_redirection():
                continue
            operator = next((o for o in _OPERATORS if self.script.startswith(o, self.at)), None)
            if operator is None:
                word = self._word()
                self.is_test = (self.is_test or word.plain == "[[") and word.plain != "]]"
                yield word
                continue
            line = self.line
            self._take(len(operator))
            yield Operator(operator, line)

    def _take(self, n: int) -> str:
        taken = self.script[self.at : self.at + n]
        self.at, self.line = self.at + n, self.line + taken.count("\n")
        return taken

    def _skip_blanks(self) -> None:
        """Spaces, continued lines, and comments up to the end of their line, where a backslash continues nothing."""
        while found := re.compile(r"[ \t]+|\\\n|#[^\n]*").match(self.script, self.at):
            self._take(len(found.group()))

    def _skip_redirection(self) -> bool:
        if heredoc := re.compile(r"<<-?\s*(['\"\\]?)(\w+)\1").match(self.script, self.at):
            self._take(len(heredoc.group()))
            body = re.compile(rf"[^\n]*\n(?:.*\n)*?\t*{heredoc.group(2)}(?=\n|$)").match(self.script, self.at)
            if body is not None:
                self._take(len(body.group()))
            return True
        if found := re.compile(r"<\(|>\(").match(self.script, self.at):
            self._take(2)
            self._until_closed()
            return True
        found = re.compile(r"&>>?|\d*(?:>>|>&|<&|<<<|>\||<|>)").match(self.script, self.at)
        if found is None:
            return False
        self._take(len(found.group()))
        self._skip_blanks()
        if self.script.startswith((">(", "<("), self.at):
            self._take(2)
            self._until_closed()
        elif self.at < len(self.script) and self.script[self.at] not in _ENDS_WORD:
            self._word()
        return True

    def _word(self) -> Word:
        pieces, line = list[Piece](), self.line
        while self.at < len(self.script) and self.script[self.at] not in _ENDS_WORD:
            character = self.script[self.at]
            if character == "\\":
                escaped = self._take(2)[1:]
                if escaped != "\n":
                    pieces.append(Piece("text", escaped, True))
            elif character == "'":
                self._take(1)
                end = self.script.find("'", self.at)
                pieces.append(Piece("text", self._take((end if end >= 0 else len(self.script)) - self.at), True))
                self._take(1)
            elif character == '"':
                self._take(1)
                pieces += self._double_quoted()
            elif character in "$`":
                pieces.append(self._value(False))
            else:
                found = re.compile(r"[^\s;|&()<>\\'\"$`]+").match(self.script, self.at)
                assert found is not None
                pieces.append(Piece("text", self._take(len(found.group())), False))
        word = Word(tuple(pieces), line)
        if self.script.startswith("(", self.at) and re.fullmatch(r"\w+\+?=", word.plain):
            self._take(1)
            items = [token for token in self.tokens(until=")") if isinstance(token, Word)]
            return Word(tuple(pieces), line, tuple(items))
        return word

    def _double_quoted(self) -> list[Piece]:
        pieces = [Piece("text", "", True)]  # an empty pair of quotes is a word too
        while self.at < len(self.script) and self.script[self.at] != '"':
            if self.script[self.at] == "\\":
                escaped = self._take(2)[1:]
                if escaped != "\n":
                    pieces.append(Piece("text", escaped if escaped in '$`"\\' else "\\" + escaped, True))
            elif self.script[self.at] in "$`":
                pieces.append(self._value(True))
            else:
                pieces.append(Piece("text", self._take(1), True))
        self._take(1)
        return pieces

    def _value(self, quoted: bool) -> Piece:
        """What begins with a dollar sign or a backquote."""
        if self._take(1) == "`":
            end = self.script.find("`", self.at)
            text = self._take((end if end >= 0 else len(self.script)) - self.at)
            self._take(1)
            return Piece("output", text, quoted)
        if self.script.startswith("(", self.at):
            self._take(1)
            return Piece("output", self._until_closed(), quoted)
        if self.script.startswith("{", self.at):
            self._take(1)
            return Piece("variable", self._until_closed("{", "}"), quoted)
        if found := re.compile(r"\w+|[#?@*$!-]").match(self.script, self.at):
            name = found.group()
            return Piece("variable", self._take(len(name) if not name[0].isdigit() else 1), quoted)
        return Piece("text", "$", quoted)

    def _until_closed(self, opened: str = "(", closed: str = ")") -> str:
        """Up to the bracket that closes one which has been taken; the text between them."""
        start, depth, quote = self.at, 1, ""
        while self.at < len(self.script):
            character = self._take(1)
            if character == "\\":
                self._take(1)
            elif quote:
                quote = "" if character == quote else quote
            elif character in "'\"" and closed == ")":
                quote = character
            elif character == opened:
                depth += 1
            elif character == closed:
                depth -= 1
                if depth == 0:
                    return self.script[start : self.at - 1]
        return self.script[start:]
