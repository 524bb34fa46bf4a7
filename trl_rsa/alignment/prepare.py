"""Everything of a plan that can be made ready before a model is loaded: data, arguments, the ladder's prompts."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.judged_data import cost_template
from trl_rsa.alignment.manifest import StageEntry
from trl_rsa.alignment.plan import Plan, Stage, args_of, stage_of
from trl_rsa.alignment.stage_data import load_stage_data
from trl_rsa.alignment.typed import hints_of
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.sampling.adapter_folder import check_adapter
from trl_rsa.sampling.encoding import encode_prompts
from trl_rsa.sampling.engine_options import engine_options
from trl_rsa.sampling.generation import room_for_prompts
from trl_rsa.sampling.policies import config_of
from trl_rsa.storage.provenance import differences
from trl_rsa.training.anchor import ModelSettings, make_peft_config
from trl_rsa.training.configuration import risk_arguments
from trl_rsa.training.methods.table import METHODS
from trl_rsa.training.runner import StageRunner, model_options
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
    known = hints_of(METHODS["rsa"].config_class)
    return Ladder(
        [_resolve(plan, constraint) for constraint in plan.constraints],
        _resolve_reward(plan),
        Path(plan.output_dir),
        {name: value for name, value in plan.args.items() if name in known},
        models,
        plan.seed,
        processing_class,
        runner,
        log,
        frozenset().union(*(ready.prompt_keys for ready in stages)),
    )


def prepare_stage(plan: Plan, index: int, processing_class: PreTrainedTokenizerBase) -> ReadyStage:
    stage = plan.stages[index]
    _refuse_quantised_scorer(plan, stage)
    rows = load_stage_data(plan, stage, processing_class)
    return ReadyStage(
        f"[{index + 1}/{len(plan.stages)}] {stage.name}",
        _stage_arguments(plan, stage, plan.folder_of(index)),
        None if isinstance(stage.risk_measure, str) else stage.risk_measure,
        rows.train,
        rows.held_out,
        rows.data,
        method=stage.method,
        options=_options(plan, stage, processing_class),
        prompt_keys=rows.prompt_keys,
        warnings=rows.warnings,
    )


def check_room(plan: Plan, stages: Sequence[ReadyStage], ladder: Ladder | None) -> None:
    """
    Raises:
        ValueError: if the model takes fewer tokens than a prompt with its response. Sampling finds it too, but after
            the stages have been trained.
    """
    options = {name: plan.model_init_kwargs.get(name) for name in ("revision", "trust_remote_code")}
    config = config_of(plan.model, **options) if isinstance(plan.model, str) else plan.model.config
    for ready in stages:
        if ready.method == "rloo":
            room_for_prompts(config, ready.config.max_completion_length, f"{ready.title} max_completion_length")
    if ladder is None:
        return
    for split, groups in ladder.groups.items():
        sampling = ladder.settings.sampling_of(split, plan.seed)
        if sampling.engine != "transformers":
            engine_options(sampling.engine, model_options(model_settings(plan), sampling.engine))
            if plan.peft_config is not None:
                adapter = json.loads(json.dumps(make_peft_config(plan.peft_config).to_dict(), default=sorted))
                check_adapter(adapter, "the plan's peft_config", sampling.engine)
        room = room_for_prompts(config, sampling.max_new_tokens)
        for group in groups:
            try:
                encode_prompts(ladder.processing_class, group.asked, sampling.template, room)
            except ValueError as error:
                raise ValueError(f"The {split} prompts of {', '.join(group.names)}: {error}") from error


def _refuse_quantised_scorer(plan: Plan, stage: Stage) -> None:
    if stage.does.makes != "policy" and plan.model_init_kwargs.get("quantization_config") is not None:
        raise ValueError(
            f"You set quantization_config in model_init_kwargs, but the stage {stage.name!r} trains a scorer, which "
            "is saved whole, and weights in a few bits cannot be. Train it with `trl-rsa score-model`, or in a plan "
            "of its own, and give its folder."
        )


def check_data(ready: ReadyStage, entry: StageEntry) -> None:
    if "data" in entry and entry["data"] != ready.data:
        raise ValueError(
            f"You resume the stage {entry['name']!r}, but its data has changed since it was started "
            f"({'; '.join(differences(entry['data'], ready.data))}). Restore the data, or use another output_dir."
        )


def _options(plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the method takes beside data and arguments."""
    if stage.does.reads == "judged":
        return {"template": cost_template(processing_class)}
    if "rewards" not in stage.does.takes:
        return {}
    return {name: [_resolve(plan, term) for term in getattr(stage, name)] for name in ("rewards", "costs")}


def _resolve(plan: Plan, term: Any) -> Any:
    """The term, or constraint, with the folder in place of `stage:NAME`."""
    name = stage_of(term.scorer)
    if name is None:
        return term
    index = next(index for index, stage in enumerate(plan.stages) if stage.name == name)
    resolved = copy.copy(term)  # a new one would look for the folder, which need not be there yet
    resolved.scorer = f"hf:{plan.folder_of(index)}"
    on_cpu = {"device": "cpu"} if plan.args.get("use_cpu") else {}
    resolved.scorer_options = {"name": term.scorer, **on_cpu, **term.scorer_options}
    return resolved


def _resolve_reward(plan: Plan) -> RungSettings:
    term = plan.rungs.reward
    return plan.rungs if term is None else replace(plan.rungs, reward=_resolve(plan, term))


def _stage_arguments(plan: Plan, stage: Stage, folder: Path) -> dict[str, Any]:
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "run_name": f"{Path(plan.output_dir).name}/{stage.name}",
        "seed": plan.seed,
    }
    args = args_of(plan, stage)
    if stage.method == "rsa":
        own |= {"beta": stage.beta, "constraint_multiplier": stage.constraint_multiplier}
        own |= risk_arguments(stage.risk_measure, args)
    elif "beta" in stage.does.takes:
        own["beta"] = stage.beta / stage.constraint_multiplier
    return args | own
