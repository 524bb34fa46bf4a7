"""What a rung is trained on, and with which arguments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.alignment.plan import Plan
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.human import HumanPairs
from trl_rsa.ladder.observe import Record
from trl_rsa.ladder.pairs import Row, answers_by_prompt, draw_human, safety_pairs, with_equal_columns
from trl_rsa.ladder.prompts import PromptGroup


def rung_pairs(
    answered: Sequence[tuple[PromptGroup, Sequence[Record]]],
    constraints: Mapping[str, RiskConstraint],
    human: Mapping[str, HumanPairs],
    deltas: Mapping[str, float],
    etas: Mapping[str, float],
    seed: int,
) -> tuple[list[Row], dict[str, Any]]:
    """
    Pairs for a rung that adds Δλ_i to the multiplier of constraint i.

    They are labelled by Σ_i w_i C_i with w_i = Δλ_i/Σ_j Δλ_j, and the rung runs at temperature β/Σ_j Δλ_j: its optimum
    is that of the labels Σ_i Δλ_i C_i at temperature β, and with one constraint it is trained on its own cost.

    Args:
        answered (`Sequence[tuple[PromptGroup, Sequence[dict]]]`):
            The policy's answers to the train prompts of the constraints that are raised.
        constraints (`Mapping[str, RiskConstraint]`), human (`Mapping[str, HumanPairs]`):
            By name; human pairs where there are any.
        deltas (`Mapping[str, float]`):
            Δλ by constraint.
        etas (`Mapping[str, float]`):
            The policy's quantile of each cost, for truncated labels.
        seed (`int`):
            Of the choice of pairs, of sampled labels and of human pairs.

    Returns:
        `tuple[list[dict], dict]`: the pairs, and how many there are of which kind.

    Raises:
        ValueError: if the answers give nothing to compare.
    """
    total, settings = sum(deltas.values()), next(iter(constraints.values()))
    rows: list[Row] = []
    for group, records in answered:
        weights = {name: deltas[name] / total for name in group.names if deltas[name] > 0}

        def weigh(costs: Mapping[str, float], weights: Mapping[str, float] = weights) -> tuple[float, float]:
            penalty = sum(w * constraints[name].label_cost(costs[name], etas[name]) for name, w in weights.items())
            return penalty, sum(w * costs[name] for name, w in weights.items())

        rows += safety_pairs(
            answers_by_prompt(records, weigh, settings.cut == "keep"), seed, settings.soft, settings.pairs_per_prompt
        )
    responses = sum(len(records) for _, records in answered)
    cut = sum(not record["finished"] for _, records in answered for record in records)
    if not rows:
        raise ValueError(
            f"You ask for another rung, but of {responses} responses to the train prompts {cut} were cut"
            f"{' and dropped (cut: drop)' if settings.cut == 'drop' else ''} and no two others to one prompt differ. "
            "Draw more responses per prompt, or raise max_new_tokens or the temperature."
        )
    own, drawn = len(rows), {}
    for name in (name for name in human if deltas[name] > 0):
        pairs = draw_human(own, human[name].rows, constraints[name].human_share, seed)
        drawn[name] = len(pairs)
        rows += pairs
    counts = {"responses": responses, "cut": cut, "own_pairs": own} | ({"human_pairs": drawn} if drawn else {})
    return with_equal_columns(rows), counts


def rung_arguments(plan: Plan, constraint: RiskConstraint, delta: float, folder: Path, seed: int) -> dict[str, Any]:
    """The [`RSAConfig`] arguments of a rung that adds `delta` to the multiplier, as the `constraint` sets them."""
    args = plan.args | constraint.args
    if constraint.risk_measure is None and "rsa1" not in args.get("loss_type", ()):
        args = {"risk_alpha": 0.0} | args
    elif isinstance(constraint.risk_measure, str):
        args = args | {"risk_measure": constraint.risk_measure}
    measure = constraint.risk_measure or args.get("risk_measure", "entropic")
    if measure == "entropic":
        # Constant risk aversion per unit of cost: θ_i/β_i stays, with β_i = β/Δλ.
        args = args | {"risk_theta": (args.get("risk_theta") or 1.0) / delta}
    own = {
        "beta": constraint.beta,
        "constraint_multiplier": delta,
        "output_dir": str(folder),
        "run_name": f"{Path(plan.output_dir).name}/{folder.name}",
        "seed": seed,
    }
    return args | own
