"""LiveReport: lines about the ladder, with one that counts while a phase runs where there is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.text import Text


class LiveReport:
    """
    Where lines about progress go: rich on a terminal, plain elsewhere.

    Args:
        report (`Callable[[str], None]`, *optional*, defaults to `print`):
            Gets plain lines. With `print`, they go to the standard output of now, which may be redirected later; on a
            terminal they are coloured, and phases count. Another report lends its place.
        prefix (`str`, *optional*):
            Before every line.
    """

    def __init__(self, report: Callable[[str], None] = print, prefix: str = ""):
        self.prefix = prefix
        self.report: Callable[[str], None] = report
        self.console: Console | None = None
        if isinstance(report, LiveReport):
            self.report, self.console, self.prefix = report.report, report.console, report.prefix + prefix
        elif report is print:
            self.report = partial(print, file=sys.stdout, flush=True)
            console = Console(file=sys.stdout)
            self.console = console if console.is_terminal else None

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
