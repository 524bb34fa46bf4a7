"""Stages that train a scorer instead of a policy: a reward model on pairs, a cost model on safe/unsafe labels too.

Both start from the last policy's body, with a new head, and are saved whole, as a sequence classifier that later
stages and constraints name as `stage:NAME`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trl_rsa.score_models.model import describe
from trl_rsa.score_models.whole import save_whole
from trl_rsa.scoring.graded import Readout
from trl_rsa.scoring.text import safe_rlhf_text
from trl_rsa.training.methods.method import Method, StageParts, find_in_trl


if TYPE_CHECKING:
    from trl_rsa.training.anchor import ModelSettings


_find = find_in_trl("reward", "Reward")


def _make_reward_trainer(parts: StageParts) -> Any:
    model = load_classifier(parts.start, parts.models, parts.processing_class)
    template = _template_of(parts.train_dataset["prompt"])
    if template is not None:
        # Responses to be scored come as text: they belong into the template that it is trained in.
        describe(model.config, Readout("reward", None, 1, 0.0), {"template": template})
    return _find()[1](
        model=model,
        peft_config=_adapters(parts.models),
        **parts.of_every_trainer,
    )


def _template_of(prompts: Sequence[Any]) -> str | None:
    if not isinstance(prompts[0], str):
        return "chat"
    # What is in that template already is left as it is by it.
    return "safe-rlhf" if all(safe_rlhf_text(prompt, "", None) == prompt for prompt in prompts) else None


def _make_cost_trainer(parts: StageParts) -> Any:
    from trl_rsa.score_models.trainer import ScoreModelTrainer

    parts.config.remove_unused_columns = False  # the rows are tokens already, with columns of their own
    readout = Readout("cost", None, 1, 0.0)
    model = load_classifier(parts.start, parts.models, parts.processing_class)
    describe(model.config, readout, {"template": parts.options["template"]})
    return ScoreModelTrainer(
        model=model,
        peft_config=_adapters(parts.models),
        readout=readout,
        regularization=REGULARIZATION,
        **parts.of_every_trainer,
    )


# As `trl-rsa score-model` has it.
REGULARIZATION = 0.001


def load_classifier(start: str, models: "ModelSettings", processing_class: Any) -> Any:
    """The body of the policy `start` (an adapter merged into its base) with a new head of one output."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification

    from trl_rsa.sampling.policies import is_adapter, whole_model
    from trl_rsa.scoring.weights import quiet_loading

    whole, init_kwargs = whole_model(start, models.init_kwargs)
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(whole, num_labels=1, **init_kwargs)
    if is_adapter(start):
        config = PeftConfig.from_pretrained(start)
        config.task_type = None  # of a language model it would want a language model
        model = PeftModel.from_pretrained(model, start, config=config).merge_and_unload()
    # Where a batch's responses end is read off the padding.
    model.config.get_text_config().pad_token_id = processing_class.pad_token_id
    return model


def _adapters(models: "ModelSettings") -> Any:
    """The plan's adapter, beside which the head is trained in full."""
    from trl_rsa.training.anchor import make_peft_config

    if models.peft_config is None:
        return None
    config = make_peft_config(models.peft_config)
    return replace(config, task_type="SEQ_CLS", modules_to_save=[*(config.modules_to_save or []), "score"])


REWARD = Method(
    "reward",
    "preference pairs: a scorer for later stages, higher is better",
    "pairs",
    _find,
    _make_reward_trainer,
    frozenset(),
    makes="reward",
    has_reference=False,
    overlong="are dropped",
    save=save_whole,
)
COST = Method(
    "cost",
    "pairs and safe/unsafe labels: a scorer for later stages, above 0 is unsafe",
    "judged",
    _find,
    _make_cost_trainer,
    frozenset(),
    makes="cost",
    has_reference=False,
    overlong="are dropped",
    save=save_whole,
)
