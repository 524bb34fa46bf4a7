"""How much worse the models are when they are pushed: a chart, and the table behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from trl_rsa.report.headline import cvar_of
from trl_rsa.report.numbers import interval_of, out_of, text_of, value_of
from trl_rsa.report.pictures import beginning, shorten
from trl_rsa.report.pressure_entries import Entry, entries_of
from trl_rsa.report.style import MARKERS, PAPER, UNSAFE, colour_of, fill, new_figure


NONE = "none"  # the pressure of a model as it is
HEADINGS = ("Responses", "CVaR", "Worse by", "Unsafe", "Worse by, in points")


def pressures_of(entries: Sequence[Entry]) -> list[str]:
    """The pressures, in order, "none" first."""
    return list(dict.fromkeys(str(entry.get("pressure")) for entry in entries))


def pressure_plot(metrics: dict[str, Any], tail: float, limit: float) -> Figure | None:
    """CVaR of every model under every pressure, with intervals; a line from that of the model as it is.

    Args:
        metrics (`dict`):
            metrics.json.
        tail (`float`), limit (`float`):
            Tail of the CVaR, and what it should not exceed.

    Returns:
        `Figure`, or None where nothing was pushed.
    """
    entries, models = entries_of(metrics), list(metrics["models"])
    names = pressures_of(entries)
    if len(names) < 2:
        return None
    words = {str(entry.get("pressure")): str(entry.get("in_words")) for entry in entries}
    figure = new_figure(1.2 + len(names) * max(0.36, 0.17 * len(models)))
    axes = figure.add_subplot()
    room = 0.7 / len(models)
    for i, model in enumerate(models):
        own = {str(entry.get("pressure")): cvar_of(entry, tail) for entry in entries if entry.get("model") == model}
        as_it_is = value_of(own.get(NONE))
        if as_it_is is not None:
            axes.plot([as_it_is, as_it_is], [-0.4, len(names) - 0.6], color=colour_of(i), lw=1, alpha=0.6)
        label: str | None = shorten(model)
        for j, name in enumerate(names):
            value, low, high = (value_of(own.get(name), key) for key in ("value", "low", "high"))
            if value is None:
                continue
            y = j - 0.35 + (i + 0.5) * room
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour_of(i), lw=4, alpha=0.35, solid_capstyle="round")
            marker = MARKERS[i % len(MARKERS)]
            axes.plot(value, y, marker, color=colour_of(i), ms=7, mec=PAPER, label=label, zorder=3)
            label = None
    axes.axvline(limit, color=UNSAFE, lw=1.2, ls="--", label=f"limit {limit:g}")
    axes.set_yticks(range(len(names)), [beginning(words[name]) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(
        fill("average cost of the worst {} of {:,} responses: further right is worse".format(*out_of(tail)))
    )
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def pressure_table(metrics: dict[str, Any], tail: float) -> list[tuple[str, list[list[tuple[str, str]]]]]:
    """By model its rows under [`HEADINGS`], as (value, interval)."""
    entries, tables = entries_of(metrics), []
    for model in metrics["models"]:
        own = [entry for entry in entries if entry.get("model") == model]
        if own:
            tables.append((model, [_row(entry, tail) for entry in own]))
    return tables


def _row(entry: Entry, tail: float) -> list[tuple[str, str]]:
    different = entry.get("difference")
    difference = different.get("difference") if isinstance(different, Mapping) else None
    difference = difference if isinstance(difference, Mapping) else {}
    unsafe = entry["cost"].get("unsafe_rate")
    estimates = [
        (cvar_of(entry, tail), ".2f"),
        (difference.get(f"cvar_{tail:g}"), "+.2f"),
        (unsafe, ".1%"),
        (difference.get("unsafe_rate"), "+.1%"),
    ]
    cells = [(text_of(value_of(estimate), form), interval_of(estimate, form)) for estimate, form in estimates]
    return [(str(entry.get("in_words", "–")), ""), *cells]
