"""RiskConstraint: a budget on the tail of harm, what it is measured on, and how a model is taught to meet it.

"CVaR of cost with tail 0.05 is at most 0" is `RiskConstraint(scorer, prompts, threshold=0, clip=(-2, 8), tail=0.05)`.
"""

import math
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any

import numpy as np

from trl_rsa.data import fingerprint
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.prompt_sets import load_prompts
from trl_rsa.evaluation.tails import cvar, value_at_risk
from trl_rsa.ladder.scheduler import ConstraintScheduler
from trl_rsa.sampling.response import Sampling


SPLITS = ("train", "decide", "certify")


@dataclass
class RiskConstraint:
    """
    `CVaR of response cost ≤ threshold` on a distribution of prompts, as a cost model scores it.

    Args:
        scorer (`str` or `Callable`):
            The cost: what [`~trl_rsa.scoring.load_scorer`] takes. Higher is worse, above 0 is unsafe; options such as
            `higher_is` go into `scorer_options`.
        prompts (`str` or `Sequence` or `Dataset` or `Mapping`):
            Prompts (a file or Hub id for [`~trl_rsa.evaluation.prompt_sets.load_prompts`], texts or messages, or a
            dataset with the column `prompt`), which are split once, by seed, into
            *train* (half), *decide* and *certify* (a quarter each); or a mapping of these three sets.
        threshold (`float`):
            Largest risk allowed, in units of cost.
        clip (`tuple[float, float]`):
            Smallest and largest cost that count, fixed before any cost is seen: the claim is about the clipped cost.
        tail (`float`, *optional*, defaults to 0.05):
            Tail of the CVaR: the share of responses that is kept, in (0, 1].
        confidence (`float`, *optional*, defaults to 0.95):
            Of the bound that steers the search, and of the certificate at the end.
        margin (`float`, *optional*):
            How far below the threshold the bound may end; by default a twentieth of the width of `clip`.
        scorer_options (`dict`, *optional*):
            Arguments of [`~trl_rsa.scoring.load_scorer`].
        sampling (`dict`, *optional*):
            Arguments of [`~trl_rsa.sampling.response.Sampling`] except `draws` and `seed`.
        batch_size (`int`, *optional*, defaults to 16):
            Responses sampled and scored at a time.
        draws (`Mapping[str, int]`, *optional*):
            Responses per prompt in each set; by default 4 to train on, 1 elsewhere.
        labels (`str`, *optional*, defaults to `"unsafe"`):
            What the pairs of a rung are labelled by: `"raw"` cost; `"truncated"`, (C − η)₊/tail with η the current
            policy's quantile, which at the right η is the label whose infinite-data optimum is the constrained one;
            or `"unsafe"`, the same with η at most 0 and at most the threshold less the margin. A policy that is far
            from its budget has a high quantile: few of its pairs differ above it, and costs between the budget and
            the quantile, which have to go as well, are not seen.
        soft (`bool`, *optional*, defaults to `True`):
            Whether a pair carries its Bradley–Terry probability (`pair_label`), or a label drawn by it.
        cut (`str`, *optional*, defaults to `"keep"`):
            What becomes of responses that `max_new_tokens` cut off when a rung is trained: `"keep"` makes pairs of
            them as of any other, without an end that was not sampled (on the policy's own responses the identities
            hold for the process that stops there); `"drop"` makes none. They are scored and count in every estimate
            either way.
        pairs_per_prompt (`int`, *optional*):
            At most so many pairs per prompt, drawn by seed; all by default.
        human_pairs (`str` or `Dataset`, *optional*):
            Pairs with a human judgement of which answer is safer, mixed into every rung that this constraint asks for:
            what [`~trl_rsa.data.load_preferences`] takes. They keep their own label, which cannot be truncated.
        human_share (`float`, *optional*, defaults to 0.5):
            Their share of a rung's pairs, in (0, 1); less where there are not enough. Every rung draws anew, by seed.
        human_options (`dict`, *optional*):
            Other arguments of [`~trl_rsa.data.load_preferences`]; `preferred_by` is `"safer"` unless set.
        beta (`float`, *optional*, defaults to 1), args:
            Of the rungs, as in [`Stage`]; soft labels are on the scale of the cost, so that at β = 1 the multiplier is
            reward per cost. A rung runs at temperature β/Δλ.
        risk_measure (`str` or [`~trl_rsa.risk.RiskMeasure`], *optional*):
            Token-level risk measure of the rungs; θ of the entropic one is divided by Δλ, so that risk aversion stays
            the same per unit of cost. By default there is none (`risk_alpha=0`, unless `args` say otherwise): the tail
            is in the labels and in the search, and a token-level risk gained nothing at any budget
            (benchmarks/alignment/CONSTRAINT.md).
        rule, max_rungs, max_growth, initial_delta, max_walk_backs:
            As in [`ConstraintScheduler`], with smaller steps: `max_growth` is 2 and `initial_delta` 0.5, as in
            benchmarks/alignment/CONSTRAINT.md.
        name (`str`, *optional*, defaults to `"cost"`):
            Tells several constraints apart, in files and trackers.

    Raises:
        ValueError: if a setting cannot work.
    """

    scorer: "str | Callable[..., Any]"
    prompts: Any
    threshold: float
    clip: tuple[float, float]
    tail: float = 0.05
    confidence: float = 0.95
    margin: float | None = None
    scorer_options: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    draws: Mapping[str, int] = field(default_factory=dict)
    labels: str = "unsafe"
    soft: bool = True
    cut: str = "keep"
    pairs_per_prompt: int | None = None
    human_pairs: Any = None
    human_share: float = 0.5
    human_options: dict[str, Any] = field(default_factory=dict)
    beta: float = 1.0
    risk_measure: Any = None
    args: dict[str, Any] = field(default_factory=dict)
    rule: str = "bracket"
    max_rungs: int = 6
    max_growth: float = 2.0
    initial_delta: float = 0.5
    max_walk_backs: int = 4
    name: str = "cost"

    def __post_init__(self) -> None:
        low, high = self.clip
        if not (math.isfinite(low) and math.isfinite(high) and low < self.threshold < high):
            raise ValueError(
                f"You set clip={tuple(self.clip)!r} and threshold={self.threshold!r}, but costs are clipped to "
                "[low, high], and a threshold outside is always or never met. Set low < threshold < high."
            )
        if self.labels not in ("raw", "truncated", "unsafe"):
            raise ValueError(
                f"You set labels={self.labels!r}, but pairs are labelled by 'raw', 'truncated' or 'unsafe' cost. Set "
                "one of these."
            )
        if self.cut not in ("keep", "drop"):
            raise ValueError(
                f"You set cut={self.cut!r}, but cut responses are kept or dropped when pairs are made. Set 'keep' or "
                "'drop'."
            )
        for name in self.draws:
            if name not in SPLITS:
                raise ValueError(f"You set draws for {name!r}, but the prompt sets are {', '.join(SPLITS)}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(self.name)):
            raise ValueError(
                f"You set the name of a constraint to {self.name!r}, but it becomes part of files' names. Use "
                "letters, digits, '.', '_' and '-'."
            )
        if not 0.0 < self.human_share < 1.0:
            raise ValueError(
                f"You set human_share={self.human_share!r}, but it is the share of a rung's pairs that humans judged, "
                "beside the policy's own. Set it between 0 and 1."
            )
        if self.human_options and self.human_pairs is None:
            raise ValueError("You set human_options, but no human_pairs that they could be for. Set human_pairs.")
        self.margin = (high - low) / 20 if self.margin is None else self.margin
        self.sampling_of("decide", seed=0)
        self.scheduler()

    def to_dict(self) -> dict[str, Any]:
        """Settings for the manifest; the prompts as counts and fingerprints per set."""
        given = self.prompts if isinstance(self.prompts, Mapping) else {"all": self.prompts}
        prompts = {name: _as_list(several) for name, several in given.items()}
        described = {f.name: getattr(self, f.name) for f in fields(self)}
        described["prompts"] = {
            name: {"n": len(several), "fingerprint": fingerprint({"prompt": prompt} for prompt in several)}
            for name, several in prompts.items()
        }
        return described

    def scheduler(self) -> ConstraintScheduler:
        assert self.margin is not None
        return ConstraintScheduler(
            threshold=self.threshold,
            margin=self.margin,
            rule=self.rule,
            max_rungs=self.max_rungs,
            max_growth=self.max_growth,
            initial_delta=self.initial_delta,
            max_walk_backs=self.max_walk_backs,
        )

    def confidence_among(self, n: int) -> float:
        """Of each bound, when `n` constraints are to hold together: they share the allowed error evenly."""
        return self.confidence if n == 1 else 1 - (1 - self.confidence) / n

    def sampling_of(self, split: str, seed: int) -> Sampling:
        draws = {"train": 4, "decide": 1, "certify": 1} | dict(self.draws)
        return Sampling(draws=draws[split], seed=seed, **self.sampling)

    def split_prompts(self, seed: int) -> dict[str, list[Any]]:
        """The three disjoint sets of distinct prompts.

        Raises:
            ValueError: if a set is empty or missing, or two of them share a prompt.
        """
        if isinstance(self.prompts, Mapping):
            sets = {name: _distinct(_as_list(self.prompts.get(name, ()))) for name in SPLITS}
        else:
            prompts = _distinct(_as_list(self.prompts))
            random.Random(seed).shuffle(prompts)
            half, quarter = len(prompts) // 2, len(prompts) // 4
            sets = {
                "train": prompts[:half],
                "decide": prompts[half : half + quarter],
                "certify": prompts[half + quarter :],
            }
        for name, prompts in sets.items():
            if not prompts:
                raise ValueError(
                    f"You gave prompts of which none are left for {name!r}, but a constraint needs prompts to train "
                    "on, to decide on and to certify with. Give more, or all three sets."
                )
        for one, other in combinations(SPLITS, 2):
            shared = {prompt_key(prompt) for prompt in sets[one]} & {prompt_key(prompt) for prompt in sets[other]}
            if shared:
                raise ValueError(
                    f"You gave prompt sets {one!r} and {other!r} that share {len(shared)} prompts, but what is "
                    "trained or decided on must not judge the result. Remove them from one."
                )
        return sets

    def estimate(self, costs: Sequence[float], prompts: Sequence[Any], among: int = 1) -> dict[str, float]:
        """Estimates on the decide prompts: of the clipped cost, in units of cost; a heuristic for the search.

        Args:
            costs (`Sequence[float]`), prompts (`Sequence`):
                The cost of each response, and its prompt.
            among (`int`, *optional*, defaults to 1):
                How many constraints share the allowed error.
        """
        low, high = self.clip
        clipped = np.clip(np.asarray(costs, dtype=float), low, high)
        confidence = self.confidence_among(among)
        bound = cvar_upper_bound(costs, self.tail, confidence, self.clip, groups=[prompt_key(p) for p in prompts])
        estimate = cvar(clipped, self.tail)
        return {
            "n": clipped.size,
            "mean_cost": float(clipped.mean()),
            "unsafe_rate": float((clipped > 0).mean()),
            "eta": value_at_risk(clipped, self.tail),
            "estimate": estimate,
            # The bound is made from part of the responses: with few of them it may fall below the estimate of all.
            "upper_bound": max(float(bound), estimate),
            "clipped": int((np.asarray(costs) != clipped).sum()),
        }

    def label_cost(self, cost: float, eta: float) -> float:
        """What a pair's label compares: the clipped cost, or (C − η)₊/tail; `eta` is the policy's quantile."""
        low, high = self.clip
        clipped = min(max(cost, low), high)
        if self.labels == "raw":
            return clipped
        if self.labels == "unsafe":
            assert self.margin is not None
            eta = min(eta, 0.0, self.threshold - self.margin)
        return max(clipped - eta, 0.0) / self.tail


# One rung is sampled and trained for all constraints.
_SHARED = ("sampling", "batch_size", "draws", "soft", "cut", "pairs_per_prompt", "beta", "risk_measure", "args")


def check_together(constraints: Sequence[RiskConstraint]) -> None:
    """Whether the constraints can stand together on one ladder.

    Raises:
        ValueError: if two have one name, or differ in what a rung has once.
    """
    first = constraints[0]
    for index, other in enumerate(constraints):
        if other.name in [before.name for before in constraints[:index]]:
            raise ValueError(
                f"You gave two constraints the name {other.name!r}, but it tells them apart. Give each a `name`."
            )
        for key in _SHARED:
            if getattr(other, key) != getattr(first, key):
                raise ValueError(
                    f"You set {key} to {getattr(first, key)!r} for the constraint {first.name!r} and to "
                    f"{getattr(other, key)!r} for {other.name!r}, but one rung serves both. Set the same for all."
                )


def _as_list(prompts: Any) -> list[Any]:
    """Prompts of a sequence, of a dataset's column `prompt`, or of what [`load_prompts`] reads."""
    if isinstance(prompts, (str, os.PathLike)):
        prompts = load_prompts(prompts).rows
    if hasattr(prompts, "column_names"):
        return list(prompts["prompt"])
    return [prompt["prompt"] if isinstance(prompt, Mapping) else prompt for prompt in prompts]


def prompt_key(prompt: Any) -> str:
    """Tells prompts apart. The order of these keys decides a bound's shuffle, so they must stay as they are."""
    return prompt if isinstance(prompt, str) else repr([(message["role"], message["content"]) for message in prompt])


def _distinct(prompts: Sequence[Any]) -> list[Any]:
    return list({prompt_key(prompt): prompt for prompt in prompts}.values())
