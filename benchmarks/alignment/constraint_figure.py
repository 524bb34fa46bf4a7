"""The plot of the constraint track: what each method gives in reward for the tail that it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.alignment.constraint_baselines import RLOO_LAGRANGIAN, SAFEDPO
from benchmarks.alignment.constraint_methods import BUDGETS, METHODS, REWARDED


# Those of the track, but for a ladder whose bound promises nothing, and the strongest rivals.
RIVALS = (RLOO_LAGRANGIAN.name, SAFEDPO.name)
WITH_REWARD = REWARDED[2].name  # as the package does it by default
SHOWN = (*(method.name for method in METHODS[:5]), *RIVALS, WITH_REWARD)
MARKERS = ("o", "s", "^", "D", "v", "X", "*", "P")


@dataclass(frozen=True)
class Style:
    """The colours of a picture. Methods differ in their markers too, for those who see colours otherwise."""

    paper: str
    ink: str
    grid: str
    not_met: str  # the area in which the budget is not met
    methods: tuple[str, ...]


LIGHT = Style(
    *("#ffffff", "#1b1f24", "#ebebeb", "#ededed"),
    methods=("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#7b4fc9", "#1b1f24", "#c81e3a"),
)
# The paper is that of GitHub's dark pages.
DARK = Style(
    *("#0d1117", "#e6edf3", "#262c36", "#2b313b"),
    methods=("#ff7f2a", "#3d9be9", "#22c997", "#e59ac6", "#f2c14e", "#b79cff", "#e6edf3", "#ff6b81"),
)
STYLES = {"": LIGHT, "-dark": DARK}  # by what the file's name ends in


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """`path` for light pages, and its dark twin beside it: `constraint.png` and `constraint-dark.png`."""
    for ending, style in STYLES.items():
        _draw(rows, path.with_stem(path.stem + ending), style)


def _draw(rows: Sequence[dict[str, Any]], path: Path, style: Style) -> None:
    """One panel per world and budget: reward against the true CVaR, a small dot per seed and a large one per mean."""
    worlds = [world for world in BUDGETS if any(row["world"] == world and row["budget"] != "" for row in rows)]
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), style.ink)
    with matplotlib.rc_context({**ink, "axes.facecolor": style.paper, "savefig.facecolor": style.paper}):
        figure = Figure(figsize=(11.5, 3.4 * len(worlds)), layout="constrained")
        panels = figure.subplots(len(worlds), 3, squeeze=False, sharey="row")
        for line, world in zip(panels, worlds, strict=True):
            for axes, budget in zip(line, BUDGETS[world], strict=True):
                here = [row for row in rows if row["world"] == world and row["budget"] == budget]
                _panel(axes, here, budget, style)
                axes.set_title(f"{world}: CVaR ≤ {budget:g}", fontsize=10)
            line[0].set_ylabel("true reward")
        for axes in panels[-1]:
            axes.set_xlabel("true CVaR(0.05) of cost")
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        figure.suptitle("Reward and tail of cost on test prompts; grey: the budget is not met", fontsize=11)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(axes: Any, rows: Sequence[dict[str, Any]], budget: float, style: Style) -> None:
    for place, name in enumerate(SHOWN):
        _dots(axes, [row for row in rows if row["method"] == name], name, place, style)
    left, right = axes.get_xlim()
    axes.set_xlim(left, max(right, budget + 0.5))
    axes.axvline(budget, color=style.ink, linewidth=1)
    axes.axvspan(budget, axes.get_xlim()[1], color=style.not_met, zorder=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(color=style.grid)
    axes.set_axisbelow(True)


def _dots(axes: Any, rows: Sequence[dict[str, Any]], name: str, place: int, style: Style) -> None:
    if not rows:
        return
    label = "ladder with a learned reward" if name == WITH_REWARD else name
    x, y = np.array([row["cvar_05"] for row in rows]), np.array([row["reward"] for row in rows])
    dots = {"color": style.methods[place], "marker": MARKERS[place], "linestyle": "none"}
    axes.plot(x, y, markersize=4, alpha=0.6, **dots)
    axes.plot(
        x.mean(),
        y.mean(),
        markersize=14 if MARKERS[place] == "*" else 10,
        markeredgecolor=style.paper,
        markeredgewidth=0.8,
        zorder=3,
        label=label,
        **dots,
    )
