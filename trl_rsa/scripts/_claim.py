"""What `trl-rsa certify` is to show: what was given, and the usual value of what was not.

An argument that was not given is None. A default value could not be told from one that was asked for, and `--verify`
would accept a question that the certificate does not answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from trl_rsa.evaluation.cvar_bound import Method


@dataclass(frozen=True)
class Claim:
    """The claim of a certificate, with the values that it usually has.

    Args:
        budget (`float`), tail (`float`), confidence (`float`), method (`str`):
            As in [`~evaluation.certificate.certify`].
        combine (`str`):
            What counts of several labels of a response.
    """

    budget: float = 0.0
    tail: float = 0.05
    confidence: float = 0.95
    method: Method = "betting"
    combine: Literal["mean", "median"] = "mean"

    @classmethod
    def of(cls, arguments: Any) -> Self:
        """From the arguments of the command, where None was not given."""
        given = {each.name: getattr(arguments, each.name) for each in fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None})


def refuse_another_claim(arguments: Any, certificate: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: if something was given that the certificate is not about.
    """
    audit = certificate.get("audit")
    said = {name: certificate.get(name) for name in ("budget", "tail", "confidence", "bounds", "scorer", "seed")}
    if isinstance(audit, Mapping):
        said["combine"] = audit.get("combine")
    else:
        said["method"] = certificate.get("method")
    for name, value in said.items():
        given = getattr(arguments, name)
        if given not in (None, value):
            raise ValueError(
                f"You set {name}={given} with verify, but the certificate is about {name}={value}. Leave it out: what "
                "it says is checked."
            )
