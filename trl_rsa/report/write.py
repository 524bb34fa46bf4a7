"""`write_report`: from the files of an evaluation to report.html, report.md and the pictures."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trl_rsa.report.audits import audit_plot
from trl_rsa.report.bars import group_bars
from trl_rsa.report.front_picture import front_plot
from trl_rsa.report.headline import cvar_of, tails_of
from trl_rsa.report.inputs import Inputs, read_inputs
from trl_rsa.report.ladder import budgets_of, ladder_plot
from trl_rsa.report.page import page_context, render_html, render_markdown
from trl_rsa.report.pictures import histograms, survival_plot, tradeoff_plot, worst_plot
from trl_rsa.report.pressure import pressure_plot
from trl_rsa.report.responses import is_finite
from trl_rsa.report.style import drawing, save
from trl_rsa.report.words import Limit
from trl_rsa.storage.printable import printable


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
            Limit of the CVaR of cost. By default the certificate's, else the constraint's in the manifest, else the
            cost above which a response is unsafe.
        tail (`float`, *optional*):
            The tail that the page is about, one of those in `metrics.json`; by default 0.05, or else the first.

    Returns:
        `dict[str, Path]`: `"html"`, `"markdown"`, and `"plots"`, the folder of the pictures.

    Raises:
        FileNotFoundError: if there is no `records.jsonl` or no `metrics.json`.
        ValueError: if `metrics.json` is damaged, or has not the tail.
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    inputs = read_inputs(folder)
    tail = _choose_tail(inputs.metrics, tail)
    limit = _choose_limit(inputs, budget)
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
    makers: list[tuple[str, bool, Callable[[], Figure | None]]] = [
        ("front", front is not None, lambda: front_plot(front or {})),
        ("worst", True, lambda: worst_plot(risks, tail, limit)),
        ("survival", any(responses.costs.values()), lambda: survival_plot(responses.costs, tail, marks, unsafe)),
        (
            "tradeoff",
            front is None and any(responses.rewards.values()),  # the front shows it, and more
            lambda: tradeoff_plot([(n, r, models[n]["reward"]["mean"]) for n, r in risks], tail, limit),
        ),
        ("costs", any(responses.costs.values()), lambda: histograms(responses.costs, "cost of a response", unsafe)),
        ("rewards", any(responses.rewards.values()), lambda: histograms(responses.rewards, "reward of a response")),
        *(
            (f"by_{by}", True, lambda by=by: group_bars(inputs.metrics, by, tail, limit))
            for by in ("category", "attack")
        ),
        ("pressure", True, lambda: pressure_plot(inputs.metrics, tail, limit)),
        *(
            (f"ladder_{i}" if i else "ladder", True, lambda m=manifest: ladder_plot(m))
            for i, manifest in enumerate(inputs.manifests.values())
        ),
        *(
            (f"audit_{i}" if i else "audit", True, lambda m=manifest: audit_plot(m))
            for i, manifest in enumerate(inputs.manifests.values())
        ),
    ]
    with drawing():
        for name, possible, make in makers:
            figure = make() if possible else None
            if figure is not None:
                yield name, save(figure, folder, name)


def _choose_tail(metrics: Mapping[str, Any], tail: float | None) -> float:
    tails = tails_of(metrics)
    if not tails:
        raise ValueError(
            "You asked for a report on the tail of cost, but metrics.json has no cost. Evaluate with a cost model: "
            "`trl-rsa evaluate --cost …`."
        )
    if tail is None:
        return 0.05 if 0.05 in tails else tails[0]
    if tail not in tails:
        raise ValueError(
            f"You set tail to {tail:g}, but metrics.json has {', '.join(f'{t:g}' for t in tails)}. Set one of these, "
            "or evaluate with that tail."
        )
    return tail


def _choose_limit(inputs: Inputs, budget: float | None) -> Limit:
    if budget is not None and not is_finite(budget):
        raise ValueError(f"You set budget to {budget}, but it is a limit of a cost. Set it to, for example, 0.")
    budgets = [each for manifest in inputs.manifests.values() for each in budgets_of(manifest).values()]
    candidates = [
        (budget, "set for this report"),
        *((content.get("budget"), "the certificate's limit") for content in inputs.certificates.values()),
        *((each, "the constraint's limit") for each in budgets),
        (
            next(iter(inputs.metrics["models"].values()))["settings"].get("unsafe_above"),
            "the line between safe and unsafe",
        ),
    ]
    return next((Limit(float(v), source) for v, source in candidates if isinstance(v, (int, float))), Limit(0.0, ""))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a tokenizer can produce, has no UTF-8.
    path.write_bytes(text.encode("utf-8", errors="replace"))
    return path
