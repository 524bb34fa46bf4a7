"""preview(): what `align` would do, and what would go wrong, found before anything is trained or written."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.manifest import Manifest
from trl_rsa.alignment.plan import Plan, Stage, stage_of
from trl_rsa.alignment.prepare import check_data, check_room, make_ladder, model_settings, prepare_stage
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.feasibility import describe_prompts, describe_train_prompts
from trl_rsa.ladder.placement import place_budgets
from trl_rsa.sampling.policies import load_tokenizer, refuse_score_model
from trl_rsa.storage.files import check_writable
from trl_rsa.training.lengths import row_lengths
from trl_rsa.training.runner import InProcess
from trl_rsa.training.stage import ReadyStage, skipped_rows


# Rows of a stage whose length is looked at: enough for a share, quick for large data.
ROWS = 2000


def preview(
    plan: Plan,
    processing_class: PreTrainedTokenizerBase | None = None,
    log: Callable[[str], None] = print,
    samples: int = 32,
) -> None:
    """Checks everything that can be checked before training, and says what `align` would run.

    Pairs are tokenized, to see what `max_length` drops. With a constraint, the scorers are loaded and shown a few
    texts whose order is plain, the prompts are counted against what a bound needs, and a few responses of the starting
    model are scored, to see where the budget lies among its costs. Nothing is written.

    Args:
        plan ([`Plan`]):
            What would be run.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default the one beside the model.
        log (`Callable[[str], None]`, *optional*):
            Where the lines go.
        samples (`int`, *optional*, defaults to 32):
            Responses of the starting model, one per decide prompt. With 0 no model and no scorer is loaded.

    Raises:
        ValueError: as [`align`].
    """
    check_writable(Path(plan.output_dir))
    manifest = Manifest(plan)
    if processing_class is None:
        if not isinstance(plan.model, str):
            raise ValueError("You gave a model in memory, but not its tokenizer. Set processing_class.")
        processing_class = load_tokenizer(plan.model)
    if isinstance(plan.model, str):
        refuse_score_model(plan.model)
    stages = [prepare_stage(plan, index, processing_class) for index in range(len(plan.stages))]
    for index, ready in enumerate(stages):
        check_data(ready, manifest.stage(index))
        held_out = len(ready.eval_dataset or ())
        for line in (*skipped_rows(ready.data), *ready.warnings):
            log(f"{ready.title}: {line}")
        log(
            f"{ready.title}: {len(ready.train_dataset)} {_ROWS.get(ready.does.reads, 'rows')}, {held_out} held out; "
            f"{_describe_training(plan.stages[index], ready)}; {manifest.stage(index)['status']}, in {ready.folder}"
        )
        lengths = _describe_lengths(ready, processing_class)
        if lengths:
            log(lengths)
    if samples:
        _load_rewards_and_costs(plan)
    if plan.merge is not None:
        first, second = plan.merge.stages
        shares = ", ".join(f"{weight:g}" for weight in plan.merge.weights)
        log(f"[merge] {first} and {second}, with {shares} of the second")
    models = model_settings(plan)
    runner = InProcess(models, processing_class, (), log)
    ladder = make_ladder(plan, models, processing_class, runner, log, stages)
    check_room(plan, stages, ladder)
    if ladder is not None:
        for line in [
            *ladder.describe(),
            *ladder.warnings(),
            *_other_templates(plan, ladder),
            *_describe_prompt_sets(ladder),
        ]:
            log(line)
        waiting = _untrained_scorers(plan, manifest)
        if waiting:
            log(f"[ladder] the budgets are not placed: {', '.join(waiting)} trains a scorer, and has not been run")
        elif samples:
            place_budgets(ladder, plan.model, samples, bool(plan.stages))


def _other_templates(plan: Plan, ladder: Ladder) -> list[str]:
    """Stages that train on another template than the one that the ladder's models are asked in."""
    has_chat = bool(ladder.processing_class.chat_template)
    asked = ladder.settings.sampling_of("train", ladder.seed).template
    if asked == "auto":
        asked = "chat" if has_chat else "none"
    found = []
    for stage in plan.stages:
        own = stage.dataset_options.get("template") or ("chat" if has_chat else None)
        if own in ("chat", "safe-rlhf") and asked != own:
            found.append(
                f"[ladder] the stage {stage.name!r} trains in the template {own!r}, but the ladder asks its models in "
                f"{asked!r}. Set rungs: {{sampling: {{template: {own}}}}}, unless that is meant."
            )
    return found


def _load_rewards_and_costs(plan: Plan) -> None:
    """Of on-policy RL; what a stage is still to train is left out."""
    for stage in plan.stages:
        for term in (*stage.rewards, *stage.costs):
            if stage_of(term.scorer) is None:
                term.load()


_ROWS = {"pairs": "pairs", "prompts": "prompts"}


def _describe_training(stage: Stage, ready: ReadyStage) -> str:
    """What is trained, at which temperature."""
    what = stage.method
    if stage.method == "rsa":
        has_risk = ready.config.is_risk_aware and ready.config.risk_alpha != 0
        measure = stage.risk_measure or ready.config.risk_measure
        what = f"{ready.config.loss_type[0]}{f' with {measure}' if has_risk else ''}"
    elif stage.method in ("dpo", "kto"):
        loss = ready.config.loss_type
        what += f" ({loss if isinstance(loss, str) else ', '.join(loss)})"
    for cost in stage.costs:
        risk = "the mean" if cost.tail == 1.0 else f"CVaR {cost.tail:g}"
        what += f", {risk} of {cost.name} at most {cost.budget:g}"
    if stage.does.makes != "policy":
        return f"{what}, a scorer: stage:{stage.name}"
    return what if stage.temperature is None else f"{what} at temperature {stage.temperature:g}"


def _untrained_scorers(plan: Plan, manifest: Manifest) -> list[str]:
    """The stages whose scorers the ladder needs and that are still to be run."""
    wanted = {stage_of(term.scorer) for _, _, term in plan.scored_by}
    return [
        f"the stage {stage.name!r}"
        for index, stage in enumerate(plan.stages)
        if stage.name in wanted and manifest.stage(index)["status"] != "complete"
    ]


def _describe_lengths(ready: ReadyStage, processing_class: PreTrainedTokenizerBase) -> str | None:
    """How many rows do not fit into `max_length`; None if all do."""
    longest = getattr(ready.config, "max_length", None)
    if longest is None or "prompt" not in ready.train_dataset.column_names:
        return None  # judged rows are tokens by now, and those that are too long are counted as left out
    rows = ready.train_dataset.select(range(min(ROWS, len(ready.train_dataset))))
    too_long = sum(length > longest for length in row_lengths(rows, processing_class))
    if not too_long:
        return None
    name = _ROWS.get(ready.does.reads, "rows")
    seen = f"{len(rows)} {name}" if len(rows) == len(ready.train_dataset) else f"the first {len(rows)} {name}"
    if too_long == len(ready.train_dataset) and getattr(ready.config, "drop_truncated", False):
        raise ValueError(
            f"You set max_length={longest} for {ready.title}, but all its {too_long} {name} are longer and would be "
            "dropped. Raise max_length, or set drop_truncated: false to cut them."
        )
    fate = "are dropped" if getattr(ready.config, "drop_truncated", False) else ready.does.overlong
    return f"{ready.title}: {too_long} of {seen} are longer than max_length={longest} tokens and {fate}"


def _describe_prompt_sets(ladder: Ladder) -> list[str]:
    """What the decide and certify prompts of each constraint can show at best (of too few the ladder itself warns),
    and what more train prompts would be good for."""
    among, lines = len(ladder.names), []
    for name, constraint in ladder.by_name.items():
        sets = ladder.prompts_of(name)
        shown = [describe_prompts(constraint, split, len(sets[split]), among) for split in ("decide", "certify")]
        shown.append(describe_train_prompts(len(sets["train"])))
        lines += [f"[ladder] {name}: {sentence}" for sentence in shown if sentence]
    return lines
