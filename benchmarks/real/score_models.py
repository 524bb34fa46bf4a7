"""The score models: cost A and reward H steer, cost B and reward R judge; each is trained once."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from trl import RewardConfig

from benchmarks.quiet import be_quiet
from benchmarks.real.processes import pool_for
from benchmarks.real.settings import SCORE_MODELS, SCORE_RATE, Sizes
from benchmarks.real.split import Sets
from trl_rsa._device import has_slow_bfloat16
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.train import train_score_model
from trl_rsa.scoring import Scorer, load_scorer
from trl_rsa.storage.files import write_json


# What the page says of a score model.
MEASURES = ("pair_accuracy", "auc", "right_side_of_zero", "rank_correlation", "mean_safe", "mean_unsafe")
# In bfloat16, which rounds a cost between 2 and 4 to 1/64, scoring takes a third of the time. A processor without
# instructions for it needs seven times as long as in float32.
DTYPE = "float32" if has_slow_bfloat16() else "bfloat16"


@dataclass(frozen=True)
class ScoreModels:
    """
    Args:
        folder (`Path`):
            With a folder for each model.
        rows (`list[dict]`):
            What each is worth on held-out prompts: numbers only.
    """

    folder: Path
    rows: list[dict[str, Any]]

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process go no models that are loaded here."""
        return ScoreModels, (self.folder, self.rows)

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        return {
            name: load_scorer(self.spec(name), kind=recipe["objective"], dtype=DTYPE)
            for name, recipe in SCORE_MODELS.items()
        }

    def spec(self, name: str) -> str:
        return f"hf:{self.folder / name}"


def make_score_models(
    folder: Path, encoder: str, sets: Sets, sizes: Sizes, jobs: int = 1, log: Callable[[str], None] = print
) -> ScoreModels:
    """Trains those that are not there yet, from the folder of the encoder, several at a time if so told."""
    missing = [name for name in SCORE_MODELS if not (folder / name / "done.json").exists()]
    make = partial(_make, folder, encoder, sets, sizes, log)
    if jobs == 1:
        for name in missing:
            make(name)
    elif missing:
        with pool_for(jobs) as pool:
            list(pool.map(make, missing))
    rows = [json.loads((folder / name / "done.json").read_text(encoding="utf-8")) for name in SCORE_MODELS]
    return ScoreModels(folder, rows)


def _make(folder: Path, encoder: str, sets: Sets, sizes: Sizes, log: Callable[[str], None], name: str) -> None:
    be_quiet()
    log(f"score model {name}: {sets.counts[name]['rows']} rows, {sizes.scored_steps} steps")
    began = time.monotonic()
    measures = _train(folder / name, encoder, sets.paths(name), SCORE_MODELS[name], sizes)
    row: dict[str, Any] = {"model": name, **sets.counts[name], "steps": sizes.scored_steps}
    row |= {"held_out_responses": measures["responses"], "held_out_prompts": measures["prompts"]}
    row |= {measure: measures.get(measure) for measure in MEASURES}
    write_json(folder / name / "done.json", row | {"seconds": round(time.monotonic() - began, 1)})


def _train(folder: Path, encoder: str, data: list[str], recipe: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    arguments = ScoreModelArguments(
        objective=recipe["objective"],
        data=data,
        harm_scale=recipe.get("harm_scale"),
        held_out=0.15,
        save_16bit=DTYPE == "bfloat16",  # as it is scored with, and so as it is measured
    )
    training = RewardConfig(
        output_dir=str(folder),
        seed=recipe["seed"],
        learning_rate=SCORE_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=sizes.scored_steps // 10,
        max_steps=sizes.scored_steps,
        per_device_train_batch_size=sizes.scored_batch,
        max_length=4 * (sizes.longest_prompt + sizes.horizon),
        bf16=DTYPE == "bfloat16",  # autocast: the weights stay float32
        gradient_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **use_cpu(),
    )
    trained = train_score_model(arguments, training, encoder, dtype="float32")
    if trained.measures is None:
        raise ValueError(f"No prompt of {', '.join(data)} was held out. Give more data.")
    return trained.measures


def use_cpu() -> dict[str, bool]:
    """TRL's configurations refuse a machine without an accelerator unless told."""
    import torch

    return {} if torch.accelerator.is_available() else {"use_cpu": True}
