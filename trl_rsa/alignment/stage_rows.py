"""The rows of a stage, and what a careful reader should know of them before they are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from trl_rsa.alignment.manifest import StageData
from trl_rsa.alignment.plan import Stage
from trl_rsa.data.load import has_no_splits
from trl_rsa.data.spec import is_dataset_spec


@dataclass(frozen=True)
class StageRows:
    """
    Args:
        train, held_out (`Dataset`):
            What is trained on, and what is evaluated on, if anything is.
        data ([`~alignment.manifest.StageData`]):
            Their counts and fingerprints, for the manifest.
        prompt_keys (`frozenset[str]`):
            [`~data.templates.untemplated_key`] of the prompts that are trained on.
        warnings (`Sequence[str]`, *optional*):
            Sentences for the log.
    """

    train: Dataset
    held_out: Dataset | None
    data: StageData
    prompt_keys: frozenset[str]
    warnings: Sequence[str] = ()


def eval_options(stage: Stage) -> dict[str, Any]:
    """How `eval_dataset` is read: as `dataset`, but for what `eval_options` say, and without its split where the data
    have no splits or say their own."""
    source = stage.eval_dataset
    is_named = isinstance(source, str) and not (has_no_splits(source) or is_dataset_spec(source))
    shared = stage.dataset_options
    if not is_named and not isinstance(source, dict):  # a DatasetDict is one
        shared = {name: value for name, value in shared.items() if name != "split"}
    return {**shared, **stage.eval_options}


def check_eval_data(stage: Stage, data: StageData, trained: frozenset[str], evaluated: frozenset[str]) -> list[str]:
    """A warning if prompts of `eval_dataset`, by their keys, are also trained on.

    Raises:
        ValueError: if the rows to evaluate on are those that are trained on.
    """
    if data["train"]["fingerprint"] == data["eval"]["fingerprint"]:
        raise ValueError(
            f"You set the eval_dataset of the stage {stage.name!r} to {data['eval']['source']}, but these are the "
            "rows that it trains on. Set eval_options, such as {split: test}, or held_out in place of eval_dataset."
        )
    shared = len(trained & evaluated)
    if not shared:
        return []
    return [
        f"{shared:,} of the {len(evaluated):,} prompts of eval_dataset are also trained on; on prompts that it has "
        "not seen the model may do worse. Give others, or set held_out in place of eval_dataset."
    ]
