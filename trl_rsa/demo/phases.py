"""The demo's phases: a line for each when it ends, and what it does meanwhile in a log file, and on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.status import Status

from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.storage.provenance import now


@dataclass
class Phase:
    """A phase that runs.

    Args:
        name (`str`):
            Before its line.
        status ([`~rich.status.Status`], *optional*):
            On a terminal: what shows its progress.
        result (`str`, *optional*):
            What the line says when it ends.
    """

    name: str
    status: Status | None = None
    result: str = ""

    def show(self, text: str) -> None:
        """What it does now, on a terminal; elsewhere nobody would see it go."""
        if self.status is not None:
            self.status.update(f"{self.name}: {text[:60]}")

    def keep(self, path: Path) -> Callable[[str], None]:
        """A log whose lines are appended to a file, and shown on a terminal while they are new."""

        def log(line: str) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{now()} {line}\n")
            self.show(line)

        return log


@contextmanager
def phase(log: ProgressLog, name: str) -> Iterator[Phase]:
    """One line of the demo, with how long it took."""
    began = time.monotonic()
    if log.console is None:
        running = Phase(name)
        yield running
    else:
        with log.console.status(name) as status:
            running = Phase(name, status)
            yield running
    result = f"; {running.result}" if running.result else ""
    log(f"{name}: {time.monotonic() - began:.0f} s{result}")
