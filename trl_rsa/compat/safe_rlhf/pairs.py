"""Preference pairs for the trainer from what stands after `--train_datasets`."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.data import fingerprint, load_preferences, parse_dataset_spec
from trl_rsa.data.schema import PAIR_COLUMNS
from trl_rsa.data.spec import KNOWN_SPECS, split_spec


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
    parts = []
    for spec in specs:
        data = _load(spec, options | {"eos_token": eos_token})
        log(str(data.counts))
        parts.append(data.dataset)
    wanted = [column for column in PAIR_COLUMNS if any(column in part.column_names for part in parts)]
    for i, part in enumerate(parts):
        for column in wanted:
            if column not in part.column_names:
                parts[i] = parts[i].add_column(column, [1.0] * len(part))
    return concatenate_datasets(parts)


def _load(spec: str, options: dict[str, Any]) -> Any:
    from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset

    name, share, count, path = split_spec(spec)
    if not RawDataset.is_defined(name):
        if name in KNOWN_SPECS:
            return load_preferences(parse_dataset_spec(spec), **options)
        if (share, count, path) == (1.0, None, None) and Path(name).exists():
            return load_preferences(name, **options)
        RawDataset.load(name)  # raises, and names the datasets that there are
    from trl_rsa.compat.safe_rlhf.datasets.tokenized import draw

    raw = RawDataset.load(name, **({} if path is None else {"path": path}))
    data = load_preferences([_row(sample) for sample in raw], **options)
    if count is None and share == 1.0:
        return data
    proportion = share if count is None else Fraction(count, -1)
    places = draw(len(data.dataset), proportion, name, options["seed"])
    dataset = data.dataset.select(sorted(places))
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


def _row(sample: Any) -> dict[str, Any]:
    """A user's sample as a row of PKU-SafeRLHF, or, if its input is a dialogue, as messages."""
    if isinstance(sample.get("input"), list):
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(sample["input"])]
        answers = [[{"role": "assistant", "content": sample.get(name)}] for name in ("answer", "other_answer")]
        chosen, rejected = answers if sample.get("better") else answers[::-1]
        return {"prompt": turns, "chosen": chosen, "rejected": rejected}
    row = {"prompt": sample.get("input")}
    for i, (answer, is_safe) in enumerate((("answer", "is_safe"), ("other_answer", "is_other_safe"))):
        row[f"response_{i}"] = sample.get(answer)
        if is_safe in sample:
            row[f"is_response_{i}_safe"] = sample[is_safe]
    for judgement in ("better", "safer"):
        if judgement in sample:
            row[f"{judgement}_response_id"] = 0 if sample[judgement] else 1
    return row


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
