"""Methods of the literature beside those of the constraint track: RLOO-Lagrangian, KTO-SACPO, P-SACPO, SafeDPO.

All are compared with two methods of the track that are run again by the same code, on the same machine. Their settings
were chosen on the tuning seed alone. What is not equal between them is said in `NOT_EQUAL`, which the page prints.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.alignment.constraint_lab import Lab, grouped
from benchmarks.alignment.constraint_methods import LEARNING_RATE, METHODS, NONE, TAIL, Method
from benchmarks.alignment.constraint_search import Found, Search
from benchmarks.alignment.constraint_trainers import train_kto, train_rloo, train_safedpo


NEUTRAL, SACPO = (next(m for m in METHODS if m.name == name) for name in ("α = 0, truncated", "SACPO"))

# RLOO: responses per step and per prompt; as many scorer calls as a search of DPO-Lagrangian in all, one decision
# included. Dual ascent aims at the budget less the margin, as the ladder does.
RLOO: dict[str, Any] = {
    "generations": 4,
    "batch": 64,
    "reuse": 1,
    "steps": 92,
    "rate": 3e-4,
    "tail": TAIL,
    "dual": {"multiplier": 0.5, "rate": 0.02, "eta": 0.0, "eta_rate": 0.05, "window": 256},
}
RLOO_LAGRANGIAN = Method(
    "RLOO-Lagrangian",
    "TRL's RLOO from the SFT policy on reward − λ·(C − η)₊/0.05, with dual ascent on λ and descent on η",
    "rloo",
    RLOO,
    on_policy=True,
)
# What is tried on the tuning seed, at one budget. The settings of the other methods are those of the track, untuned.
RLOO_TRIED = tuple(
    replace(
        RLOO_LAGRANGIAN,
        name=f"RLOO-Lagrangian, learning rate {rate:g}, dual rate {dual:g}",
        loss={**RLOO, "rate": rate, "dual": {**RLOO["dual"], "rate": dual}},
    )
    for rate, dual in ((3e-4, 0.02), (1e-3, 0.02), (1e-3, 0.005))
)
TRIED_AT = ("tail", 2.0)  # world and budget
KTO_SACPO = Method(
    "KTO-SACPO",
    "SACPO's safety stage by KTO: responses of the SFT policy, desirable where safe; best λ of 1, 2, 4, 8",
    "kto",
    {"rate": LEARNING_RATE},
    on_policy=False,
    grid=(1.0, 2.0, 4.0, 8.0),
)
P_SACPO = Method(
    "P-SACPO",
    "the helpful policy and SACPO's at λ = 4 merged linearly; best weight of the latter of 0.25, 0.5, 0.75, 1",
    "merge",
    {**NONE},
    on_policy=False,
    grid=(0.25, 0.5, 0.75, 1.0),
)
SAFEDPO = Method(
    "SafeDPO",
    "pairs of the SFT policy reordered by safety, with an offset Δ in the logit; best Δ of 0, 2, 5",
    "safedpo",
    {"rate": LEARNING_RATE},
    on_policy=False,
    grid=(0.0, 2.0, 5.0),
)
# In the order in which they are run.
BASELINES = (NEUTRAL, RLOO_LAGRANGIAN, SAFEDPO, KTO_SACPO, SACPO, P_SACPO)
BASELINE_SEARCHES = ("rloo", "kto", "merge", "safedpo")
# The worlds in which these are run, in this order.
BASELINE_WORLDS = ("tail", "aligned")
MERGED_AT = 4.0  # λ of the policy that P-SACPO merges with: the most of SACPO's grid

NOT_EQUAL = (
    "RLOO-Lagrangian and SafeDPO start from the SFT policy, the others from the helpful policy, whose training (1,920 "
    "scored responses, 120 steps) is in nobody's counts but theirs.",
    "RLOO-Lagrangian and SafeDPO need to know how helpful and how harmful a response is; the others, in the safety "
    "stage, its cost alone.",
    "RLOO-Lagrangian trains one policy per budget and looks at the decide prompts once. A grid is trained once for "
    "all budgets, and takes the most helpful of its policies whose bound holds, by true reward on them.",
    "In the column λ stands for P-SACPO the weight of the safe policy, and for SafeDPO Δ.",
    "KTO sees a label per response, safe or not; SACPO and the ladder soft labels of pairs, by how much cost differs.",
)


def search_baseline(lab: Lab, method: Method, threshold: float) -> Found:
    """As [`~constraint_search.search`], for the methods of this file."""
    run = BaselineSearch(lab, method, threshold)
    return run.on_policy() if method.search == "rloo" else run.best_of_grid()


class BaselineSearch(Search):
    """The searches of the methods of this file."""

    def on_policy(self) -> Found:
        """One run of RLOO, and one decision."""
        target = self.constraint.budget - self.constraint.allowed_margin
        recipe = {"method": "rloo", "start": "sft", "target": target, **self.method.loss}
        prompts = self.lab.prompts["train"][: self.lab.units(self.lab.sizes.helpful_rungs + self.lab.sizes.grid_rungs)]
        policy = self.lab._make(recipe, lambda: train_rloo(self.lab, "sft", prompts, recipe))
        self.bill.steps += recipe["steps"]
        self.bill.scored += recipe["steps"] * recipe["batch"]
        self.bill.seconds += self.lab.seconds(policy)
        multiplier = torch.load(self.lab.folder / f"{policy}.pt", mmap=True)["multiplier"]
        observed = self.observe(policy)
        met = observed["upper_bound"] <= self.constraint.budget
        return self._found(policy, met, multiplier, observed, 1, [policy])

    def single_stages(self) -> list[str]:
        return {"kto": self.kto_stages, "merge": self.merges, "safedpo": self.safedpo}[self.method.search]()

    def kto_stages(self) -> list[str]:
        """One KTO stage from the helpful policy for each λ, on the SFT policy's responses."""
        size, start = self.lab.sizes.grid_rungs, self.lab.helpful
        answers = self.bill.answers(self.lab.answers("sft", "train", self.lab.units(size)))
        rows = [
            {
                "prompt": prompt.messages,
                "completion": [{"role": "assistant", "content": answers.texts[i]}],
                "label": bool(answers.costs[i] <= 0),
            }
            for places, prompt in grouped(answers)
            for i in places
        ]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.lab.seed)).tolist()
        rows = [rows[i] for i in order]
        return [self._made("kto", start, rows, multiplier, size, train_kto) for multiplier in self.method.grid]

    def merges(self) -> list[str]:
        """The helpful policy, SACPO's at one λ, and weights between them."""
        size, start = self.lab.sizes.grid_rungs, self.lab.helpful
        pairs = self.pairs(start, self.observe(start)["eta"], size, 0)
        safe = self.rung(start, pairs, MERGED_AT, size)
        return [safe if weight == 1.0 else self.lab.between(start, safe, weight) for weight in self.method.grid]

    def safedpo(self) -> list[str]:
        """One stage from the SFT policy for each Δ, as long as the helpful stage and a grid's stage together.

        From the paper (Kim et al. 2025, arXiv 2505.20065), as our notes and memory have it: preferences by
        helpfulness; a pair whose preferred response is unsafe and the other safe is swapped; pairs of two unsafe
        responses are dropped; the logit of a pair of a safe and an unsafe response is lowered by Δ, so that the margin
        has to exceed it. The full text was not at hand. Not certain: the paper's values of Δ, and whether Δ is
        multiplied by β. Ours: soft labels by the true reward where both are safe, as every method here has them, and
        certain ones where safety decides.
        """
        size = self.lab.sizes.helpful_rungs + self.lab.sizes.grid_rungs
        answers = self.bill.answers(self.lab.answers("sft", "train", self.lab.units(size)))
        costs = {(p.text, t): c for p, t, c in zip(answers.prompts, answers.texts, answers.costs, strict=True)}
        pairs = [p for pair in self.lab.label(answers, "reward") if (p := reordered(pair, costs)) is not None]
        self.bill.pairs += len(pairs)
        several = [
            [{**pair, "pair_weight": offset * pair["pair_weight"]} for pair in pairs] for offset in self.method.grid
        ]
        return [
            self._made("safedpo", "sft", rows, offset, size, train_safedpo)
            for rows, offset in zip(several, self.method.grid, strict=True)
        ]

    def _made(self, kind: str, start: str, rows: Any, multiplier: float, rungs: float, train: Any) -> str:
        steps = self.lab.steps(rungs)
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=bool).encode()).hexdigest()[:16]
        recipe = {"method": kind, "start": start, "multiplier": multiplier, "steps": steps, "rows": digest}
        recipe |= self.method.loss
        policy = self.lab._make(recipe, lambda: train(self.lab, start, rows, steps, recipe))
        self.bill.steps += steps
        self.bill.seconds += self.lab.seconds(policy)
        return policy


def reordered(pair: dict[str, Any], costs: dict[tuple[str, str], float]) -> dict[str, Any] | None:
    """SafeDPO's transform of a pair; None for two unsafe responses. `pair_weight` is 1 where safety decides, or 0."""
    prompt = pair["prompt"][-1]["content"]
    chosen, rejected = (costs[prompt, pair[side][0]["content"]] > 0 for side in ("chosen", "rejected"))
    if chosen and rejected:
        return None
    if not chosen and not rejected:
        return {**pair, "pair_weight": 0.0}
    swapped = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} if chosen else pair
    return {**swapped, "pair_label": 1.0, "pair_weight": 1.0}


def chosen_rloo(rows: Sequence[dict[str, Any]]) -> Method | None:
    """RLOO-Lagrangian with the settings that were best on the tuning seed; None before they have been tried.

    The rule, fixed before anything was run: of those whose bound holds the most helpful by true reward; if none holds,
    the one with the least bound.
    """
    tried = {row["method"]: row for row in rows if row["part"] == "baselines, tuning"}
    if not all(method.name in tried for method in RLOO_TRIED):
        return None
    holding = [method for method in RLOO_TRIED if int(float(tried[method.name]["met"]))]
    if holding:
        best = max(holding, key=lambda method: float(tried[method.name]["reward"]))
    else:
        best = min(RLOO_TRIED, key=lambda method: float(tried[method.name]["bound"]))
    return replace(RLOO_LAGRANGIAN, loss=best.loss)


def in_words(method: Method) -> str:
    return f"learning rate {method.loss['rate']:g}, dual rate {method.loss['dual']['rate']:g}"
