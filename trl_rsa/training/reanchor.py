"""Re-anchoring inside one training run: the offline ladder, for people who have preference pairs and no cost model."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trl_rsa.risk import Entropic
from trl_rsa.storage.files import write_json
from trl_rsa.trainer import RSATrainer


FOLDER = "reference"
_WEIGHTS = "weights.pt"
_STATE = "rung.json"


class ReferenceSettings(TypedDict):
    """What decides where the rungs end and at which temperature they run."""

    constraint_steps: int
    growth: float
    reset_optimizer: bool
    beta: float
    constraint_multiplier: float


class ReferenceFile(ReferenceSettings):
    """reference/rung.json of a checkpoint: the rung in training, from 0, and what a resumed run must not change."""

    rung: int


class ReanchorCallback(TrainerCallback):
    """
    Moves the reference of an [`RSATrainer`] to its policy every `constraint_steps` optimizer steps, in memory.

    Each stretch is a rung: rung i runs at temperature β/Δλ_i, and the rungs together at multiplier λ = Σ Δλ_i. Δλ of
    the first one is `args.constraint_multiplier`; β is `args.beta`. The entropic measure's θ is scaled with the
    temperature, so that risk aversion stays the same per unit of cost. All rungs see the trainer's own pairs; pairs of
    the policy's own answers, and a multiplier that meets a budget, are what [`align`] does with a [`RiskConstraint`].

    The learning-rate schedule is the trainer's, over all rungs; `lr_scheduler_type="cosine_with_restarts"` with as
    many `num_cycles` gives each its own. Checkpoints get a folder `reference`, and a resumed run ends as an
    uninterrupted one. `stage/rung` and `constraint/multiplier`, the λ so far, are logged.

    Example:

    ```python
    >>> trainer = RSATrainer(model, ref_model, args=RSAConfig(max_steps=600), train_dataset=pairs)
    >>> trainer.add_callback(ReanchorCallback(trainer, constraint_steps=200))  # three rungs
    >>> trainer.train()
    ```

    Args:
        trainer ([`RSATrainer`]):
            The trainer that the callback is added to.
        constraint_steps (`int`):
            Optimizer steps of a rung.
        growth (`float`, *optional*, defaults to 1):
            Factor from one rung's Δλ to the next one's.
        reset_optimizer (`bool`, *optional*, defaults to `True`):
            Whether a rung starts with an optimizer that remembers nothing, as a stage of [`align`] does.

    Raises:
        ValueError: if a number makes no sense, or the reference cannot be moved: an adapter's that is the same model
            with the adapter switched off, or one of another form than the policy.
    """

    def __init__(self, trainer: RSATrainer, constraint_steps: int, growth: float = 1.0, reset_optimizer: bool = True):
        if isinstance(constraint_steps, bool) or not isinstance(constraint_steps, int) or constraint_steps < 1:
            raise ValueError(
                f"You set constraint_steps={constraint_steps!r}, but a rung has at least one optimizer step. Set a "
                "whole number from 1 on."
            )
        if not 0.0 < growth < float("inf"):
            raise ValueError(f"You set growth={growth!r}, but it multiplies a multiplier. Set it above 0; 1 keeps it.")
        _check_reference(trainer)
        self.trainer, self.steps, self.growth, self.reset_optimizer = (
            trainer,
            constraint_steps,
            growth,
            reset_optimizer,
        )
        self.rung = 0
        self._measure = trainer.risk_measure

    @property
    def multiplier(self) -> float:
        """λ = Σ Δλ_i, up to the rung in training."""
        return sum(self._delta(rung) for rung in range(self.rung + 1))

    def _delta(self, rung: int) -> float:
        return self.trainer.args.constraint_multiplier * self.growth**rung

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step > 0:
            given = self.trainer.resumed_from
            newest = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self._restore(Path(given) if isinstance(given, (str, os.PathLike)) else newest)
        self._set_temperature()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here, not at the end of the step before: a checkpoint or an evaluation there is still of the old rung.
        if state.global_step == (self.rung + 1) * self.steps:
            self.rung += 1
            reanchor(self.trainer)
            self._set_temperature()
            if self.reset_optimizer:
                self.trainer.optimizer.state.clear()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logged = {"stage/rung": float(self.rung), "constraint/multiplier": self.multiplier}
        for name, value in logged.items():
            self.trainer._metrics["train"][name].append(value)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FOLDER
        # Before the first re-anchoring the reference is the one that the trainer was made with.
        weights = _gathered(self.trainer, keep=state.is_world_process_zero) if self.rung > 0 else None
        if state.is_world_process_zero:
            folder.mkdir(exist_ok=True)
            if weights is not None:
                torch.save(weights, folder / _WEIGHTS)
            content: ReferenceFile = {**self._settings(), "rung": self.rung}
            write_json(folder / _STATE, content)

    def _settings(self) -> ReferenceSettings:
        return {
            "constraint_steps": self.steps,
            "growth": self.growth,
            "reset_optimizer": self.reset_optimizer,
            "beta": self.trainer.args.beta,
            "constraint_multiplier": self.trainer.args.constraint_multiplier,
        }

    def _restore(self, checkpoint: Path) -> None:
        path = checkpoint / FOLDER / _STATE
        if not path.exists():
            raise ValueError(
                f"You resume from {checkpoint}, but it holds no {FOLDER}/{_STATE}, which ReanchorCallback writes "
                "last. Resume from an earlier checkpoint, or train anew."
            )
        saved = json.loads(path.read_text(encoding="utf-8"))
        for name, value in self._settings().items():
            if saved[name] != value:
                raise ValueError(
                    f"You resume with {name}={value!r}, but {checkpoint} was written with {saved[name]!r}. Set it as "
                    "before, or train anew."
                )
        self.rung = saved["rung"]
        if self.rung > 0:
            weights = torch.load(checkpoint / FOLDER / _WEIGHTS, map_location="cpu", mmap=True)
            _restore_reference(self.trainer, weights)

    def _set_temperature(self) -> None:
        delta = self._delta(self.rung)
        self.trainer.beta = self.trainer.args.beta / delta
        if isinstance(self._measure, Entropic):
            # θ_i/β_i stays, with β_i = β/Δλ_i.
            self.trainer.risk_measure = replace(self._measure, theta=self._measure.theta / self.growth**self.rung)


def reanchor(trainer: RSATrainer) -> None:
    """Sets the reference's weights to the policy's, in memory: now all log-ratios, `kl/*` and `risk/*` are 0.

    Works on one process and under DDP; under ZeRO-3 a parameter is gathered at a time, and under FSDP2 each process
    copies its shards.

    Raises:
        ValueError: if the reference cannot be moved; see [`ReanchorCallback`].
    """
    _check_reference(trainer)
    for policy, reference in _pairs(trainer):
        with torch.no_grad(), _whole(policy, reference) as is_writer:
            if is_writer:
                reference.data.copy_(policy.data)


def _check_reference(trainer: RSATrainer) -> None:
    if trainer.args.precompute_ref_log_probs or trainer.args.sync_ref_model:
        name = "precompute_ref_log_probs" if trainer.args.precompute_ref_log_probs else "sync_ref_model"
        raise ValueError(
            f"You set {name}=True, but re-anchoring moves the reference by itself, from rung to rung. Leave it False."
        )
    if trainer.ref_model is None:
        peft_model: Any = trainer.accelerator.unwrap_model(trainer.model)
        if "ref" not in peft_model.peft_config:
            raise ValueError(
                "You train a new adapter (peft_config) whose reference is the model with the adapter switched off, "
                "but that cannot move. Give the trainer `get_peft_model(model, peft_config)` as its model instead: it "
                'then keeps a frozen copy of the adapter, "ref", which can.'
            )
    elif is_peft_model(trainer.model):
        raise ValueError(
            "You train an adapter against a reference model of its own, but an adapter's weights do not fit into "
            'that. Leave ref_model out, and give a model with an adapter: the trainer keeps a copy of it, "ref".'
        )


def _pairs(trainer: RSATrainer) -> Iterator[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Every parameter of the policy that the reference has a copy of, with the copy."""
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.ref_model is None:
        for name, parameter in policy.named_parameters():
            if ".default." in name:
                yield parameter, policy.get_parameter(name.replace(".default.", ".ref."))
    else:
        reference: Any = trainer.accelerator.unwrap_model(trainer.ref_model)
        yield from zip(policy.parameters(), reference.parameters(), strict=True)


@contextmanager
def _whole(*parameters: torch.nn.Parameter, write: bool = True) -> Iterator[bool]:
    """Makes parameters that ZeRO-3 has partitioned whole, and tells whether this process is to write."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield True
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if write else None):
        yield deepspeed.comm.get_rank() == 0


def _gathered(trainer: RSATrainer, keep: bool) -> list[torch.Tensor]:
    """The reference's movable weights, whole, on the CPU, for those who `keep` them. Every process must call it."""
    weights = []
    for _, reference in _pairs(trainer):
        with _whole(reference, write=False):
            whole = reference.full_tensor() if hasattr(reference, "full_tensor") else reference
            if keep:
                weights.append(whole.detach().cpu().clone())
    return weights


def _restore_reference(trainer: RSATrainer, weights: list[torch.Tensor]) -> None:
    for (_, reference), saved in zip(_pairs(trainer), weights, strict=True):
        with torch.no_grad(), _whole(reference) as is_writer:
            if is_writer:
                reference.data.copy_(_as_sharded(saved, reference))


def _as_sharded(saved: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """FSDP2's parameters take a tensor that is sharded as they are."""
    if not hasattr(like, "full_tensor"):
        return saved
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(saved.to(like.device), like.device_mesh, like.placements)
