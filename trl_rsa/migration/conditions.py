"""Which statements of a shell script run: tests, `if`, `&&` and `||`, as far as their words are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import Literal

from trl_rsa.migration.tokens import Word
from trl_rsa.migration.variables import Variables


Runs = bool | None  # None: nobody knows before the script runs
RAN: Literal["ran"] = "ran"
End = bool | Literal["ran"] | None  # of a statement: "ran" is a command's

TESTS = ("[[", "[", "test")
BUILT_IN: dict[str, Runs] = {":": True, "true": True, "false": False, "set": True}

_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}


@dataclass
class _Block:
    """An `if` or a group that is open.

    Args:
        opened (`str`): `"if"`, `"{"` or `"("`.
        outside (`Runs`): Whether it runs as a whole.
        runs (`Runs`): Whether the branch runs that is being read.
        ended (`End`): How what stands before it ended.
        taken (`Runs`): Whether a branch before this one ran.
        scopes (`int`): How many scopes of the variables it has opened.
        least (`int`): How many of them are the block's, and not a branch's.
    """

    opened: str
    outside: Runs
    runs: Runs
    ended: End
    taken: Runs = False
    scopes: int = 0
    least: int = 0


class Flow:
    """
    Whether the next statement runs, from the operators, keywords and ends of statements before it.

    A command is taken to succeed: what follows it by `&&` runs, and what follows it by `||` may. An `if` on a command
    may run. What may run is a scope of the variables.

    Args:
        runs (`Runs`):
            Whether the whole does.
        variables (`Variables`):
            Of the script.
    """

    def __init__(self, runs: Runs, variables: Variables) -> None:
        self._runs, self._variables = runs, variables
        self._blocks: list[_Block] = []
        self._operator = ";"
        self._ended: End = True
        self._decided: Runs = runs  # the last statement, with what it stands in
        self._linked: Runs = True  # the last statement, by `&&` and `||` alone

    def operator(self, text: str) -> None:
        if text == "(":
            self._open("(")
        elif text == ")":
            self._close("(")
        elif text in ("|", "|&"):
            self._operator = "|"
        else:
            self._operator = text if text in ("&&", "||") else ";"

    def keyword(self, word: str) -> None:
        top = self._blocks[-1] if self._blocks and self._blocks[-1].opened == "if" else None
        if word in ("if", "{"):
            self._open(word)
        elif word == "}":
            self._close("{")
        elif word == "fi":
            self._close("if")
        elif top is not None and word == "then":
            holds = None if self._ended == RAN else self._ended
            self._branch(top, _and(_not(top.taken), holds))
            top.taken = _or(top.taken, holds)
        elif top is not None and word == "elif":
            self._branch(top, not top.taken)  # its condition
        elif top is not None and word == "else":
            self._branch(top, _not(top.taken))
        if word not in ("!", "time"):
            self._operator = ";"

    def decide(self) -> Runs:
        """Whether the statement runs that comes now."""
        if self._operator == "|":
            return self._decided
        inside = self._blocks[-1] if self._blocks else None
        whole = self._runs if inside is None else _and(inside.outside, inside.runs)
        self._linked = True
        if self._operator == "&&":
            self._linked = True if self._ended == RAN else self._ended
        elif self._operator == "||":
            self._linked = None if self._ended == RAN else _not(self._ended)
        self._decided = _and(whole, self._linked)
        return self._decided

    @property
    def is_linked_to_unknown(self) -> bool:
        """Whether the statement of which [`decide`] was asked may run by `&&` or `||` alone, whatever it stands in."""
        return self._linked is None

    def ended(self, how: End, negated: bool = False) -> None:
        """How the statement ended that was read last and was not left out."""
        if negated:
            how = None if how == RAN else _not(how)
        # Behind a condition of which nothing is known, nothing is known of the end either.
        self._ended = how if self._linked else None

    def close(self) -> None:
        """Ends what the script leaves open."""
        while self._blocks:
            self._close(self._blocks[-1].opened)

    def _open(self, what: str) -> None:
        block = _Block(what, self.decide(), True, self._ended)
        self._blocks.append(block)
        self._operator = ";"
        if self._linked is None:
            self._variables.enter()
            block.scopes = block.least = 1

    def _branch(self, block: _Block, runs: Runs) -> None:
        """Ends the branch before this one. What a branch sets that may run holds in it, and behind it perhaps."""
        while block.scopes > block.least:
            self._variables.leave()
            block.scopes -= 1
        block.runs = runs
        if runs is None:
            self._variables.enter()
            block.scopes += 1

    def _close(self, what: str) -> None:
        if not self._blocks or self._blocks[-1].opened != what:
            return
        block = self._blocks.pop()
        for _ in range(block.scopes):
            self._variables.leave()
        self._ended = block.ended if block.outside is False else RAN
        self._operator = ";"


def holds(words: Sequence[Word], variables: Variables) -> Runs:
    """Whether a test holds: `[ … ]`, `[[ … ]]` or `test …`. A variable that the script does not set is empty for `-z`
    and `-n`, and unknown for any other test: the user's environment may have it."""
    inside = list(words[1:])
    if inside and inside[-1].plain in ("]", "]]"):
        inside.pop()
    return _expression(inside, variables, words[0].plain == "[[")


def matches(value: str, pattern: str) -> bool:
    """Whether a text is of a pattern of `case`."""
    return fnmatchcase(value, pattern)


def _expression(words: Sequence[Word], variables: Variables, has_patterns: bool) -> Runs:
    """`has_patterns`: whether what `=` compares with is a pattern, as it is between `[[` and `]]` alone."""
    plains = [word.plain for word in words]
    if "(" in plains:
        return None
    for operators, join in ((("||", "-o"), _or), (("&&", "-a"), _and)):
        at = next((i for i, plain in enumerate(plains) if plain in operators), None)
        if at is not None:
            parts = (_expression(part, variables, has_patterns) for part in (words[:at], words[at + 1 :]))
            return join(*parts)
    if plains[:1] == ["!"]:
        return _not(_expression(words[1:], variables, has_patterns))
    if len(words) == 1:
        return _is_there(words[0], variables)
    if len(words) == 2 and plains[0] in ("-z", "-n"):
        found = _is_there(words[1], variables)
        return _not(found) if plains[0] == "-z" else found
    if len(words) == 3:
        return _compared(words[0], plains[1], words[2], variables, has_patterns)
    return None


def _is_there(word: Word, variables: Variables) -> Runs:
    """Whether anything is in it."""
    if any(piece.kind == "output" for piece in word.pieces):
        return None
    return any(piece.text if piece.kind == "text" else variables.is_filled(piece) for piece in word.pieces)


def _compared(left: Word, operator: str, right: Word, variables: Variables, has_patterns: bool) -> Runs:
    one, other = variables.known(left), variables.known(right)
    if one is None or other is None:
        return None
    if operator in ("=", "==", "!="):
        same = matches(one, _pattern(right, variables)) if has_patterns else one == other
        return same == (operator != "!=")
    if operator in _NUMBERS and all(text.lstrip("-").isdigit() for text in (one, other)):
        return _NUMBERS[operator](int(one), int(other))
    return None


def _pattern(word: Word, variables: Variables) -> str:
    """Of a word that is known: what stands in quotes means itself, the rest is a pattern."""
    texts = ((piece, variables.known(Word((piece,), word.line)) or "") for piece in word.pieces)
    return "".join(escape(text) if piece.quoted else text for piece, text in texts)


def _not(a: Runs) -> Runs:
    return None if a is None else not a


def _and(a: Runs, b: Runs) -> Runs:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def _or(a: Runs, b: Runs) -> Runs:
    return _not(_and(_not(a), _not(b)))
