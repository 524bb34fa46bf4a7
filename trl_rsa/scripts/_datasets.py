"""The preference pairs that the arguments of `train` name: on the Hub, in a file or in a folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from transformers.utils import logging
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

from trl_rsa.collator import PAIR_COLUMNS, problem_of
from trl_rsa.data import FORMATS, PAIR_RULES, TEMPLATES, load_preferences, split_by_prompt
from trl_rsa.data.files import ending_of, is_data_file, read_file
from trl_rsa.data.load import has_no_splits, preference_not_used
from trl_rsa.data.spec import is_dataset_spec
from trl_rsa.storage.hub import is_path


logger = logging.get_logger(__name__)


@dataclass
class PreferenceScriptArguments(ScriptArguments):
    """
    [`~trl.ScriptArguments`], with what [`~trl_rsa.data.load_preferences`] is to make of the dataset. If none of these
    is set, `dataset_name` holds TRL's preference format and is loaded as TRL loads it.

    Args:
        dataset_format (`str`, *optional*):
            Published format of the dataset; seen from its columns if only one of the others is set.
        preferred_by (`str`, *optional*):
            The judgement that makes an answer of PKU-SafeRLHF the chosen one; "better" if not set.
        pair_rule (`str`, *optional*):
            Which pairs of PKU-SafeRLHF are kept, and which answer is chosen, by their safety labels.
        dataset_template (`str`, *optional*):
            How the pairs are written down.
    """

    dataset_format: str | None = field(
        default=None, metadata={"help": "Published format of the dataset.", "choices": list(FORMATS)}
    )
    preferred_by: str | None = field(
        default=None,
        metadata={"help": "PKU-SafeRLHF: the judgement that makes an answer chosen, 'better' or 'safer'."},
    )
    pair_rule: str | None = field(
        default=None,
        metadata={
            "help": "PKU-SafeRLHF: which pairs are kept, and which answer is chosen, by their safety labels.",
            "choices": list(PAIR_RULES),
        },
    )
    dataset_template: str | None = field(
        default=None,
        metadata={"help": "Messages, or text in Safe RLHF's template.", "choices": list(TEMPLATES)},
    )


def load_pairs(
    script_args: PreferenceScriptArguments,
    dataset_args: DatasetMixtureConfig,
    with_test: bool,
    seed: int,
    eos_token: str | None = None,
) -> tuple[Any, Any | None]:
    """
    Loads the pairs to train on and, `with_test`, the held-out ones.

    A dataset without the split `dataset_test_split` is split by prompt if `test_split_size` is set. TRL's dpo script
    ignores `test_split_size` beside `dataset_name`; a file, however, has no other way to hold pairs out.

    Raises:
        `ValueError`, `FileNotFoundError`: a dataset, a split or a column is missing, or there are no pairs.
    """
    source = script_args.dataset_name
    if dataset_args.datasets:
        if source:
            logger.warning(f"`datasets` is set, so dataset_name={source!r} is ignored.")
        source = "the mixture in `datasets`"
        with _loading("`datasets`"):
            splits = get_dataset(dataset_args)
    elif not source:
        raise ValueError("You gave no dataset. Set dataset_name to a Hub id, a file or a folder, or set `datasets`.")
    elif _is_adapted(script_args):
        splits = _adapt(script_args, with_test and dataset_args.test_split_size is None, seed, eos_token)
    else:
        splits = _load(script_args)
    train = _take(splits, "dataset_train_split", script_args.dataset_train_split, source)
    if not with_test:
        return train, None
    if script_args.dataset_test_split not in splits and dataset_args.test_split_size is not None:
        if not isinstance(train, Dataset):
            raise ValueError(
                f"You set test_split_size={dataset_args.test_split_size}, but a dataset that is streamed cannot be "
                "split. Remove dataset_streaming, or give a dataset with a test split."
            )
        return split_by_prompt(train, dataset_args.test_split_size, seed)
    return train, _take(splits, "dataset_test_split", script_args.dataset_test_split, source)


def _is_adapted(args: PreferenceScriptArguments) -> bool:
    given = args.dataset_format or args.preferred_by or args.pair_rule or args.dataset_template
    return bool(given or is_dataset_spec(str(args.dataset_name)))


def _load(script_args: PreferenceScriptArguments) -> Mapping[str, Any]:
    """The splits of a dataset that is in TRL's preference format already."""
    source, streaming = str(script_args.dataset_name), script_args.dataset_streaming
    path = Path(source).expanduser()
    if not path.exists() and (is_path(source) or is_data_file(path)):
        raise FileNotFoundError(f"You set dataset_name={source!r}, but there is no such file or folder. Correct it.")
    if path.is_file() and is_data_file(path) and next(read_file(path), None) is None:
        raise ValueError(f"You set dataset_name={source!r}, but it is empty. Give a file with at least one pair.")
    with _loading(f"dataset_name={source!r}"):
        if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):  # written by save_to_disk
            saved = load_from_disk(str(path))
            return saved if isinstance(saved, dict) else {script_args.dataset_train_split: saved}
        if path.is_file() and is_data_file(path):
            builder = {".parquet": "parquet", ".csv": "csv"}.get(ending_of(path), "json")
            files = {script_args.dataset_train_split: str(path)}
            return load_dataset(builder, data_files=files, streaming=streaming)
        return load_dataset(str(path) if path.exists() else source, script_args.dataset_config, streaming=streaming)


@contextmanager
def _loading(setting: str) -> Iterator[None]:
    """The errors of `datasets` are of many kinds; what they say about the user's `setting` is one sentence."""
    try:
        yield
    except (DatasetsError, OSError, ValueError, IndexError) as error:
        # `datasets` stumbles over the index 0 of a folder that it saved without rows.
        cause = "it holds no rows" if isinstance(error, IndexError) else error.__cause__ or error
        reason = " ".join(str(cause).split()).rstrip(".")
        raise ValueError(
            f"You set {setting}, but it cannot be loaded: {reason}. Correct the name or the rows; `trl-rsa data` "
            "counts rows that cannot be read."
        ) from error


def _adapt(
    script_args: PreferenceScriptArguments, with_test: bool, seed: int, eos_token: str | None
) -> dict[str, Dataset]:
    """The splits of a published format, made into pairs. A file has none, nor has what `save_to_disk` wrote of one
    dataset; Safe RLHF's names say theirs."""
    if script_args.dataset_streaming:
        raise ValueError(
            "You set dataset_streaming, but rows of another format are read as a whole before they are paired. Remove "
            "it, or write the pairs with `trl-rsa data … --output pairs.jsonl` and stream these."
        )
    source = str(script_args.dataset_name)
    has_splits = not has_no_splits(source) and not is_dataset_spec(source)
    names = [script_args.dataset_train_split, *([script_args.dataset_test_split] if with_test and has_splits else [])]
    splits = {}
    for name in names:
        data = load_preferences(
            source,
            format=script_args.dataset_format,
            preferred_by=script_args.preferred_by or "better",
            pair_rule=script_args.pair_rule,
            split=name if has_splits else None,
            name=script_args.dataset_config,
            template=script_args.dataset_template,
            eos_token=eos_token,
            seed=seed,
        )
        logger.warning(str(data.counts))  # rows that were skipped must be seen
        if script_args.preferred_by is not None:
            for line in preference_not_used(script_args.preferred_by, data.counts):
                logger.warning(line)
        splits[name] = data.dataset
    return splits


def _take(splits: Mapping[str, Any], argument: str, name: str, source: str) -> Any:
    """One split, if it has pairs in TRL's preference format."""
    if name not in splits:
        hint = "" if argument == "dataset_train_split" else ", set test_split_size to hold pairs out,"
        raise ValueError(
            f"You set {argument}={name!r}, but {source} has only {', '.join(splits)}. Set {argument} to one of "
            f"these{hint} or give another dataset."
        )
    dataset = splits[name]
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"The split {name!r} of {source} is empty. Give a dataset with at least one pair.")
    columns = dataset.column_names or list(first)  # a streamed dataset may not know its columns
    missing = [column for column in ("chosen", "rejected") if column not in columns]
    if missing:
        raise ValueError(
            f"{source} has the columns {', '.join(columns) or '(none)'}, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Rename its columns, or set dataset_format if it is "
            f"one of {', '.join(name for name in FORMATS if name != 'preference')}."
        )
    if isinstance(dataset, Dataset):
        _check_rows(dataset, [name for name in ("prompt", "chosen", "rejected") if name in columns], source)
        dataset = _with_whole_columns(dataset, source)
    return dataset


def _with_whole_columns(dataset: Dataset, source: str) -> Dataset:
    """The optional columns of numbers, checked before a model is loaded, and 1 in rows that leave them out."""
    for name in (name for name in PAIR_COLUMNS if name in dataset.column_names):
        values = [1.0 if value is None else value for value in dataset[name]]
        for number, value in enumerate(values):
            if problem := problem_of(name, value):
                raise ValueError(f"Row {number} of {source} (counted from 0) has {problem}")
        dataset = dataset.remove_columns(name).add_column(name, values)
    return dataset


def _check_rows(dataset: Dataset, columns: list[str], source: str) -> None:
    """Columns have one type for all rows; a row may still lack a text. TRL stumbles over both while it tokenizes."""
    kinds = {name: _kind(dataset.features[name]) for name in columns}
    if set(kinds.values()) not in ({"text"}, {"messages"}):
        said = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise ValueError(
            f"The columns of {source} hold {said}, but pairs are all texts, or all messages with role and content. "
            "Write them alike; `trl-rsa data` reads other formats."
        )
    rows = dataset.select_columns(columns)
    if not any(_has_gaps(batch[name]) for batch in rows.with_format("arrow").iter(10_000) for name in columns):
        return
    for number, row in enumerate(rows):
        for name in columns:
            turns = [{"content": row[name]}] if isinstance(row[name], str) else row[name]
            if not turns or any(not isinstance(turn.get("content"), str) for turn in turns):
                raise ValueError(
                    f"Row {number} of {source} (counted from 0) has no text in `{name}`. Correct the row, or set "
                    "dataset_format=preference, which leaves such rows out and counts them."
                )


def _has_gaps(column: Any) -> bool:
    """Whether a row of an arrow column has no text, no message, or a message without text."""
    if column.null_count or not pa.types.is_list(column.type):
        return bool(column.null_count)
    contents = pc.struct_field(pc.list_flatten(column), "content")
    return bool(contents.null_count or pc.any(pc.equal(pc.list_value_length(column), 0)).as_py())


def _kind(feature: Any) -> str:
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        return "text"
    inner = getattr(feature, "feature", None)
    if isinstance(inner, dict) and {"role", "content"} <= set(inner):
        return "messages"
    return "something else"
