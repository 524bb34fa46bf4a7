"""records.jsonl for the report: the numbers of every record, the text of the worst only.

Read line by line: some 16 bytes per record stay in memory, however long the responses are.
"""

import heapq
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_rsa.storage.records import ReadReport, Record, read_records


# A longer text is cut on the page, and says so: a few hundred of them must not make it heavy.
TEXT_LIMIT = 4000


@dataclass
class Responses:
    """What the report needs of the records.

    Args:
        costs (`dict[str, array]`), rewards (`dict[str, array]`):
            Per model, in the order of appearance, the scores that are numbers.
        worst (`dict[str, list[dict]]`):
            Per model its responses with the highest cost, the worst first; ties in the order of the file.
        found ([`~storage.records.ReadReport`]):
            How many records were read, and what was wrong.
    """

    costs: dict[str, array] = field(default_factory=dict)
    rewards: dict[str, array] = field(default_factory=dict)
    worst: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    found: ReadReport = field(default_factory=ReadReport)
    _heaps: dict[str, list[tuple[float, int, dict[str, Any]]]] = field(default_factory=dict)

    def add(self, record: Record, number: int, keep: int) -> None:
        model = model_name(record)
        cost = record["cost"]
        for scores, score in ((self.costs, cost), (self.rewards, record["reward"])):
            column = scores.setdefault(model, array("d"))
            if score is not None:
                column.append(score)
        heap = self._heaps.setdefault(model, [])
        if cost is not None and (len(heap) < keep or cost > heap[0][0]):
            entry = (cost, -number, _shown(record))
            (heapq.heappush if len(heap) < keep else heapq.heappushpop)(heap, entry)


def is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def model_name(record: dict[str, Any]) -> str:
    """Its model; as in metrics.json a null one is called "unnamed"."""
    return str(record.get("model") or "unnamed")


def read_responses(path: Path, keep: int = 5) -> Responses:
    """Reads a records file; `keep` worst responses per model with their text."""
    responses = Responses()
    for number, record in enumerate(read_records(path, responses.found)):
        responses.add(record, number, keep)
    for model, heap in responses._heaps.items():
        responses.worst[model] = [response for *_, response in sorted(heap, key=lambda kept: kept[:2], reverse=True)]
    return responses


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    names = ("category", "attack", "reward", "cost", "finished")
    shown = {name: record.get(name) for name in names}
    return shown | {name: shorten(text_of(record[name])) for name in ("prompt", "response")}


def text_of(value: str | list[Any]) -> str:
    """A string as it is; of several chat messages each with its role, of a single one its content."""
    if isinstance(value, str):
        return value
    messages = [m if isinstance(m, dict) else {"content": m} for m in value]
    if len(messages) == 1:
        return str(messages[0].get("content", ""))
    return "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in messages)


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"
