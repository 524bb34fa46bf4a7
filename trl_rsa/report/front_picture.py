"""The picture of a front: methods as lines, budgets as lines, and what lies between two methods as arrows."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trl_rsa.report.front import Front, compared, label_of
from trl_rsa.report.numbers import out_of, text_of, value_of
from trl_rsa.report.pictures import HALO, error_of, shorten
from trl_rsa.report.style import DASHES, INK, MARKERS, PAPER, colour_of, fill, new_figure


# With more of them the picture would be covered by words.
_MOST_NAMES, _MOST_ARROWS, _MOST_BUDGETS = 14, 3, 3


def front_plot(front: Front) -> Figure:
    """Reward against the CVaR of cost: up and left is better.

    Each method's models in the order of their setting, joined by a line; a model that another of the same method
    beats is hollow. Budgets are vertical lines. Arrows lead from the first method's front to the models of the
    others, at the same tail and at the same reward.

    Args:
        front (`Mapping`):
            What front.json holds.
    """
    figure = new_figure(4.3)
    axes = figure.add_subplot()
    methods = front["methods"]
    named = sum(len(method["points"]) for method in methods) <= _MOST_NAMES
    for i, method in enumerate(methods):
        _method(axes, method, i, named)
    _budgets(axes, methods)
    axes.margins(0.1, 0.14)
    if len(compared(front)) <= _MOST_ARROWS:
        _arrows(axes, front)
        left, right = axes.get_xlim()
        axes.set_xlim(left - 0.1 * (right - left), right)  # room for what stands left of the arrows
    handles = [_handle(method, i) for i, method in enumerate(methods)]
    figure.legend(handles=handles, fontsize=8, loc="outside lower left", ncols=3)
    axes.set_xlabel(
        fill("average cost of the worst {} of {:,} responses: further left is safer".format(*out_of(front["tail"])))
    )
    axes.set_ylabel("average reward: higher is more helpful")
    return figure


def _place(point: Mapping[str, Any]) -> tuple[float, float] | None:
    x, y = value_of(point["risk"]), value_of(point["reward"])
    return None if x is None or y is None else (x, y)


def _method(axes: Axes, method: Mapping[str, Any], index: int, named: bool) -> None:
    colour, marker = colour_of(index + 1), MARKERS[index % len(MARKERS)]
    points = [(point, place) for point in method["points"] if (place := _place(point)) is not None]
    axes.plot(
        *zip(*(place for _, place in points), strict=True), color=colour, lw=1.4, ls=DASHES[index % 7], alpha=0.8
    )
    for point, (x, y) in points:
        across, up = error_of(point["risk"], x), error_of(point["reward"], y)
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", capsize=2, lw=0.8, color=colour, alpha=0.45)
        face = colour if point["on_front"] else PAPER
        edge = PAPER if point["on_front"] else colour
        axes.plot(x, y, marker, ms=8 if "budget" in point else 6, mfc=face, mec=edge, color=colour, zorder=3)
        if named:
            # Arrows come to the later methods' points from below and from the right.
            at: dict[str, Any] = {"xytext": (-7, 8), "ha": "right"} if index else {"xytext": (6, -10)}
            text = shorten(label_of(point, method["name"]), 18)
            axes.annotate(text, (x, y), textcoords="offset points", fontsize=7, color=colour, bbox=HALO, **at)


def _handle(method: Mapping[str, Any], index: int) -> Line2D:
    style = {"color": colour_of(index + 1), "marker": MARKERS[index % len(MARKERS)], "ls": DASHES[index % 7]}
    return Line2D([], [], ms=6, label=shorten(method["name"]), **style)


def _budgets(axes: Axes, methods: Sequence[Mapping[str, Any]]) -> None:
    found = {
        point["budget"]: colour_of(i + 1)
        for i, method in enumerate(methods)
        for point in method["points"]
        if value_of(point.get("budget")) is not None
    }
    for budget, colour in list(found.items()) if len(found) <= _MOST_BUDGETS else ():
        axes.axvline(budget, color=colour, lw=1.2, ls="--", alpha=0.8, zorder=1)
        axes.text(
            budget,
            1.01,
            f"budget {text_of(budget, 'g')}",
            color=colour,
            fontsize=8,
            ha="center",
            transform=axes.get_xaxis_transform(),
        )


def _arrows(axes: Axes, front: Front) -> None:
    places = {point["name"]: _place(point) for method in front["methods"] for point in method["points"]}
    for one in compared(front):
        place = places[one["point"]]
        up, left = value_of(one["reward_at_the_same_tail"]), value_of(one["risk_at_the_same_reward"])
        if place is None:
            continue
        x, y = place
        if up:
            _arrow(axes, (x, y - up), place, f"{text_of(up, '+.2f')} reward", (-4, 0), "right")
        if left:
            _arrow(axes, (x - left, y), place, f"{text_of(left, '+.2f')} CVaR", (0, 6), "center")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str, offset: tuple[int, int], side: str
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 4})
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.annotate(
        text, middle, xytext=offset, textcoords="offset points", ha=side, fontsize=7, color=INK, bbox=HALO, zorder=4
    )
