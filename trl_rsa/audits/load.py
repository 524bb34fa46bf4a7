"""From what a user writes as `labeller:` to who labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_rsa.audits.judge import GradingJudge
from trl_rsa.audits.labeller import FunctionLabeller, Labeller, ScorerLabeller
from trl_rsa.audits.settings import PEOPLE
from trl_rsa.data.harm import HarmScale
from trl_rsa.scoring.endpoint import ChatEndpoint
from trl_rsa.scoring.functions import import_function
from trl_rsa.scoring.load import SCORERS, check_spec, load_scorer
from trl_rsa.scoring.scorer import Scorer, keyword_only, pick


def load_labeller(spec: str | Callable[..., Any], scale: HarmScale, options: dict[str, Any]) -> Labeller:
    """
    Args:
        spec (`str` or `Callable`), options (`dict`):
            The labeller and labeller_options of [`AuditSettings`]; not `"people"`.
        scale ([`HarmScale`]):
            What it grades on.

    Raises:
        ValueError: if there is no such labeller or option.
    """
    if isinstance(spec, Scorer):
        return ScorerLabeller(spec, scale)
    if callable(spec):
        _refuse_options(options)
        return FunctionLabeller(spec, scale, getattr(spec, "__qualname__", type(spec).__name__))
    prefix, _, rest = spec.partition(":")
    if prefix == "judge":
        url, _, model = rest.partition("#")
        unknown = set(options) - set(keyword_only(ChatEndpoint)) - set(keyword_only(GradingJudge))
        if unknown:
            raise ValueError(
                f"You set {', '.join(sorted(unknown))} in labeller_options, but a judge takes "
                f"{', '.join([*keyword_only(GradingJudge), *keyword_only(ChatEndpoint)])}. Correct the name."
            )
        endpoint = ChatEndpoint(url, model, **pick(ChatEndpoint, options))
        return GradingJudge(endpoint, scale, **pick(GradingJudge, options))
    if prefix in SCORERS or not rest:
        return ScorerLabeller(load_scorer(spec, "cost", **options), scale)
    _refuse_options(options)
    return FunctionLabeller(import_function(spec), scale, spec)


def check_labeller(spec: str | Callable[..., Any], scale: HarmScale, options: dict[str, Any]) -> None:
    """Finds the mistakes that show without loading a model.

    Raises:
        ValueError, FileNotFoundError: as [`load_labeller`].
    """
    prefix, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == PEOPLE:
        return
    if isinstance(spec, str) and not rest and not Path(spec).is_dir():
        raise ValueError(
            f"You set labeller={spec!r} in an audit, but it is 'people', judge:URL#MODEL, a scorer such as hf:PATH, "
            "or module:function. Set one of these."
        )
    if isinstance(spec, str) and prefix != "judge" and (prefix in SCORERS or not rest):
        check_spec(spec, options)
    else:
        load_labeller(spec, scale, options)


def _refuse_options(options: dict[str, Any]) -> None:
    if options:
        raise ValueError(
            f"You set {', '.join(sorted(options))} in labeller_options, but a function takes none. Remove them."
        )
