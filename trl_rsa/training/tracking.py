"""Numbers that hold for a whole stage, in its log and its trackers."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LogAtStart(TrainerCallback):
    """Logs `metrics` once, at step 0: they are what the stage was started with.

    Args:
        trainer ([`~transformers.Trainer`]):
            The stage's trainer, which brings them to every tracker in use.
        metrics (`Mapping[str, float]`):
            By name, such as `constraint/estimate`.
    """

    def __init__(self, trainer: Trainer, metrics: Mapping[str, float]):
        self.trainer, self.metrics = trainer, dict(metrics)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:  # a resumed stage has logged them
            self.trainer.log(dict(self.metrics))
