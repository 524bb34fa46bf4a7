"""The points of a sweep: a plan each, or a finished model, with a name and a folder."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_rsa.alignment.plan import Plan
from trl_rsa.sweep.axes import Axis, grid, label, set_field
from trl_rsa.sweep.files import RUN, SweepPoint


POINTS = "points"


@dataclass(frozen=True)
class Point:
    """One point.

    Args:
        name (`str`):
            Its name in records and pictures.
        folder (`str`):
            Where it is aligned and evaluated, in the sweep's folder.
        settings (`dict[str, Any]`, *optional*):
            The values of the swept fields, by path. Empty for a finished model.
        plan ([`Plan`], *optional*):
            What to align. Without one, `model` is evaluated as it is.
        model (`str`, *optional*):
            Folder or repository of a finished model.
    """

    name: str
    folder: str
    settings: dict[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    model: str | None = None

    def entry(self) -> SweepPoint:
        """As sweep.json has it before anything is run."""
        found: SweepPoint = {
            "name": self.name,
            "settings": self.settings,
            "folder": self.folder,
            "status": "planned",
        }
        if self.plan is not None and len(self.plan.constraints) == 1:
            found["budget"] = self.plan.constraints[0].budget
        if self.model is not None:
            found["model"] = self.model
        return found


def make_points(plan: Plan, axes: Sequence[Axis], models: Mapping[str, str], output_dir: Path) -> list[Point]:
    """A point for every combination of the axes' values, and one for every finished model, these first.

    Raises:
        ValueError: if a plan cannot have a value, or two points have one name.
    """
    points = [Point(name, _folder(name), model=model) for name, model in models.items()]
    for settings in grid(axes) if axes else []:
        varied = plan
        for path, value in settings.items():
            varied = set_field(varied, path, value)
        name = label(settings)
        folder = _folder(", ".join(f"{path.rpartition('.')[2]}={value}" for path, value in settings.items()))
        varied = dataclasses.replace(varied, output_dir=str(output_dir / folder / RUN))
        points.append(Point(name, folder, settings, varied))
    for kind in ("name", "folder"):
        several = [getattr(point, kind) for point in points]
        for one in several:
            if several.count(one) > 1:
                raise ValueError(
                    f"You sweep over two points with the {kind} {one!r}, but it tells them apart. Rename."
                )
    return points


def _folder(name: str) -> str:
    return f"{POINTS}/{re.sub(r'[^A-Za-z0-9._-]+', '_', name).strip('_') or 'point'}"
