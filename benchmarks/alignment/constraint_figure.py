"""The plot of the constraint track: what each method gives in reward for the tail that it reaches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.alignment.constraint_methods import BUDGETS, METHODS


COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel per world and budget: reward against the true CVaR, a small dot per seed and a large one per mean."""
    worlds = [world for world in BUDGETS if any(row["world"] == world and row["budget"] != "" for row in rows)]
    figure = Figure(figsize=(11.5, 3.4 * len(worlds)), layout="constrained")
    panels = figure.subplots(len(worlds), 3, squeeze=False, sharey="row")
    for line, world in zip(panels, worlds, strict=True):
        for axes, budget in zip(line, BUDGETS[world], strict=True):
            here = [row for row in rows if row["world"] == world and row["budget"] == budget]
            for place, method in enumerate(METHODS):
                _dots(axes, [row for row in here if row["method"] == method.name], method.name, place)
            axes.axvline(budget, color="0.3", linewidth=1)
            axes.axvspan(budget, max(axes.get_xlim()[1], budget + 0.5), color="0.93", zorder=0)
            axes.set_title(f"{world}: CVaR ≤ {budget:g}", fontsize=10)
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
        line[0].set_ylabel("true reward")
    for axes in panels[-1]:
        axes.set_xlabel("true CVaR(0.05) of cost")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("Reward and tail of cost on test prompts; grey: the budget is not met", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _dots(axes: Any, rows: Sequence[dict[str, Any]], name: str, place: int) -> None:
    if not rows:
        return
    x, y = np.array([row["cvar_05"] for row in rows]), np.array([row["reward"] for row in rows])
    style = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": "none"}
    axes.plot(x, y, markersize=3.5, alpha=0.45, **style)
    axes.plot(x.mean(), y.mean(), markersize=9, markeredgecolor="white", label=name, **style)
