"""Which page of docs/ helps with an error. tests/docs/test_links.py keeps that the pages and their sections exist."""

import re


# What the sentence is about; the first that fits counts.
ABOUT = (
    (r"\bTRL \d", "engines.md#when-trl-moves"),
    (r"accelerate|processes|\bFSDP|\bZeRO|deepspeed", "engines.md"),
    (r"\bscorer|\bjudge\b|\bguard\b|higher_is", "scoring.md"),
    (r"\bbounds\b|certificate|ledger", "certificates.md"),
    (r"\bconstraint|\bbudget|\brungs?\b", "stages.md#a-budget"),
    (r"dataset|\bpairs\b|preferred_by|\bcolumns?\b", "data.md"),
)
# Otherwise, the command's own page.
OF_COMMAND = {
    "train": "cli.md#trl-rsa-train",
    "align": "stages.md",
    "sweep": "sweeps.md",
    "presets": "papers.md",
    "score-model": "score_models.md",
    "data": "data.md",
    "label": "rlaif.md",
    "demo": "sandbox.md",
    "audit": "audits.md",
    "evaluate": "evaluate.md",
    "certify": "certificates.md",
    "migrate": "migration.md",
    "merge": "merging.md",
    "report": "report.md",
    "doctor": "cli.md#trl-rsa-doctor",
}


def page_for(command: str, sentence: str) -> str | None:
    """The page, as `docs/NAME.md#section`; None for a program that is no command of `trl-rsa`."""
    if command not in OF_COMMAND:
        return None
    fitting = (page for pattern, page in ABOUT if re.search(pattern, sentence))
    return f"docs/{next(fitting, OF_COMMAND[command])}"
