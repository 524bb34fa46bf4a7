"""KTO: single responses, each with a label, good or bad."""

from typing import Any

from trl_rsa.training.methods.method import Method, find_in_trl, train_policy


_find = find_in_trl("kto", "KTO")


def _check(title: str, config: Any, options: dict[str, Any]) -> None:
    """What TRL says only when the model has been loaded."""
    if config.loss_type == "apo_zero_unpaired":
        return
    if config.per_device_train_batch_size <= 1:
        raise ValueError(
            f"You set per_device_train_batch_size={config.per_device_train_batch_size} in the args of {title}, but "
            "KTO estimates its KL term from mismatched responses of one batch. Set 2 or more, or "
            "loss_type='apo_zero_unpaired'."
        )
    if getattr(config, "train_sampling_strategy", "sequential") != "sequential":
        raise ValueError(
            f"You set train_sampling_strategy={config.train_sampling_strategy!r} in the args of {title}, but KTO "
            "pairs neighbours for its KL term. Leave it out: the rows are shuffled once, by the plan's seed."
        )


KTO = Method(
    "kto",
    "responses with a label, desirable or not; pairs are taken apart",
    "unpaired",
    _find,
    train_policy(_find),
    frozenset({"beta", "constraint_multiplier"}),
    check=_check,
)
