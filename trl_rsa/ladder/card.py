"""The certificate in words, in the card of the model that it is about."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_rsa.storage.files import replacing


BEGIN = "<!-- trl-rsa certificate -->"
# It ends where something else begins: another of our sections, or a heading of anybody's.
_SECTION = re.compile(
    rf"{re.escape(BEGIN)}\n## .*?(?=^<!-- trl-rsa |^Walked back: |^#{{1,2}} |\Z)", re.DOTALL | re.MULTILINE
)


def add_certificates(folder: Path, certificates: Mapping[str, Path], content: Mapping[str, Any], reason: str) -> None:
    """Copies the certificates beside the model in `folder`, and writes what they say into its README.md, in
    place of what an earlier end of the ladder has said there.

    Args:
        folder (`Path`):
            The model's.
        certificates (`Mapping[str, Path]`), content (`Mapping[str, dict]`):
            By constraint: the file, and what is in it.
        reason (`str`):
            How the search for the multiplier ended.
    """
    for path in certificates.values():
        _write(folder / path.name, path.read_bytes())
    # The card last, in one write: a kill leaves it as it was, or with all of the section.
    section, text = _section(content, reason), _read(folder / "README.md")
    if (found := _SECTION.search(text)) is None:
        text = f"{text.rstrip()}\n\n{section}".lstrip("\n")
    else:
        after = _SECTION.sub("", text[found.end() :])
        text = text[: found.start()] + section + (f"\n{after}" if after else "")
    _write(folder / "README.md", text.encode())


def _read(card: Path) -> str:
    return card.read_text(encoding="utf-8") if card.exists() else ""


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        with replacing(path) as partial:
            partial.write_bytes(content)


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
    # A certificate of the rung is not about this model.
    text = _SECTION.sub("", _read(rung / "README.md"))
    note = f"Walked back: {fraction:.4g} of the weight update of `{rung.name}`, the model that this card describes."
    _write(folder / "README.md", f"{text.rstrip()}\n\n{note}\n".lstrip("\n").encode())
