"""What happened to every row, and a fingerprint of what came out."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import NotRequired, TypedDict, cast


def fingerprint(rows: Iterable[Mapping[str, object]]) -> str:
    """SHA-256 (hex) over the rows of a dataset in their order, each as JSON with sorted keys."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


class DataReportJSON(TypedDict):
    """A [`DataReport`] in JSON. The last three are there where a pair rule was given."""

    source: str
    format: str
    preferred_by: str
    template: str
    rows_read: int
    rows_used: int
    pairs_built: int
    pairs_kept: int
    fingerprint: str
    skipped: dict[str, int]
    unpaired: dict[str, int]
    pairs_left_out: int
    pairs_repeated: int
    left_out_by_rule: NotRequired[dict[str, int]]
    pair_rule: NotRequired[str]
    pairs_swapped: NotRequired[int]


@dataclass(frozen=True)
class DataReport:
    """Counts of one load. Always `rows_read = rows_used + Σ skipped + Σ unpaired + Σ left_out_by_rule` and
    `pairs_kept = pairs_built − pairs_left_out + pairs_repeated`.

    Args:
        source, format, template (`str`):
            What was read, as what, and how it was written down ("as given" without a template).
        preferred_by (`str`):
            The column that decided which response is chosen.
        rows_read (`int`):
            All rows, broken ones included; blank lines are none.
        rows_used (`int`):
            Rows in at least one pair.
        skipped (`dict[str, int]`):
            Rows that contradict themselves or cannot be read, by reason.
        unpaired (`dict[str, int]`):
            Sound single answers that found no partner, by reason (BeaverTails only).
        left_out_by_rule (`dict[str, int]`):
            Sound pairs that `pair_rule` left out, by reason.
        pair_rule (`str`, *optional*):
            The rule.
        pairs_swapped (`int`):
            Pairs, among those built, of which the rule chose the answer that the judgement did not prefer.
        pairs_built (`int`):
            Pairs before a proportion or a limit was applied.
        pairs_left_out (`int`):
            Pairs that a proportion or a limit left out.
        pairs_repeated (`int`):
            Copies made where a proportion above 1 was asked for.
        pairs_kept (`int`):
            Rows of the resulting dataset.
        fingerprint (`str`):
            See [`fingerprint`].
    """

    source: str
    format: str
    preferred_by: str
    template: str
    rows_read: int
    rows_used: int
    pairs_built: int
    pairs_kept: int
    fingerprint: str
    skipped: dict[str, int] = field(default_factory=dict)
    unpaired: dict[str, int] = field(default_factory=dict)
    pairs_left_out: int = 0
    pairs_repeated: int = 0
    left_out_by_rule: dict[str, int] = field(default_factory=dict)
    pair_rule: str | None = None
    pairs_swapped: int = 0

    def to_dict(self) -> DataReportJSON:
        """As JSON takes it. What a pair rule has counted is left out where there is none, so that the manifests of
        runs without one stay as they were."""
        own = ("left_out_by_rule", "pair_rule", "pairs_swapped")
        kept = {name: value for name, value in asdict(self).items() if self.pair_rule is not None or name not in own}
        return cast(DataReportJSON, kept)

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.rows_read:,} rows read as {self.format}, preferred by {self.preferred_by}, "
            f"template {self.template}",
            f"{self.pairs_kept:>9,}  pairs kept",
        ]
        if self.pairs_left_out:
            lines.append(f"{self.pairs_left_out:>9,}  pairs left out by the proportion or the limit")
        if self.pairs_repeated:
            lines.append(f"{self.pairs_repeated:>9,}  of the kept pairs are repetitions")
        if self.pairs_swapped:
            lines.append(f"{self.pairs_swapped:>9,}  pairs in which the rule chose the other answer")
        dropped = {"skipped": self.skipped, "unpaired": self.unpaired}
        if self.pair_rule is not None:
            dropped[f"left out by the rule {self.pair_rule}"] = self.left_out_by_rule
        for what, counts in dropped.items():
            lines.append(f"{sum(counts.values()):>9,}  rows {what}")
            lines += [f"{count:>15,}  {reason}" for reason, count in counts.items()]
        return "\n".join([*lines, f"fingerprint {self.fingerprint}"])
