"""Risk-aware Stepwise Alignment (RSA) for TRL: preference alignment that controls the tail of harm.

Names are imported on first use: `import trl_rsa.risk` loads torch, but neither transformers nor TRL.
"""

from importlib import import_module
from typing import Any


__version__ = "0.1.0"

_MODULE_OF = {
    "AuditSettings": "audits.settings",
    "ConstraintScheduler": "ladder.scheduler",
    "Launcher": "training.launcher",
    "Plan": "alignment.plan",
    "RSAConfig": "config",
    "RSATrainer": "trainer",
    "ReanchorCallback": "training.reanchor",
    "RiskConstraint": "ladder.constraint",
    "RungSettings": "ladder.settings",
    "Stage": "alignment.plan",
    "align": "alignment.run",
    "rsa1_loss": "losses",
    "rsa2_loss": "losses",
}

__all__ = [
    "AuditSettings",
    "ConstraintScheduler",
    "Launcher",
    "Plan",
    "RSAConfig",
    "RSATrainer",
    "ReanchorCallback",
    "RiskConstraint",
    "RungSettings",
    "Stage",
    "align",
    "rsa1_loss",
    "rsa2_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'trl_rsa' has no attribute {name!r}")
    value = getattr(import_module(f"trl_rsa.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
