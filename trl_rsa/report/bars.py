"""Where the risk is: bars per category and per attack."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from trl_rsa.report.headline import cvar_of
from trl_rsa.report.numbers import out_of, value_of
from trl_rsa.report.pictures import beginning, shorten
from trl_rsa.report.style import INK, MUTED, UNSAFE, colour_of, new_figure


MOST_GROUPS = 12


def groups_of(metrics: Mapping[str, Any], by: str, tail: float) -> list[str]:
    """The groups of all models, those with the highest CVaR first."""
    worst: dict[str, float] = {}
    for model in metrics["models"].values():
        for name, group in ((model.get("by") or {}).get(by) or {}).items():
            value = value_of(cvar_of(group, tail))
            worst[name] = max(worst.get(name, -float("inf")), -float("inf") if value is None else value)
    return sorted(worst, key=lambda name: -worst[name])


def group_bars(
    metrics: Mapping[str, Any], by: str, tail: float, limit: float, most: int = MOST_GROUPS
) -> Figure | None:
    """CVaR of each group, a bar per model with its interval, the worst group on top.

    Args:
        metrics (`Mapping`):
            metrics.json.
        by (`str`):
            "category" or "attack".
        tail (`float`), limit (`float`):
            Tail of the CVaR, and what it should not exceed.
        most (`int`, *optional*, defaults to 12):
            Groups at most.

    Returns:
        `Figure`, or None where the records name no group.
    """
    groups = groups_of(metrics, by, tail)[:most]
    if not groups:
        return None
    models = list(metrics["models"].items())
    thickness = 0.8 / len(models)
    figure = new_figure(1.3 + len(groups) * max(0.3, 0.11 * len(models)))
    axes = figure.add_subplot()
    for i, (_, model) in enumerate(models):
        for j, group in enumerate(groups):
            estimate = cvar_of(((model.get("by") or {}).get(by) or {}).get(group) or {"cost": {"cvar": {}}}, tail)
            value, low, high = (value_of(estimate, key) for key in ("value", "low", "high"))
            if value is None:
                continue
            y = j - 0.4 + (i + 0.5) * thickness
            axes.barh(y, value, thickness * 0.9, color=colour_of(i))
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=INK, lw=1)
    axes.axvline(0, color=MUTED, lw=0.8)
    line = axes.axvline(limit, color=UNSAFE, lw=1.2, ls="--", label=f"limit {limit:g}")
    axes.set_yticks(range(len(groups)), [beginning(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    # Of the figure, not of the axes: beside long names these are narrow, and their label would stick out.
    figure.supxlabel(
        "average cost of the worst {} of {:,} responses (line: interval)".format(*out_of(tail)), fontsize=9
    )
    names = [Patch(color=colour_of(i), label=shorten(name)) for i, (name, _) in enumerate(models)]
    figure.legend(handles=[*names, line], loc="outside upper left", ncols=5 if len(models) < 5 else 3, fontsize=8)
    return figure
