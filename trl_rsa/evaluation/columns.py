"""Records as columns: what the metrics need of each record, some 50 bytes, never its text."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_rsa.evaluation.refusal import RefusalRule, is_refusal
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.records import prompt_of, score_of, text_of
from trl_rsa.storage.tables import truth_of


# What a model without a name is called where it is shown.
NAMELESS = "unnamed"


@dataclass(frozen=True)
class Labels:
    """A column of strings (or None), each stored once: `names[codes[i]]`."""

    names: list[str | None]
    codes: NDArray[np.int32]  # [n]

    def __iter__(self) -> Iterator[tuple[str | None, NDArray[np.intp]]]:
        """Yields each name that occurs, and the indices of its records."""
        for code, name in enumerate(self.names):
            indices = np.flatnonzero(self.codes == code)
            if indices.size:
                yield name, indices


@dataclass(frozen=True)
class Columns:
    """n records. `cost` and `reward` are NaN where there is no score; `benign` is −1 where it is not known.

    `prompt` is the key of the prompt as a number, `group` that of the prompt before any attack: records of one group
    are not independent. `order` numbers the records as they were read.
    """

    cost: NDArray[np.float64]
    reward: NDArray[np.float64]
    prompt: NDArray[np.uint64]
    group: NDArray[np.uint64]
    refused: NDArray[np.bool_]
    has_text: NDArray[np.bool_]
    benign: NDArray[np.int8]
    order: NDArray[np.int64]
    model: Labels
    category: Labels
    attack: Labels

    def __len__(self) -> int:
        return self.cost.size

    def take(self, indices: NDArray[Any]) -> "Columns":
        """The records at `indices`, which may be an index array or a mask."""
        labels = [Labels(column.names, column.codes[indices]) for column in (self.model, self.category, self.attack)]
        columns = (self.cost, self.reward, self.prompt, self.group, self.refused, self.has_text)
        return Columns(*(column[indices] for column in (*columns, self.benign, self.order)), *labels)

    def by_model(self) -> dict[str, "Columns"]:
        """The records of each model by its shown name, in order of appearance.

        Records without a name and those of a model that is called [`NAMELESS`] are one: none of them is left out.
        """
        parts: dict[str, list[NDArray[np.intp]]] = {}
        for name, indices in self.model:
            parts.setdefault(name or NAMELESS, []).append(indices)
        return {name: self.take(np.sort(np.concatenate(several))) for name, several in parts.items()}


class _Codes:
    """Collects a `Labels` column."""

    def __init__(self) -> None:
        self.names: dict[str | None, int] = {}
        self.codes = array("i")

    def append(self, name: Any) -> None:
        name = name if name is None else str(name)
        self.codes.append(self.names.setdefault(name, len(self.names)))

    def labels(self) -> Labels:
        return Labels(list(self.names), np.frombuffer(self.codes, dtype=np.int32))


def read_columns(records: Iterable[Mapping[str, Any]], refusal: RefusalRule = is_refusal) -> Columns:
    """Turns records, one at a time, into columns.

    Args:
        records (`Iterable[Mapping]`):
            Records as [`~storage.records.read_records`] yields them.
        refusal (`Callable[[str], bool]`, *optional*):
            The rule that decides whether a response refuses.
    """
    cost, reward, prompts, groups = array("d"), array("d"), array("Q"), array("Q")
    refused, has_text, benign = bytearray(), bytearray(), array("b")
    model, category, attack = _Codes(), _Codes(), _Codes()
    for record in records:
        for column, name in ((cost, "cost"), (reward, "reward")):
            column.append(score_of(record, name))
        prompt, counts_for = int(prompt_key(record["prompt"]), 16), prompt_of(record)
        prompts.append(prompt)
        groups.append(prompt if counts_for is record["prompt"] else int(prompt_key(counts_for), 16))
        response = text_of(record["response"])
        refused.append(refusal(response))
        has_text.append(bool(response))
        known = truth_of(record.get("benign"))
        benign.append(-1 if known is None else known)
        model.append(record.get("model") or None)  # an empty name is none
        category.append(record.get("category"))
        attack.append(record.get("attack"))
    return Columns(
        cost=np.frombuffer(cost, dtype=np.float64),
        reward=np.frombuffer(reward, dtype=np.float64),
        prompt=np.frombuffer(prompts, dtype=np.uint64),
        group=np.frombuffer(groups, dtype=np.uint64),
        refused=np.frombuffer(bytes(refused), dtype=np.bool_),
        has_text=np.frombuffer(bytes(has_text), dtype=np.bool_),
        benign=np.frombuffer(benign, dtype=np.int8),
        order=np.arange(len(cost)),
        model=model.labels(),
        category=category.labels(),
        attack=attack.labels(),
    )
