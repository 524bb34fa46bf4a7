"""The rows of a stage, in the form that its method reads, and counted for the manifest."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.judged_data import load_judged_data
from trl_rsa.alignment.manifest import StageData
from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.alignment.stage_rows import StageRows, check_eval_data, eval_options
from trl_rsa.data import DataReport, fingerprint, load_preferences, split_by_prompt
from trl_rsa.data.load import PreferenceData, preference_not_used
from trl_rsa.data.schema import PAIR_COLUMNS, RowError
from trl_rsa.data.settings import check_count
from trl_rsa.data.single import load_demonstrations, load_unpaired
from trl_rsa.data.templates import TEMPLATES, safe_rlhf_prompt, untemplated_key
from trl_rsa.evaluation.prompt_sets import load_prompts
from trl_rsa.training.methods.method import Rows


def load_stage_data(plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase) -> StageRows:
    """The stage's rows for training and evaluation.

    Raises:
        ValueError, FileNotFoundError: if there are none that the method can use, or those to evaluate on are those
            that are trained on.
    """
    if stage.does.reads == "judged":
        return load_judged_data(plan, stage, processing_class)
    options = _options(plan, stage, processing_class, stage.dataset_options)
    load = _LOADERS[stage.does.reads]
    loaded = load(stage.dataset, **options)
    _refuse_text_on_a_chat_model(stage, loaded.dataset, processing_class)
    _refuse_weights(stage, loaded.dataset)
    warnings = preference_not_used(stage.preferred_by, loaded.counts) if stage.preferred_by != "better" else []
    train, held_out = loaded.dataset, None
    data: StageData = {"train": loaded.counts.to_dict()}
    if stage.held_out:
        train, held_out = split_by_prompt(train, stage.held_out, seed=plan.seed)
        data["held_out_pairs"] = len(held_out)
    trained = _keys(train, options, processing_class)
    if stage.eval_dataset is not None:
        options = _options(plan, stage, processing_class, eval_options(stage))
        evaluated = load(stage.eval_dataset, **options)
        _refuse_weights(stage, evaluated.dataset)
        held_out, data["eval"] = evaluated.dataset, evaluated.counts.to_dict()
        warnings += check_eval_data(stage, data, trained, _keys(held_out, options, processing_class))
    return StageRows(train, held_out, data, trained, warnings)


def _options(
    plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of the loader."""
    options = {"preferred_by": stage.preferred_by, "seed": plan.seed, **given}
    if options.get("template") == "safe-rlhf":
        options.setdefault("eos_token", processing_class.eos_token)
    if stage.does.reads == "prompts":
        options = {"chat": bool(processing_class.chat_template), **options}
    return options


def _keys(rows: Dataset, options: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> frozenset[str]:
    eos_token = options.get("eos_token") or processing_class.eos_token
    return frozenset(untemplated_key(prompt, eos_token) for prompt in rows["prompt"])


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
    check_count("limit", limit)
    found = load_prompts(source, split=split)
    skipped, prompts = Counter(found.skipped), []
    for row in found.rows:
        prompt = row["prompt"]
        try:
            if template == "safe-rlhf":
                prompt = safe_rlhf_prompt(prompt, eos_token or "")
            elif isinstance(prompt, str) and (template == "chat" or (template is None and chat)):
                prompt = [{"role": "user", "content": prompt}]
            prompts.append(prompt)
        except RowError as error:
            skipped[str(error)] += 1
    if not prompts:
        raise ValueError(
            f"You set template to {template!r}, but none of the {len(found.rows)} prompts of {found.name} fits it "
            f"({'; '.join(skipped)}). Set another template, or give other prompts."
        )
    dataset = Dataset.from_list([{"prompt": prompt} for prompt in prompts[:limit]])
    return PreferenceData(
        dataset,
        DataReport(
            source=found.name,
            format="prompts",
            preferred_by="none",
            template=template or "as given",
            rows_read=len(found.rows) + sum(found.skipped.values()),
            rows_used=len(prompts),
            pairs_built=len(prompts),
            pairs_kept=len(dataset),
            pairs_left_out=len(prompts) - len(dataset),
            fingerprint=fingerprint(dataset),
            skipped=dict(skipped.most_common()),
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
