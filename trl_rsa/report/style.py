"""Colours and saving. A picture is drawn once, in light colours, and becomes a PNG, an SVG, and a part of the page.

On the page the colours are replaced by the page's variables, so that the same drawing follows its dark mode.
"""

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure


PAPER, INK, MUTED, GRID = "#fffffe", "#1b1f24", "#5b6470", "#d5d9de"
UNSAFE, SAFE = "#c2410c", "#1a7f4b"
# Apart for the colour-blind and as text on white; the dashes serve black and white.
MODELS = ("#33383f", "#0072b2", "#b87a00", "#00805e", "#b0508a", "#6a51a3", "#7f6a55")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), "-", (0, (6, 2, 1, 2)), (0, (3, 1)), "-")
MARKERS = "osD^vPX"

VARIABLES = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    UNSAFE: "--unsafe",
    SAFE: "--safe",
    **{colour: f"--m{i}" for i, colour in enumerate(MODELS)},
}
WIDTH = 4.8  # inches: about the size on a phone, so that the letters stay readable there

_RC: dict[str, Any] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    # Text stays text, which can be searched and follows the page; the salt makes two drawings of the same data equal.
    "svg.fonttype": "none",
    "svg.hashsalt": "trl-rsa",
    "text.color": INK,
    # A dollar in a model's name is a dollar.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Everything of a picture, from its figure to its file, happens in here."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def fill(text: str) -> str:
    """An axis label in lines that fit beside long names: what sticks out of a picture is cut off."""
    return textwrap.fill(text, 46)


def colour_of(index: int) -> str:
    return MODELS[index % len(MODELS)]


def save(figure: Figure, folder: Path, name: str) -> str:
    """Writes NAME.png and NAME.svg, and returns the drawing as a part of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=160)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return inline_svg(svg, name)


def inline_svg(svg: str, name: str) -> str:
    """An SVG file as an element of a page: no preamble, no fixed size, ids of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    for colour, variable in VARIABLES.items():
        svg = re.sub(rf"(?<=: ){colour}(?=[;\"])", f"var({variable})", svg, flags=re.IGNORECASE)
    return svg.strip()
