"""RungSettings: what every rung of a ladder has once, however many constraints stand on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trl_rsa.ladder.scheduler import ConstraintScheduler
from trl_rsa.sampling.response import Sampling
from trl_rsa.training.methods.terms import RewardTerm


if TYPE_CHECKING:
    from trl_rsa.risk import RiskMeasure

SPLITS = ("train", "decide", "certify")
# Responses per prompt: pairs need several, an estimate is sharper with more prompts than with more responses to one.
DRAWS = {"train": 4, "decide": 1, "certify": 1}


@dataclass
class RungSettings:
    """
    How a ladder samples, labels, trains and searches.

    Args:
        sampling (`dict`, *optional*):
            Arguments of [`~trl_rsa.sampling.response.Sampling`] except `draws` and `seed`.
        draws (`Mapping[str, int]`, *optional*):
            Responses per prompt in each set; by default 4 to train on, 1 elsewhere.
        batch_size (`int`, *optional*, defaults to 16):
            Responses sampled and scored at a time.
        soft (`bool`, *optional*, defaults to `True`):
            Whether a pair carries its Bradley–Terry probability (`pair_label`), or a label drawn by it.
        cut (`str`, *optional*, defaults to `"keep"`):
            What becomes of responses that `max_new_tokens` cut off when a rung is trained: `"keep"` makes pairs of
            them as of any other, without an end that was not sampled (on the policy's own responses the identities
            hold for the process that stops there); `"drop"` makes none. They are scored and count in every estimate
            either way.
        pairs_per_prompt (`int`, *optional*):
            At most so many pairs per prompt, drawn by seed; all by default.
        reward ([`~trl_rsa.training.methods.terms.RewardTerm`] or `Mapping`, *optional*):
            A scorer of helpfulness, with `scorer_options` and a `weight`. Of two harmless responses, between which the
            cost does not decide, the labels then prefer the more helpful one, with probability σ(weight · difference).
            Without it such pairs are ties. It needs labels that pass over harmless cost ("unsafe", the default).
        ties (`float`, *optional*, defaults to 1):
            Share of the pairs with the label ½ exactly that are kept, drawn by seed, in [0, 1]. Such pairs, two
            harmless responses for example, hold the policy in place and cost as much as the others.
        sft (`float`, *optional*, defaults to 1):
            Weight of the likelihood of the chosen response beside the loss, TRL's `sft` term: it keeps the language,
            which a rung may otherwise leave (benchmarks/alignment/CONSTRAINT.md). 0 leaves it out. Where `loss_type`
            or `loss_weights` is set, these say what the loss is.
        beta (`float`, *optional*, defaults to 1):
            Temperature β, in units of reward. Soft labels are on the scale of the cost, so that at β = 1 the
            multiplier is reward per cost. A rung runs at temperature β/Δλ.
        risk_measure (`str` or [`~trl_rsa.risk.RiskMeasure`], *optional*):
            Token-level risk measure of the rungs; θ of the entropic one is divided by Δλ, so that risk aversion stays
            the same per unit of cost. By default there is none (`risk_alpha=0`, unless `args` say otherwise): the tail
            is in the labels and in the search, and a token-level risk gained nothing at any budget
            (benchmarks/alignment/CONSTRAINT.md).
        args (`dict`, *optional*):
            Other [`RSAConfig`] arguments of the rungs; they override the plan's.
        rule, max_rungs, max_growth, initial_delta, max_walk_backs:
            As in [`ConstraintScheduler`], with smaller steps: `max_growth` is 2 and `initial_delta` 0.5, as in
            benchmarks/alignment/CONSTRAINT.md.

    Raises:
        ValueError: if a setting cannot work.
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    draws: Mapping[str, int] = field(default_factory=dict)
    batch_size: int = 16
    soft: bool = True
    cut: str = "keep"
    pairs_per_prompt: int | None = None
    reward: "RewardTerm | Mapping[str, Any] | None" = None
    ties: float = 1.0
    sft: float = 1.0
    beta: float = 1.0
    risk_measure: "str | RiskMeasure | None" = None
    args: dict[str, Any] = field(default_factory=dict)
    rule: str = "bracket"
    max_rungs: int = 6
    max_growth: float = 2.0
    initial_delta: float = 0.5
    max_walk_backs: int = 4

    def __post_init__(self) -> None:
        if self.cut not in ("keep", "drop"):
            raise ValueError(
                f"You set cut={self.cut!r}, but cut responses are kept or dropped when pairs are made. Set 'keep' or "
                "'drop'."
            )
        if isinstance(self.reward, Mapping):
            self.reward = RewardTerm(**self.reward)
        if not 0.0 <= self.ties <= 1.0:
            raise ValueError(
                f"You set ties={self.ties!r}, but it is the share of tied pairs that is kept. Set 0 to 1."
            )
        if self.ties < 1.0 and not self.soft:
            raise ValueError(
                f"You set ties={self.ties:g} and soft=False, but a drawn label does not show that a pair was a tie. "
                "Set soft=True, or leave ties out."
            )
        most = self.pairs_per_prompt
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError(f"You set pairs_per_prompt={most!r}, but it is a number of pairs. Set 1 or more.")
        self._refuse_fixed_theta()
        if own := {"draws", "seed"} & set(self.sampling):
            raise ValueError(
                f"You set {min(own)!r} in sampling, but the ladder has one of its own. Set draws beside it, or the "
                "seed of the plan."
            )
        if not 0.0 <= self.sft < float("inf"):
            raise ValueError(f"You set sft={self.sft!r}, but it is the weight of a loss. Set 0 or more.")
        for name in self.draws:
            if name not in SPLITS:
                raise ValueError(f"You set draws for {name!r}, but the prompt sets are {', '.join(SPLITS)}.")
        if self.draws.get("train", 2) == 1:
            raise ValueError(
                "You set draws for 'train' to 1, but a pair is made of two responses to one prompt. Set 2 or more."
            )
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(
                f"You set batch_size={self.batch_size!r}, but a batch has at least one response. Set 1 or more."
            )
        for split in SPLITS:
            self.sampling_of(split, seed=0)
        self.scheduler(budget=0.0, margin=1.0)

    def _refuse_fixed_theta(self) -> None:
        if self.risk_measure is None or isinstance(self.risk_measure, str):
            return
        from trl_rsa.risk import Entropic

        if isinstance(self.risk_measure, Entropic):
            raise ValueError(
                f"You set risk_measure={self.risk_measure!r}, but the θ of a rung is divided by its Δλ, so that risk "
                "aversion stays the same per unit of cost. Set risk_measure='entropic' and args={'risk_theta': "
                f"{self.risk_measure.theta:g}}}."
            )

    def sampling_of(self, split: str, seed: int) -> Sampling:
        """How the prompts of a set are answered."""
        return Sampling(draws=(DRAWS | dict(self.draws))[split], seed=seed, **self.sampling)

    def scheduler(self, budget: float, margin: float) -> ConstraintScheduler:
        """The search for one constraint's multiplier."""
        names = ("rule", "max_rungs", "max_growth", "initial_delta", "max_walk_backs")
        return ConstraintScheduler(budget=budget, margin=margin, **{name: getattr(self, name) for name in names})
