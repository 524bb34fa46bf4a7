"""The pictures of the tail: who is safe in it, how often a response is how bad, and what safety costs.

Each function returns a figure; call it inside [`~report.style.drawing`] and hand the figure to [`~report.style.save`].
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trl_rsa.report.numbers import out_of, text_of, value_of
from trl_rsa.report.style import DASHES, GRID, INK, MARKERS, MUTED, PAPER, SAFE, UNSAFE, colour_of, fill, new_figure


# Behind a number, so that lines do not strike it out.
HALO = {"boxstyle": "round,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.75}

MOST_PANELS = 6  # of histograms
Point = tuple[str, Any, Any]  # a model's name and two estimates


def worst_plot(
    estimates: Sequence[tuple[str, Any]], tail: float, limit: float, hollow: Mapping[str, str] | None = None
) -> Figure:
    """The headline as a picture: each model's CVaR with its interval, on the safe or the unsafe side of the limit.

    Args:
        estimates (`Sequence[tuple[str, Any]]`):
            Name and CVaR of each model.
        tail (`float`):
            Tail of the CVaR.
        limit (`float`):
            What it should not exceed.
        hollow (`Mapping[str, str]`, *optional*):
            Models of which nobody can say on which side they are: hollow, with the reason.
    """
    hollow, figure = hollow or {}, new_figure(1.15 + 0.36 * len(estimates))
    axes = figure.add_subplot()
    for i, (name, estimate) in enumerate(estimates):
        value, low, high = (value_of(estimate, key) for key in ("value", "low", "high"))
        if value is None:
            continue
        if low is not None and high is not None:
            axes.plot([low, high], [i, i], color=colour_of(i), lw=5, alpha=0.4, solid_capstyle="round")
        axes.plot(value, i, MARKERS[i % len(MARKERS)], ms=9, **_look(i, name in hollow))
        axes.annotate(
            text_of(value) + (f" ({hollow[name]})" if name in hollow else ""),
            (value, i),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
            bbox=HALO,
        )
    _sides(
        axes, limit, [v for _, e in estimates for k in ("value", "low", "high") if (v := value_of(e, k)) is not None]
    )
    axes.set_yticks(range(len(estimates)), [shorten(name) for name, _ in estimates])
    axes.set_ylim(len(estimates) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(fill("average cost of the worst {} of {:,} responses".format(*out_of(tail))))
    return figure


def _look(index: int, is_hollow: bool) -> dict[str, Any]:
    """Colours of a model's marker."""
    colour = colour_of(index)
    return {"color": colour, "mfc": PAPER, "mec": colour} if is_hollow else {"color": colour, "mec": PAPER}


def _sides(axes: Axes, limit: float, values: Sequence[float]) -> None:
    """Shades what is beyond the limit, and says on which side which is."""
    left, right = min([*values, limit]), max([*values, limit])
    room = 0.09 * (right - left or 1.0)
    # Some of each side is always seen, or nobody could tell on which one a model is.
    left, right = min(left - room, limit - 2 * room), max(right + room, limit + 2 * room)
    axes.set_xlim(left, right)
    axes.axvspan(limit, right, color=UNSAFE, alpha=0.09, lw=0)
    axes.axvspan(left, limit, color=SAFE, alpha=0.09, lw=0)
    axes.axvline(limit, color=UNSAFE, lw=1.2, ls="--")
    axes.text(0, 1.02, "← within the limit", color=SAFE, transform=axes.transAxes)
    axes.text(1, 1.02, "beyond the limit →", color=UNSAFE, ha="right", transform=axes.transAxes)


def survival_plot(
    costs: Mapping[str, Sequence[float]],
    tail: float,
    marks: Mapping[str, tuple[Any, Any]],
    limit: float = 0.0,
) -> Figure:
    """Share of responses whose cost is above each value, one line per model, on a logarithmic axis.

    Args:
        costs (`Mapping[str, Sequence[float]]`):
            Costs of each model's responses.
        tail (`float`):
            Tail that is marked.
        marks (`Mapping[str, tuple]`):
            VaR and CVaR of each model at that tail, as `metrics.json` has them.
        limit (`float`, *optional*, defaults to 0):
            Above it a response is unsafe: shaded.
    """
    figure = new_figure(3.9)
    axes = figure.add_subplot()
    # Numbered before the empty ones go: a model has one colour on the whole page.
    columns = [
        (i, name, np.sort(np.asarray(values, dtype=float)))
        for i, (name, values) in enumerate(costs.items())
        if len(values)
    ]
    smallest = min((1 / values.size for *_, values in columns), default=0.01)
    largest = max((values[-1] for *_, values in columns), default=limit)
    least = min((values[0] for *_, values in columns), default=limit)
    right = max(largest, limit) + 0.04 * (max(largest, limit) - least or 1.0)
    axes.axvspan(limit, right, color=UNSAFE, alpha=0.08, lw=0)
    axes.axhline(tail, color=MUTED, lw=1, ls=":")
    for i, name, values in columns:
        axes.step(
            *survival_curve(values), where="post", label=shorten(name), color=colour_of(i), ls=DASHES[i % 7], lw=1.8
        )
        for estimate, marker, size in zip(marks.get(name, ()), "od", (5, 8), strict=False):
            value = value_of(estimate)
            if value is not None:
                axes.plot(value, tail, marker, color=colour_of(i), ms=size, mec=PAPER, zorder=3)
    bottom = min(smallest * 0.8, tail / 2)
    axes.set(yscale="log", ylim=(bottom, 1.2), xlim=(None, right), ylabel="share of responses that are worse")
    axes.set_xlabel(fill(f"cost of a response (above {text_of(limit, 'g')}: unsafe; further right: worse)"))
    ticks = [t for t in (1, 0.1, 0.01, 1e-3, 1e-4, 1e-5) if t >= bottom]
    axes.set_yticks(ticks, [f"{100 * t:g} %" for t in ticks])
    axes.minorticks_off()
    axes.text(1, 1.02, "unsafe →", color=UNSAFE, ha="right", transform=axes.transAxes)
    axes.plot([], [], "o", color=MUTED, ms=5, label="VaR: the worst {} of {:,} begin".format(*out_of(tail)))
    axes.plot([], [], "d", color=MUTED, ms=8, label="CVaR: their average")
    figure.legend(fontsize=8, loc="outside lower left", ncols=2)
    return figure


def survival_curve(ordered: NDArray[np.float64], points: int = 400) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The steps of P(cost > x), thinned so that the drawing is light and no eye sees a difference.

    Kept are the highest costs one by one, then `points` of them evenly in the logarithm of the share, which is the
    axis, and as many evenly in the cost.

    Args:
        ordered (`np.ndarray` of shape `[n]`):
            Costs, ascending.
        points (`int`, *optional*, defaults to 400):
            How many of each.

    Returns:
        `tuple`: costs and shares `[m]`, to be drawn with `where="post"`.
    """
    n = ordered.size
    by_share = n - np.unique(np.round(np.geomspace(1, n, points)).astype(int))
    by_cost = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], points), side="right") - 1
    kept = np.unique(np.concatenate([by_share, np.clip(by_cost, 0, n - 1)]))
    # Of equal costs the last one has the share of responses that are really worse.
    share = 1 - np.searchsorted(ordered, ordered[kept], side="right") / n
    # The last step, to zero, has no place on a logarithmic axis.
    return np.concatenate([ordered[:1], ordered[kept]]), np.concatenate([[1.0], np.maximum(share, 0.5 / n)])


def tradeoff_plot(
    points: Sequence[Point], tail: float, limit: float, hollow: Mapping[str, str] | None = None
) -> Figure:
    """Reward against the CVaR of cost, with intervals and the limit: up and left is better.

    Args:
        points (`Sequence[tuple]`):
            Name, CVaR and mean reward of each model.
        tail (`float`):
            Tail of the CVaR.
        limit (`float`):
            Draws the constraint CVaR ≤ limit.
        hollow (`Mapping[str, str]`, *optional*):
            Models of which nobody can say on which side they are.
    """
    hollow, figure = hollow or {}, new_figure(3.9)
    axes = figure.add_subplot()
    seen, labels = [], []
    for i, (name, risk, reward) in enumerate(points):
        x, y = value_of(risk), value_of(reward)
        if x is None or y is None:
            continue
        errors = [error_of(risk, x), error_of(reward, y)]
        colour = colour_of(i)
        axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt="none", capsize=3, color=colour, alpha=0.6)
        axes.plot(x, y, MARKERS[i % len(MARKERS)], ms=9, zorder=3, **_look(i, name in hollow))
        labels.append((shorten(name), x, y, colour))
        seen += [v for v in (x, value_of(risk, "low"), value_of(risk, "high")) if v is not None]
    axes.margins(y=0.2)
    _sides(axes, limit, seen or [limit])
    _label(figure, axes, labels)
    axes.set_xlabel(
        fill("average cost of the worst {} of {:,} responses: further left is safer".format(*out_of(tail)))
    )
    axes.set_ylabel("average reward: higher is more helpful")
    axes.set_facecolor("none")
    return figure


def _label(figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Names beside the points; of more than five, where they would cover each other, in a legend."""
    middle = sum(axes.get_xlim()) / 2
    for i, (name, x, y, colour) in enumerate(labels):
        if len(labels) > 5:
            axes.plot([], [], MARKERS[i % len(MARKERS)], color=colour, label=name)
        else:
            sign, side = (1, "left") if x < middle else (-1, "right")
            at: dict[str, Any] = {"xytext": (sign * 8, 7), "textcoords": "offset points", "ha": side}
            axes.annotate(name, (x, y), color=colour, weight="bold", **at)
    if len(labels) > 5:
        figure.legend(fontsize=8, loc="outside lower left", ncols=3)


def error_of(estimate: Any, value: float) -> list[list[float]] | None:
    low, high = value_of(estimate, "low"), value_of(estimate, "high")
    return None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]


def histograms(
    scores: Mapping[str, Sequence[float]], xlabel: str, limit: float | None = None, most: int = MOST_PANELS
) -> Figure:
    """One panel per model after the first, with the first one's outline behind it: before and after.

    Args:
        scores (`Mapping[str, Sequence[float]]`):
            Costs or rewards of each model, at least one of them not empty.
        xlabel (`str`):
            What the scores are.
        limit (`float`, *optional*):
            Draws it.
        most (`int`, *optional*, defaults to 6):
            Panels at most.
    """
    columns = [
        (i, name, np.asarray(values, dtype=float)) for i, (name, values) in enumerate(scores.items()) if len(values)
    ]
    panels = columns[1 : most + 1] or columns
    everything = np.concatenate([values for *_, values in columns])
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    figure = new_figure(0.6 + 1.05 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (i, name, values) in zip(all_axes, panels, strict=True):
        axes.stairs(_shares(values, bins), bins, fill=True, color=colour_of(i), alpha=0.55)
        if panels is not columns:
            axes.stairs(_shares(columns[0][2], bins), bins, color=colour_of(columns[0][0]), lw=1.1)
        if limit is not None:
            axes.axvline(limit, color=UNSAFE, lw=1, ls="--")
        axes.set_title(shorten(name), loc="left", fontsize=9, color=INK)
        axes.yaxis.set_major_formatter(lambda value, _: text_of(value, ".0%"))
        axes.grid(axis="x", color=GRID)
    all_axes[-1].set_xlabel(xlabel)
    figure.supylabel("share of responses", fontsize=9)
    return figure


def _shares(values: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.histogram(values, bins)[0] / values.size


def shorten(name: Any, limit: int = 24) -> str:
    """A long name for a short place: its end, which is where names differ."""
    text = " ".join(str(name).split())
    return text if len(text) <= limit else "…" + text[1 - limit :]


def beginning(name: Any, width: int = 26) -> str:
    """A category's name in at most two lines. Its beginning is kept, which says what it is about."""
    lines = [""]
    for part in re.findall(r"[^\s,_/-]*[\s,_/-]+|[^\s,_/-]+$", " ".join(str(name).split())):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width and len(lines) < 2:
            lines.append("")
        lines[-1] += part
    return "\n".join(line if len(line.rstrip()) <= width else line[: width - 1] + "…" for line in lines)
