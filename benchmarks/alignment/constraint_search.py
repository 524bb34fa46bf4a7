"""How a method looks for the policy that meets a budget: by the scheduler's rungs, or over a grid of multipliers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.alignment.constraint_lab import Answers, Lab, grouped
from benchmarks.alignment.constraint_methods import (
    BETA,
    CLIP,
    CONFIDENCE,
    MARGIN_SHARE,
    NONE,
    SCHEDULER,
    TAIL,
    Method,
)
from trl_rsa import RiskConstraint
from trl_rsa.stages.pairs import Answer, safety_pairs


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


@dataclass
class Bill:
    """What a search has spent so far."""

    scored: int = 0
    pairs: int = 0
    steps: int = 0
    seconds: float = 0.0

    def answers(self, answers: Answers) -> Answers:
        self.scored += len(answers.texts)
        self.seconds += answers.seconds
        return answers


def search(lab: Lab, method: Method, threshold: float) -> Found:
    return climb(lab, method, threshold) if method.search == "ladder" else best_of_grid(lab, method, threshold)


def make_constraint(lab: Lab, method: Method, threshold: float) -> RiskConstraint:
    """The package's own constraint, which estimates, bounds, labels and schedules here as in `align`."""
    low, high = CLIP[lab.world.name]
    return RiskConstraint(
        scorer=lab.world.cost,  # not called: the answers bring their costs
        prompts=(),
        threshold=threshold,
        clip=(low, high),
        tail=TAIL,
        confidence=CONFIDENCE,
        margin=MARGIN_SHARE * (high - low),
        labels=method.labels,
        soft=method.soft,
        pairs_per_prompt=lab.sizes.pairs_per_prompt,
        beta=BETA,
        **(SCHEDULER | method.scheduler),
    )


def costs_of(lab: Lab, method: Method, answers: Answers) -> np.ndarray:  # [n]
    return lab.learned_costs(answers) if method.scorer == "learned" else answers.costs


def observe(lab: Lab, method: Method, constraint: RiskConstraint, policy: str, bill: Bill) -> dict[str, float]:
    answers = bill.answers(lab.answers(policy, "decide", lab.sizes.decide))
    return constraint.estimate(costs_of(lab, method, answers).tolist(), [prompt.text for prompt in answers.prompts])


def make_pairs(
    lab: Lab, method: Method, constraint: RiskConstraint, policy: str, eta: float, rungs: float, seed: int, bill: Bill
) -> list[dict[str, Any]]:
    """Safety pairs of `policy`'s own answers, or of the SFT policy's, for as many train prompts as so many rungs."""
    source = policy if method.on_policy else "sft"
    answers = bill.answers(lab.answers(source, "train", lab.units(rungs)))
    costs = costs_of(lab, method, answers)
    responses = [
        (prompt.messages, [Answer(t, constraint.label_cost(c, eta), c) for t, c in zip(texts, several, strict=True)])
        for texts, several, prompt in grouped(answers, costs)
    ]
    pairs = safety_pairs(responses, seed, constraint.soft, constraint.pairs_per_prompt)
    bill.pairs += len(pairs)
    return pairs


def climb(lab: Lab, method: Method, threshold: float) -> Found:
    """The ladder of `trl_rsa.stages.ladder`, with policies in the lab instead of folders."""
    constraint, bill = make_constraint(lab, method, threshold), Bill()
    scheduler, observed, policies = constraint.scheduler(), [], [lab.helpful]
    rungs = [lab.helpful]  # the policy after each rung
    decision = None
    while decision is None or decision.action != "stop":
        if decision is not None and decision.action == "next_rung":
            number = decision.start.number
            pairs = make_pairs(
                lab, method, constraint, rungs[-1], observed[number]["eta"], 1.0, lab.seed + decision.rung, bill
            )
            rungs.append(train_rung(lab, method, rungs[-1], pairs, decision.delta_multiplier, 1.0, bill))
            policies.append(rungs[-1])
        elif decision is not None:
            policies.append(lab.between(rungs[decision.rung - 1], rungs[decision.rung], decision.fraction))
            bill.seconds += lab.seconds(policies[-1])
        observed.append(observe(lab, method, constraint, policies[-1], bill))
        decision = scheduler.observe(estimate=observed[-1]["estimate"], upper_bound=observed[-1]["upper_bound"])
        print(f"    λ={scheduler.trials[-1].multiplier:.3g} {_short(observed[-1])}: {decision.action}", flush=True)
    best = decision.start
    return Found(
        policy=policies[best.number],
        met=decision.met,
        multiplier=best.multiplier,
        bound=best.upper_bound,
        estimate=best.estimate,
        rungs=len(rungs) - 1,
        observed=len(policies),
        **vars(bill),
    )


def _short(observed: dict[str, float]) -> str:
    return f"η {observed['eta']:.2f}, CVaR {observed['estimate']:.2f}, bound {observed['upper_bound']:.2f}"


def train_rung(
    lab: Lab,
    method: Method,
    start: str,
    pairs: Sequence[dict[str, Any]],
    multiplier: float,
    rungs: float,
    bill: Bill,
) -> str:
    steps = lab.steps(rungs)
    policy = lab.trained(start, pairs, method.loss, multiplier, steps, method.learning_rate, method.keep_optimizer)
    bill.steps += steps
    bill.seconds += lab.seconds(policy)
    return policy


def best_of_grid(lab: Lab, method: Method, threshold: float) -> Found:
    """Trains a policy for each λ, and takes the most helpful of those whose bound holds, by *true* decide reward.

    That choice knows more than the scheduler does, in the baselines' favour. If no bound holds, it is the least.
    """
    constraint, bill = make_constraint(lab, method, threshold), Bill()
    tried = []
    for place, multiplier in enumerate(method.grid):
        if method.search == "lagrangian":
            policy = lagrangian(lab, multiplier, bill, first=place == 0)
        else:
            # All λ share the pairs, as published.
            spent = bill if place == 0 else Bill()
            eta = observe(lab, method, constraint, lab.helpful, spent)["eta"]
            pairs = make_pairs(lab, method, constraint, lab.helpful, eta, lab.sizes.grid_rungs, lab.seed, spent)
            policy = train_rung(lab, method, lab.helpful, pairs, multiplier, lab.sizes.grid_rungs, bill)
        observed = observe(lab, method, constraint, policy, bill)
        print(f"    λ={multiplier:.3g} {_short(observed)}", flush=True)
        reward = float(lab.answers(policy, "decide", lab.sizes.decide).rewards.mean())
        tried.append((policy, multiplier, observed, reward))
    holding = [entry for entry in tried if entry[2]["upper_bound"] <= threshold]
    least = min(tried, key=lambda entry: entry[2]["upper_bound"])
    policy, multiplier, observed, _ = max(holding, key=lambda entry: entry[3]) if holding else least
    return Found(
        policy=policy,
        met=bool(holding),
        multiplier=multiplier,
        bound=observed["upper_bound"],
        estimate=observed["estimate"],
        rungs=len(tried),
        observed=len(tried),
        **vars(bill),
    )


def lagrangian(lab: Lab, multiplier: float, bill: Bill, first: bool) -> str:
    """One DPO from the SFT policy on reward − λ·cost, as long as the helpful stage and a grid's stage together."""
    rungs = lab.sizes.helpful_rungs + lab.sizes.grid_rungs
    answers = lab.answers("sft", "train", lab.units(rungs))
    pairs = lab.label(answers, "lagrangian", multiplier)
    if first:
        bill.answers(answers)
    bill.pairs += len(pairs) if first else 0
    policy = lab.trained("sft", pairs, NONE, 1.0, lab.steps(rungs))
    bill.steps += lab.steps(rungs)
    bill.seconds += lab.seconds(policy)
    return policy
