"""LiveReport: lines about the ladder, with one that counts while a phase runs where there is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


class LiveReport:
    """
    Where lines about progress go: rich on a terminal, plain elsewhere.

    Args:
        report (`Callable[[str], None]`, *optional*, defaults to `print`):
            Gets plain lines. With `print`, and a terminal as the standard output, lines are coloured and phases count.
        prefix (`str`, *optional*):
            Before every line.
    """

    def __init__(self, report: Callable[[str], None] = print, prefix: str = ""):
        self.report, self.prefix = report, prefix
        # The output of now: it may be redirected while something noisy runs.
        console = Console(file=sys.stdout) if report is print else None
        self.console = console if console is not None and console.is_terminal else None

    def __call__(self, line: str, style: str = "") -> None:
        """One line; `style`, rich's, is seen on a terminal."""
        line = f"{self.prefix}{line}"
        if self.console is None:
            self.report(line)
        else:
            self.console.print(Text(line, style=style), soft_wrap=True)

    @contextmanager
    def counting(self, what: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
        """Shows "`what` `done`/`total`" while the block runs, and gives it a function that adds to `done`."""
        count = done

        def advance(n: int) -> None:
            nonlocal count
            count += n
            if status is not None:
                status.update(f"{self.prefix}{what} {count}/{total}")

        if self.console is None:
            status = None
            yield advance
            return
        with self.console.status(f"{self.prefix}{what} {done}/{total}") as status:
            yield advance
