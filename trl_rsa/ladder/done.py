"""done.json: says that a model of the ladder is finished, and which one it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_rsa.storage.files import write_json
from trl_rsa.storage.folders import model_fingerprint, sync_folder
from trl_rsa.storage.provenance import now


DONE = "done.json"


def write_done(folder: Path, content: Mapping[str, Any]) -> None:
    """Vouches for the model in the folder, once it is on the disk."""
    sync_folder(folder)
    write_json(folder / DONE, {"saved": now(), **content, "fingerprint": model_fingerprint(folder)})


def is_done(folder: Path) -> bool:
    """Whether the folder holds a finished model.

    Raises:
        ValueError: if it did, and the model is another one now.
    """
    path = folder / DONE
    if not path.exists():
        return False
    try:
        fingerprint = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        fingerprint = None
    if fingerprint != model_fingerprint(folder):
        raise ValueError(
            f"You resume a ladder, but the model in {folder} is not as it was saved. Restore the folder, or delete it "
            "and the ladder makes it again."
        )
    return True
