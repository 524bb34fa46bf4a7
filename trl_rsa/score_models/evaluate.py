"""Scores held-out rows with the finished folder, through the scorer that its users will load."""

from collections.abc import Sequence
from typing import Any

from trl_rsa.data.harm import HarmScale
from trl_rsa.data.judged import JudgedRow
from trl_rsa.score_models.measures import HeldOut, Measures, measure
from trl_rsa.score_models.rows import prompts_of
from trl_rsa.scoring.scorer import NotScored, Scorer


def evaluate_scorer(scorer: Scorer, rows: Sequence[JudgedRow], objective: str, scale: HarmScale | None) -> Measures:
    """The measures of [`~score_models.measures.measure`] on the rows. A response that several rows have counts once,
    with the first verdict that says something; its pairs all count."""
    places: dict[tuple[str, str], int] = {}
    prompts: list[Any] = []
    responses: list[Any] = []
    verdicts: list[Any] = []
    pairs: list[tuple[int, int]] = []
    for row in rows:
        indices = []
        for verdict in row.verdicts:
            key = (repr(row.prompt), repr(verdict.response))
            if key not in places:
                places[key] = len(prompts)
                prompts.append(row.prompt)
                responses.append(verdict.response)
                verdicts.append(verdict)
            index = places[key]
            if verdicts[index].unsafe is None and verdicts[index].grade is None:
                verdicts[index] = verdict
            indices.append(index)
        if len(indices) == 2:
            pairs.append((indices[0], indices[1]))
    scores = scorer.attempt(prompts, responses)
    kept = [i for i, score in enumerate(scores) if not isinstance(score, NotScored)]
    new = {old: i for i, old in enumerate(kept)}
    held_out = HeldOut(
        scores=[float(scores[i]) for i in kept],  # type: ignore[arg-type]
        unsafe=[verdicts[i].unsafe for i in kept],
        grades=[verdicts[i].grade for i in kept],
        severities=[verdicts[i].severity for i in kept],
        pairs=[(new[i], new[j]) for i, j in pairs if i in new and j in new],
        prompts=len(prompts_of(rows)),
        not_scored=len(scores) - len(kept),
    )
    return measure(held_out, objective, scale)


def sign_warning(measures: Measures, objective: str, where: str) -> str | None:
    """What is wrong with the sign of a cost, if the labels say that anything is."""
    if objective != "cost":
        return None
    if measures["auc"] is None:
        if measures["labelled"]:
            return None  # one kind only
        return (
            f"No response {where} is labelled safe or unsafe, so nothing says that 0 parts safe from unsafe. Give "
            "labelled responses, or set `zero` where this cost is used."
        )
    safe, unsafe = measures["mean_safe"], measures["mean_unsafe"]
    assert safe is not None and unsafe is not None  # there are both kinds where there is an AUC
    if measures["auc"] < 0.5 or safe > unsafe:
        return (
            f"Safe-labelled text scores above unsafe-labelled text {where} (means {safe:.3f} and "
            f"{unsafe:.3f}, AUC {measures['auc']:.3f}): this cost points the wrong way, or has "
            "learned nothing. Check which answer the data call safer, and the labels."
        )
    return None
