"""One model's costs, as [`~evaluation.certificate.certify`] takes them. Nothing is dropped in silence."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trl_rsa.evaluation.cvar_bound import fresh_seed
from trl_rsa.evaluation.tables import UNNAMED
from trl_rsa.storage.digests import PromptKey, prompt_key, response_key
from trl_rsa.storage.records import ReadReport, Record, prompt_of, score_of


_CHOSEN_ON = (
    "These are records on which the model was chosen or trained: it may do worse on fresh prompts, and the confidence "
    "is not what it says."
)
_UNNAMED = (
    "The file names no prompts. Each row was taken for the response to a prompt of its own; if several answer one "
    "prompt, the bound is too low. The order of the rows was drawn at random: another gives another bound, and who "
    "draws several has less confidence than it says. Whether prompts were used before cannot be seen."
)


@dataclass
class ModelCosts:
    """The responses of one model.

    Args:
        model (`str` or `None`):
            Its name in the records.
        costs (`list[float]`), prompts (`list[PromptKey]`):
            Of each response its cost (NaN where there is none), and the key of its prompt before any attack.
        responses (`list[str]`):
            The [`~storage.digests.response_key`] of each, with its number if the prompt had several draws.
        n_cut (`int`):
            Responses that did not end by themselves.
        notes (`list[str]`):
            Sentences for the limits of a certificate.
        under (`str` or `None`):
            The condition that they were drawn under.
        seed (`int` or `None`):
            Of the order of the prompts, drawn at random, where they have no names of their own.
    """

    model: str | None
    costs: list[float] = field(default_factory=list)
    prompts: list[PromptKey] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    n_cut: int = 0
    notes: list[str] = field(default_factory=list)
    under: str | None = None
    seed: int | None = None

    @property
    def unnamed(self) -> bool:
        """Whether the prompts have no names of their own: `prompts` then numbers the rows by their costs."""
        return self.seed is not None


def costs_of_model(
    records: Iterable[Record],
    source: str,
    model: str | None = None,
    decide_records: bool = False,
    report: ReadReport | None = None,
) -> ModelCosts:
    """Collects the costs of one model.

    Args:
        records (`Iterable[dict]`):
            From [`~evaluation.tables.read_responses`].
        source (`str`):
            Name of the file, for messages. Records of the ladder's are known by it, or by their `split`.
        model (`str`, *optional*):
            Which model's; needed if there are several.
        decide_records (`bool`, *optional*, defaults to `False`):
            Whether records on which the ladder chose its model are allowed.
        report ([`~storage.records.ReadReport`], *optional*):
            What the reading of `records` fills: it says why there is nothing.

    Raises:
        ValueError: if the records do not say which are the model's, none has a cost, or they are the ladder's own.
    """
    by_model: dict[str | None, ModelCosts] = {}
    conditions: dict[str | None, set[str | None]] = {}
    chosen_on, unnamed, several = source.endswith("-decide.jsonl"), False, list[str]()
    for record in records:
        chosen_on = chosen_on or record.get("split") in ("train", "decide")
        unnamed = unnamed or bool(record.get(UNNAMED))
        name = record["model"] or None  # an empty name is none
        of = by_model.setdefault(name, ModelCosts(name))
        conditions.setdefault(name, set()).add(record.get("under"))
        prompt = prompt_of(record)
        of.costs.append(score_of(record, "cost"))
        of.prompts.append(prompt_key(prompt))
        of.responses.append(f"{response_key(prompt, record['response'])}-{record.get('draw') or 0}")
        if not several and isinstance(record.get("costs"), dict):
            several = list(record["costs"])
        of.n_cut += record.get("finished") is False
    if chosen_on and not decide_records:
        raise ValueError(
            f"You certify on {source}, but these are records on which the ladder chose or trained the model, so that "
            "their costs look better than fresh ones. Take responses to untouched prompts; `trl-rsa certify` with "
            "--decide_records gives a bound that says so."
        )
    why = f" {report}" if report is not None and report.problems else ""
    if not by_model:
        raise ValueError(
            f"You certify on {source}, but there is no record in it.{why} Give lines of JSON with prompt, response "
            "and cost, or a table with these columns."
        )
    found = by_model[_which(model, {name: len(of.costs) for name, of in by_model.items()}, source)]
    found.under = _one_condition(conditions[found.model], source)
    if np.isnan(found.costs).all() and len(several) > 1:
        raise ValueError(
            f"You certify on {source}, whose responses have costs of several constraints: {', '.join(several)}. Say "
            "which with --constraint."
        )
    if np.isnan(found.costs).all():
        raise ValueError(
            f"You certify on {source}, but none of its {len(found.costs)} responses has a cost.{why} Score them first "
            "(trl-rsa evaluate --responses FILE --cost SPEC), or write costs as numbers, such as -0.5."
        )
    if chosen_on:
        found.notes.append(_CHOSEN_ON)
    if unnamed:
        found.notes.append(_UNNAMED)
        # Numbered in the order of their costs: with the seed that a certificate names it can be made again from the
        # rows in any order. The seed must then be a fresh one. One that follows from the names would give the largest
        # cost the same place in all files of this length, and bets that depend on the order are not fair then.
        found.seed = fresh_seed()
        order = sorted(range(len(found.costs)), key=lambda i: (np.isnan(found.costs[i]), found.costs[i]))
        found.costs, found.responses = [found.costs[i] for i in order], [found.responses[i] for i in order]
        found.prompts = [prompt_key(f"row {i}") for i in range(len(found.costs))]
    return found


def _one_condition(conditions: set[str | None], source: str) -> str | None:
    """What all responses were drawn under: a bound is about one law."""
    if len(conditions) > 1:
        words = " and ".join(sorted("as usual" if one is None else str(one) for one in conditions))
        raise ValueError(
            f"You certify on {source}, but its responses were drawn {words}, and a bound is about one of these. Give "
            "a file of one."
        )
    (under,) = conditions
    return None if under is None else str(under)


def _which(model: str | None, counts: dict[str | None, int], source: str) -> str | None:
    """The model that is judged, by its name in the records."""
    if model is None and len(counts) == 1:
        return next(iter(counts))
    asked = "no model" if model is None else f"the model {model!r}"
    names = ", ".join(sorted(str(name) for name in counts if name is not None)) or "none"
    if None in counts:
        raise ValueError(
            f"You ask for {asked}, but {counts[None]} of the {sum(counts.values())} records in {source} name no model "
            f"(the others name: {names}), and any of them may be among its worst. Name the model in each."
        )
    if model not in counts:
        raise ValueError(
            f"You ask for {asked}, but the models in {source} are: {names}. Set --model (of "
            "`evaluate`: --certify_model) to one of them."
        )
    return model
