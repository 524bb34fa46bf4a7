"""`write_report`: from the files of an evaluation to report.html, report.md and the pictures."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from trl_rsa.report.audits import audit_plot
from trl_rsa.report.bars import group_bars
from trl_rsa.report.front_picture import front_plot
from trl_rsa.report.headline import cvar_of, rows
from trl_rsa.report.inputs import DAMAGE, Inputs, not_metrics, read_inputs
from trl_rsa.report.ladder import ladder_plot
from trl_rsa.report.limit import choose_limit, choose_tail
from trl_rsa.report.page import manifest_file, page_context, render_html, render_markdown
from trl_rsa.report.pictures import histograms, survival_plot, tradeoff_plot, worst_plot
from trl_rsa.report.pressure import pressure_plot
from trl_rsa.report.style import drawing, save
from trl_rsa.report.unscored import counts_of
from trl_rsa.report.words import TOO_FEW, doubt, summarise, verdict
from trl_rsa.storage.names import FRONT, METRICS
from trl_rsa.storage.printable import printable


# In the head of every page of ours, before anything that comes from data.
GENERATOR = b'<meta name="generator" content="trl-rsa '
_HEAD = 4096


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    title: str | None = None,
    budget: float | None = None,
    tail: float | None = None,
) -> dict[str, Path]:
    """Writes one self-contained page, its short form in Markdown, and the pictures.

    Args:
        folder (`str` or `Path`):
            With `records.jsonl` and `metrics.json`, and what there is of `certificate.json`, `manifest.json` (or, in
            its subfolders, several) and `tokens.jsonl`.
        output (`str` or `Path`, *optional*):
            Folder to write to; by default `folder` itself.
        title (`str`, *optional*):
            Title of the page.
        budget (`float`, *optional*):
            Limit of the CVaR of cost. By default the one budget for this tail in the certificates and constraints,
            else the cost above which a response is unsafe.
        tail (`float`, *optional*):
            The tail that the page is about, one of those in `metrics.json`; by default that of `front.json`, else the
            certificate's, else 0.05, or else the first.

    Returns:
        `dict[str, Path]`: `"html"`, `"markdown"`, and `"plots"`, the folder of the pictures.

    Raises:
        FileNotFoundError: if there is no `records.jsonl` or no `metrics.json`.
        ValueError: if `metrics.json` is damaged, or has not the tail; or if `output` is a file, or has a report.html
            that this package did not write.
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    _refuse_foreign(output)
    inputs = read_inputs(folder)
    tail = choose_tail(inputs, tail)
    limit = choose_limit(inputs, tail, budget)
    try:
        rows(inputs.metrics), summarise(inputs.metrics, tail, limit)
    except DAMAGE as error:
        raise not_metrics(folder / METRICS, error) from error
    plots = dict(_draw(inputs, tail, limit.value, output / "plots"))
    context = page_context(inputs, tail, limit, title or "How bad are the worst responses?", plots)
    return {
        "html": _write(output / "report.html", render_html(context)),
        # It is read in terminals too, where control characters of the data would act.
        "markdown": _write(output / "report.md", printable(render_markdown(context))),
        "plots": output / "plots",
    }


def _draw(inputs: Inputs, tail: float, limit: float, folder: Path) -> Iterator[tuple[str, str]]:
    """Draws and saves every picture for which there is something to draw; yields its name and its drawing.

    Args:
        inputs ([`Inputs`]):
            What the folder holds.
        tail (`float`), limit (`float`):
            Tail of the CVaR, and what it should not exceed.
        folder (`Path`):
            Gets a PNG and an SVG of each.
    """
    models, responses = inputs.metrics["models"], inputs.responses
    unsafe = next(iter(models.values()))["settings"].get("unsafe_above", 0.0)
    risks = [(name, cvar_of(model, tail)) for name, model in models.items()]
    marks = {name: ((m["cost"].get("var") or {}).get(f"{tail:g}"), cvar_of(m, tail)) for name, m in models.items()}
    front = inputs.front
    hollow = {
        name: "too few prompts" if why == TOO_FEW else f"{counts_of(model)[0]:,} without a cost"
        for name, model in models.items()
        if (why := doubt(model, tail, limit)) is not None and verdict(model, tail, limit).text == why
    }
    makers: list[tuple[str, bool, Callable[[], Figure | None]]] = [
        ("worst", True, lambda: worst_plot(risks, tail, limit, hollow)),
        ("survival", any(responses.costs.values()), lambda: survival_plot(responses.costs, tail, marks, unsafe)),
        (
            "tradeoff",
            front is None and any(responses.rewards.values()),  # the front shows it, and more
            lambda: tradeoff_plot([(n, r, models[n]["reward"]["mean"]) for n, r in risks], tail, limit, hollow),
        ),
        ("costs", any(responses.costs.values()), lambda: histograms(responses.costs, "cost of a response", unsafe)),
        ("rewards", any(responses.rewards.values()), lambda: histograms(responses.rewards, "reward of a response")),
    ]
    # Of a file or a part that may be damaged: what to call it then.
    optional: list[tuple[str, str, Callable[[], Figure | None]]] = [
        ("front", FRONT, lambda: None if front is None else front_plot(front)),
        *(
            (f"by_{by}", f"“by {by}” in {METRICS}", lambda by=by: group_bars(inputs.metrics, by, tail, limit))
            for by in ("category", "attack")
        ),
        ("pressure", f"“pressures” in {METRICS}", lambda: pressure_plot(inputs.metrics, tail, limit)),
        *(
            (f"{kind}_{i}" if i else kind, manifest_file(name), lambda plot=plot, m=manifest: plot(m))
            for kind, plot in (("ladder", ladder_plot), ("audit", audit_plot))
            for i, (name, manifest) in enumerate(inputs.manifests.items())
        ),
    ]
    with drawing():
        figures = ((name, make() if possible else None) for name, possible, make in makers)
        others = ((name, inputs.optional(part, make)) for name, part, make in optional)
        for name, figure in chain(figures, others):
            if figure is not None:
                yield name, save(figure, folder, name)


def _refuse_foreign(output: Path) -> None:
    """An earlier page of ours is replaced; anything else with that name is somebody's work."""
    if output.is_file():
        raise ValueError(f"You set output to {str(output)!r}, but that is a file. Set it to a folder.")
    page = output / "report.html"
    if page.exists() and GENERATOR not in page.read_bytes()[:_HEAD]:
        raise ValueError(
            f"You asked for a report in {str(output)!r}, but its report.html was not written by trl-rsa, and would be "
            "lost. Set another output, or move that file away."
        )


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a tokenizer can produce, has no UTF-8.
    path.write_bytes(text.encode("utf-8", errors="replace"))
    return path
