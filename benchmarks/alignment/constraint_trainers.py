"""Trainings of the constraint track that are not RSA's: KTO, RLOO-Lagrangian and SafeDPO, on the lab's policies."""

import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from benchmarks.alignment.constraint_lab import TRAINING, Lab
from benchmarks.alignment.constraint_methods import BETA, NONE
from trl_rsa.config import RSAConfig
from trl_rsa.trainer import RSATrainer
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.methods.method import StageParts
from trl_rsa.training.methods.table import METHODS
from trl_rsa.training.methods.terms import CostTerm, RewardTerm


def train_kto(lab: Lab, start: str, rows: Sequence[dict[str, Any]], steps: int, recipe: dict[str, Any]) -> Any:
    """KTO on labelled responses, at β/multiplier, with weights that give both labels the same total."""
    good = sum(row["label"] for row in rows)
    weight = good / max(1, len(rows) - good)
    arguments = {
        "beta": BETA / recipe["multiplier"],
        "undesirable_weight": weight,
        "per_device_train_batch_size": 2 * lab.sizes.batch_size,  # as many responses as a batch of pairs has
        "max_steps": steps,
        "warmup_steps": steps // 10,
        "learning_rate": recipe["rate"],
    }
    trainer = _run(lab, "kto", start, Dataset.from_list(list(rows)), arguments, {})
    return {"model": trainer.model.state_dict()}


def train_rloo(lab: Lab, start: str, prompts: Sequence[Any], recipe: dict[str, Any]) -> Any:
    """RLOO on true reward, with a true cost whose CVaR is kept at `recipe["target"]` by dual ascent."""
    generations, batch, steps = recipe["generations"], recipe["batch"], recipe["steps"]

    def asked(several: Any) -> list[str]:
        return [messages[-1]["content"] for messages in several]

    def said(several: Any) -> list[str]:
        return [messages[-1]["content"] for messages in several]

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [float(value) for value in lab.world.reward(asked(prompts), said(completions))]

    def cost(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [float(value) for value in lab.world.cost(asked(prompts), said(completions))]

    term = CostTerm(cost, recipe["target"], recipe["tail"], **recipe["dual"])
    arguments = {
        "beta": BETA,
        "num_generations": generations,
        "max_completion_length": 48,
        "per_device_train_batch_size": batch,
        "steps_per_generation": recipe["reuse"],
        "max_steps": steps,
        "warmup_steps": steps // 10,
        "learning_rate": recipe["rate"],
    }
    options = {"rewards": [RewardTerm(reward)], "costs": [term]}
    rows = Dataset.from_list([{"prompt": prompt.messages} for prompt in prompts])
    trainer = _run(lab, "rloo", start, rows, arguments, options)
    (dual,) = (penalty.dual for penalty in trainer.reward_funcs[1:])
    return {"model": trainer.model.state_dict(), "multiplier": dual.multiplier, "eta": dual.eta}


def train_safedpo(lab: Lab, start: str, rows: Sequence[dict[str, Any]], steps: int, recipe: dict[str, Any]) -> Any:
    """DPO with an offset in the logit of each pair, which stands in the column `pair_weight`."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        args = RSAConfig(
            output_dir=folder,
            seed=lab.seed,
            beta=BETA,
            per_device_train_batch_size=lab.sizes.batch_size,
            max_steps=steps,
            warmup_steps=steps // 10,
            learning_rate=recipe["rate"],
            **TRAINING,
            **NONE,
        )
        trainer = OffsetTrainer(
            model=lab.load(start),
            ref_model=lab.load(start),
            args=args,
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=lab.tokenizer,
        )
        trainer.train()
    return {"model": trainer.model.state_dict()}


class OffsetTrainer(RSATrainer):
    """Reads `pair_weight` as an offset δ: the loss is that of σ(β·(margin of log-ratios) − δ)."""

    def _loss(
        self,
        pairs: Any,
        log_probs: Any,
        completion_mask: Any,
        pair_weight: Any,
        pair_label: Any,
        sft_weight: Any = None,
    ) -> Any:
        shifted = pairs._replace(chosen_logratios=pairs.chosen_logratios - pair_weight / self.beta)
        return super()._loss(shifted, log_probs, completion_mask, None, pair_label)


def _run(lab: Lab, method: str, start: str, rows: Dataset, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    """Trains with the package's own method, as a stage of a plan does."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        policy = str(Path(folder) / "start")
        lab.load(start).save_pretrained(policy)
        lab.tokenizer.save_pretrained(policy)
        shared = {name: value for name, value in TRAINING.items() if method != "rloo" or name != "max_length"}
        config = METHODS[method].config_class(output_dir=folder, seed=lab.seed, **shared, **arguments)
        METHODS[method].check(method, config, options)
        models = ModelSettings({"dtype": torch.float32}, None, True)
        parts = StageParts(policy, models, config, rows, None, lab.tokenizer, [], options)
        trainer = METHODS[method].make_trainer(parts)
        trainer.train()
    return trainer
