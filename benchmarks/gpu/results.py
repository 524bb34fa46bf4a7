"""CSV files that grow row by row: what was written before a kill stays."""

import csv
import io
import os
from pathlib import Path

from benchmarks.kernels.run import installed, provenance


# In every file. `outcome` is measured, passed, failed, skipped or stopped, and `note` says why.
FIRST = ["run", "size", "outcome", "note"]
SOURCE = ["commit", "date", "device", "torch", "triton", "trl", "transformers"]
COLUMNS = {
    "kernels": (
        *("case", "tokens", "hidden", "vocabulary", "measure", "dtype", "gradients", "kernel"),
        *("values", "values of tolerance", "gradients error", "gradients of tolerance"),
    ),
    "step": (
        *("benchmark", "model", "weights", "method", "pairs", "tokens", "prompt", "round"),
        *("seconds", "lowest", "highest", "repeats", "ratio", "peak bytes"),
        *("flops", "of peak flops", "head bytes", "of bandwidth"),
    ),
    "ladder": ("seconds", "model", "cost", "quantity", "value"),
}


class Results:
    """The file of one part.

    Args:
        folder (`Path`):
            Where it lies.
        part (`str`):
            A key of `COLUMNS`.
        run (`str`), size (`str`):
            When the command was started, and `"full"` or `"small"`; in every row.
        commit (`str`, *optional*):
            For machines where the sources are no git checkout.

    Raises:
        ValueError: if the file has other columns.
    """

    def __init__(self, folder: Path, part: str, run: str, size: str, commit: str = ""):
        self.path, self.columns = folder / f"{part}.csv", [*FIRST, *COLUMNS[part], *SOURCE]
        source = provenance("benchmarks/gpu/*.py", "benchmarks/kernels/*.py") | {"triton": installed("triton")}
        self.cells = {name: source[name] for name in SOURCE} | {"run": run, "size": size}
        self.cells["commit"] = commit or self.cells["commit"]
        folder.mkdir(parents=True, exist_ok=True)
        found = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        if found and found.splitlines()[0] != ",".join(self.columns):
            raise ValueError(f"You set --out to {folder}, but its {self.path.name} has other columns. Set another.")
        if not found:
            self._append(dict(zip(self.columns, self.columns, strict=True)))
        elif not found.endswith("\n"):  # a kill cut the last line
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, outcome: str, note: str = "", **cells: object) -> None:
        """Writes one row, at once. Cells may have names with spaces: `**{"peak bytes": 1}`."""
        row = self.cells | {"outcome": outcome, "note": " ".join(note.split())} | cells
        assert set(row) <= set(self.columns), set(row) - set(self.columns)
        self._append(row)
        shown = [v if isinstance(v, str) else f"{name} {v:.4g}" for name, v in cells.items() if v not in ("", None)]
        print(f"{self.path.stem}: {outcome}  {', '.join(shown)}{'  ' if note else ''}{note}", flush=True)

    def _append(self, row: dict[str, object]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerow(row)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())


def read(folder: Path, part: str) -> list[dict[str, str]]:
    """The rows of a part; none if there is no file. A line that a kill has cut is left out."""
    path = folder / f"{part}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
