"""RSAConfig: the arguments of RSATrainer."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from trl import DPOConfig

from trl_rsa._device import has_accelerator, warn_of_slow_bfloat16
from trl_rsa.losses import LINKS
from trl_rsa.risk import RISK_MEASURES, RiskMeasure, make_risk_measure


LOSS_TYPES = ("rsa1", "rsa2")

# TRL's losses, which know no risk. `tests/test_trl_contract.py` compares them with the installed TRL's.
TRL_LOSS_TYPES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)

# DPO options that a risk-aware loss cannot honour, and why. There they are refused when changed, never ignored.
_NOT_HONOURED = {
    "ld_alpha": "the risk of an answer is a sum over all its tokens",
    "f_divergence_type": "its regulariser is the reverse KL",
    "f_alpha_divergence_coef": "its regulariser is the reverse KL",
    "use_weighting": "it weights pairs by a dataset column `pair_weight`",
    "discopop_tau": "it belongs to the loss 'discopop'",
    "precompute_ref_log_probs": "a token-level risk needs the reference's whole vocabulary, not one sum per answer",
    "precompute_ref_batch_size": "nothing is precomputed",
    "truncation_mode": "an answer without its prompt has no risk",
}

# Options that say something about the risk, which TRL's losses do not have.
RISK_OPTIONS = ("risk_alpha", "risk_measure", "risk_tail", "risk_theta", "risk_weight", "risk_tails", "risk_weights")


@dataclass
class RSAConfig(DPOConfig):
    r"""
    Configuration class for the [`RSATrainer`].

    Includes only the parameters that are specific to RSA; everything else is [`~trl.DPOConfig`]'s and
    [`~transformers.TrainingArguments`]'s. With TRL's losses every option of DPO is honoured; those that a risk-aware
    loss cannot honour are refused there when changed.

    Parameters:
        > Parameters that control the loss

        loss_type (`list[str]`, *optional*, defaults to `["rsa2"]`):
            `"rsa2"` or `"rsa1"`, alone or with `"sft"` (with `loss_weights`). `"rsa1"` has the exact statement
            (docs/method.md), but bears smaller learning rates than `"rsa2"` and DPO. Or TRL's losses (`"sigmoid"`,
            `"ipo"`, …), one or several with `loss_weights`: then the trainer is TRL's DPOTrainer.
        link (`str`, *optional*, defaults to `"sigmoid"`):
            Preference link of `"rsa1"` and `"rsa2"`: what the risk-adjusted margin goes through. `"sigmoid"`,
            `"robust"` (takes back the flips of `label_smoothing`), `"hinge"`, or `"ipo"` (per token, as TRL's).
        label_smoothing (`float`, *optional*, defaults to `0.0`):
            Probability in [0, 0.5) that a preference label is flipped. For TRL's losses as TRL reads it.
        risk_alpha (`float`, *optional*):
            α of `"rsa2"`, the weight of the risk term, at least 0; defaults to 0.5 there. `risk_alpha=0` is DPO.

        > Parameters that control the risk measure

        risk_measure (`str`, *optional*, defaults to `"entropic"`):
            Token-level risk measure: `"expectation"`, `"cvar"`, `"entropic"`, `"mean_cvar"`, `"spectral"`,
            `"upper_semideviation"` or `"worst_case"`. A measure of your own is an object: give it to the trainer as
            `RSATrainer(risk_measure=...)`.
        risk_tail (`float`, *optional*):
            Tail of `"cvar"` and `"mean_cvar"`: the probability mass that is kept, in (0, 1]; defaults to 0.1. What
            finance calls a 95 % CVaR is `risk_tail=0.05`.
        risk_theta (`float`, *optional*):
            Risk aversion θ > 0 of `"entropic"`, per nat of drift; defaults to 1.
        risk_weight (`float`, *optional*):
            Weight in [0, 1] of the risk in `"mean_cvar"` and `"upper_semideviation"`; defaults to 0.5.
        risk_tails (`list[float]`, *optional*):
            Tails of `"spectral"`, each in (0, 1].
        risk_weights (`list[float]`, *optional*):
            Weights of `"spectral"`, as many as `risk_tails`, non-negative, summing to 1.

        > Parameters that control the stage

        constraint_multiplier (`float`, *optional*, defaults to `1.0`):
            Lagrange multiplier λ > 0 of the stage: its temperature is `beta / constraint_multiplier`. A helpful stage
            has λ = 1; in a safety stage a larger λ is safer.

        > Parameters that control the data

        drop_truncated (`bool`, *optional*):
            Whether to drop pairs of which an answer does not fit into `max_length`. The risk of an answer is a sum
            over all its tokens up to the end; of a cut answer it means nothing. Defaults to `True` for the risk-aware
            losses and to `False`, DPO's habit, for TRL's.
    """

    loss_type: list[str] = field(
        default_factory=lambda: ["rsa2"],
        metadata={
            "help": "Loss: 'rsa1' or 'rsa2', alone or with 'sft' (with `loss_weights`), or TRL's losses, as DPO has "
            "them."
        },
    )
    link: str = field(
        default="sigmoid",
        metadata={"help": "Preference link of 'rsa1' and 'rsa2'.", "choices": list(LINKS)},
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={"help": "Probability in [0, 0.5) that a preference label is flipped."},
    )
    risk_alpha: float | None = field(
        default=None,
        metadata={"help": "Weight of the risk term in 'rsa2', at least 0; defaults to 0.5 there. 0 is DPO."},
    )
    risk_measure: str = field(
        default="entropic",
        metadata={"help": "Token-level risk measure.", "choices": list(RISK_MEASURES)},
    )
    risk_tail: float | None = field(
        default=None,
        metadata={
            "help": "Tail of 'cvar' and 'mean_cvar': the probability mass that is kept, in (0, 1]; defaults to 0.1."
        },
    )
    risk_theta: float | None = field(
        default=None,
        metadata={"help": "Risk aversion of 'entropic', per nat of drift, above 0; defaults to 1."},
    )
    risk_weight: float | None = field(
        default=None,
        metadata={"help": "Weight in [0, 1] of the risk in 'mean_cvar' and 'upper_semideviation'; defaults to 0.5."},
    )
    risk_tails: list[float] | None = field(
        default=None,
        metadata={"help": "Tails of 'spectral', each in (0, 1]."},
    )
    risk_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Weights of 'spectral', as many as `risk_tails`, non-negative, summing to 1."},
    )
    constraint_multiplier: float = field(
        default=1.0,
        metadata={
            "help": "Lagrange multiplier of the stage, above 0: the temperature is `beta / constraint_multiplier`."
        },
    )
    drop_truncated: bool | None = field(
        default=None,
        metadata={
            "help": "Whether to drop pairs of which an answer does not fit into `max_length`; defaults to true for "
            "'rsa1' and 'rsa2', and to false for TRL's losses."
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        self._check_loss()
        self._check_seeds()
        if self.is_risk_aware:
            self._refuse_what_is_not_honoured()
            self._check_risk()
        else:
            self._refuse_risk()
        if self.drop_truncated is None:
            self.drop_truncated = self.is_risk_aware
        self.make_risk_measure()
        # transformers refuses to begin without `use_cpu`, and a first run on a laptop should not have to know.
        self.use_cpu: bool = self.use_cpu or not has_accelerator()
        super().__post_init__()
        warn_of_slow_bfloat16(self)

    @property
    def is_risk_aware(self) -> bool:
        """Whether the loss has a risk term; otherwise it is TRL's."""
        return any(name in LOSS_TYPES for name in self.loss_type)

    def make_risk_measure(self) -> RiskMeasure:
        """The risk measure that the `risk_*` fields describe."""
        return make_risk_measure(
            self.risk_measure,
            tail=self.risk_tail,
            theta=self.risk_theta,
            weight=self.risk_weight,
            tails=self.risk_tails,
            weights=self.risk_weights,
        )

    def _check_loss(self) -> None:
        unknown = [name for name in self.loss_type if name not in (*LOSS_TYPES, *TRL_LOSS_TYPES)]
        if unknown or not self.loss_type:
            reason = f"there is no loss {unknown[0]!r}" if unknown else "without a loss there is nothing to learn"
            raise ValueError(
                f"You set loss_type={self.loss_type}, but {reason}. Set it to 'rsa2' or 'rsa1', or to TRL's losses: "
                f"{', '.join(TRL_LOSS_TYPES)}."
            )
        beside = [name for name in self.loss_type if name not in LOSS_TYPES]
        if self.is_risk_aware and (len(self.loss_type) - len(beside) != 1 or beside not in ([], ["sft"])):
            raise ValueError(
                f"You set loss_type={self.loss_type}, but 'rsa1' and 'rsa2' stand alone or with 'sft', one at a time. "
                "Remove the others; for the link of another loss, such as 'ipo', set `link`."
            )
        # With TRL's losses β is TRL's to judge.
        for name in ("beta", "constraint_multiplier") if self.is_risk_aware else ("constraint_multiplier",):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"You set {name}={getattr(self, name)}, but the stage's temperature is beta / "
                    f"constraint_multiplier and must be positive and finite. Set {name} above 0."
                )

    def _check_seeds(self) -> None:
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**32:
                raise ValueError(
                    f"You set {name}={value}, but random generators take a whole number from 0 to 2³² − 1. Set one."
                )

    def _refuse_what_is_not_honoured(self) -> None:
        defaults = _defaults(DPOConfig)
        for name, reason in _NOT_HONOURED.items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"You set {name}={getattr(self, name)!r}, but the risk-aware loss_type={self.loss_type} cannot "
                    f"honour it: {reason}. Leave it at {defaults[name]!r}, or set loss_type to a loss of TRL's, such "
                    "as 'sigmoid'."
                )

    def _refuse_risk(self) -> None:
        defaults = _defaults(RSAConfig)
        for name in ("link", *RISK_OPTIONS):
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"You set {name}={getattr(self, name)!r}, but loss_type={self.loss_type} is TRL's and has no risk "
                    f"term. Leave {name} at {defaults[name]!r}, or set loss_type='rsa2'; its preference "
                    "link is `link`."
                )

    def _check_risk(self) -> None:
        if self.link not in LINKS:
            raise ValueError(f"You set link={self.link!r}, which does not exist. Set it to one of {', '.join(LINKS)}.")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"You set label_smoothing={self.label_smoothing}, but it is the probability that a label is flipped, "
                "and from 0.5 on the labels say nothing or the opposite. Set it in [0, 0.5)."
            )
        if "rsa1" in self.loss_type:
            if self.risk_alpha is not None:
                raise ValueError(
                    f"You set risk_alpha={self.risk_alpha}, but 'rsa1' has no such weight. Remove it, or set "
                    "loss_type='rsa2'."
                )
        elif self.risk_alpha is None:
            self.risk_alpha = 0.5
        elif not 0.0 <= self.risk_alpha < float("inf"):
            raise ValueError(
                f"You set risk_alpha={self.risk_alpha}, but a negative weight would reward drift. Set it to 0 (DPO) "
                "or above."
            )


def _defaults(config_class: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(config_class) if f.default is not MISSING}
