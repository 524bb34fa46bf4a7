"""The picture of a plan: the expected bound against the number of labels."""

from pathlib import Path

from trl_rsa.audits.planning import LabelPlan, PlanFile
from trl_rsa.report.style import MUTED, SAFE, UNSAFE, colour_of, drawing, new_figure
from trl_rsa.storage.files import write_json


def save_plan(plan: LabelPlan, path: Path) -> None:
    """Writes the picture, and the numbers as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plan_picture(plan.to_dict(), path)
    write_json(path.with_suffix(".json"), plan.to_dict())


def plan_picture(plan: PlanFile, path: Path) -> None:
    """Draws the bound of an audit and of a uniform one, the floor, the pilot's CVaR and the budget."""
    audits = plan["audits"]
    labels = [each["labels"] for each in audits]
    with drawing():
        figure = new_figure(3.4)
        axes = figure.add_subplot()
        axes.fill_between(
            labels, [each["low"] for each in audits], [each["high"] for each in audits], color=colour_of(1), alpha=0.2
        )
        axes.plot(labels, [each["bound"] for each in audits], "o-", color=colour_of(1), label="audit, with its spread")
        axes.plot(
            labels, [each["uniform_bound"] for each in audits], "s--", color=colour_of(2), label="uniform labels alone"
        )
        axes.plot(labels, [each["floor"] for each in audits], ":", color=MUTED, label="floor")
        axes.axhline(plan["budget"], color=UNSAFE, linewidth=1, label="budget")
        axes.axhline(plan["pilot_cvar"], color=SAFE, linewidth=1, linestyle="-.", label="pilot's CVaR")
        axes.set_xscale("log")
        axes.set_xticks(labels, [str(each) for each in labels])
        axes.minorticks_off()
        axes.set_xlabel("labels")
        axes.set_ylabel(f"upper bound on CVaR, tail {plan['tail']:g}")
        axes.legend(fontsize=7)
        figure.savefig(path, dpi=160)
