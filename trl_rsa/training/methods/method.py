"""Method: what a stage reads, which trainer of TRL's it runs, and what it leaves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

    from trl_rsa.training.anchor import ModelSettings


# What a stage's data are: preference pairs; responses with a label; responses to imitate; prompts alone; responses
# with a verdict on their harm.
Rows = Literal["pairs", "unpaired", "demonstrations", "prompts", "judged"]


@dataclass
class StageParts:
    """All that a trainer is made of.

    Args:
        start (`str`):
            The policy that the stage starts from: a folder or Hub id.
        models ([`~training.anchor.ModelSettings`]):
            How models are loaded, and what of them is trained.
        config:
            Of the method's configuration class.
        train_dataset, eval_dataset (`Dataset`):
            Rows of the method's kind.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        callbacks (`Sequence[TrainerCallback]`):
            For the trainer. A method's own come first, so that what they save is in a checkpoint before it is marked.
        options (`dict[str, Any]`):
            What else the method takes from its stage.
    """

    start: str
    models: "ModelSettings"
    config: Any
    train_dataset: "Dataset"
    eval_dataset: "Dataset | None"
    processing_class: "PreTrainedTokenizerBase"
    callbacks: "Sequence[TrainerCallback]"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def of_every_trainer(self) -> dict[str, Any]:
        """The arguments that all trainers share."""
        return {
            "args": self.config,
            "train_dataset": self.train_dataset,
            "eval_dataset": self.eval_dataset,
            "processing_class": self.processing_class,
            "callbacks": list(self.callbacks),
        }


def save_model(trainer: Any, folder: Path) -> None:
    """An ordinary Hugging Face folder."""
    trainer.save_model(str(folder))


def accept(title: str, config: Any, options: dict[str, Any]) -> None:
    """Nothing to find fault with."""


@dataclass(frozen=True)
class Method:
    """
    Args:
        name (`str`):
            In a plan.
        summary (`str`):
            In a few words.
        reads (`str`):
            Which rows.
        find_classes (`Callable[[], tuple[type, type]]`):
            Its configuration and its trainer. They are imported when it is called.
        make_trainer (`Callable[[StageParts], Trainer]`):
            The trainer, anchored at the policy that the stage starts from.
        takes (`frozenset[str]`):
            Arguments of [`Stage`] that count, of those that not every method has.
        makes (`str`):
            `"policy"`, from which the next stage starts; or a scorer, which later stages and constraints name as
            `stage:NAME`: `"reward"` or `"cost"`.
        has_reference (`bool`):
            Whether it measures the policy against a frozen one.
        overlong (`str`):
            What becomes of rows longer than `max_length`.
        loss_falls (`bool`):
            Whether a loss that rises means that something is wrong.
        check (`Callable[[str, config, options], None]`):
            Finds what would fail in training; raises a `ValueError`.
        save (`Callable[[Trainer, Path], None]`):
            Writes the result.
    """

    name: str
    summary: str
    reads: Rows
    find_classes: Callable[[], tuple[type, type]]
    make_trainer: "Callable[[StageParts], Trainer]"
    takes: frozenset[str]
    makes: Literal["policy", "reward", "cost"] = "policy"
    has_reference: bool = True
    overlong: str = "are cut"
    loss_falls: bool = True
    check: Callable[[str, Any, dict[str, Any]], None] = accept
    save: Callable[[Any, Path], None] = save_model

    @property
    def config_class(self) -> type:
        """
        Raises:
            ValueError: if the installed TRL has no such method.
        """
        return self.find_classes()[0]


def find_in_trl(name: str, trl_name: str) -> Callable[[], tuple[type, type]]:
    """The classes `{trl_name}Config` and `{trl_name}Trainer` of TRL, for the method `name`."""

    def find() -> tuple[type, type]:
        from trl_rsa._trl import find_trainer

        found = find_trainer(trl_name)
        if found is None:
            raise ValueError(
                f"You set the method of a stage to {name!r}, but TRL {version('trl')} has no {trl_name}Trainer. "
                "Install a TRL that has it, or use another method."
            )
        return found

    return find


def train_policy(find: Callable[[], tuple[type, type]], with_reference: bool = True) -> "Callable[[StageParts], Any]":
    """Makes the trainer of `find` with the policy that the stage starts from, and a reference equal to it."""

    def make_trainer(parts: StageParts) -> Any:
        anchor = parts.models.anchor_at(parts.start, with_reference)
        return find()[1](
            model=anchor.model,
            peft_config=anchor.peft_config,
            **parts.of_every_trainer,
            **({"ref_model": anchor.ref_model} if with_reference else {}),
        )

    return make_trainer
