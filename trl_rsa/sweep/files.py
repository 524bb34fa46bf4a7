"""sweep.json: the points of a sweep, and how far each has come."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import differences, now, versions


SWEEP = "sweep.json"
SCHEMA_VERSION = 1


class SweepPoint(TypedDict):
    """A point of a sweep. It has its `name`, `settings`, `folder` and `status` ("planned", "running", "complete",
    "failed") from the beginning; a finished model that was only evaluated has no settings.

    `reused` names the stages whose model was copied from another point. `budget` and `met` are those of a plan with
    one constraint. `problem` says why a point failed.
    """

    name: str
    settings: dict[str, Any]
    folder: str
    status: str
    reused: NotRequired[list[str]]
    model: NotRequired[str]
    seconds: NotRequired[float]
    budget: NotRequired[float]
    met: NotRequired[bool]
    problem: NotRequired[str]


class SweepFile(TypedDict):
    """sweep.json. `name` is the method's on a page, `plan` what every point starts from, `axes` the values by path."""

    schema_version: int
    created: str
    versions: dict[str, str]
    name: str
    plan: dict[str, Any]
    axes: dict[str, list[Any]]
    points: list[SweepPoint]


def read_sweep(folder: Path) -> SweepFile:
    """
    Raises:
        FileNotFoundError: if there is no sweep.json in the folder.
        ValueError: if it is damaged, or of another version.
    """
    path = folder / SWEEP
    if not path.is_file():
        raise FileNotFoundError(
            f"You gave the sweep {str(folder)!r}, but it has no {SWEEP}. Give the output_dir of `trl-rsa sweep`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION or not all("status" in point for point in content["points"]):
            raise KeyError("schema_version")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"You gave the sweep {str(folder)!r}, but its {SWEEP} cannot be read ({error!r}). Use another output_dir."
        ) from error
    return cast(SweepFile, content)


class SweepState:
    """sweep.json in memory and on disk. Points of an earlier start, with other values, stay.

    Args:
        folder (`Path`):
            The sweep's output folder.
        name (`str`), plan (`dict`), axes (`dict`), points (`list[SweepPoint]`):
            What is asked for now.

    Raises:
        ValueError: if the folder holds the sweep of another plan.
    """

    def __init__(
        self, folder: Path, name: str, plan: dict[str, Any], axes: dict[str, list[Any]], points: list[SweepPoint]
    ) -> None:
        self.path = folder / SWEEP
        self.is_new = not self.path.exists()
        self.content: SweepFile = {
            "schema_version": SCHEMA_VERSION,
            "created": now(),
            "versions": versions(),
            "name": name,
            "plan": plan,
            "axes": axes,
            "points": points,
        }
        if not self.is_new:
            self._take_up(read_sweep(folder))

    def _take_up(self, before: SweepFile) -> None:
        changes = list(differences(before["plan"], self.content["plan"]))
        if changes:
            raise ValueError(
                f"You changed the plan of the sweep in {self.path.parent} since it was started "
                f"({'; '.join(changes[:5])}{'; …' if len(changes) > 5 else ''}), but its points must not differ in "
                "more than what is swept. Restore the plan, or use another output_dir."
            )
        known = {point["folder"]: point for point in before["points"]}
        asked = {point["folder"]: known.get(point["folder"], point) for point in self.content["points"]}
        # In the order of the file, and new ones after them.
        self.content["points"] = list((known | asked).values())
        self.content["created"], self.content["versions"] = before["created"], before["versions"]

    def of(self, folder: str) -> SweepPoint:
        (found,) = (point for point in self.content["points"] if point["folder"] == folder)
        return found

    def update(self, folder: str, **entries: Any) -> None:
        """Sets entries of the point in `folder`, and writes the file. None removes one."""
        point = cast(dict[str, Any], self.of(folder))
        point.update(entries)
        for name in [name for name, value in point.items() if value is None]:
            del point[name]
        write_json(self.path, self.content)
