"""RSA: preference pairs with a token-level risk measure in the loss, or any loss of DPO's."""

from typing import Any

from trl_rsa.training.methods.method import Method, StageParts


def _classes() -> tuple[type, type]:
    from trl_rsa.config import RSAConfig
    from trl_rsa.trainer import RSATrainer

    return RSAConfig, RSATrainer


def _make_trainer(parts: StageParts) -> Any:
    from trl_rsa.trainer import RSATrainer

    anchor = parts.models.anchor_at(parts.start)
    return RSATrainer(
        model=anchor.model,
        ref_model=anchor.ref_model,
        peft_config=anchor.peft_config,
        risk_measure=parts.options.get("risk_measure"),
        **parts.of_every_trainer,
    )


RSA = Method(
    "rsa",
    "preference pairs, with the risk of every token in the loss",
    "pairs",
    _classes,
    _make_trainer,
    frozenset({"beta", "constraint_multiplier", "risk_measure"}),
)
