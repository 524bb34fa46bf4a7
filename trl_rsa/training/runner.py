"""Who trains a stage and samples from a policy: this process, or (launched.py) a group of processes."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.policies import free_memory
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.stage import ReadyStage, StageResult, train_stage


def model_options(models: ModelSettings, engine: str) -> dict[str, Any]:
    """How an engine that loads policies by itself is to load them: as the plan says, but float32, the default of a
    plan, is left to vLLM, which serves such weights in half precision; and a server has a dtype of its own."""
    options = dict(models.init_kwargs)
    if engine == "server" or options.get("dtype") is torch.float32:
        options.pop("dtype", None)
    return options


class StageRunner(Protocol):
    """What `align` and the ladder need."""

    def train(self, ready: ReadyStage, start: str) -> StageResult:
        """Trains the stage from the policy `start` (a folder or Hub id), or resumes it; returns what [`train_stage`]
        does."""

    def sample(
        self,
        model: str,
        prompts: Sequence[Any],
        sampling: Sampling,
        *,
        batch_size: int,
        skip: Container[tuple[int, int]],
        beginnings: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[list[Response]]:
        """Draws from the policy `model` (a folder or Hub id), as [`~trl_rsa.sampling.generation.generate`] does."""


@dataclass
class InProcess:
    """This process does it, on one device.

    Args:
        models ([`ModelSettings`]):
            How models are loaded.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        callbacks (`Sequence[TrainerCallback]`):
            Added to every trainer.
        log (`Callable[[str], None]`):
            Where the lines about progress go.
    """

    models: ModelSettings
    processing_class: PreTrainedTokenizerBase
    callbacks: Sequence[TrainerCallback]
    log: Callable[[str], None]

    def train(self, ready: ReadyStage, start: str) -> StageResult:
        result = train_stage(ready, start, self.models, self.processing_class, self.callbacks, self.log)
        free_memory()
        return result

    def sample(
        self,
        model: str,
        prompts: Sequence[Any],
        sampling: Sampling,
        *,
        batch_size: int,
        skip: Container[tuple[int, int]],
        beginnings: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[list[Response]]:
        # The other engines load models, and adapters on their base, by themselves.
        policy: Any = self.models.load_policy(model) if sampling.engine == "transformers" else model
        options: dict[str, Any] = {"batch_size": batch_size, "skip": skip, "beginnings": beginnings}
        options["model_options"] = model_options(self.models, sampling.engine)
        yield from generate(policy, self.processing_class, prompts, sampling, **options)
        del policy
        free_memory()
