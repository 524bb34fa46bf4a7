"""ProgressLog: lines about a long run, with one that counts while a phase runs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.text import Text


# In a log file, where nobody sees a counter move.
SECONDS_BETWEEN_LINES = 30.0


class ProgressLog:
    """
    Where lines about progress go: rich on a terminal, plain elsewhere.

    Args:
        log (`Callable[[str], None]`, *optional*, defaults to `print`):
            Gets plain lines. With `print`, they go to the standard output of now, which may be redirected later; on a
            terminal they are coloured, and phases count. Another [`ProgressLog`] lends its place.
        prefix (`str`, *optional*):
            Before every line.
    """

    def __init__(self, log: Callable[[str], None] = print, prefix: str = ""):
        self.prefix = prefix
        self.log: Callable[[str], None] = log
        self.console: Console | None = None
        if isinstance(log, ProgressLog):
            self.log, self.console, self.prefix = log.log, log.console, log.prefix + prefix
        elif log is print:
            self.log = partial(print, file=sys.stdout, flush=True)
            console = Console(file=sys.stdout)
            self.console = console if console.is_terminal else None

    def __call__(self, line: str, style: str = "") -> None:
        """One line; `style`, rich's, is seen on a terminal."""
        line = f"{self.prefix}{line}"
        if self.console is None:
            self.log(line)
        else:
            self.console.print(Text(line, style=style), soft_wrap=True)

    @contextmanager
    def counting(self, what: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
        """Shows "`what` `done`/`total`" while the block runs, and gives it a function that adds to `done`.

        A terminal shows it at once. Elsewhere, in a log file, a line comes every half minute. Both say how long the
        rest will take at the pace so far.
        """
        began = said = time.monotonic()
        count = done

        def advance(n: int) -> None:
            nonlocal count, said
            count += n
            now = time.monotonic()
            line = f"{what} {count}/{total}{_left(total - count, count - done, now - began)}"
            if status is not None:
                status.update(f"{self.prefix}{line}")
            elif now - said >= SECONDS_BETWEEN_LINES:
                said = now
                self(line)

        if self.console is None:
            status = None
            yield advance
            return
        with self.console.status(f"{self.prefix}{what} {done}/{total}") as status:
            yield advance


def _left(missing: int, made: int, seconds: float) -> str:
    """How long the rest takes, in words; nothing before there is a pace."""
    if made <= 0 or missing <= 0:
        return ""
    left = seconds / made * missing
    return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
