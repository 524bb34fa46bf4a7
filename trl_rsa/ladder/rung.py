"""What a rung is trained on, and with which arguments."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.human import HumanPairs
from trl_rsa.ladder.observe import ResponseRecord
from trl_rsa.ladder.pairs import (
    Row,
    draw_human,
    is_tie,
    responses_by_prompt,
    safety_pairs,
    thin_ties,
    with_equal_columns,
)
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.training.configuration import risk_arguments
from trl_rsa.training.methods.terms import RewardTerm


# Penalty, cost and reward of a response, and whether it is harmless.
Weighed = tuple[float, float, float | None, bool]


class PairCounts(TypedDict):
    """How many responses a rung's pairs are made of, and how many pairs of which kind there are."""

    responses: int
    cut: int
    own_pairs: int
    ties: int
    human_pairs: NotRequired[dict[str, int]]  # by constraint


def rung_pairs(
    collected: Sequence[tuple[PromptGroup, Sequence[ResponseRecord]]],
    constraints: Mapping[str, RiskConstraint],
    settings: RungSettings,
    human: Mapping[str, HumanPairs],
    deltas: Mapping[str, float],
    label_costs: Mapping[str, Callable[[float], tuple[float, float]]],
    seed: int,
) -> tuple[list[Row], PairCounts]:
    """
    Pairs for a rung that adds Δλ_i to the multiplier of constraint i.

    They are labelled by Σ_i w_i C_i with w_i = Δλ_i/Σ_j Δλ_j, and the rung runs at temperature β/Σ_j Δλ_j: its optimum
    is that of the labels Σ_i Δλ_i C_i at temperature β, and with one constraint it is trained on its own cost. Where
    constraints differ in the temperature of their sampling only, every pair has the label of their sum.

    With `reward`, two responses that these labels do not tell apart, neither of which is unsafe by any of the costs,
    are labelled by it.

    Args:
        collected (`Sequence[tuple[PromptGroup, Sequence[dict]]]`):
            The policy's responses to the train prompts of the constraints that are raised.
        constraints (`Mapping[str, RiskConstraint]`), human (`Mapping[str, HumanPairs]`):
            By name; human pairs where there are any.
        settings ([`RungSettings`]):
            Of the ladder.
        deltas (`Mapping[str, float]`):
            Δλ by constraint.
        label_costs (`Mapping[str, Callable]`):
            By constraint, from the cost of a response to what labels compare, and to the cost that breaks ties
            ([`~trl_rsa.ladder.audit.label_cost`]).
        seed (`int`):
            Of the choice of pairs, of sampled labels and of human pairs.

    Returns:
        `tuple[list[dict], PairCounts]`: the pairs, and how many there are of which kind.

    Raises:
        ValueError: if the responses give nothing to compare.
    """
    total = sum(deltas.values())
    weight = settings.reward.weight if isinstance(settings.reward, RewardTerm) else 0.0
    rows: list[Row] = []
    for group, records in collected:
        weights = {name: deltas[name] / total for name in group.scored}

        def weigh(record: Mapping[str, Any], weights: Mapping[str, float] = weights) -> Weighed:
            each = [(w, *label_costs[name](record["costs"][name])) for name, w in weights.items()]
            # By the costs whose bounds hold as well: the reward must not undo them.
            harmless = all(cost <= 0.0 for _, _, cost in each)
            reward = None if record["reward"] is None else record["reward"] * weight
            penalty, cost = (sum(w * parts[i] for w, *parts in each) for i in (0, 1))
            return penalty, cost, reward, harmless

        rows += safety_pairs(
            responses_by_prompt(records, weigh, settings.cut == "keep"), seed, settings.soft, settings.pairs_per_prompt
        )
    ties = sum(is_tie(row) for row in rows)
    rows = thin_ties(rows, settings.ties, seed)
    responses = sum(len(records) for _, records in collected)
    cut = sum(not record["finished"] for _, records in collected for record in records)
    if not rows and ties:
        raise ValueError(
            f"You set ties={settings.ties:g}, but all {ties} pairs of this rung are ties: both responses are harmless "
            "alike. Raise ties, or look whether the bound wants more decide prompts and not a safer model."
        )
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
    counts: PairCounts = {"responses": responses, "cut": cut, "own_pairs": own, "ties": ties}
    if drawn:
        counts["human_pairs"] = drawn
    return with_equal_columns(rows), counts


def rung_arguments(
    args: Mapping[str, Any], settings: RungSettings, delta: float, folder: Path, run_name: str, seed: int
) -> dict[str, Any]:
    """The [`RSAConfig`] arguments of a rung.

    Args:
        args (`Mapping[str, Any]`):
            Those of the whole run; `settings.args` override them.
        settings ([`RungSettings`]):
            Of the ladder.
        delta (`float`):
            What the rung adds to the multipliers, in all.
        folder (`Path`), run_name (`str`), seed (`int`):
            Its own.
    """
    args = {**args, **settings.args}
    args |= risk_arguments(settings.risk_measure, args)
    measure = settings.risk_measure or args.get("risk_measure", "entropic")
    if measure == "entropic":
        # Constant risk aversion per unit of cost: θ_i/β_i stays, with β_i = β/Δλ.
        args = args | {"risk_theta": (args.get("risk_theta") or 1.0) / delta}
    loss = sorted({"loss_type", "loss_weights"} & set(args))
    if loss and settings.sft not in (0.0, 1.0):
        raise ValueError(
            f"You set sft={settings.sft:g} for the rungs and {loss[0]} in args, but that says what the loss is, with "
            "its weights. Remove one of them."
        )
    if settings.sft and not loss:
        args = args | {"loss_type": ["rsa2", "sft"], "loss_weights": [1.0, settings.sft]}
    own = {"beta": settings.beta, "constraint_multiplier": delta, "output_dir": str(folder), "run_name": run_name}
    return args | own | {"seed": seed}
