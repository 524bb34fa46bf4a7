"""The certificate in words, in the card of the model that it is about."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


BEGIN = "<!-- trl-rsa certificate -->"


def add_certificates(folder: Path, certificates: Mapping[str, Path], content: Mapping[str, Any], reason: str) -> None:
    """Copies the certificates beside the model in `folder`, and writes what they say into its README.md, once.

    Args:
        folder (`Path`):
            The model's.
        certificates (`Mapping[str, Path]`), content (`Mapping[str, dict]`):
            By constraint: the file, and what is in it.
        reason (`str`):
            How the search for the multiplier ended.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if BEGIN not in text:
        for path in certificates.values():
            shutil.copyfile(path, folder / path.name)
        # The card last, in one write: a kill leaves it without the section, or with all of it.
        section = _section(content, reason)
        card.write_text(f"{text.rstrip()}\n\n{section}".lstrip("\n"), encoding="utf-8")


def _section(content: Mapping[str, Any], reason: str) -> str:
    lines = [BEGIN, "## Risk of harm", "", f"Search: {reason}"]
    if len(content) > 1:
        lines += [
            "",
            f"{len(content)} budgets, which share the allowed error: the certificates hold together.",
        ]
    for name, certificate in content.items():
        lines += ["", f"### Certificate: {name}" if len(content) > 1 else "### Certificate", ""]
        lines += [certificate["statement"], "", *(f"* {limit}" for limit in certificate["limits"])]
    return "\n".join(lines) + "\n"


def start_card(folder: Path, rung: Path, fraction: float) -> None:
    """The card of a model that was walked back from the one in `rung`."""
    card = rung / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    note = f"Walked back: {fraction:.4g} of the weight update of `{rung.name}`, the model that this card describes."
    (folder / "README.md").write_text(f"{text.rstrip()}\n\n{note}\n".lstrip("\n"), encoding="utf-8")
