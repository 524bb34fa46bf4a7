"""preview(): what `align` would do, and what would go wrong, found before anything is trained or written."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.manifest import Manifest
from trl_rsa.alignment.plan import Plan
from trl_rsa.alignment.prepare import check_data, make_ladder, model_settings, prepare_stage
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.feasibility import describe_prompts
from trl_rsa.ladder.placement import place_budgets
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.training.lengths import pair_lengths
from trl_rsa.training.runner import InProcess
from trl_rsa.training.stage import ReadyStage


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
    manifest = Manifest(plan)
    if processing_class is None:
        if not isinstance(plan.model, str):
            raise ValueError("You gave a model in memory, but not its tokenizer. Set processing_class.")
        processing_class = load_tokenizer(plan.model)
    stages = [prepare_stage(plan, index, processing_class) for index in range(len(plan.stages))]
    for index, ready in enumerate(stages):
        check_data(ready, manifest.stage(index))
        config, held_out = ready.config, len(ready.eval_dataset or ())
        has_risk = config.is_risk_aware and config.risk_alpha != 0
        measure = f" with {plan.stages[index].risk_measure}" if has_risk else ""
        log(
            f"{ready.title}: {len(ready.train_dataset)} pairs, {held_out} held out; {config.loss_type[0]}{measure} at "
            f"temperature {config.beta / config.constraint_multiplier:g}; "
            f"{manifest.stage(index)['status']}, in {ready.folder}"
        )
        lengths = _describe_lengths(ready, processing_class)
        if lengths:
            log(lengths)
    models = model_settings(plan)
    runner = InProcess(models, processing_class, (), log)
    ladder = make_ladder(plan, models, processing_class, runner, log, stages)
    if ladder is not None:
        for line in [*ladder.describe(), *ladder.warnings(), *_describe_prompt_sets(ladder)]:
            log(line)
        if samples:
            place_budgets(ladder, plan.model, samples)


def _describe_lengths(ready: ReadyStage, processing_class: PreTrainedTokenizerBase) -> str | None:
    """How many pairs do not fit into `max_length`; None if all do."""
    longest = ready.config.max_length
    if longest is None:
        return None
    rows = ready.train_dataset.select(range(min(ROWS, len(ready.train_dataset))))
    too_long = sum(length > longest for length in pair_lengths(rows, processing_class))
    if not too_long:
        return None
    seen = f"{len(rows)} pairs" if len(rows) == len(ready.train_dataset) else f"the first {len(rows)} pairs"
    fate = "are dropped" if ready.config.drop_truncated else "are cut"
    return f"{ready.title}: {too_long} of {seen} are longer than max_length={longest} tokens and {fate}"


def _describe_prompt_sets(ladder: Ladder) -> list[str]:
    """What the decide and certify prompts of each constraint can show at best."""
    among = len(ladder.names)
    return [
        f"[ladder] {name}: {describe_prompts(constraint, split, len(ladder.prompts_of(name)[split]), among)}"
        for name, constraint in ladder.by_name.items()
        for split in ("decide", "certify")
    ]
