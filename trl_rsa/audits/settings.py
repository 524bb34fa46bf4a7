"""AuditSettings: how many responses of each policy get labels, who gives them, and on which scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trl_rsa.audits.combine import check_second
from trl_rsa.audits.selection import UNIFORM
from trl_rsa.data.harm import DEFAULT_SCALE, HarmScale


PEOPLE = "people"


def _cost_of(grade: tuple[str, float]) -> float:
    return grade[1]


@dataclass
class AuditSettings:
    """
    Labels for a part of the responses that a ladder sees, and what is made of them.

    Args:
        labeller (`str` or `Callable`, *optional*, defaults to `"people"`):
            Who labels: `"people"`, through files (`trl-rsa audit next` and `import`); `judge:URL#MODEL`, a language
            model that is asked for a grade; another scorer of [`~trl_rsa.scoring.load_scorer`], whose cost counts as
            the nearest grade; or `module:function`, a function `(prompts, completions, **columns)` that returns a
            grade each, by name or by number from 0 (or None). A column `label_number` says whether the first, second
            or third label of a response is asked.
        labeller_options (`dict`, *optional*):
            Arguments of the judge's endpoint or of the scorer.
        harm_scale (`str` or `Mapping`, *optional*):
            Names and costs of the grades, as `safe=-1,minor=1,moderate=4,severe=10`, the default, or as a mapping. The
            bounds of the constraint must hold all of them.
        labels (`int` or `list[int]`, *optional*, defaults to `[80, 40]`):
            Responses of each observed policy that are drawn for a label: of the first, of the second, …; the last
            number counts for all that follow. The first policy is the most harmful one, and shows the most.
        rounds (`int`, *optional*, defaults to 1):
            In how many draws they are drawn. With `refresh` the second draw knows what the first has found.
        budget (`int`, *optional*, defaults to 400):
            Labels in all, second and third ones included: of later draws so much is kept that every disagreement can
            be settled. When they are spent the ladder goes on with the calibration that it has.
        confirm (`int`, *optional*):
            Responses more that are drawn for a label, from all alike, of a policy whose estimate is within the budget:
            it was trained to be good by the labels that there were, so these flatter it, and new ones do not. So many
            labels of the budget are kept back until there is such a policy. By default a quarter of the budget, and
            none where a bound by betting steers.
        uniform (`float`, *optional*, defaults to 0.8):
            Share of the labels that falls on all responses alike, in (0, 1]. The rest goes where the learned cost is
            high.
        memory (`float`, *optional*, defaults to 1):
            What labels weigh in the calibration when the ladder has observed another policy since, in (0, 1]; with two
            policies since its square. Below 1 the calibration follows the policy, and rests on fewer labels.
        refresh (`bool` or `str`, *optional*, defaults to `False`):
            Whether the learned cost itself learns from the labels: a ridge regression of the labels on the words of a
            response and on its learned cost. It finds kinds of harm that the cost model is blind to. Or
            `module:function`, a function `(prompts, responses)` that returns a vector for each, such as embeddings,
            in place of the words.
        second (`float` or `str`, *optional*, defaults to `"unsafe"`):
            Which responses get a second label, by another labeller: a share of them; or the name of a grade, each
            whose first label is that grade or a worse one; `"unsafe"` is the first grade that costs more than 0. Where
            two differ a third is asked.
        combine (`str`, *optional*, defaults to `"median"`):
            What counts where a response has several labels and errors are not allowed for, and in the certificate: the
            `"median"` (of two, the worse one), or the `"mean"` of their costs. One wrong label in thirty that calls a
            harmless response severe makes a tail of its own in a mean; a median needs two.
        errors (`bool`, *optional*):
            Whether the search allows for wrong labels: how often labellers err is estimated from the responses with
            several labels, and each response counts by the chance of every grade, given its labels and its learned
            cost. By default it does wherever `second` asks for several labels and `combine` for no mean. A certificate
            about labels counts every label as it is.
        bound (`str`, *optional*, defaults to `"bootstrap"`):
            What steers the search: a `"bootstrap"` over all labels so far, which promises nothing for finite samples;
            or `"betting"`, which allows for what the cost model is blind to, rests on the labels of one policy alone,
            and needs hundreds of them: for judges whose labels are cheap. For one look at fresh prompts it holds with
            the constraint's confidence.
        wait (`bool`, *optional*, defaults to `True`):
            Whether the ladder ends its run, to be started again, while labels are missing; otherwise it goes on with
            those that are there.
        certify_labels (`int`, *optional*, defaults to 0):
            Responses to certify prompts that are drawn for a label, beyond `budget`: the certificate is then about
            the labels. With 0 it is about the learned cost.
        seed (`int`, *optional*, defaults to 0):
            Of the draws.

    Raises:
        ValueError: if a setting cannot work.
    """

    labeller: "str | Callable[..., Any]" = PEOPLE
    labeller_options: dict[str, Any] = field(default_factory=dict)
    harm_scale: str | Mapping[str, float] = DEFAULT_SCALE
    labels: int | list[int] = field(default_factory=lambda: [80, 40])
    rounds: int = 1
    memory: float = 1.0
    budget: int = 400
    confirm: int | None = None
    uniform: float = 0.8
    refresh: bool | str = False
    second: float | str = "unsafe"
    combine: Literal["median", "mean"] = "median"
    errors: bool | None = None
    bound: Literal["bootstrap", "betting"] = "bootstrap"
    wait: bool = True
    certify_labels: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        scale = self.harm_scale
        # The order of a mapping's keys says nothing: tools that write YAML sort them.
        self.scale = HarmScale.parse(scale if isinstance(scale, str) else dict(sorted(scale.items(), key=_cost_of)))
        if self.errors is None:
            self.errors = bool(self.second) and self.combine == "median"
        if self.confirm is None:
            self.confirm = 0 if self.bound == "betting" or not isinstance(self.budget, int) else self.budget // 4
        several = self.labels if isinstance(self.labels, list) else [self.labels]
        numbers = [("labels", 1, value) for value in several or [0]]
        named = (("rounds", 1), ("budget", 1), ("confirm", 0), ("certify_labels", 0), ("seed", 0))
        for name, least, value in [*numbers, *((name, least, getattr(self, name)) for name, least in named)]:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"You set {name}={value!r} in an audit, but it is a whole number of at least {least}. Set one."
                )
        if isinstance(self.uniform, bool) or not 0.0 < self.uniform <= 1.0:
            raise ValueError(
                f"You set uniform={self.uniform!r} in an audit, but it is the share of the labels that falls on all "
                "responses alike, in (0, 1]: without it nothing is known of responses with a low score. Set, say, 0.8."
            )
        if isinstance(self.memory, bool) or not 0.0 < self.memory <= 1.0:
            raise ValueError(
                f"You set memory={self.memory!r} in an audit, but it is what labels of an earlier policy weigh, in "
                "(0, 1]. Set, say, 0.5."
            )
        check_second(self.second, self.scale)
        if self.bound not in ("bootstrap", "betting"):
            raise ValueError(
                f"You set bound={self.bound!r} in an audit, but a search is steered by a 'bootstrap' or by 'betting'. "
                "Set one of these."
            )
        if self.bound == "betting" and self.rounds > 1:
            raise ValueError(
                f"You set bound='betting' and rounds={self.rounds} in an audit, but a draw that knows labels of "
                "the same policy has no fixed probabilities. Set rounds to 1."
            )
        if self.confirm >= self.budget:
            raise ValueError(
                f"You set confirm={self.confirm} and budget={self.budget} in an audit, but labels that are kept back "
                "to confirm a policy are part of the budget, and nothing would be left to find it with. Set confirm "
                "to a third of the budget or less."
            )
        if self.bound == "betting" and self.confirm:
            raise ValueError(
                f"You set bound='betting' and confirm={self.confirm} in an audit, but a draw that depends on labels "
                "of the same policy has no fixed probabilities. Remove confirm."
            )
        if self.combine not in ("median", "mean"):
            raise ValueError(
                f"You set combine={self.combine!r} in an audit, but several labels count by their 'median' or their "
                "'mean'. Set one of these."
            )
        if self.errors and not self.second:
            raise ValueError(
                f"You set errors=True and second={self.second} in an audit, but how often labellers err can only be "
                "told where a response has several labels. Set second to 'unsafe' or to a share, or leave errors out."
            )
        if self.labeller_options and self.asks_people:
            raise ValueError(
                "You set labeller_options in an audit whose labeller is 'people', but they are for a judge or a "
                "scorer. Remove them, or set the labeller."
            )

    def labels_of(self, observation: int) -> int:
        """How many responses of an observed policy are drawn, from 0 on."""
        several = self.labels if isinstance(self.labels, list) else [self.labels]
        return several[min(observation, len(several) - 1)]

    def drawn_of(self, split: str, observation: int = 0, round_number: int = 1) -> tuple[int, float]:
        """How many responses one draw of *decide* or *certify* is for, and the share that falls on all alike. The
        round after the last one is the draw that confirms a policy."""
        if split == "certify":
            return self.certify_labels, UNIFORM
        if round_number > self.rounds:
            return self.kept_back, 1.0
        return round(self.labels_of(observation) / self.rounds), self.uniform

    @property
    def kept_back(self) -> int:
        """Labels for a policy that may be within the budget: `confirm`."""
        assert self.confirm is not None  # settled above
        return self.confirm

    @property
    def asks_people(self) -> bool:
        return self.labeller == PEOPLE

    def check_bounds(self, bounds: tuple[float, float]) -> None:
        """
        Raises:
            ValueError: if a grade costs more or less than the constraint's bounds allow.
        """
        low, high = bounds
        if self.scale.costs[0] < low or self.scale.costs[-1] > high:
            raise ValueError(
                f"You set bounds={tuple(bounds)!r} and a harm scale from {self.scale.costs[0]:g} to "
                f"{self.scale.costs[-1]:g}, but a grade outside the bounds would count as less than it costs. Let the "
                "bounds hold the scale."
            )
