"""One world and seed of the constraint track: its prompts, and every policy, sampled or trained once and kept.

A policy is named by how it was made. So the ladders of three budgets share their first rung, a restarted run finds
what an earlier one has made, and the seconds of each step are counted for every method that needs it.
"""

import copy
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from benchmarks.alignment.constraint_methods import BETA, LEARNING_RATE, NONE, SANDBOX_SEED, Sizes
from trl_rsa.config import RSAConfig
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling
from trl_rsa.sandbox import Prompt, Sandbox, build_sandbox, scorer_function, split_prompts
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.train import train_score_model
from trl_rsa.scoring import load_scorer
from trl_rsa.trainer import RSATrainer


TRAINING: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "max_length": 128,
    "logging_strategy": "no",
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Answers:
    """Responses of one policy to one prompt set, in the order of prompts and draws.

    Args:
        name (`str`):
            Which these are.
        prompts (`list[Prompt]`), texts (`list[str]`), finished (`list[bool]`):
            One entry per response.
        rewards, costs (`np.ndarray` of shape `[n]`):
            True scores.
        seconds (`float`):
            Of processor time that it took to sample and score them.
    """

    name: str
    prompts: list[Prompt]
    texts: list[str]
    finished: list[bool]
    rewards: np.ndarray
    costs: np.ndarray
    seconds: float


class Lab:
    """
    Args:
        world (`str`), seed (`int`):
            Of the prompts, draws, labels and trainings. The SFT policy and the cost model are those of
            `SANDBOX_SEED`.
        sizes ([`Sizes`]):
            What a rung takes.
        cache (`Path`):
            Where policies and answers are kept.
        sandbox ([`Sandbox`], *optional*):
            Another sandbox, for tests.
    """

    def __init__(self, world: str, seed: int, sizes: Sizes, cache: Path, sandbox: Sandbox | None = None):
        self.seed, self.sizes = seed, sizes
        self.sandbox = build_sandbox(world, SANDBOX_SEED) if sandbox is None else sandbox
        self.world, self.tokenizer = self.sandbox.world, self.sandbox.tokenizer
        self.prompts = split_prompts(seed, dict(self.sandbox.settings.splits))
        self.folder = cache / f"{self.world.name}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._answers: dict[str, Answers] = {}
        self._learned: dict[str, np.ndarray] = {}

    # Policies, by name

    @cached_property
    def _sft(self) -> Any:
        return self.sandbox.sft()

    def load(self, name: str) -> Any:
        """The model of that name, ready to sample from."""
        model = copy.deepcopy(self._sft)
        if name != "sft":
            model.load_state_dict(torch.load(self.folder / f"{name}.pt")["model"])
        return model.eval()

    def seconds(self, name: str) -> float:
        """Processor time that making this policy took, from the one that it was made of."""
        return 0.0 if name == "sft" else torch.load(self.folder / f"{name}.pt", mmap=True)["seconds"]

    def _make(self, recipe: dict[str, Any], make: Any) -> str:
        text = json.dumps([recipe, asdict(self.sizes)], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self.folder / f"{name}.pt"
        if not path.exists():
            began = time.process_time()
            content = make()
            _save(content | {"recipe": recipe, "seconds": time.process_time() - began}, path)
        return name

    def trained(
        self,
        start: str,
        pairs: Sequence[dict[str, Any]],
        loss: dict[str, Any],
        multiplier: float,
        steps: int,
        learning_rate: float | None = None,
        keep_optimizer: bool = False,
    ) -> str:
        """Trains `start` on pairs, anchored at itself, at temperature β/multiplier. Returns the new policy's name."""
        rate = LEARNING_RATE if learning_rate is None else learning_rate
        recipe = {"start": start, "loss": loss, "multiplier": multiplier, "steps": steps, "rate": rate}
        recipe |= {"pairs": hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).hexdigest()[:16]}
        recipe |= {"keep_optimizer": keep_optimizer} if keep_optimizer else {}
        return self._make(recipe, lambda: self._train(pairs, recipe))

    def _train(self, pairs: Sequence[dict[str, Any]], recipe: dict[str, Any]) -> dict[str, Any]:
        loss, optimizer = dict(recipe["loss"]), None
        if loss.get("risk_measure") == "entropic":
            # As the ladder of trl_rsa has it: constant risk aversion per unit of cost.
            loss["risk_theta"] = loss.get("risk_theta", 1.0) / recipe["multiplier"]
        model, reference = self.load(recipe["start"]), self.load(recipe["start"])
        if recipe.get("keep_optimizer"):
            optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["rate"], weight_decay=0.0)
            if recipe["start"] != "sft":
                earlier = torch.load(self.folder / f"{recipe['start']}.pt").get("optimizer")
                if earlier is not None:
                    optimizer.load_state_dict(earlier)
                    for group in optimizer.param_groups:
                        group["lr"] = recipe["rate"]
                        group.pop("initial_lr", None)
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            args = RSAConfig(
                output_dir=folder,
                seed=self.seed,
                beta=BETA,
                constraint_multiplier=recipe["multiplier"],
                per_device_train_batch_size=self.sizes.batch_size,
                max_steps=recipe["steps"],
                warmup_steps=recipe["steps"] // 10,
                learning_rate=recipe["rate"],
                **TRAINING,
                **loss,
            )
            trainer = RSATrainer(
                model=model,
                ref_model=reference,
                args=args,
                train_dataset=Dataset.from_list(list(pairs)),
                processing_class=self.tokenizer,
                optimizers=(optimizer, None),
            )
            trainer.train()
        content: dict[str, Any] = {"model": trainer.model.state_dict()}
        if optimizer is not None:
            content["optimizer"] = optimizer.state_dict()
        return content

    def between(self, before: str, after: str, fraction: float) -> str:
        """Walks back: weights `before` + fraction·(`after` − `before`)."""

        def make() -> dict[str, Any]:
            model, end = self.load(before), self.load(after)
            with torch.no_grad():
                for mine, other in zip(model.parameters(), end.parameters(), strict=True):
                    mine.lerp_(other, fraction)
            return {"model": model.state_dict()}

        return self._make({"before": before, "after": after, "fraction": fraction}, make)

    @cached_property
    def helpful(self) -> str:
        """The helpful policy, shared by all methods that have a helpful stage."""
        pairs = self.label(self.answers("sft", "train", self.units(self.sizes.helpful_rungs)), "reward")
        return self.trained("sft", pairs, NONE, 1.0, self.steps(self.sizes.helpful_rungs))

    def units(self, rungs: float) -> int:
        """Train prompts of a stage that is as large as so many rungs."""
        return round(self.sizes.prompts * rungs)

    def steps(self, rungs: float) -> int:
        return round(self.sizes.steps * rungs)

    # Answers

    def answers(self, policy: str, split: str, n: int, draws: int | None = None) -> Answers:
        """Responses to the first `n` prompts of a split, with their scores. The draws depend on seed and prompt."""
        draws = draws or {"train": self.sizes.draws, "decide": 1, "test": self.sizes.test_draws}[split]
        name = f"{policy}-{split}-{n}-{draws}"
        if name in self._answers:
            return self._answers[name]
        path = self.folder / f"{name}.json"
        if not path.exists():
            _write(path, self._sample(policy, self.prompts[split][:n], draws))
        kept = json.loads(path.read_text(encoding="utf-8"))
        prompts = [prompt for prompt in self.prompts[split][:n] for _ in range(draws)]
        scores = {score: np.array(kept.pop(score)) for score in ("rewards", "costs")}
        self._answers[name] = Answers(name, prompts, **kept, **scores)
        return self._answers[name]

    def _sample(self, policy: str, prompts: Sequence[Prompt], draws: int) -> dict[str, Any]:
        began = time.process_time()
        found = self.draw(self.load(policy), prompts, Sampling(draws=draws, seed=self.seed, max_new_tokens=48))
        return found | {"seconds": time.process_time() - began}  # with the loading

    def draw(self, model: Any, prompts: Sequence[Prompt], sampling: Sampling, **options: Any) -> dict[str, Any]:
        """Texts of a model, by prompt and draw, with their true scores; `options` are those of [`generate`]."""
        began = time.process_time()
        messages = [prompt.messages for prompt in prompts]
        batches = generate(model, self.tokenizer, messages, sampling, batch_size=256, **options)
        drawn = sorted((r for batch in batches for r in batch), key=lambda r: (r.prompt, r.draw))
        asked, texts = [prompts[r.prompt].text for r in drawn], [r.text for r in drawn]
        return {
            "texts": texts,
            "finished": [r.finished for r in drawn],
            "rewards": self.world.reward(asked, texts),
            "costs": self.world.cost(asked, texts),
            "seconds": time.process_time() - began,
        }

    @cached_property
    def _learned_cost(self) -> tuple[Any, float]:
        """The cost model and the factor that gives its cost the unit of the true one: least squares through zero."""
        score = self._score_function(self.sandbox.cost_model_path)
        pairs = self.sandbox.safe[:500]
        learned = np.array(score([*pairs["prompt"]] * 2, [*pairs["chosen"], *pairs["rejected"]]))
        true = np.array([*pairs["chosen_cost"], *pairs["rejected_cost"]])
        return score, float(learned @ true / (learned @ learned))

    @cached_property
    def _graded_cost(self) -> Any:
        """A graded cost model, trained by `trl-rsa score-model` on the responses that the pairs were made of.

        It has the same body, as many steps, and the grades of the simulated labeller, wrong ones included.
        """
        from benchmarks.alignment.constraint_labeller import SCALES, noisy_labeller

        scale, folder = SCALES[self.world.name], self.folder.parent / f"{self.world.name}-graded"
        if not (folder / "config.json").exists():
            label = noisy_labeller(self.world.cost, len(scale), SANDBOX_SEED)
            prompts = [
                p.messages
                for p, several in zip(self.sandbox.prompts["train"], self.sandbox.responses, strict=False)
                for _ in several
            ]
            responses = [text for several in self.sandbox.responses for text in several]
            grades = label([p[-1]["content"] for p in prompts], responses, [1] * len(responses))
            train_graded(self.sandbox, list(zip(prompts, responses, grades, strict=True)), scale, folder)
        return load_scorer(f"hf:{folder}", "cost", device="cpu", batch_size=256)

    def model_costs(self, answers: Answers, scorer: str) -> np.ndarray:  # [n]
        """What the `"learned"` or the `"graded"` cost model makes of answers, in the unit of the true cost."""
        key = f"{scorer} {answers.name}"
        if key not in self._learned:
            if scorer == "graded":
                costs = self._graded_cost([p.text for p in answers.prompts], answers.texts)
            else:
                score, unit = self._learned_cost
                costs = unit * np.array(score([p.text for p in answers.prompts], answers.texts))
            self._learned[key] = np.asarray(costs)
        return self._learned[key]

    def rewards(self, answers: Answers, scorer: str) -> np.ndarray:  # [n]
        """The `"true"` reward of answers, or the `"learned"` one, whose differences are log-odds."""
        if scorer == "true":
            return answers.rewards
        key = f"learned reward {answers.name}"
        if key not in self._learned:
            score = self._learned_reward
            self._learned[key] = np.asarray(score([p.text for p in answers.prompts], answers.texts))
        return self._learned[key]

    @cached_property
    def _learned_reward(self) -> Any:
        return self._score_function(self.sandbox.reward_model_path)

    def _score_function(self, path: Path) -> Any:
        """Of a score model of the sandbox."""
        from transformers import AutoModelForSequenceClassification

        return scorer_function(AutoModelForSequenceClassification.from_pretrained(path).eval(), self.tokenizer)

    # Labels

    def label(self, answers: Answers, by: str, multiplier: float = 0.0) -> list[dict[str, Any]]:
        """Soft pairs by true `"reward"` or by `"lagrangian"`, reward − multiplier·cost: two per prompt, by seed."""
        worth = answers.rewards - (multiplier * answers.costs if by == "lagrangian" else 0.0)
        rng = np.random.default_rng(self.seed)
        rows = []
        for several, prompt in grouped(answers):
            texts, values = [answers.texts[i] for i in several], [float(worth[i]) for i in several]
            places = [(i, j) for i in range(len(texts)) for j in range(i) if texts[i] != texts[j]]
            for k in rng.permutation(len(places))[: self.sizes.pairs_per_prompt]:
                i, j = sorted(places[k], key=lambda place: -values[place])
                rows.append(
                    {
                        "prompt": prompt.messages,
                        "chosen": [{"role": "assistant", "content": texts[i]}],
                        "rejected": [{"role": "assistant", "content": texts[j]}],
                        "pair_label": float(1 / (1 + np.exp(values[j] - values[i]))),
                    }
                )
        return rows


def train_graded(
    sandbox: Sandbox, rows: Sequence[tuple[Any, str, int]], scale: dict[str, float], folder: Path
) -> None:
    """Trains a graded cost model from the SFT policy."""
    from trl import RewardConfig

    settings = sandbox.settings.scorer
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "graded.jsonl"
        lines = (json.dumps({"prompt": p, "response": text, "grade": grade}) for p, text, grade in rows)
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = ScoreModelArguments(
            objective="cost",
            data=[str(data)],
            harm_scale=",".join(f"{name}={cost:g}" for name, cost in scale.items()),
            held_out=0.02,
        )
        training = RewardConfig(
            output_dir=str(folder),
            per_device_train_batch_size=settings.batch_size,
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.steps // 20,
            seed=SANDBOX_SEED,
            **{name: value for name, value in TRAINING.items() if name != "max_length"},
        )
        train_score_model(arguments, training, str(sandbox.sft_path), log=lambda line: None)


def grouped(answers: Answers) -> list[tuple[list[int], Prompt]]:
    """The places of the finished responses to each prompt."""
    groups: dict[str, tuple[list[int], Prompt]] = {}
    for i, (prompt, finished) in enumerate(zip(answers.prompts, answers.finished, strict=True)):
        if finished:
            groups.setdefault(prompt.text, ([], prompt))[0].append(i)
    return list(groups.values())


def _save(content: dict[str, Any], path: Path) -> None:
    """All or nothing: a kill leaves no half file under the name."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)
