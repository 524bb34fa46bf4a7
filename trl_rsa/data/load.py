"""`load_preferences`: any known source to TRL's preference format, with every row accounted for."""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trl_rsa.data import pku
from trl_rsa.data.build import Tally, build_from_answers, build_from_pairs, choose_adapter, has_prompts
from trl_rsa.data.formats import columns_of, detect_format, sample_rows
from trl_rsa.data.report import DataReport, fingerprint
from trl_rsa.data.schema import PAIR_COLUMNS, Pair, Row
from trl_rsa.data.settings import check_settings
from trl_rsa.data.sources import Rows, open_source
from trl_rsa.data.spec import DatasetSpec, is_dataset_spec, parse_dataset_spec
from trl_rsa.data.split import IMPLICIT_PROMPTS


if TYPE_CHECKING:
    from datasets import Dataset

    from trl_rsa.data.sources import Source

_T = TypeVar("_T")


@dataclass(frozen=True)
class PreferenceData:
    """Pairs in TRL's preference format, and what became of the rows they were made from."""

    dataset: "Dataset"
    counts: DataReport


def load_preferences(
    source: "Source",
    format: str | None = None,
    preferred_by: str = "better",
    split: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    template: str | None = None,
    eos_token: str | None = None,
    strict: bool = False,
    seed: int = 42,
    max_pairs_per_prompt: int | None = None,
    limit: int | None = None,
    pair_rule: str | None = None,
) -> PreferenceData:
    """Reads preference pairs into TRL's `prompt`, `chosen`, `rejected`; a row that cannot be used is counted.

    Args:
        source (`str`, `Path`, `Dataset`, [`DatasetSpec`], …):
            A .jsonl, .json, .csv or .parquet file (all but the last may be gzipped), a folder, a Hub id, a dataset in
            memory, or Safe RLHF's `NAME[:PROPORTION[:PATH]]`, parsed or not.
        format (`str`, *optional*):
            One of [`FORMATS`]; seen from the columns if not given.
        preferred_by (`str`, *optional*, defaults to `"better"`):
            For PKU-SafeRLHF: the column `{preferred_by}_response_id` decides ("better" or "safer", or a judgement of
            your own). The other formats hold only one judgement, which decides.
        split, revision, name (`str`, *optional*):
            As in `datasets.load_dataset`.
        template (`str`, *optional*):
            "chat" for messages, to which the tokenizer's chat template is applied in training; "safe-rlhf" for text in
            Safe RLHF's template; "none" applies no template. By default, and with "none", text and messages of format
            "preference" stay as they are, and the other formats, which have turns, become messages.
        eos_token (`str`, *optional*):
            The tokenizer's, for "safe-rlhf": it closes the earlier replies of a conversation.
        strict (`bool`, *optional*, defaults to `False`):
            Whether the first row that would be skipped is an error.
        seed (`int`, *optional*, defaults to 42):
            For the pairing of BeaverTails and for the draw of a proportion.
        max_pairs_per_prompt (`int`, *optional*):
            BeaverTails only: at most so many pairs of one prompt, 4 if not given.
        limit (`int`, *optional*):
            Keep only the first so many pairs.
        pair_rule (`str`, *optional*):
            PKU-SafeRLHF only, by the safety labels of both answers: "one-safe" keeps the pairs of which exactly one is
            safe; "safe-better" those of which the preferred one is; "safedpo" drops pairs of two unsafe answers and
            prefers the safe answer where only one is.

    Returns:
        [`PreferenceData`]: `dataset`, in the order of the file (BeaverTails: of the prompts in it), with the columns
        `pair_weight` and `pair_label` where the source has them (1 in rows that leave them out), and `counts`.

    Raises:
        `ValueError`: for settings that cannot work, an unknown format, a broken row with `strict`, nothing left.
        `FileNotFoundError`: for a source that does not exist.
    """
    spec, rows = open_named(source, split, revision, name)
    sample = sample_rows(rows)
    format = format or (spec.format if spec else None) or (detect_format(sample, rows.name) if sample else "unknown")
    if sample:
        check_settings(
            format, preferred_by, template, eos_token, max_pairs_per_prompt, limit, pair_rule, columns_of(sample)
        )
    if template is None and format != "preference":
        template = "chat"
    tally = Tally(rows.name, strict)
    implicit = format == "preference" and not has_prompts(rows)
    if format == "beavertails":
        built = build_from_answers(rows, tally, template, eos_token, max_pairs_per_prompt, seed)
    else:
        built = build_from_pairs(
            rows, tally, choose_adapter(format, preferred_by, template, implicit, pair_rule), template, eos_token
        )
    if not built:
        raise ValueError(_nothing_left(rows.name, format, tally, sample))
    kept = draw(built, spec, seed)[:limit]
    dataset = _to_dataset(kept)
    if implicit and isinstance(kept[0].prompt, str):
        dataset.info.description = IMPLICIT_PROMPTS
    counts = DataReport(
        source=rows.name,
        format=format,
        preferred_by=_decided_by(format, preferred_by),
        template=template or "as given",
        rows_read=tally.read,
        rows_used=tally.used,
        skipped=_sorted(tally.skipped),
        unpaired=_sorted(tally.unpaired),
        left_out_by_rule=_sorted(tally.by_rule),
        pair_rule=pair_rule,
        pairs_swapped=sum(pair.swapped for pair in built),
        pairs_built=len(built),
        pairs_left_out=max(0, len(built) - len(kept)),
        pairs_repeated=max(0, len(kept) - len(built)),
        pairs_kept=len(kept),
        fingerprint=fingerprint(dataset),
    )
    return PreferenceData(dataset, counts)


def open_named(
    source: "Source", split: str | None, revision: str | None, name: str | None
) -> tuple[DatasetSpec | None, Rows]:
    """Arguments win over the spec. A spec's split does not apply to data without splits that the user put in its
    place."""
    if isinstance(source, str) and is_dataset_spec(source) and not Path(source).exists():
        source = parse_dataset_spec(source)
    if not isinstance(source, DatasetSpec):
        return None, open_source(source, split, revision, name)
    if split is None and not has_no_splits(source.source, source.data_dir):
        split = source.split
    return source, open_source(source.source, split, revision or source.revision, name, source.data_dir)


def has_no_splits(source: str | Path, data_dir: str | None = None) -> bool:
    """Whether a source is one file, or a folder in which `save_to_disk` wrote a dataset without splits."""
    path = Path(source).expanduser()
    if data_dir is not None and (path / data_dir).is_dir():
        path = path / data_dir
    return path.is_file() or ((path / "state.json").exists() and not (path / "dataset_dict.json").exists())


def _decided_by(format: str, preferred_by: str) -> str:
    return {"pku-safe-rlhf": preferred_by + pku.ID_SUFFIX, "beavertails": "is_safe"}.get(format, "chosen")


def preference_not_used(preferred_by: str, counts: DataReport) -> list[str]:
    """A sentence for a user who has set `preferred_by` for pairs that leave nothing to choose. Two stages on one file
    of such pairs, one by what is better and one by what is safer, would learn the same."""
    if counts.preferred_by != "chosen":
        return []
    return [
        f"You set preferred_by={preferred_by!r}, but the pairs of {counts.source} say themselves which response is "
        "chosen, and that is used."
    ]


def _nothing_left(source: str, format: str, tally: Tally, sample: list[Row]) -> str:
    reasons = "; ".join(
        f"{count:,} × {reason}" for reason, count in (tally.skipped + tally.unpaired + tally.by_rule).most_common()
    )
    columns = f" Its columns are {', '.join(columns_of(sample))}." if sample else ""
    if not tally.read:
        return f"{source} has no rows. Give a source with at least one pair."
    return f"No pair is left of the {tally.read:,} rows of {source} (format {format}): {reasons}.{columns}"


def draw(pairs: list[_T], spec: DatasetSpec | None, seed: int) -> list[_T]:
    """The proportion or number of pairs that a spec asks for: whole repetitions, then a random draw in file order."""
    if spec is None:
        return pairs
    count = spec.num_samples if spec.num_samples is not None else round(spec.proportion * len(pairs))
    repetitions, rest = divmod(max(1, count), len(pairs))
    drawn = sorted(random.Random(seed).sample(range(len(pairs)), rest))
    return pairs * repetitions + [pairs[i] for i in drawn]


def _to_dataset(pairs: list[Pair]) -> "Dataset":
    """Columns in TRL's order, `pair_weight` and `pair_label` last and only where at least one row has them."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    if not isinstance(pairs[0].prompt, str):
        text = List({"role": Value("string"), "content": Value("string")})
    columns = {side: [getattr(pair, side) for pair in pairs] for side in ("prompt", "chosen", "rejected")}
    features = dict.fromkeys(columns, text)
    for column in PAIR_COLUMNS:
        values = [getattr(pair, column.removeprefix("pair_")) for pair in pairs]
        if any(value is not None for value in values):
            columns[column] = [1.0 if value is None else value for value in values]
            features[column] = Value("float64")
    return Dataset.from_dict(columns, features=Features(features))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
