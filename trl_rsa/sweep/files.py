"""sweep.json: the points of a sweep, and how far each has come."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import differences, now, versions


SWEEP = "sweep.json"
SCHEMA_VERSION = 1
# In the folder of a point: where it is aligned, and where it is evaluated.
RUN, EVALUATION = "run", "evaluation"


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
    """sweep.json. `name` is the method's on a page, `plan` what every point starts from, `axes` the values by path.

    `tails` and `unsafe_above` are the evaluation's; files of older versions do not have them.
    """

    schema_version: int
    created: str
    versions: dict[str, str]
    name: str
    plan: dict[str, Any]
    axes: dict[str, list[Any]]
    points: list[SweepPoint]
    tails: NotRequired[list[float]]
    unsafe_above: NotRequired[float]


def evaluated_with(folder: Path) -> dict[str, Any] | None:
    """What the responses and scores of an evaluation were made with, but for the models; None if it has not begun.

    Raises:
        ValueError: if its evaluation.json is damaged.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        return {name: value for name, value in settings.items() if name != "models"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"You go on with the evaluation in {folder}, but its evaluation.json cannot be read ({error!r}). Remove "
            "that folder, and start the sweep again, which evaluates this point again."
        ) from error


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
        name (`str`, *optional*), plan (`dict`), axes (`dict`), points (`list[SweepPoint]`), tails, unsafe_above:
            What is asked for now. Without a name, the file's stays; a new one has the folder's.

    Raises:
        ValueError: if the folder holds the sweep of another plan.
    """

    def __init__(
        self,
        folder: Path,
        name: str | None,
        plan: dict[str, Any],
        axes: dict[str, list[Any]],
        points: list[SweepPoint],
        tails: Sequence[float] = (0.05, 0.01),
        unsafe_above: float = 0.0,
    ) -> None:
        self.path = folder / SWEEP
        self.is_new = not self.path.exists()
        self.content: SweepFile = {
            "schema_version": SCHEMA_VERSION,
            "created": now(),
            "versions": versions(),
            "name": name or folder.resolve().name,
            "plan": plan,
            "axes": axes,
            "points": points,
            "tails": list(tails),
            "unsafe_above": unsafe_above,
        }
        if not self.is_new:
            before = read_sweep(folder)
            self._take_up(before)
            self.content["name"] = name or before["name"]

    def _take_up(self, before: SweepFile) -> None:
        changes = list(differences(before["plan"], self.content["plan"]))
        if changes:
            raise ValueError(
                f"You changed the plan of the sweep in {self.path.parent} since it was started "
                f"({'; '.join(changes[:5])}{'; …' if len(changes) > 5 else ''}), but its points must not differ in "
                "more than what is swept. Restore the plan, or use another output_dir."
            )
        known = {point["folder"]: point for point in before["points"]}
        asked = {point["folder"]: self._known(known.get(point["folder"]), point) for point in self.content["points"]}
        # In the order of the file, and new ones after them.
        self.content["points"] = list((known | asked).values())
        names = [point["name"] for point in self.content["points"]]
        for point in asked.values():
            if names.count(point["name"]) > 1:
                raise ValueError(
                    f"You ask for the point {point['name']}, but {self.path.parent} has another one of this name, in "
                    "another folder, and a name tells points apart. Use another output_dir."
                )
        self.content["created"], self.content["versions"] = before["created"], before["versions"]

    def _known(self, before: SweepPoint | None, asked: SweepPoint) -> SweepPoint:
        """What the file knows of a point. A folder is named by the last names of the fields only, so that it may hold
        a point with other settings, or another finished model."""
        if before is None:
            return asked
        one, other = _in_words(before), _in_words(asked)
        # Older files say which finished model it is once it is complete.
        if one == other or not (before["settings"] or asked["settings"] or "model" in before):
            return before
        folder = self.path.parent / asked["folder"]
        if before["status"] != "complete" and not any((folder / part).exists() for part in (RUN, EVALUATION)):
            return asked  # nothing was made of the other one, as of a model whose name was misspelt
        raise ValueError(
            f"You ask for the point {asked['name']} with {other}, but its folder {folder} holds the point "
            f"{before['name']} with {one}. Use another output_dir{_or_name(asked)}."
        )

    def of(self, folder: str) -> SweepPoint:
        (found,) = (point for point in self.content["points"] if point["folder"] == folder)
        return found

    def update(self, folder: str, **entries: Any) -> None:
        """Sets entries of the point in `folder`, and writes the file. None removes one."""
        point = cast(dict[str, Any], self.of(folder))
        point.update(entries)
        for name in [name for name, value in point.items() if value is None]:
            del point[name]
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)


def _in_words(point: SweepPoint) -> str:
    """What a point is: its settings, or the finished model."""
    if point["settings"]:
        return ", ".join(
            f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in point["settings"].items()
        )
    return f"the finished model {point.get('model')}"


def _or_name(point: SweepPoint) -> str:
    return "" if point["settings"] else ", or another name for the model"
