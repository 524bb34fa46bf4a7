"""The entries of metrics.json about pressures that can be shown."""

from typing import Any


Entry = dict[str, Any]


def entries_of(metrics: dict[str, Any]) -> list[Entry]:
    """A model under a pressure each, or as it is; what has no costs is left out."""
    found = metrics.get("pressures")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry.get("cost"), dict)]
