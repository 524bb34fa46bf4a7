"""The two pictures of the pressure track, in the report's colours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.alignment.cells import Row
from benchmarks.alignment.pressure_criteria import CRITERIA, PLAIN
from benchmarks.alignment.pressure_verdicts import Verdict, log_ratios
from trl_rsa.report.style import INK, MARKERS, MODELS, MUTED, drawing, new_figure


WORDS = {
    PLAIN: "as it was trained",
    "heat": "temperature 1.6",
    "mixing": "a fifth reference tokens",
    "halfway": "half-way to the reference",
    "benign_sft": "after benign fine-tuning",
    "beginning": "worst forced beginning",
    "nested": "nested CVaR",
    "worst_of": "worst of 64 draws",
}
DPI = 130
FORMS = (("RSA-1", MODELS[1], MARKERS[0], -0.17), ("RSA-2", MODELS[2], MARKERS[1], 0.17))


def draw_published(verdicts: Mapping[tuple[str, str], Verdict], path: Path) -> None:
    """A dot per method and criterion: the median ratio to α = 0 at equal value."""
    with drawing():
        figure = new_figure(3.6, 6.6)
        axes = figure.subplots()
        for place, criterion in enumerate(CRITERIA):
            for form, colour, marker, shift in FORMS:
                found = [v.ratio for (name, c), v in verdicts.items() if c == criterion and name.startswith(form)]
                label = f"{form}, {len(found)} variants" if place == 0 else None
                rows = np.full(len(found), place + shift)
                axes.plot(found, rows, marker, ms=3.6, alpha=0.55, mec="none", color=colour, label=label)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set(xscale="log", yticks=range(len(CRITERIA)), yticklabels=[WORDS[c] for c in CRITERIA])
        _ratio_ticks(axes, (0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5))
        axes.invert_yaxis()
        axes.set_xlabel("tail of cost ÷ that of α = 0 at equal value\n(median over worlds; left of 1 is safer)")
        axes.legend(loc="upper right")
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def draw_nested(groups: Mapping[str, Sequence[Row]], path: Path) -> None:
    """The nested CVaR minimised directly, by kind of world: what it lowers, and what it raises."""
    shown = ("nested", PLAIN, "heat", "benign_sft", "worst_of")
    with drawing():
        figure = new_figure(3.3, 6.6)
        axes = figure.subplots()
        for place, rows in enumerate(groups.values()):
            for number, criterion in enumerate(shown):
                logs = log_ratios(rows, criterion)
                low, middle, high = np.exp(np.quantile(logs, (0.25, 0.5, 0.75)))
                at = place + (number - 2) * 0.15
                colour = MODELS[number]
                axes.plot([low, high], [at, at], color=colour, linewidth=1.2, alpha=0.6)
                label = WORDS[criterion] if place == 0 else None
                axes.plot(middle, at, MARKERS[number], ms=5, color=colour, mec="none", label=label)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set(xscale="log", yticks=range(len(groups)), yticklabels=[*groups])
        _ratio_ticks(axes, (0.1, 0.25, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10))
        axes.invert_yaxis()
        axes.set_xlabel("÷ that of α = 0 at equal value\n(median and middle half of the worlds; left of 1 is safer)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _ratio_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    low, high = axes.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.tick_params(axis="x", colors=MUTED)
