"""Whether a ladder that goes on is scored by what it began with: costs of two scorers must not be mixed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from trl_rsa.scoring import Scorer
from trl_rsa.storage.files import write_json


SCORERS = "scorers.json"


class ScorersFile(TypedDict):
    """ladder/scorers.json: the fingerprint of each cost, by constraint, and of the reward, as they were first loaded.
    null where there is none, or where it would be another one in another place."""

    costs: dict[str, str | None]
    reward: str | None


def check_scorers(folder: Path, costs: Mapping[str, str | None], reward: str | None) -> None:
    """Writes down what tells the scorers from others, at the first start, and compares it at every later one.

    Args:
        folder (`Path`):
            The ladder's.
        costs (`Mapping[str, str]`), reward (`str`, *optional*):
            From [`fingerprint_of`], by constraint, and of the rungs' reward. What is None is not compared.

    Raises:
        ValueError: if one is not what it was.
    """
    path = folder / SCORERS
    before: ScorersFile = {"costs": {}, "reward": None}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    for name, fingerprint in costs.items():
        _compare(f"the scorer of the constraint {name!r}", before["costs"].get(name), fingerprint)
    _compare("the scorer of the rungs' reward", before["reward"], reward)
    kept = {name: before["costs"].get(name) or fingerprint for name, fingerprint in costs.items()}
    now: ScorersFile = {"costs": {**before["costs"], **kept}, "reward": before["reward"] or reward}
    if not path.exists() or now != before:
        write_json(path, now)


def fingerprint_of(given: object, scorer: Scorer | None) -> str | None:
    """What tells the scorer from others.

    None for `file.py:function`: where the file lies is in its fingerprint, and that may have changed with the run.
    The manifest compares what is in the file.
    """
    if scorer is None or (isinstance(given, str) and given.rpartition(":")[0].endswith(".py")):
        return None
    return scorer.fingerprint


def _compare(what: str, before: str | None, now: str | None) -> None:
    if before is not None and now is not None and before != now:
        raise ValueError(
            f"You resume a ladder, but {what} is another one than at its start (its model, function or dtype has "
            "changed), and responses that are scored already would be mixed with others. Restore the scorer, or use "
            "another output_dir."
        )
