"""Preference pairs for the trainer from what stands after `--train_datasets`."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.data import fingerprint, load_preferences, parse_dataset_spec
from trl_rsa.data.load import preference_not_used
from trl_rsa.data.schema import PAIR_COLUMNS
from trl_rsa.data.spec import KNOWN_SPECS, split_spec
from trl_rsa.storage.tables import truth_of


if TYPE_CHECKING:
    from datasets import Dataset


def load_pairs(
    specs: Sequence[str],
    preferred_by: str,
    pair_rule: str | None,
    template: str,
    eos_token: str | None,
    seed: int,
    log: Any = print,
) -> "Dataset":
    """The pairs of all datasets, one after the other. `log` is told what became of the rows of each.

    A name is that of a [`RawDataset`] that a user has defined, one of Safe RLHF's, or a file or folder.
    """
    from datasets import concatenate_datasets

    options = {"preferred_by": preferred_by, "pair_rule": pair_rule, "template": template, "seed": seed}
    check_names(specs, preferred_by)
    parts = []
    for spec in specs:
        data = _load(spec, options | {"eos_token": eos_token})
        _refuse_one_judgement(spec, data.counts.format, preferred_by)
        log(str(data.counts))
        for sentence in preference_not_used(preferred_by, data.counts) if preferred_by != "better" else ():
            log(sentence)
        parts.append(data.dataset)
    wanted = [column for column in PAIR_COLUMNS if any(column in part.column_names for part in parts)]
    for i, part in enumerate(parts):
        for column in wanted:
            if column not in part.column_names:
                parts[i] = parts[i].add_column(column, [1.0] * len(part))
    return concatenate_datasets(parts)


def _refuse_one_judgement(spec: str, format: str | None, preferred_by: str) -> None:
    if format == "hh-rlhf" and preferred_by != "better":
        raise ValueError(
            f"You set --preference {preferred_by}, but the pairs of {spec} hold one judgement, which decides. Leave "
            "--preference out, or train on PKU-SafeRLHF."
        )


def check_names(specs: Sequence[str], preferred_by: str) -> None:
    """
    Raises:
        ValueError: if a dataset is no user's, none of Safe RLHF's and no file, or holds another judgement alone.
    """
    from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset

    for spec in specs:
        name, share, count, path = split_spec(spec)
        if RawDataset.is_defined(name):
            continue
        if name in KNOWN_SPECS:
            _refuse_one_judgement(spec, KNOWN_SPECS[name].format, preferred_by)
        elif (share, count, path) != (1.0, None, None) or not Path(name).exists():
            RawDataset.load(name)  # raises, and names the datasets that there are


def write_rows(spec: str, seed: int, folder: Path) -> str:
    """A dataset that a user has defined as a file of PKU-SafeRLHF's columns, and its path; any other stays a name."""
    from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset

    name, share, count, path = split_spec(spec)
    if not RawDataset.is_defined(name):
        return spec
    every = _rows_of(name, path)
    rows = [every[i] for i in _places(len(every), share, count, name, seed)]
    file = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', spec)}.jsonl"
    # Flags may be numpy's.
    file.write_text("".join(json.dumps(row, default=bool) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def _rows_of(name: str, path: str | None) -> list[dict[str, Any]]:
    from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset

    return [row_of(sample) for sample in RawDataset.load(name, **({} if path is None else {"path": path}))]


def _places(n: int, share: float, count: int | None, name: str, seed: int) -> list[int]:
    """Which of `n` a proportion or a number of Safe RLHF's is."""
    from trl_rsa.compat.safe_rlhf.datasets.tokenized import draw

    return sorted(int(i) for i in draw(n, share if count is None else Fraction(count, -1), name, seed))


def _load(spec: str, options: dict[str, Any]) -> Any:
    from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset

    name, share, count, path = split_spec(spec)
    if not RawDataset.is_defined(name):
        if name in KNOWN_SPECS:
            return load_preferences(parse_dataset_spec(spec), **options)
        return load_preferences(name, **options)
    rows = _rows_of(name, path)
    _check_judgement(rows, name, options["preferred_by"])
    data = load_preferences(rows, format="pku-safe-rlhf", **options)
    if count is None and share == 1.0:
        return data
    dataset = data.dataset.select(_places(len(data.dataset), share, count, name, options["seed"]))
    built = data.counts.pairs_built
    counts = replace(
        data.counts,
        source=name,
        pairs_left_out=max(0, built - len(dataset)),
        pairs_repeated=max(0, len(dataset) - built),
        pairs_kept=len(dataset),
        fingerprint=fingerprint(dataset),
    )
    return replace(data, dataset=dataset, counts=counts)


def row_of(sample: Any) -> dict[str, Any]:
    """A user's sample as a row of PKU-SafeRLHF, whose prompt is messages if the input is a dialogue.

    What a sample does not say is left out, so that a row without the judgement that decides is counted as such.
    """
    said = sample.get("input")
    if isinstance(said, list):
        said = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(said)]
    row = {"prompt": said}
    for i, (answer, is_safe) in enumerate((("answer", "is_safe"), ("other_answer", "is_other_safe"))):
        row[f"response_{i}"] = sample.get(answer)
        if sample.get(is_safe) is not None:
            row[f"is_response_{i}_safe"] = sample[is_safe]
    for judgement in ("better", "safer"):
        if sample.get(judgement) is not None:
            flag = truth_of(sample[judgement])
            # What is neither true nor false stays as it is, for the reader of the row to refuse.
            row[f"{judgement}_response_id"] = sample[judgement] if flag is None else 1 - flag
    return row


def _check_judgement(rows: Sequence[dict[str, Any]], name: str, preferred_by: str) -> None:
    judgements = [word for word in ("better", "safer") if any(f"{word}_response_id" in row for row in rows)]
    if rows and preferred_by not in judgements:
        instead = f", or set --preference {judgements[0]}" if judgements else ""
        raise ValueError(
            f"You set --preference {preferred_by}, but no sample of {name} says whether its `answer` is "
            f"{preferred_by}. Add {preferred_by!r} to the samples{instead}."
        )


def import_datasets(name: str) -> None:
    """Imports the module or file in which a user defines datasets, so that their names are known."""
    if not name.endswith(".py"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"You set --dataset_module {name}, but there is no such module ({error}). Give a module that can be "
                "imported, or the path of a .py file."
            ) from error
        return
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"You set --dataset_module {name}, but there is no such file. Correct the path.")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))
