"""The ladder of a manifest: the rungs of a constraint where there is one, else the stages that were run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from trl_rsa.report.numbers import cell, text_of, value_of
from trl_rsa.report.style import MUTED, UNSAFE, colour_of, fill, new_figure


Manifest = Mapping[str, Any]


def observations_of(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The observed models of the ladder, in order."""
    observations = _part(manifest, "ladder").get("observations")
    return [o for o in observations if isinstance(o, Mapping)] if isinstance(observations, list) else []


def constraints_of(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """What the manifest says of each constraint, by name."""
    constraints = _part(_part(manifest, "ladder"), "constraints")
    return {str(name): _part(constraints, name) for name in constraints}


def budgets_of(manifest: Manifest) -> dict[str, float]:
    """The budget of each constraint, by name, where it is a number."""
    found = {name: value_of(of.get("budget")) for name, of in constraints_of(manifest).items()}
    return {name: budget for name, budget in found.items() if budget is not None}


def conditions_of(manifest: Manifest) -> dict[str, str]:
    """What the responses of a constraint are drawn under, by its name, where it is not as usual."""
    found = {name: of.get("under") for name, of in constraints_of(manifest).items()}
    return {name: under for name, under in found.items() if isinstance(under, str)}


def _numbers(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """An observation's numbers by constraint."""
    several = _part(entry, "constraints")
    return {str(name): _part(several, name) for name in several}


def _names(observations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The constraints of all observations, in order."""
    return list(dict.fromkeys(name for entry in observations for name in _numbers(entry)))


def ladder_table(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: of the rungs where the ladder has observations, else of the stages."""
    observations = observations_of(manifest)
    if observations:
        names = _names(observations)
        several = [f"{name} " if len(names) > 1 else "" for name in names]
        headings = [f"{name}{of}" for name in several for of in ("λ", "Estimated risk", "Upper bound")]
        more = {
            key: name for key, name in _BESIDE.items() if any(value_of(r.get(key)) is not None for r in observations)
        }
        return ["Rung", *headings, *more.values()], [
            [*_observation_row(i, r, names), *(cell(r.get(key)) for key in more)] for i, r in enumerate(observations)
        ]
    plan = _part(manifest, "plan")
    headings = ["Stage", "Status", "β", "λ", "β/λ", "Pairs", "Steps", "Loss", "Preferred", "KL", "Minutes"]
    stages, planned = ([s for s in part.get("stages") or [] if isinstance(s, Mapping)] for part in (manifest, plan))
    planned += [{}] * len(stages)
    return headings, [_stage_row(*pair) for pair in zip(stages, planned, strict=False)]


# What an observation may have beside its costs, and its heading.
_BESIDE = {"reward": "Reward", "surprise": "Surprise, nats per token"}


def _observation_row(index: int, entry: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    rung = entry.get("rung", index)
    name = "start" if rung == 0 else f"{rung}"
    fraction = value_of(entry.get("fraction"))
    if fraction is not None and fraction < 1:
        name += f", {text_of(fraction, '.0%')} kept"
    numbers = []
    for of in (_part(_numbers(entry), constraint) for constraint in names):
        numbers += [text_of(value_of(of.get("multiplier")), ".3g"), cell(of.get("estimate"))]
        numbers += [text_of(value_of(of.get("upper_bound")))]
    return [name, *numbers]


def _part(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, Mapping) else {}


def _stage_row(stage: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    metrics = _part(stage, "metrics")
    pairs = _part(_part(stage, "data"), "train").get("pairs_kept")
    seconds = value_of(stage.get("seconds"))

    def metric(name: str) -> float | None:
        """The held-out one where there is one."""
        return value_of(metrics.get(f"eval_{name}", metrics.get(name)))

    method = planned.get("method")  # not said for "rsa"
    if method is not None and "temperature" not in stage:
        planned = {}  # it has none, whatever stands in the plan
    return [
        str(stage.get("name", "–")) + (f" ({method})" if method else ""),
        str(stage.get("status", "–")),
        text_of(value_of(planned.get("beta")), ".3g"),
        text_of(value_of(planned.get("constraint_multiplier")), ".3g"),
        text_of(value_of(stage.get("temperature")), ".3g"),
        text_of(value_of(pairs), ".0f"),
        text_of(value_of(stage.get("steps")), ".0f"),
        text_of(metric("loss"), ".3f"),
        text_of(metric("rewards/accuracies"), ".0%"),
        text_of(metric("kl/chosen"), ".2f"),
        text_of(None if seconds is None else seconds / 60, ".1f"),
    ]


def ladder_plot(manifest: Manifest) -> Figure | None:
    """Bound and estimate per rung against the budget, a panel per constraint, and the reward below.

    None where there are no rungs.
    """
    observations = observations_of(manifest)
    if not observations:
        return None
    budgets = budgets_of(manifest)
    names, rewards = _names(observations), [value_of(r.get("reward")) for r in observations]
    rewarded = any(reward is not None for reward in rewards)
    if not (names or rewarded):
        return None
    figure = new_figure(1.0 + 1.7 * (len(names) + rewarded))
    panels = figure.subplots(len(names) + rewarded, 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=False):
        _risk_panel(axes, name, [_part(_numbers(r), name) for r in observations], budgets.get(name))
    if rewarded:
        _line(panels[-1], rewards, "reward", colour_of(3), "D-")
        panels[-1].set_ylabel("reward")
    if len(names) == 1:
        labels = [text_of(value_of(_part(_numbers(r), names[0]).get("multiplier")), ".3g") for r in observations]
        panels[-1].set_xlabel(fill("multiplier λ of each model, in the order in which they were tried"))
    else:
        labels = [_observation_row(i, r, [])[0] for i, r in enumerate(observations)]
        panels[-1].set_xlabel(fill("rung of each model, in the order in which they were tried"))
    panels[-1].set_xticks(range(len(observations)), labels)
    for axes in panels:
        axes.margins(x=0.08, y=0.2)
        axes.tick_params(color=MUTED)
    return figure


def _risk_panel(axes: Any, name: str, numbers: Sequence[Mapping[str, Any]], budget: float | None) -> None:
    _line(axes, [value_of(of.get("upper_bound")) for of in numbers], "upper bound", colour_of(1), "o-")
    _line(axes, [value_of(of.get("estimate")) for of in numbers], "estimate", colour_of(2), "s--")
    if budget is not None:
        axes.axhline(budget, color=UNSAFE, ls="--", lw=1.2, label=f"budget {text_of(budget, 'g')}")
    axes.set_ylabel(f"risk of {name}")
    axes.legend(fontsize=8)


def _line(axes: Any, values: Sequence[float | None], label: str, colour: str, style: str) -> None:
    axes.plot([float("nan") if v is None else v for v in values], style, color=colour, label=label, ms=5, lw=1.6)
