"""All pictures of a report, in the order of the page."""

from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from trl_rsa.report.audits import audit_plot
from trl_rsa.report.bars import group_bars
from trl_rsa.report.headline import cvar_of
from trl_rsa.report.inputs import Inputs
from trl_rsa.report.ladder import ladder_plot
from trl_rsa.report.pictures import histograms, survival_plot, tradeoff_plot, worst_plot
from trl_rsa.report.style import drawing, save


def draw(inputs: Inputs, tail: float, limit: float, folder: Path) -> Iterator[tuple[str, str]]:
    """Draws and saves every picture for which there is something to draw; yields its name and its drawing.

    Args:
        inputs ([`Inputs`]):
            What the folder holds.
        tail (`float`), limit (`float`):
            Tail of the CVaR, and what it should not exceed.
        folder (`Path`):
            Gets a PNG and an SVG of each.
    """
    models, answers = inputs.metrics["models"], inputs.answers
    unsafe = next(iter(models.values()))["settings"].get("unsafe_above", 0.0)
    risks = [(name, cvar_of(model, tail)) for name, model in models.items()]
    marks = {name: ((m["cost"].get("var") or {}).get(f"{tail:g}"), cvar_of(m, tail)) for name, m in models.items()}
    makers: list[tuple[str, bool, Callable[[], Figure | None]]] = [
        ("worst", True, lambda: worst_plot(risks, tail, limit)),
        ("survival", any(answers.costs.values()), lambda: survival_plot(answers.costs, tail, marks, unsafe)),
        (
            "tradeoff",
            any(answers.rewards.values()),
            lambda: tradeoff_plot([(n, r, models[n]["reward"]["mean"]) for n, r in risks], tail, limit),
        ),
        ("costs", any(answers.costs.values()), lambda: histograms(answers.costs, "cost of an answer", unsafe)),
        ("rewards", any(answers.rewards.values()), lambda: histograms(answers.rewards, "reward of an answer")),
        *(
            (f"by_{by}", True, lambda by=by: group_bars(inputs.metrics, by, tail, limit))
            for by in ("category", "attack")
        ),
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
