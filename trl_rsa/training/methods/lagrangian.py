"""A cost in on-policy RL: a reward function that takes λ·cost off, and a callback that moves λ after every step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trl_rsa.scoring import Scorer
from trl_rsa.scoring.scorer import NotScored, ScorerContractError
from trl_rsa.storage.files import write_json
from trl_rsa.training.methods.dual_ascent import DualAscent, DualState


STATE = "multipliers.json"


class MultipliersFile(TypedDict):
    """multipliers.json of a checkpoint: the multipliers by the names of their costs."""

    multipliers: dict[str, DualState]


class KnownScores:
    """A scorer that may miss a score, but not all of a batch: TRL would go on without it.

    Args:
        scorer ([`Scorer`]):
            What is asked.
    """

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.__name__ = scorer.__name__  # TRL logs it under this name

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            scores = self.scorer.attempt(prompts, completions, **columns)
        except (ScorerContractError, ValueError):
            raise
        except Exception as error:
            raise ValueError(
                f"You train with the {self.scorer.kind} {self.scorer.name!r}, but it raised a {type(error).__name__}: "
                f"{error}. Mend the scorer."
            ) from error
        missing = [score for score in scores if isinstance(score, NotScored)]
        if missing and len(missing) == len(scores):
            raise ValueError(
                f"You train with the {self.scorer.kind} {self.scorer.name!r}, but it gave no score for any of "
                f"{len(scores)} responses: {missing[0].reason}. Mend the scorer, or take another."
            )
        return [None if isinstance(score, NotScored) else score for score in scores]


class CostPenalty:
    """A reward function of TRL's: −λ·cost, or −λ·(cost − η)₊/tail. It remembers the costs of training.

    Args:
        name (`str`):
            Of the cost.
        scorer ([`Scorer`] or [`KnownScores`]):
            Gives it.
        dual ([`DualAscent`]):
            Has λ and η.
    """

    def __init__(self, name: str, scorer: Scorer | KnownScores, dual: DualAscent):
        self.name, self.scorer, self.dual = name, scorer, dual
        self.__name__ = f"-λ·{name}"  # TRL logs it under this name
        self.costs: list[float] = []  # since the last step
        self.trainer: Any = None  # once it is made

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        costs = self.scorer(prompts, completions, **columns)
        if self.trainer.model.training:  # an evaluation does not move λ
            self.costs += [cost for cost in costs if cost is not None]
        return [None if cost is None else -self.dual.penalty(cost) for cost in costs]


class DualAscentCallback(TrainerCallback):
    """Moves every λ once per step that has sampled, logs it, and keeps it in checkpoints.

    Args:
        penalties (`Sequence[CostPenalty]`):
            The costs.
    """

    def __init__(self, penalties: Sequence[CostPenalty]):
        self.penalties = penalties
        self.trainer: Any = None  # once it is made

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            return
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / STATE
        if not path.exists():
            raise ValueError(f"You resume from {path.parent}, but it holds no {STATE}. Train anew.")
        saved = json.loads(path.read_text(encoding="utf-8"))["multipliers"]
        for penalty in self.penalties:
            penalty.dual.state = saved[penalty.name]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for penalty in self.penalties:
            # All processes have sampled as many responses, and all make the same step.
            costs = gather_object(penalty.costs)
            penalty.costs = []
            if not costs:
                continue
            numbers = penalty.dual.update(costs)
            logged = {"multiplier": penalty.dual.multiplier, **numbers._asdict()}
            logged |= {"eta": penalty.dual.eta} if penalty.dual.tail < 1.0 else {}
            for name, value in logged.items():
                self.trainer._metrics["train"][f"constraint/{penalty.name}/{name}"].append(value)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            content: MultipliersFile = {"multipliers": {p.name: p.dual.state for p in self.penalties}}
            write_json(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / STATE, content)
