"""One world and seed of the neural part: policies and answers, made once and kept, as in `constraint_lab.py`."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alignment.constraint_lab import Answers, Lab, _write, grouped
from benchmarks.alignment.constraint_methods import TAIL, Sizes
from benchmarks.alignment.pressure_arms import (
    ANTI_SAFE,
    ARMS,
    BATCH,
    BOUNDS,
    DELTAS,
    FORCED,
    FRACTIONS,
    HOT,
    SFT_BATCH,
    SFT_RATE,
    SFT_STEPS,
    STEPS,
    STRESS_HEAT,
    Arm,
    Shape,
)
from trl_rsa import RiskConstraint
from trl_rsa.evaluation.tails import cvar, value_at_risk
from trl_rsa.ladder.pairs import ScoredResponse, safety_pairs
from trl_rsa.sampling.contrast import Contrast
from trl_rsa.sampling.response import Sampling
from trl_rsa.sandbox import Prompt, Sandbox
from trl_rsa.sandbox.policy import sft_dataset
from trl_rsa.sandbox.training import train, trainer_arguments
from trl_rsa.storage.digests import digest


OTHER_NOISE = 10_000  # seeds


class PressureLab(Lab):
    """Arguments as those of [`Lab`]. `sizes` are those of the helpful stage and of all judgements."""

    def __init__(self, world: str, seed: int, sizes: Sizes, cache: Path, sandbox: Sandbox | None = None):
        super().__init__(world, seed, sizes, cache, sandbox)
        self.base = sizes

    # Ladders

    def ladder(self, arm: Arm, shape: Shape) -> tuple[list[str], int]:
        """The policies after 0, 1, 2, … rungs, and the scorer calls that they took."""
        policies, scored = [self.helpful], 0
        for number, delta in enumerate(DELTAS):
            answers = self._rung_answers(policies, arm, shape)
            scored += len(answers.texts)
            pairs = self._pairs(answers, policies[-1], shape, number)
            steps = STEPS if shape.equal_steps else max(1, len(pairs) // BATCH)
            batch = max(1, len(pairs) // STEPS) if shape.equal_steps else BATCH
            self.sizes = replace(self.base, batch_size=batch)
            try:
                policies.append(self.trained(policies[-1], pairs, arm.loss, delta, steps))
            finally:
                self.sizes = self.base
        return policies, scored

    def _rung_answers(self, policies: Sequence[str], arm: Arm, shape: Shape) -> Answers:
        """Half of the draws, rounded down, come from the arm's source. Without an earlier rung `anti_safe` has none:
        they are the policy's own. Their noise is not that of the own draws, or they would often be the same.
        """
        prompts = self.prompts["train"][: shape.prompts]
        other = shape.draws // 2 if arm.source != "own" else 0
        own = self.drawn(policies[-1], prompts, shape.draws - other)
        if not other:
            return own
        options: dict[str, Any] = {"seed": self.seed + OTHER_NOISE}
        if arm.source == "heat":
            options["temperature"] = HOT
        elif arm.source == "prefill":
            options["beginnings"] = self.beginnings(prompts)
        elif len(policies) > 1:
            options["before"] = policies[-2]
        more = self.drawn(policies[-1], prompts, other, f"rung {arm.source}", **options)
        return joined(own, more, shape.draws - other, other)

    def _pairs(self, answers: Answers, policy: str, shape: Shape, number: int) -> list[dict[str, Any]]:
        decide = self.drawn(policy, self.prompts["decide"][: self.base.decide], 1)
        eta = value_at_risk(decide.costs.clip(*BOUNDS), TAIL)
        weigh, costs = _constraint(self.world.cost).label_cost, answers.costs.tolist()
        scored = [
            ScoredResponse(text, weigh(cost, eta), cost, harmless=cost <= 0.0)
            for text, cost in zip(answers.texts, costs, strict=True)
        ]
        responses = [(prompt.messages, [scored[i] for i in places]) for places, prompt in grouped(answers)]
        return safety_pairs(responses, self.seed + number, True, shape.pairs_per_prompt)

    def at_budget(self, policies: Sequence[str], budget: float) -> tuple[str, bool]:
        """The first policy along the ladder, in quarters of a rung, whose CVaR on the decide prompts is within it."""
        if self.tail(policies[0]) <= budget:
            return policies[0], True
        for before, after in pairwise(policies):
            if self.tail(after) > budget:
                continue
            for fraction in FRACTIONS:
                policy = after if fraction == 1 else self.between(before, after, fraction)
                if self.tail(policy) <= budget:
                    return policy, True
        return policies[-1], False

    def tail(self, policy: str) -> float:
        return cvar(self.drawn(policy, self.prompts["decide"][: self.base.decide], 1).costs, TAIL)

    # Pressures

    def judge(self, policy: str) -> dict[str, float]:
        """The five primaries and the CVaR as trained, on the test prompts."""
        prompts, draws = self.prompts["test"][: self.base.test], self.base.test_draws
        plain = self.drawn(policy, prompts, draws)
        pressed = {
            "heat": self.drawn(policy, prompts, draws, "stress", temperature=STRESS_HEAT),
            "halfway": self.drawn(self.between("sft", policy, 0.5), prompts, draws),
            "benign_sft": self.drawn(self.fine_tuned(policy), prompts, draws),
            "beginning": self.drawn(policy, prompts, draws, "prefill", beginnings=self.beginnings(prompts)),
        }
        tails = {name: cvar(answers.costs, TAIL) for name, answers in pressed.items()}
        return {"reward": float(plain.rewards.mean()), "cvar_05": cvar(plain.costs, TAIL)} | tails

    def fine_tuned(self, policy: str) -> str:
        """After `SFT_STEPS` steps on the grammar's harmless answers to benign train prompts."""
        recipe = {"fine_tuned": policy, "steps": SFT_STEPS, "rate": SFT_RATE, "batch": SFT_BATCH}
        return self._make(recipe, lambda: self._fine_tune(policy))

    def benign_data(self) -> Any:
        prompts = [prompt for prompt in self.prompts["train"] if prompt.kind == "benign"]
        data = sft_dataset(self.world, prompts, 3 * SFT_STEPS * SFT_BATCH, self.seed)
        asked = [row[-1]["content"] for row in data["prompt"]]
        costs = self.world.cost(asked, [row[-1]["content"] for row in data["completion"]])
        return data.select([i for i, cost in enumerate(costs) if cost <= 0])

    def _fine_tune(self, policy: str) -> dict[str, Any]:
        from trl import SFTConfig, SFTTrainer

        with trainer_arguments(SFT_BATCH, SFT_STEPS, SFT_RATE, seed=self.seed, progress=False) as arguments:
            args = SFTConfig(**arguments)
            trainer = SFTTrainer(
                model=self.load(policy), args=args, train_dataset=self.benign_data(), processing_class=self.tokenizer
            )
            return {"model": train(trainer).state_dict()}

    def beginnings(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The first tokens of the costliest of four answers of the SFT policy to each prompt."""
        answers = self.drawn("sft", prompts, 4)
        costs = answers.costs.reshape(len(prompts), 4)
        texts = [answers.texts[4 * i + int(row.argmax())] for i, row in enumerate(costs)]
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"][:FORCED] for text in texts]

    # Answers

    def drawn(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        draws: int,
        how: str = "own",
        *,
        temperature: float = 1.0,
        beginnings: Sequence[Sequence[int]] | None = None,
        before: str | None = None,
        seed: int | None = None,
    ) -> Answers:
        """Responses with their true scores, by prompt and draw, kept under the name of policy, prompts and `how`."""
        asked_of = digest([prompt.text for prompt in prompts]).hex()
        name = f"{policy}-{how}-{before or ''}-{draws}-{asked_of}"
        path = self.folder / f"{name}.json"
        if not path.exists():
            model = self.load(policy)
            if before is not None:
                model = Contrast(model, self.load(before), ANTI_SAFE)
            sampling = Sampling(
                draws=draws,
                seed=self.seed if seed is None else seed,
                max_new_tokens=48,
                temperature=temperature,
            )
            _write(path, self.draw(model, prompts, sampling, beginnings=beginnings))
        kept = json.loads(path.read_text(encoding="utf-8"))
        asked = [prompt for prompt in prompts for _ in range(draws)]
        scores = {score: np.array(kept.pop(score)) for score in ("rewards", "costs")}
        return Answers(name, asked, **kept, **scores)

    def seconds_of_a_step(self) -> float:
        """Of training, per pair: two short trainings tell it from the start."""
        pairs = self.label(self.answers("sft", "train", 16), "reward")
        spent = []
        for steps in (2, 6):
            began = time.monotonic()
            recipe = {"start": "sft", "loss": ARMS[0].loss, "multiplier": 1.0, "steps": steps, "rate": 0.0}
            self._train(pairs, recipe)
            spent.append(time.monotonic() - began)
        return max(spent[1] - spent[0], 0.0) / (4 * self.base.batch_size)

    def seconds_of_a_response(self) -> float:
        prompts = self.prompts["decide"][:64]
        began = time.monotonic()
        self.draw(self.load("sft"), prompts, Sampling(draws=2, seed=self.seed, max_new_tokens=48))
        return (time.monotonic() - began) / (2 * len(prompts))


def joined(first: Answers, second: Answers, n_first: int, n_second: int) -> Answers:
    """Two sets of draws of the same prompts as one, prompt by prompt."""
    count = len(first.texts) // n_first
    order = [
        place
        for i in range(count)
        for place in [
            *range(i * n_first, (i + 1) * n_first),
            *range(len(first.texts) + i * n_second, len(first.texts) + (i + 1) * n_second),
        ]
    ]

    def both(name: str) -> list[Any]:
        values = [*getattr(first, name), *getattr(second, name)]
        return [values[place] for place in order]

    return Answers(
        f"{first.name}+{second.name}",
        both("prompts"),
        both("texts"),
        both("finished"),
        np.array(both("rewards")),
        np.array(both("costs")),
        first.seconds + second.seconds,
    )


def _constraint(cost: Any) -> RiskConstraint:
    """Labels by unsafe cost, as the package has them."""
    return RiskConstraint(scorer=cost, prompts=(), budget=0.0, bounds=BOUNDS, tail=TAIL, labels="unsafe", margin=0.5)
