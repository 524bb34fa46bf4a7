"""JSON lines that survive a kill."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_rsa.storage.records import RecordWriter


class LineWriter(RecordWriter):
    """A [`RecordWriter`] whose lines have no fields but their own."""

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file that [`LineWriter`] wrote; what a kill cut off is passed over. No file, no lines."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content
