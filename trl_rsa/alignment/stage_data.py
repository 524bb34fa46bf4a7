"""The rows of a stage, in the form that its method reads, and counted for the manifest."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.judged_data import load_judged_data
from trl_rsa.alignment.manifest import StageData
from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.data import DataReport, fingerprint, load_preferences, split_by_prompt
from trl_rsa.data.load import PreferenceData
from trl_rsa.data.schema import PAIR_COLUMNS
from trl_rsa.data.single import load_demonstrations, load_unpaired
from trl_rsa.data.templates import TEMPLATES, safe_rlhf_prompt
from trl_rsa.evaluation.prompt_sets import load_prompts
from trl_rsa.training.methods.method import Rows


StageRows = tuple[Dataset, Dataset | None, StageData]


def load_stage_data(plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase) -> StageRows:
    """The stage's rows for training and evaluation, and their counts and fingerprints for the manifest.

    Raises:
        ValueError, FileNotFoundError: if there are none that the method can use.
    """
    if stage.does.reads == "judged":
        return load_judged_data(plan, stage, processing_class)
    options = {"preferred_by": stage.preferred_by, "seed": plan.seed, **stage.dataset_options}
    if options.get("template") == "safe-rlhf":
        options.setdefault("eos_token", processing_class.eos_token)
    if stage.does.reads == "prompts":
        options = {"chat": bool(processing_class.chat_template), **options}
    load = _LOADERS[stage.does.reads]
    loaded = load(stage.dataset, **options)
    _refuse_text_on_a_chat_model(stage, loaded.dataset, processing_class)
    _refuse_weights(stage, loaded.dataset)
    train = loaded.dataset
    data: StageData = {"train": loaded.counts.to_dict()}
    if stage.eval_dataset is not None:
        held_out = load(stage.eval_dataset, **options)
        return train, held_out.dataset, {**data, "eval": held_out.counts.to_dict()}
    if not stage.held_out:
        return train, None, data
    train, held_out_dataset = split_by_prompt(train, stage.held_out, seed=plan.seed)
    return train, held_out_dataset, {**data, "held_out_pairs": len(held_out_dataset)}


def _prompts(
    source: Any,
    chat: bool,
    template: str | None = None,
    eos_token: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    **_: Any,
) -> PreferenceData:
    if template not in (None, *TEMPLATES):
        raise ValueError(f"You set template to {template!r}, but it is one of {', '.join(TEMPLATES)}. Set one.")
    found = load_prompts(source, split=split)
    prompts = [row["prompt"] for row in found.rows][:limit]
    if template == "safe-rlhf":
        prompts = [safe_rlhf_prompt(one, eos_token or "") for one in prompts]
    elif template == "chat" or (template is None and chat):
        prompts = [[{"role": "user", "content": one}] if isinstance(one, str) else one for one in prompts]
    dataset = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return PreferenceData(
        dataset,
        DataReport(
            source=found.name,
            format="prompts",
            preferred_by="none",
            template=template or "as given",
            rows_read=len(found.rows) + sum(found.skipped.values()),
            rows_used=len(found.rows),
            pairs_built=len(found.rows),
            pairs_kept=len(dataset),
            pairs_left_out=len(found.rows) - len(dataset),
            fingerprint=fingerprint(dataset),
            skipped=dict(found.skipped.most_common()),
        ),
    )


_LOADERS: dict[Rows, Callable[..., PreferenceData]] = {
    "pairs": load_preferences,
    "unpaired": load_unpaired,
    "demonstrations": load_demonstrations,
    "prompts": _prompts,
}


def _refuse_weights(stage: Stage, rows: Dataset) -> None:
    """Only the risk-aware loss knows them: the others would count every pair in full, without a word."""
    for name in PAIR_COLUMNS:
        if name in rows.column_names and stage.method != "rsa":
            raise ValueError(
                f"You gave the stage {stage.name!r} pairs with a column {name!r}, but its method {stage.method!r} "
                "does not know it. Remove the column, or use the method 'rsa', where args: {risk_alpha: 0} is DPO."
            )


def _refuse_text_on_a_chat_model(stage: Stage, rows: Dataset, processing_class: PreTrainedTokenizerBase) -> None:
    """Text would be trained on as it is, while the model answers, and is judged, in its chat template."""
    if (
        processing_class.chat_template
        and stage.dataset_options.get("template") is None
        and isinstance(rows[0]["prompt"], str)
    ):
        raise ValueError(
            f"You gave the stage {stage.name!r} {'pairs' if stage.does.reads == 'pairs' else 'rows'} in plain text, "
            "but the model has a chat template, in which it answers and is judged. Set `dataset_options: {template: "
            "chat}` to train on conversations, or `template: none` to train on the text as it is."
        )
