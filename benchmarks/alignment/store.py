"""Results on disk: CSV files that grow by whole cells and survive a kill, and a sidecar that says what made them."""

import csv
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.alignment.cells import Row, Settings


POPULATION_KEY = ("kind", "seed")
CURVE_KEY = ("design", "label", "cost", "loss", "pairs", "seed")
INTEGERS = {"seed", "rungs", "pairs", "met"}
TEXTS = {"kind", "loss", "cost", "helpful", "design", "label", "commit"}


@dataclass(frozen=True)
class Table:
    """One CSV file whose rows belong to cells named by `key`."""

    path: Path
    key: tuple[str, ...]

    def rows(self) -> list[Row]:
        """The rows on disk, parsed; a last line cut short by a kill is left out."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        return [
            {name: _parse(name, text) for name, text in line.items()} for line in csv.DictReader(whole.splitlines())
        ]

    def drop_partial(self) -> set[tuple]:
        """Removes cells that a kill has cut short, those with fewer rows than others. Returns the finished keys."""
        rows = self.rows()
        counts = Counter(self._key(row) for row in rows)
        full = {key for key, count in counts.items() if count == max(counts.values())}
        if rows:
            kept = [row for row in rows if self._key(row) in full]
            temporary = self.path.with_suffix(".tmp")
            self._write(temporary, "w", kept, header=True)
            os.replace(temporary, self.path)
        return full

    def append(self, rows: list[Row]) -> None:
        self._write(self.path, "a", rows, header=not self.path.exists())

    def sort(self) -> None:
        """Puts the rows into an order that does not depend on which worker was first."""
        rows = sorted(self.rows(), key=lambda row: tuple(str(row[name]).zfill(8) for name in self.key))
        self._write(self.path, "w", rows, header=True)

    def _key(self, row: Row) -> tuple:
        return tuple(row[name] for name in self.key)

    def _write(self, path: Path, mode: str, rows: list[Row], header: bool) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
            if header:
                writer.writeheader()
            writer.writerows({name: _format(value) for name, value in row.items()} for row in rows)
            file.flush()
            os.fsync(file.fileno())


class Results:
    """A CSV that grows by whole rows, each under a key of its own.

    Args:
        path (`Path`):
            The file.
        key (`Sequence[str]`):
            The columns that name a row.
    """

    def __init__(self, path: Path, key: Sequence[str]):
        self.path, self.key = path, tuple(key)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line short
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        self.done = {tuple(row[name] for name in self.key) for row in csv.DictReader(whole.splitlines())}

    def add(self, row: Mapping[str, Any]) -> None:
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
            file.flush()
            os.fsync(file.fileno())
        self.done.add(tuple(str(row[name]) for name in self.key))


def _format(value: str | int | float) -> str | int:
    return f"{value:.10g}" if isinstance(value, float) else value


def _parse(name: str, text: str) -> str | int | float:
    if name in TEXTS:
        return text
    return int(text) if name in INTEGERS else float(text)


def current_commit(*watched: str) -> str:
    """The short commit, with `+` if the code was changed since; `unknown` outside a checkout.

    Args:
        watched (`str`):
            Files and folders that the results depend on, from the root; by default those of this folder's tracks.
    """
    try:
        here = Path(__file__).parent
        git = ["git", "-C", str(here.parents[1])]
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        # All that the results depend on; not the results themselves.
        watched = watched or ("benchmarks/alignment/*.py", "trl_rsa/risk", "trl_rsa/losses.py")
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *watched], capture_output=True)
        return commit.stdout.strip() + ("+" if changed.returncode else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_machine() -> dict[str, str | int | None]:
    """What the seconds mean: processor, cores and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions: dict[str, str | int | None] = {name: version(name) for name in ("torch", "numpy", "scipy", "trl-rsa")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()} | versions


def write_sidecar(path: Path, settings: Settings, calibration: dict) -> None:
    """Writes `provenance.json`.

    Raises:
        ValueError: if the folder holds results of other settings.
    """
    config = json.loads(json.dumps(asdict(settings)))
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["settings"] != config or held["calibration"]["steps"] != calibration["steps"]:
            raise ValueError(
                f"You set --out to '{path.parent}', but it holds results of other settings. Choose another folder, "
                "or delete this one."
            )
    content = {"settings": config, "calibration": calibration, "machine": describe_machine()}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
