"""Everything of a plan that can be made ready before a model is loaded: data, arguments, the ladder's prompts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.manifest import StageData, StageEntry
from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.data import load_preferences, split_by_prompt
from trl_rsa.ladder.climb import Ladder
from trl_rsa.storage.provenance import differences
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.runner import StageRunner
from trl_rsa.training.stage import ReadyStage


def model_settings(plan: Plan) -> ModelSettings:
    """How the plan's models are loaded, and what of them is trained."""
    return ModelSettings.of(plan.model_init_kwargs, plan.peft_config, plan.args)


def make_ladder(
    plan: Plan,
    models: ModelSettings,
    processing_class: PreTrainedTokenizerBase,
    runner: StageRunner,
    log: Callable[[str], None],
    stages: Sequence[ReadyStage],
) -> Ladder | None:
    """What follows on the stages; None for a plan without a constraint."""
    if not plan.constraints:
        return None
    return Ladder(
        plan.constraints,
        plan.rungs,
        Path(plan.output_dir),
        plan.args,
        models,
        plan.seed,
        processing_class,
        runner,
        log,
        prompts_of(stages),
    )


def prepare_stage(plan: Plan, index: int, processing_class: PreTrainedTokenizerBase) -> ReadyStage:
    stage = plan.stages[index]
    folder = Path(plan.output_dir) / f"{index + 1:02d}-{stage.name}"
    return ReadyStage(
        f"[{index + 1}/{len(plan.stages)}] {stage.name}",
        _stage_arguments(plan, stage, folder),
        None if isinstance(stage.risk_measure, str) else stage.risk_measure,
        *_load_data(plan, stage, processing_class),
    )


def prompts_of(stages: Sequence[ReadyStage]) -> Iterator[Any]:
    for ready in stages:
        yield from ready.train_dataset["prompt"]


def check_data(ready: ReadyStage, entry: StageEntry) -> None:
    if "data" in entry and entry["data"] != ready.data:
        raise ValueError(
            f"You resume the stage {entry['name']!r}, but its data has changed since it was started "
            f"({'; '.join(differences(entry['data'], ready.data))}). Restore the data, or use another output_dir."
        )


def _load_data(
    plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase
) -> tuple[Dataset, Dataset | None, StageData]:
    """The stage's pairs for training and evaluation, and their counts and fingerprints for the manifest."""
    options = {"preferred_by": stage.preferred_by, "seed": plan.seed, **stage.dataset_options}
    if options.get("template") == "safe-rlhf":
        options.setdefault("eos_token", processing_class.eos_token)
    loaded = load_preferences(stage.dataset, **options)
    _refuse_text_on_a_chat_model(stage, loaded.dataset, processing_class)
    train = loaded.dataset
    data: StageData = {"train": loaded.counts.to_dict()}
    if stage.eval_dataset is not None:
        held_out = load_preferences(stage.eval_dataset, **options)
        return train, held_out.dataset, {**data, "eval": held_out.counts.to_dict()}
    if not stage.held_out:
        return train, None, data
    train, held_out_dataset = split_by_prompt(train, stage.held_out, seed=plan.seed)
    return train, held_out_dataset, {**data, "held_out_pairs": len(held_out_dataset)}


def _refuse_text_on_a_chat_model(stage: Stage, pairs: Dataset, processing_class: PreTrainedTokenizerBase) -> None:
    """Text would be trained on as it is, while the model answers, and is judged, in its chat template."""
    if (
        processing_class.chat_template
        and stage.dataset_options.get("template") is None
        and isinstance(pairs[0]["prompt"], str)
    ):
        raise ValueError(
            f"You gave the stage {stage.name!r} pairs in plain text, but the model has a chat template, in which it "
            "answers and is judged. Set `dataset_options: {template: chat}` to train on conversations, or "
            "`template: none` to train on the text as it is."
        )


def _stage_arguments(plan: Plan, stage: Stage, folder: Path) -> dict[str, Any]:
    measure = {"risk_measure": stage.risk_measure} if isinstance(stage.risk_measure, str) else {}
    own = {
        "beta": stage.beta,
        "constraint_multiplier": stage.constraint_multiplier,
        "output_dir": str(folder),
        "run_name": f"{Path(plan.output_dir).name}/{stage.name}",
        "seed": plan.seed,
    }
    return plan.args | stage.args | measure | own
