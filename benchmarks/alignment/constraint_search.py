"""How a method looks for the policy that meets a budget: by the scheduler's rungs, or over a grid of multipliers."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alignment.constraint_lab import Answers, Lab, grouped
from benchmarks.alignment.constraint_labeller import audit_settings
from benchmarks.alignment.constraint_methods import (
    BETA,
    CLIP,
    CONFIDENCE,
    MARGIN_SHARE,
    SCHEDULER,
    TAIL,
    Method,
)
from trl_rsa import RiskConstraint, RungSettings
from trl_rsa.evaluation.bootstrap import resamples
from trl_rsa.evaluation.tails import sorted_cvar
from trl_rsa.ladder.audit import LadderAudit, label_cost
from trl_rsa.ladder.pairs import ScoredResponse, safety_pairs
from trl_rsa.ladder.progress import ProgressLog


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Args:
        policy (`str`):
            Its name in the lab.
        met (`bool`), multiplier (`float`), bound (`float`), estimate (`float`):
            Whether the bound on the decide prompts holds; λ; the bound, and the estimate.
        rungs (`int`), observed (`int`):
            Safety stages that were trained, and policies that were sampled on the decide prompts.
        scored (`int`), pairs (`int`), steps (`int`):
            Scorer calls for pairs and decisions, pairs and optimizer steps: all that the search took.
        seconds (`float`):
            Of sampling, scoring and training, as if nothing were shared with another search.
        labels (`int`):
            Of the audit, second and third ones included.
    """

    policy: str
    met: bool
    multiplier: float
    bound: float
    estimate: float
    rungs: int
    observed: int
    scored: int
    pairs: int
    steps: int
    seconds: float
    labels: int = 0


@dataclass
class Bill:
    """What a search has spent so far."""

    scored: int = 0
    pairs: int = 0
    steps: int = 0
    seconds: float = 0.0
    labels: int = 0

    def answers(self, answers: Answers) -> Answers:
        self.scored += len(answers.texts)
        self.seconds += answers.seconds
        return answers


def search(lab: Lab, method: Method, threshold: float) -> Found:
    """Runs the method's search for a policy whose CVaR of cost is at most `threshold`."""
    run = Search(lab, method, threshold)
    if run.constraint.audit is None:
        return run.climb() if method.search == "ladder" else run.best_of_grid()
    with tempfile.TemporaryDirectory() as folder:
        run.audit = LadderAudit(run.constraint, Path(folder), ProgressLog(lambda line: None))
        return run.climb()


class Search:
    """One search, with the package's own constraint, which estimates, bounds, labels and schedules as in `align`."""

    def __init__(self, lab: Lab, method: Method, threshold: float):
        self.lab, self.method, self.bill = lab, method, Bill()
        low, high = CLIP[lab.world.name]
        self.constraint = RiskConstraint(
            scorer=lab.world.cost,  # not called: the answers bring their costs
            prompts=(),
            budget=threshold,
            bounds=(low, high),
            tail=TAIL,
            confidence=CONFIDENCE,
            margin=MARGIN_SHARE * (high - low),
            labels=method.labels,
            audit=audit_settings(lab, method.audit) if method.audit else None,
        )
        self.audit: LadderAudit | None = None
        self.observed = 0
        self.settings = RungSettings(
            soft=method.soft,
            pairs_per_prompt=lab.sizes.pairs_per_prompt,
            beta=BETA,
            **(SCHEDULER | method.scheduler),
        )

    def climb(self) -> Found:
        """The ladder of `trl_rsa.ladder.climb`, with policies in the lab instead of folders."""
        scheduler = self.settings.scheduler(self.constraint.budget, self.constraint.allowed_margin)
        policies, observed = [self.lab.helpful], []
        rungs = [self.lab.helpful]  # the policy after each rung
        while scheduler.decision is None or scheduler.decision.action != "stop":
            decision = scheduler.decision
            if decision is not None and decision.action == "next_rung":
                start = decision.start.number
                pairs = self.pairs(rungs[-1], observed[start]["eta"], 1.0, decision.rung, start)
                rungs.append(self.rung(rungs[-1], pairs, decision.delta_multiplier, 1.0))
                policies.append(rungs[-1])
            elif decision is not None:
                policies.append(self.lab.between(rungs[decision.rung - 1], rungs[decision.rung], decision.fraction))
                self.bill.seconds += self.lab.seconds(policies[-1])
            observed.append(self.observe(policies[-1]))
            scheduler.observe(estimate=observed[-1]["estimate"], upper_bound=observed[-1]["upper_bound"])
            _tell(scheduler.observations[-1].multiplier, observed[-1])
        best, met = scheduler.decision.start, scheduler.decision.met
        return self._found(
            policies[best.number], met, best.multiplier, observed[best.number], len(rungs) - 1, policies
        )

    def best_of_grid(self) -> Found:
        """Trains a policy for each λ, and takes the most helpful of those whose bound holds, by *true* decide reward.

        That choice knows more than the scheduler does, in the baselines' favour. If no bound holds, it is the least.
        """
        make = self.lagrangian if self.method.search == "lagrangian" else self.single_stages
        policies = make()
        observed = [self.observe(policy) for policy in policies]
        for multiplier, numbers in zip(self.method.grid, observed, strict=True):
            _tell(multiplier, numbers)
        holding = [i for i, numbers in enumerate(observed) if numbers["upper_bound"] <= self.constraint.budget]
        if holding:
            best = max(holding, key=lambda i: self._answers(policies[i], "decide").rewards.mean())
        else:
            best = min(range(len(policies)), key=lambda i: observed[i]["upper_bound"])
        found = policies[best], bool(holding), self.method.grid[best], observed[best]
        return self._found(*found, len(policies), policies)

    def single_stages(self) -> list[str]:
        """One safety stage from the helpful policy for each λ, on the same pairs, as published."""
        size, start = self.lab.sizes.grid_rungs, self.lab.helpful
        pairs = self.pairs(start, self.observe(start)["eta"], size, 0)
        return [self.rung(start, pairs, multiplier, size) for multiplier in self.method.grid]

    def lagrangian(self) -> list[str]:
        """DPO from the SFT policy on reward − λ·cost, as long as the helpful stage and a grid's stage together."""
        size = self.lab.sizes.helpful_rungs + self.lab.sizes.grid_rungs
        answers = self.bill.answers(self.lab.answers("sft", "train", self.lab.units(size)))
        several = [self.lab.label(answers, "lagrangian", multiplier) for multiplier in self.method.grid]
        self.bill.pairs += len(several[0])
        return [self.rung("sft", pairs, 1.0, size) for pairs in several]

    # What searches are made of

    def observe(self, policy: str) -> dict[str, float]:
        answers = self.bill.answers(self._answers(policy, "decide"))
        costs = self._costs(answers)
        numbers = self.constraint.estimate(costs.tolist(), [prompt.text for prompt in answers.prompts])
        if self.audit is not None:
            number, records = self.observed, self._records(answers, costs)
            self.observed += 1
            self.audit.ask(number, "decide", policy, records)
            numbers, audited = self.audit.observe(number, records, CONFIDENCE, numbers)
            self.bill.labels = audited["labels"]
        if self.method.bound == "bootstrap":
            numbers["upper_bound"] = max(numbers["estimate"], bootstrap_bound(costs.clip(*self.constraint.bounds)))
        return numbers

    def pairs(self, policy: str, eta: float, rungs: float, number: int, observation: int = 0) -> list[dict[str, Any]]:
        """Safety pairs of `policy`'s own answers, or of the SFT policy's, as many as so many rungs have."""
        source = policy if self.method.on_policy else "sft"
        answers = self.bill.answers(self.lab.answers(source, "train", self.lab.units(rungs)))
        costs, known = self._costs(answers), None
        if self.audit is not None:
            known = self.audit.labelled_cost(observation)
            refreshed = self.audit.refreshed(observation, self._records(answers, costs))
            costs = np.array([record["costs"][self.constraint.name] for record in refreshed])
        weigh = label_cost(self.constraint, eta, known)
        by_reward = self.method.reward
        rewards = self.lab.rewards(answers, by_reward) if by_reward else None
        responses = []
        for places, prompt in grouped(answers):
            scored = []
            for i in places:
                penalty, cost = weigh(float(costs[i]))
                reward = None if rewards is None else float(rewards[i])
                scored.append(ScoredResponse(answers.texts[i], penalty, cost, None, (), reward, cost <= 0.0))
            responses.append((prompt.messages, scored))
        seed, most = self.lab.seed + number, self.settings.pairs_per_prompt
        pairs = safety_pairs(responses, seed, self.settings.soft, most)
        self.bill.pairs += len(pairs)
        return pairs

    def rung(self, start: str, pairs: Sequence[dict[str, Any]], multiplier: float, rungs: float) -> str:
        method, steps = self.method, self.lab.steps(rungs)
        options = method.learning_rate, method.keep_optimizer
        policy = self.lab.trained(start, pairs, method.loss, multiplier, steps, *options)
        self.bill.steps += steps
        self.bill.seconds += self.lab.seconds(policy)
        return policy

    def _answers(self, policy: str, split: str) -> Answers:
        return self.lab.answers(policy, split, getattr(self.lab.sizes, split))

    def _costs(self, answers: Answers) -> np.ndarray:  # [n]
        return answers.costs if self.method.scorer == "true" else self.lab.model_costs(answers, self.method.scorer)

    def _records(self, answers: Answers, costs: np.ndarray) -> list[Any]:
        """As the ladder keeps them."""
        numbers = {prompt.text: place for place, prompt in enumerate(dict.fromkeys(answers.prompts))}
        draws: Counter[str] = Counter()
        records = []
        for prompt, text, cost in zip(answers.prompts, answers.texts, costs, strict=True):
            records.append(
                {
                    "prompt": prompt.text,
                    "response": text,
                    "costs": {self.constraint.name: float(cost)},
                    "prompt_number": numbers[prompt.text],
                    "draw": draws[prompt.text],
                }
            )
            draws[prompt.text] += 1
        return records

    def _found(
        self,
        policy: str,
        met: bool,
        multiplier: float,
        observed: dict[str, float],
        rungs: int,
        policies: Sequence[str],
    ) -> Found:
        bound, estimate = observed["upper_bound"], observed["estimate"]
        return Found(policy, met, multiplier, bound, estimate, rungs, len(policies), **vars(self.bill))


def _tell(multiplier: float, observed: dict[str, float]) -> None:
    numbers = f"CVaR {observed['estimate']:.2f}, bound {observed['upper_bound']:.2f}, η {observed['eta']:.2f}"
    print(f"    λ={multiplier:.3g}: {numbers}", flush=True)


def bootstrap_bound(costs: np.ndarray) -> float:
    """The 95 % quantile of CVaR over resamples: one response per prompt, so responses are what is resampled."""
    order = np.argsort(-costs)
    chunks = resamples(costs.size, 500, np.random.default_rng(0))
    draws = [sorted_cvar(costs[order], weights[:, order].cumsum(1), [TAIL]) for weights in chunks]
    return float(np.quantile(np.concatenate(draws), 0.95))
