"""From an arm and a seed to a policy: trained once, found again after a kill, with what it cost."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from benchmarks.real.answers import Answers, Sampler
from benchmarks.real.score_models import DTYPE, ScoreModels, use_cpu
from benchmarks.real.settings import (
    BOUNDS,
    BUDGET_SHARE,
    CONFIDENCE,
    DRIFT_TAIL,
    GRID,
    HELPFUL,
    HELPFUL_BETA,
    HELPFUL_RATE,
    LORA,
    RUNG_RATE,
    SFT_RATE,
    START,
    TAIL,
    TEMPERATURE,
    TRAINING,
    Arm,
    Sizes,
)
from benchmarks.real.split import SAFETY, Sets
from trl_rsa import Plan, Stage, align
from trl_rsa.evaluation.tails import cvar
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.pairs import ScoredResponse, safety_pairs, with_tokens
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.files import write_json
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.runner import InProcess
from trl_rsa.training.stage import ReadyStage


@dataclass
class Made:
    """
    A policy, and what came of looking for it. The counts are those of the safety part: SFT and the helpful
    stage are shared.

    Args:
        policy (`str`):
            Folder of the model or adapter.
        multiplier (`float`), rungs (`int`):
            λ, and how many rungs a ladder has trained.
        bound_held (`bool`, *optional*):
            Whether the bound on the decide prompts was within the budget.
        sampled (`int`), steps (`int`), pairs (`int`), tied (`int`):
            Responses that were sampled and scored, optimizer steps, pairs of all rungs, and those with the label ½.
        seconds_training (`float`), seconds_search (`float`):
            Of training, and of everything else: sampling, scoring, loading.
    """

    policy: str
    multiplier: float = 0.0
    rungs: int = 0
    bound_held: bool | None = None
    sampled: int = 0
    steps: int = 0
    pairs: int = 0
    tied: int = 0
    seconds_training: float = 0.0
    seconds_search: float = 0.0

    def numbers(self) -> dict[str, Any]:
        """For the CSV, where a truth value is 0 or 1."""
        held = "" if self.bound_held is None else int(self.bound_held)
        return {name: value for name, value in asdict(self).items() if name != "policy"} | {"bound_held": held}


@dataclass
class Workshop:
    """
    Args:
        model (`str`):
            The instruct model.
        work (`Path`):
            Gets a folder for each arm and seed.
        sizes ([`Sizes`]), sets ([`Sets`]), scores ([`ScoreModels`]):
            Of the track.
        log (`Callable`):
            Told of progress.
    """

    model: str
    work: Path
    sizes: Sizes
    sets: Sets
    scores: ScoreModels
    log: Callable[[str], None] = print
    settings: ModelSettings = field(init=False)
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.settings = ModelSettings.of({"dtype": DTYPE}, None, TRAINING | use_cpu())
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.sampler = Sampler(self.settings, self.tokenizer, self.sizes, self.scores)

    def make(self, arm: Arm, seed: int) -> Made:
        """The policy of an arm; what is finished is read from its folder."""
        if arm.search == "none":
            return Made(self.model)
        if arm.search == "sft":
            seed = 0  # one for all seeds, as the instruct model is
        done = self.folder(arm.key, seed) / "made.json"
        if not done.exists():
            makers = {"sft": self._sft, "helpful": self._helpful, "grid": self._grid, "ladder": self._ladder}
            with self._clock(done.parent) as seconds:
                made = makers[arm.search](arm, seed, done.parent)
            made.seconds_search = round(seconds[0] - made.seconds_training, 1)
            write_json(done, asdict(made))
        return Made(**json.loads(done.read_text(encoding="utf-8")))

    def folder(self, key: str, seed: int) -> Path:
        return self.work / "runs" / f"{key}-{seed}"

    @property
    def budget(self) -> float:
        """One for all arms and seeds: from what the start costs on the decide prompts."""
        path = self.work / "budget.json"
        if not path.exists():
            start = self.make(START, 0).policy
            answers = self.sampler.collect(start, "decide", self.sets, 0, self.work / "answers" / "budget.jsonl")
            estimate, low = cvar(answers.column("a"), TAIL), BOUNDS[0]
            budget = round(low + BUDGET_SHARE * (estimate - low), 3)
            write_json(path, {"estimate": estimate, "budget": budget, "cut": answers.share("cut")})
        return float(json.loads(path.read_text(encoding="utf-8"))["budget"])

    def constraint(self, prompts: Any = None) -> RiskConstraint:
        """The budget on the tail of cost A."""
        return RiskConstraint(
            scorer=self.scores.spec("a"),
            scorer_options={"dtype": DTYPE},
            prompts={name: self.sets.prompts(name) for name in SAFETY} if prompts is None else prompts,
            budget=self.budget,
            bounds=BOUNDS,
            tail=TAIL,
            confidence=CONFIDENCE,
        )

    # The arms

    def _sft(self, arm: Arm, seed: int, folder: Path) -> Made:
        args = {"learning_rate": SFT_RATE, "per_device_train_batch_size": self.sizes.sft_batch}
        stage = Stage(
            "sft",
            dataset=self.sets.paths("sft")[0],
            method="sft",
            dataset_options={"template": "chat"},
            args={**args, **self._steps(self.sizes.sft_steps)},
        )
        return self._stage(stage, self.model, seed, folder, LORA)

    def _helpful(self, arm: Arm, seed: int, folder: Path) -> Made:
        stage = Stage(
            "helpful",
            dataset=self.sets.paths("helpful_train")[0],
            dataset_options={"template": "chat"},
            beta=HELPFUL_BETA,
            risk_measure="expectation",
            args={"risk_alpha": arm.alpha, "learning_rate": HELPFUL_RATE, **self._steps(self.sizes.helpful_steps)},
        )
        return self._stage(stage, self.make(START, seed).policy, seed, folder)

    def _stage(self, stage: Stage, start: str, seed: int, folder: Path, peft_config: Any = None) -> Made:
        found = align(
            Plan(
                [stage],
                start,
                str(folder),
                args=self._arguments(),
                peft_config=peft_config,
                model_init_kwargs={"dtype": DTYPE},
                seed=seed,
            ),
            log=self.log,
        )
        (entry,) = found.manifest["stages"]
        return Made(found.model, steps=entry["steps"], seconds_training=entry["seconds"])

    def _ladder(self, arm: Arm, seed: int, folder: Path) -> Made:
        rungs = RungSettings(
            sampling={"max_new_tokens": self.sizes.horizon, "temperature": TEMPERATURE},
            draws={"train": self.sizes.draws},
            batch_size=self.sizes.sample_batch,
            pairs_per_prompt=self.sizes.pairs_per_prompt,
            ties=arm.ties,
            reward={"scorer": self.scores.spec("h"), "scorer_options": {"dtype": DTYPE}} if arm.reward else None,
            risk_measure=arm.measure,
            max_rungs=self.sizes.rungs,
            args={"risk_alpha": arm.alpha, "learning_rate": RUNG_RATE, **self._steps(self.sizes.steps)}
            | ({"risk_tail": DRIFT_TAIL} if arm.measure == "cvar" else {}),
        )
        found = align(
            Plan(
                [],
                self._helpful_policy(seed),
                str(folder),
                args=self._arguments(),
                model_init_kwargs={"dtype": DTYPE},
                seed=seed,
                constraint=self.constraint(),
                rungs=rungs,
            ),
            log=self.log,
        )
        ladder = found.manifest["ladder"]
        trained = ladder["rungs"]
        train = sum(rung["data"]["responses"] for rung in trained)
        return Made(
            found.model,
            multiplier=ladder["constraints"]["cost"]["multiplier"],
            rungs=len(trained),
            bound_held=ladder["met"],
            sampled=train + len(ladder["observations"]) * self.sizes.decide + self.sizes.certify,
            steps=sum(rung["steps"] for rung in trained),
            pairs=sum(rung["data"]["own_pairs"] for rung in trained),
            tied=sum(rung["data"]["ties"] for rung in trained),
            seconds_training=sum(rung["seconds"] for rung in trained),
        )

    def _grid(self, arm: Arm, seed: int, folder: Path) -> Made:
        """The grid may take what a ladder may: each λ gets its share of the draws, and the steps of one rung."""
        grid, constraint, helpful = GRID[: self.sizes.rungs], self.constraint(), self._helpful_policy(seed)
        draws, path = self.sizes.draws * len(grid), folder / "train.jsonl"
        answers = self.sampler.collect(self.make(START, seed).policy, "train", self.sets, seed, path, draws)
        results = []
        for number, multiplier in enumerate(grid):
            trained = self._grid_policy(
                arm, seed, folder / f"lambda-{multiplier:g}", helpful, answers, number, multiplier
            )
            policy = str(folder / f"lambda-{multiplier:g}")
            path = folder / f"decide-{multiplier:g}.jsonl"
            decided = self.sampler.collect(policy, "decide", self.sets, seed, path)
            estimate = constraint.estimate(decided.column("a"), decided.prompts)
            results.append((policy, multiplier, estimate, trained))
        held = [result for result in results if result[2]["upper_bound"] <= constraint.budget]
        best = held[0] if held else min(results, key=lambda result: result[2]["estimate"])
        return Made(
            best[0],
            multiplier=best[1],
            bound_held=bool(held),
            sampled=len(answers) + len(grid) * self.sizes.decide,
            steps=sum(trained["steps"] for *_, trained in results),
            pairs=sum(trained["pairs"] for *_, trained in results),
            tied=sum(trained["tied"] for *_, trained in results),
            seconds_training=sum(trained["seconds"] for *_, trained in results),
        )

    def _grid_policy(
        self, arm: Arm, seed: int, folder: Path, start: str, answers: Answers, number: int, multiplier: float
    ) -> dict[str, Any]:
        done = folder / "done.json"
        if not done.exists():
            first = number * self.sizes.draws
            several: dict[int, tuple[Any, list[ScoredResponse]]] = {}
            for prompt, record in zip(answers.prompts, answers.records, strict=True):
                if first <= record["draw"] < first + self.sizes.draws:
                    _, responses = several.setdefault(record["number"], (prompt, []))
                    cost = record["a"]
                    responses.append(ScoredResponse(record["response"], cost, cost, tuple(record["token_ids"])))
            pairs = safety_pairs(list(several.values()), seed, per_prompt=self.sizes.pairs_per_prompt)
            dataset = Dataset.from_list(with_tokens(pairs, ConversationEncoder(self.tokenizer)))
            own = {"beta": 1.0, "constraint_multiplier": multiplier, "output_dir": str(folder), "seed": seed}
            arguments = self._arguments() | self._steps(self.sizes.steps)
            arguments |= {"risk_alpha": arm.alpha, "learning_rate": RUNG_RATE, **own}
            ready = ReadyStage(f"[SACPO] λ = {multiplier:g}", arguments, None, dataset, None, {})
            runner = InProcess(self.settings, self.tokenizer, (), self.log)
            result = runner.train(ready, start)
            tied = sum(row["pair_label"] == 0.5 for row in pairs)
            write_json(
                done, {name: result[name] for name in ("steps", "seconds")} | {"pairs": len(pairs), "tied": tied}
            )
        return json.loads(done.read_text(encoding="utf-8"))

    def _helpful_policy(self, seed: int) -> str:
        return self.make(HELPFUL, seed).policy

    def _arguments(self) -> dict[str, Any]:
        return {"per_device_train_batch_size": self.sizes.batch_size, "max_length": 1024, **TRAINING, **use_cpu()}

    def _steps(self, steps: int) -> dict[str, int]:
        return {"max_steps": steps, "warmup_steps": steps // 10}

    @contextmanager
    def _clock(self, folder: Path) -> Iterator[list[float]]:
        """Counts the seconds of the block, and those of earlier starts that an error or Ctrl-C ended."""
        path, began, seconds = folder / "clock.json", time.monotonic(), [0.0]
        before = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
        try:
            yield seconds
        finally:
            seconds[0] = before + time.monotonic() - began
            write_json(path, {"seconds": seconds[0]})
