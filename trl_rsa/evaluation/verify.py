"""Does a certificate follow from these records? What it says is computed again, and compared."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trl_rsa.evaluation.certificate import Certificate, certify
from trl_rsa.evaluation.costs import ModelCosts
from trl_rsa.evaluation.ledger import FORMAT, attempt_delta, seed_of_prompts
from trl_rsa.storage.provenance import versions


# What follows from the records and the settings that the certificate names. Numbers may be another machine's.
COMPARED = (
    *("prompt_fingerprint", "costs_fingerprint", "n_prompts", "n_unscored", "n_clipped", "bound", "estimate"),
    "certified",
)
_TOLERANCE = 1e-9


def read_certificate(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Raises:
        ValueError: if the file is no certificate of ours.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"You verify {str(path)!r}, but it is no certificate that trl-rsa wrote ({error!r}). Give "
            "certificate.json."
        ) from error
    return content


def verify(certificate: Mapping[str, Any], found: ModelCosts, n_unreadable: int = 0) -> list[str]:
    """Computes the certificate's last attempt again from the records.

    Args:
        certificate (`Mapping[str, Any]`):
            From [`read_certificate`].
        found ([`~evaluation.costs.ModelCosts`]):
            The costs and prompts of its model.
        n_unreadable (`int`, *optional*, defaults to 0):
            Lines of the records that could not be read.

    Returns:
        `list[str]`: what differs, a sentence each; empty if the certificate follows from the records.

    Raises:
        ValueError: if a key that is needed is missing from the certificate.
    """
    if "audit" in certificate:
        raise ValueError(
            "You verify a certificate about people's labels from the records alone, but it follows from the labels "
            "too. Give their file with --labels, and the draw as it was made."
        )
    return differences(certificate, lambda: _again(certificate, found, n_unreadable), found)


def differences(
    certificate: Mapping[str, Any],
    again: Callable[[], Certificate],
    found: ModelCosts,
    compared: Sequence[str] = COMPARED,
) -> list[str]:
    """What differs between a certificate and the same attempt made again, as [`verify`] returns it.

    Args:
        certificate (`Mapping[str, Any]`), again (`Callable`):
            From [`read_certificate`], and what makes its attempt again.
        found ([`~evaluation.costs.ModelCosts`]):
            What the records say of the model.
        compared (`Sequence[str]`, *optional*):
            Keys whose values must be the same.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the certificate has them
            made = again()
        now = made.to_dict() | {"n_cut": found.n_cut}
        pairs = [(name, certificate[name], now[name]) for name in (*compared, "n_cut")]
        wrong = [*_at_another_level(certificate), *_of_another_seed(certificate, made, found)]
        # Another version may say it in other words.
        if certificate["versions"].get("trl-rsa") == versions()["trl-rsa"]:
            wrong += _other_words(certificate, made, found)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"You verify a certificate without {error}, but that is needed. Give the whole file."
        ) from error
    wrong += [
        f"{name} is {said!r} in the certificate and {own!r} from the records"
        for name, said, own in pairs
        if not _same(said, own)
    ]
    if certificate["model"] != found.model:
        wrong.append(f"the model is {certificate['model']!r} in the certificate and {found.model!r} in the records")
    if certificate.get("under") != found.under:
        said, drawn = (one or "as usual" for one in (certificate.get("under"), found.under))
        wrong.append(f"the responses are drawn {said} in the certificate and {drawn} in the records")
    return wrong


def _at_another_level(certificate: Mapping[str, Any]) -> list[str]:
    """Whether the attempt has the confidence that its number leaves it, and is the last one of the ledger."""
    wrong = []
    attempt, confidence = certificate["attempt"], certificate["confidence"]
    own = 1 - attempt_delta(1 - confidence, attempt)
    if not _same(float(certificate["attempt_confidence"]), float(own)):
        wrong.append(
            f"attempt_confidence is {certificate['attempt_confidence']!r}, but attempt {attempt} at a confidence of "
            f"{confidence:g} has {own!r}"
        )
    last = certificate["attempts"][-1] if certificate["attempts"] else {}
    other = [name for name in last if name in certificate and last[name] != certificate[name]]
    if len(certificate["attempts"]) != attempt or other:
        wrong.append(f"the last of its attempts is another one{f' ({other[0]})' if other else ''}")
    return wrong


def _of_another_seed(certificate: Mapping[str, Any], made: Certificate, found: ModelCosts) -> list[str]:
    """Whether the seed is what it is said to be: one of several that were tried would make the bound too low."""
    seed, own = certificate["seed"], certificate["own_seed"]
    if found.unnamed:
        return [f"the seed {seed} is the user's own, but rows without prompts need one drawn at random"] if own else []
    follows = seed_of_prompts(made.prompt_fingerprint)
    if own or seed == follows:
        return []
    return [f"the seed is {seed} and said to follow from the prompts, from which {follows} follows"]


def _other_words(certificate: Mapping[str, Any], made: Certificate, found: ModelCosts) -> list[str]:
    """Whether the statement is the one that follows, and every limit that follows is there. There may be more: only
    who drew the responses knows how."""
    said = replace(
        made,
        attempt=certificate["attempt"],
        confidence=certificate["confidence"],
        under=certificate.get("under"),
        own_seed=certificate["own_seed"],
        earlier_looks=tuple(certificate["earlier_looks"]),
        n_trained=certificate["n_trained"],
        max_new_tokens=certificate["max_new_tokens"],
        n_cut=found.n_cut,
        notes=tuple(found.notes),
    )
    wrong = []
    if certificate["statement"] != said.statement:
        wrong.append(f"the statement is not the one that follows, which is: {said.statement}")
    missing = [limit for limit in said.limits if limit not in certificate["limits"]]
    return wrong + [f"its limits lack one that follows: {limit}" for limit in missing]


def _again(certificate: Mapping[str, Any], found: ModelCosts, n_unreadable: int) -> Certificate:
    """The attempt, made again and written nowhere."""
    return certify(
        found.costs,
        certificate["budget"],
        prompts=found.prompts,
        tail=certificate["tail"],
        confidence=first_confidence(certificate),
        bounds=(certificate["bounds"][0], certificate["bounds"][1]),
        scorer=certificate["scorer"],
        method=certificate["method"],
        model=certificate["model"],
        n_unreadable=n_unreadable,
        seed=certificate["seed"],
        own_seed=False,  # whose it is is looked at elsewhere
        unnamed=found.unnamed,
    )


def first_confidence(certificate: Mapping[str, Any]) -> float:
    """That of all attempts together, with which a first one has the share of the error that this attempt had."""
    # δ_1 = 6δ/π²
    return float(1 - (1 - certificate["attempt_confidence"]) * np.pi**2 / 6)


def _same(said: Any, now: Any) -> bool:
    if isinstance(said, float) and isinstance(now, float):
        return bool(np.isclose(said, now, rtol=0, atol=_TOLERANCE))
    return bool(said == now)
