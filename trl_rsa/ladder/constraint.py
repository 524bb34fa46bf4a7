"""RiskConstraint: a budget on the tail of harm, what it is measured on, and what the labels of pairs compare.

"CVaR of cost with tail 0.05 is at most 0" is `RiskConstraint(scorer, prompts, budget=0, bounds=(-2, 8), tail=0.05)`.
"""

import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from typing import Any, TypedDict

import numpy as np

from trl_rsa.audits.load import check_labeller
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.data import fingerprint
from trl_rsa.data.schema import Text
from trl_rsa.evaluation.cvar_bound import cvar_upper_bound
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.pressure.beginnings import read_beginnings
from trl_rsa.evaluation.prompt_sets import PromptSet, load_prompts
from trl_rsa.evaluation.tails import check_tail, cvar, value_at_risk
from trl_rsa.ladder.settings import SPLITS
from trl_rsa.ladder.under import Under, read_under
from trl_rsa.scoring.load import check_spec
from trl_rsa.scoring.scorer import RewardFunction
from trl_rsa.storage.digests import digest, prompt_key


class CostEstimate(TypedDict):
    """What [`RiskConstraint.estimate`] gives, in units of cost where it is not a count or a share."""

    n: int
    clipped: int
    mean_cost: float
    unsafe_rate: float
    eta: float
    estimate: float
    upper_bound: float


@dataclass
class RiskConstraint:
    """
    `CVaR of response cost ≤ budget` on a distribution of prompts, as a cost model scores it.

    Args:
        scorer (`str` or `Callable`):
            The cost: what [`~trl_rsa.scoring.load_scorer`] takes. Higher is worse, above 0 is unsafe; options such as
            `higher_is` go into `scorer_options`.
        prompts (`str` or `Sequence` or `Dataset` or `Mapping`):
            Prompts (a file or Hub id for [`~trl_rsa.evaluation.prompt_sets.load_prompts`], texts or messages, or a
            dataset with the column `prompt`), which are split once, by seed, into
            *train* (half), *decide* and *certify* (a quarter each); or a mapping of these three sets.
        budget (`float`):
            Largest risk allowed, in units of cost.
        bounds (`tuple[float, float]`):
            Smallest and largest cost that count, fixed before any cost is seen: the claim is about the clipped cost.
        tail (`float`, *optional*, defaults to 0.05):
            Tail of the CVaR: the share of responses that is kept, in (0, 1].
        confidence (`float`, *optional*, defaults to 0.95):
            Of the bound that steers the search, and of the certificate at the end.
        margin (`float`, *optional*):
            How far below the budget the bound may end; by default a twentieth of the width of `bounds`.
        scorer_options (`dict`, *optional*):
            Arguments of [`~trl_rsa.scoring.load_scorer`].
        labels (`str`, *optional*, defaults to `"unsafe"`):
            What the pairs of a rung are labelled by: `"raw"` cost; `"truncated"`, (C − η)₊/tail with η the current
            policy's quantile, which at the right η is the label whose infinite-data optimum is the constrained one;
            or `"unsafe"`, the same with η at most 0 and at most the budget less the margin. A policy that is far
            from its budget has a high quantile: few of its pairs differ above it, and costs between the budget and
            the quantile, which have to go as well, are not seen.
        human_pairs (`str` or `Dataset`, *optional*):
            Pairs with a human judgement of which answer is safer, mixed into every rung that this constraint asks for:
            what [`~trl_rsa.data.load_preferences`] takes. They keep their own label, which cannot be truncated.
        human_share (`float`, *optional*, defaults to 0.5):
            Their share of a rung's pairs, in (0, 1); less where there are not enough. Every rung draws anew, by seed.
        human_options (`dict`, *optional*):
            Other arguments of [`~trl_rsa.data.load_preferences`]; `preferred_by` is `"safer"` unless set.
        audit ([`AuditSettings`], *optional*):
            Labels by people, a judge or a function for a part of the responses: the search is then steered, and the
            pairs of the rungs are labelled, by what the cost means in terms of these labels.
        name (`str`, *optional*, defaults to `"cost"`):
            Tells several constraints apart, in files and trackers.
        under ([`~trl_rsa.ladder.under.Under`] or `Mapping`, *optional*):
            The condition under which the budget must hold, such as `{"temperature": 1.6}`, `{"prefill": 5}` or
            `{"attack": "base64"}`. What is observed, certified and (unless `train` is false) trained on for this
            constraint is drawn under it. By default there is none.

    Raises:
        ValueError: if a setting cannot work.
    """

    scorer: "str | RewardFunction"
    prompts: Any
    budget: float
    bounds: tuple[float, float]
    tail: float = 0.05
    confidence: float = 0.95
    margin: float | None = None
    scorer_options: dict[str, Any] = field(default_factory=dict)
    labels: str = "unsafe"
    human_pairs: Any = None
    human_share: float = 0.5
    human_options: dict[str, Any] = field(default_factory=dict)
    audit: AuditSettings | None = None
    name: str = "cost"
    under: "Under | Mapping[str, Any] | None" = None

    def __post_init__(self) -> None:
        self.under = read_under(self.under)
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < self.budget < high):
            raise ValueError(
                f"You set bounds={tuple(self.bounds)!r} and budget={self.budget!r}, but costs are clipped to "
                "[low, high], and a budget outside is always or never met. Set low < budget < high."
            )
        check_spec(self.scorer, self.scorer_options)
        if str(self.scorer).startswith("judge:"):
            raise ValueError(
                "You set the scorer of a constraint to a judge, but a judge compares with a reference answer, and the "
                "responses of a rung have none. Set a cost model, a guard, or a function."
            )
        check_tail(self.tail)
        check_confidence(self.confidence)
        if self.labels not in ("raw", "truncated", "unsafe"):
            raise ValueError(
                f"You set labels={self.labels!r}, but pairs are labelled by 'raw', 'truncated' or 'unsafe' cost. Set "
                "one of these."
            )
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
        if isinstance(self.audit, Mapping):
            self.audit = AuditSettings(**self.audit)
        if self.audit is not None:
            self.audit.check_bounds(self.bounds)
            check_labeller(self.audit.labeller, self.audit.scale, self.audit.labeller_options)
        if self.margin is not None and not self.margin > 0:
            raise ValueError(
                f"You set margin={self.margin!r}, but the bound may end that far below the budget, and it must be "
                "positive. Leave it out for a twentieth of the width of `bounds`."
            )

    @property
    def allowed_margin(self) -> float:
        """`margin`, or its default."""
        low, high = self.bounds
        return (high - low) / 20 if self.margin is None else self.margin

    @property
    def condition(self) -> Under | None:
        """What it must hold under, if anything."""
        return read_under(self.under)

    @property
    def under_in_words(self) -> str | None:
        """Such as "at temperature 1.6"; None where responses are drawn as usual."""
        return None if self.condition is None else self.condition.in_words

    @cached_property
    def _sets(self) -> dict[str, PromptSet]:
        """What `prompts` holds, by set: files are read once."""
        given = self.prompts if isinstance(self.prompts, Mapping) else {"all": self.prompts}
        return {name: _read(several) for name, several in given.items()}

    def to_dict(self) -> dict[str, Any]:
        """Settings for the manifest; the prompts as counts and fingerprints per set."""
        prompts = {name: _prompts_of(found) for name, found in self._sets.items()}
        described = {f.name: getattr(self, f.name) for f in fields(self)}
        described["prompts"] = {
            name: {"n": len(several), "fingerprint": fingerprint({"prompt": prompt} for prompt in several)}
            for name, several in prompts.items()
        }
        if self.condition is not None and self.condition.beginnings is not None:
            # Other beginnings under the same name would be another run.
            described["beginnings"] = digest(read_beginnings(self.condition.beginnings)).hex()
        return described

    def left_out(self) -> list[str]:
        """What of the files that the prompts are in is no prompt, or one that is there already: a line for each."""
        return [str(found) for found in self._sets.values() if found.skipped]

    def categories(self) -> dict[str, str]:
        """By key of the prompt: its category, where the prompts come with one."""
        rows = [row for found in self._sets.values() for row in found.rows]
        return {prompt_key(row["prompt"]): str(row["category"]) for row in rows if row.get("category") is not None}

    def confidence_among(self, n: int) -> float:
        """Of each bound, when `n` constraints are to hold together: they share the allowed error evenly."""
        return self.confidence if n == 1 else 1 - (1 - self.confidence) / n

    def split_prompts(self, seed: int) -> dict[str, list[Text]]:
        """The three disjoint sets of distinct prompts.

        Raises:
            ValueError: if a set is empty or missing, or two of them share a prompt.
        """
        if isinstance(self.prompts, Mapping):
            sets = {name: _distinct(_prompts_of(self._sets.get(name))) for name in SPLITS}
        else:
            prompts = _distinct(_prompts_of(self._sets["all"]))
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

    def estimate(self, costs: Sequence[float], prompts: Sequence[Text], among: int = 1) -> CostEstimate:
        """Estimates on the decide prompts: of the clipped cost, in units of cost; a heuristic for the search.

        Args:
            costs (`Sequence[float]`), prompts (`Sequence`):
                The cost of each response, and its prompt.
            among (`int`, *optional*, defaults to 1):
                How many constraints share the allowed error.
        """
        low, high = self.bounds
        clipped = np.clip(np.asarray(costs, dtype=float), low, high)
        confidence = self.confidence_among(among)
        # Of prompts' hashes one seed will do: their order has nothing to do with costs. A resumed run has the same.
        keys = [prompt_key(p) for p in prompts]
        bound = cvar_upper_bound(costs, self.tail, confidence, self.bounds, groups=keys, seed=0)
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
        low, high = self.bounds
        clipped = min(max(cost, low), high)
        if self.labels == "raw":
            return clipped
        return max(clipped - self.label_eta(eta), 0.0) / self.tail

    def label_eta(self, eta: float) -> float:
        """Where the excess that labels compare begins; `eta` is the policy's quantile."""
        return min(eta, 0.0, self.budget - self.allowed_margin) if self.labels == "unsafe" else eta


def check_names(constraints: Sequence[RiskConstraint]) -> None:
    """
    Raises:
        ValueError: if two constraints have one name.
    """
    names = [constraint.name for constraint in constraints]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"You gave two constraints the name {name!r}, but it tells them apart. Give each a `name`."
            )


def _prompts_of(found: PromptSet | None) -> list[Any]:
    rows = [] if found is None else found.rows
    if nameless := next((row for row in rows if "prompt" not in row), None):
        raise ValueError(
            f"You gave prompts with the columns {', '.join(map(str, nameless))}, but none of these is called prompt. "
            "Rename the one that holds the prompts."
        )
    return [row["prompt"] for row in rows]


def _read(prompts: Any) -> PromptSet:
    """Rows with `prompt`, of a sequence, of a dataset with that column, or of what [`load_prompts`] reads."""
    if isinstance(prompts, (str, os.PathLike)):
        return load_prompts(prompts)
    rows = [dict(prompt) if isinstance(prompt, Mapping) else {"prompt": prompt} for prompt in prompts]
    return PromptSet("prompts in memory", rows)


def _distinct(prompts: Sequence[Any]) -> list[Any]:
    """Each prompt once, as it was spelled first."""
    found: dict[str, Any] = {}
    for prompt in prompts:
        found.setdefault(prompt_key(prompt), prompt)
    return list(found.values())
