"""The files of an audited certificate: people's labels, and the draw that asked for them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trl_rsa.audits.formats import form_of_labels, read_labels, reasons_in_words
from trl_rsa.audits.selection import Selection, choose
from trl_rsa.data.harm import HarmScale
from trl_rsa.evaluation.costs import ModelCosts
from trl_rsa.evaluation.ledger import prompt_sketch, seed_of_prompts


Array = NDArray[np.float64]


def costs_of_labels(path: str | os.PathLike[str], scale: HarmScale) -> dict[str, list[float]]:
    """Reads people's labels, in any form that [`~audits.formats.read_labels`] knows.

    Args:
        path (`str` or `os.PathLike`):
            The file: a `.csv`, an export in `.json`, or else JSON lines. A row without a grade is a response that
            waits for one.
        scale ([`~data.harm.HarmScale`]):
            Grades by name or by number from 0.

    Returns:
        `dict`: by response, the costs of its grades, one per labeller. Of several by one labeller the last counts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row has no id, or a grade that the scale does not have.
    """
    place = Path(path)
    form = None if place.suffix == ".json" else "csv" if place.suffix.lower() == ".csv" else "jsonl"
    found = read_labels(place, form_of_labels(place, form), scale, None)
    if found.wrong:
        raise ValueError(
            f"You gave the labels {str(path)!r}, but a certificate needs all of them, and some rows cannot be used: "
            f"{reasons_in_words(found.wrong)}. Correct these."
        )
    costs: dict[str, dict[str, float]] = {}
    for label in found.labels:
        costs.setdefault(label["id"], {})[label["labeller"]] = scale.costs[label["grade"]]
    return {key: list(own.values()) for key, own in costs.items()}


def labels_of(names: Sequence[str], labels: Mapping[str, Sequence[float]]) -> Array:
    """Labels `[n, k]` of responses, by the names of [`~evaluation.costs.ModelCosts`]; NaN where there is none."""
    own = [labels.get(name.rpartition("-")[0], ()) for name in names]
    result = np.full((len(own), max(1, *map(len, own))), np.nan)
    for row, values in zip(result, own, strict=True):
        row[: len(values)] = values
    return result


def unique_names(found: ModelCosts) -> list[str]:
    """The names of the responses; where a file has the same draw twice, each gets a number."""
    seen: dict[str, int] = {}
    result = []
    for name in found.responses:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}+{seen[name]}")
    return result


def refuse_unnamed(found: ModelCosts) -> None:
    """
    Raises:
        ValueError: if the records name no prompts: the draw would follow from their number alone, and who knows it
            beforehand knows which rows people will see.
    """
    if found.unnamed:
        raise ValueError(
            "You ask for people's labels of rows that name no prompts, but a label belongs to a response to a prompt, "
            "and the draw follows from the prompts. Give the rows a column prompt."
        )


def own_seed(found: ModelCosts) -> int:
    """The seed of a draw that nobody has chosen: it follows from the prompts."""
    refuse_unnamed(found)
    return seed_of_prompts(prompt_sketch(found.prompts)[0])


def draw_labels(found: ModelCosts, labels: int, uniform: float, seed: int) -> Selection:
    """The draw that follows from records, the number of labels, the uniform share and a seed."""
    refuse_unnamed(found)
    return choose(unique_names(found), found.costs, labels, uniform, seed, found.prompts)


def read_draw(path: str | os.PathLike[str], found: ModelCosts) -> tuple[Selection, int]:
    """A draw as a ladder has written it (requests-NN-certify-1.json): probabilities in the order of the records, the
    names of the responses that were drawn, and the seed.

    Raises:
        ValueError: if it is no such file, or not of these records.
    """
    refuse_unnamed(found)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        probabilities = np.asarray(content["probabilities"], dtype=np.float64)
        drawn = {f"{request['id']}-{request['draw']}" for request in content["requests"]}
        least, seed = float(content["least"]), int(content["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"You gave the draw {str(path)!r}, but it is no draw of an audit ({error!r}). Give the ladder's file "
            "requests-NN-certify-1.json, or say with --drawn how many labels were to be drawn."
        ) from error
    chosen = np.array([name in drawn for name in found.responses])
    if probabilities.shape != chosen.shape or chosen.sum() != len(drawn):
        raise ValueError(
            f"You gave the draw {str(path)!r} of {probabilities.size} responses, of which {len(drawn)} were drawn, "
            f"but the records hold {chosen.size} responses and {chosen.sum()} of those. Give the records of the draw."
        )
    return Selection(probabilities, chosen, least), seed
