"""RSAConfig: the arguments of RSATrainer."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from trl import DPOConfig

from trl_rsa.risk import RISK_MEASURES, RiskMeasure, make_risk_measure


LOSS_TYPES = ("rsa1", "rsa2")

# DPO options that change the loss or the reference in ways RSA does not follow, and what to do instead. They are
# refused when changed, never ignored.
_NOT_HONOURED = {
    "ld_alpha": "RSA sums over all completion tokens; leave `ld_alpha` unset",
    "f_divergence_type": "RSA regularises with the reverse KL; leave `f_divergence_type='reverse_kl'`",
    "f_alpha_divergence_coef": "RSA regularises with the reverse KL; leave `f_alpha_divergence_coef` unset",
    "use_weighting": "weight pairs with a dataset column `pair_weight` instead",
    "discopop_tau": "it belongs to the 'discopop' loss; leave `discopop_tau` unset",
    "precompute_ref_log_probs": "a token-level risk needs the reference's whole vocabulary, not one sum per answer; "
    "leave `precompute_ref_log_probs=False`",
    "precompute_ref_batch_size": "nothing is precomputed; leave `precompute_ref_batch_size` unset",
    "sync_ref_model": "a stage is anchored at one reference; move it between stages with `trl_rsa.align`",
    "ref_model_mixup_alpha": "a stage is anchored at one reference; leave `ref_model_mixup_alpha` unset",
    "ref_model_sync_steps": "a stage is anchored at one reference; leave `ref_model_sync_steps` unset",
    "padding_free": "TRL has switched it off for DPO; leave `padding_free=False`",
    "truncation_mode": "an answer without its prompt has no risk; leave `truncation_mode='keep_start'`",
}


@dataclass
class RSAConfig(DPOConfig):
    r"""
    Configuration class for the [`RSATrainer`].

    Includes only the parameters that are specific to RSA; everything else is [`~trl.DPOConfig`]'s and
    [`~transformers.TrainingArguments`]'s. DPO options that RSA cannot honour are refused when changed.

    Parameters:
        > Parameters that control the loss

        loss_type (`list[str]`, *optional*, defaults to `["rsa2"]`):
            `"rsa2"` or `"rsa1"`, alone or with `"sft"` (with `loss_weights`). `"rsa1"` has the exact statement
            (docs/method.md), but bears smaller learning rates than `"rsa2"` and DPO.
        label_smoothing (`float`, *optional*, defaults to `0.0`):
            Probability in [0, 0.5) that a preference label is flipped.
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

        drop_truncated (`bool`, *optional*, defaults to `True`):
            Whether to drop pairs of which an answer does not fit into `max_length`. The risk of an answer is a sum
            over all its tokens up to the end; of a cut answer it means nothing. DPO's habit is `False`.
    """

    loss_type: list[str] = field(
        default_factory=lambda: ["rsa2"],
        metadata={"help": "Loss: 'rsa1' or 'rsa2', alone or with 'sft' (with `loss_weights`)."},
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
    drop_truncated: bool = field(
        default=True,
        metadata={"help": "Whether to drop pairs of which an answer does not fit into `max_length`."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        self._refuse_what_is_not_honoured()
        self._check_loss()
        self.make_risk_measure()
        super().__post_init__()

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

    def _refuse_what_is_not_honoured(self) -> None:
        defaults: dict[str, Any] = {f.name: f.default for f in fields(DPOConfig) if f.default is not MISSING}
        for name, instead in _NOT_HONOURED.items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"You set {name}={getattr(self, name)!r}, but RSA does not honour it: {instead}.")

    def _check_loss(self) -> None:
        beside = [name for name in self.loss_type if name not in LOSS_TYPES]
        if len(self.loss_type) - len(beside) != 1 or beside not in ([], ["sft"]):
            raise ValueError(
                f"You set loss_type={self.loss_type}, but RSA has the losses 'rsa1' and 'rsa2', one at a time. Set "
                "loss_type to one of them, alone or with 'sft'; for TRL's other losses use DPOTrainer."
            )
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"You set label_smoothing={self.label_smoothing}, but it is the probability that a label is flipped, "
                "and from 0.5 on the labels say nothing or the opposite. Set it in [0, 0.5)."
            )
        for name in ("beta", "constraint_multiplier"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"You set {name}={getattr(self, name)}, but the stage's temperature is beta / "
                    f"constraint_multiplier and must be positive and finite. Set {name} above 0."
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
