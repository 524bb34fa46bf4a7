"""From what a user writes, such as `hf:PATH`, `guard:PATH`, `judge:URL#MODEL` or `module:function`, to a scorer."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trl_rsa.scoring.beaver import BeaverScorer
from trl_rsa.scoring.classifier import ClassifierScorer
from trl_rsa.scoring.functions import FunctionScorer
from trl_rsa.scoring.guard import GuardScorer
from trl_rsa.scoring.guard_endpoint import GuardEndpointScorer
from trl_rsa.scoring.judge import JudgeScorer
from trl_rsa.scoring.scorer import Direction, Kind, RewardFunction, Scorer, Sign, check_sign
from trl_rsa.scoring.weights import model_folder, model_format
from trl_rsa.storage.folders import file_digest, model_fingerprint
from trl_rsa.storage.hub import is_path


# What stands before the first colon of a spec. A scorer's options are stated by its class.
SCORERS: dict[str, type[Scorer]] = {
    "hf": ClassifierScorer,
    "beaver": BeaverScorer,
    "guard": GuardScorer,
    "guard-endpoint": GuardEndpointScorer,
    "judge": JudgeScorer,
}
# In a plan: the scorer that an earlier stage trains. The plan puts its folder in this place.
STAGE = "stage"
# A path alone: by the names of the weights in it.
_BY_FORMAT: dict[str, type[Scorer]] = {"classifier": ClassifierScorer, "beaver": BeaverScorer}


def load_scorer(
    spec: str | RewardFunction,
    kind: Kind,
    higher_is: Direction | None = None,
    zero: float = 0.0,
    name: str | None = None,
    **options: Any,
) -> Scorer:
    """
    Makes a scorer.

    Args:
        spec (`str` or `Callable`):
            * `hf:PATH`: a sequence classifier ([`~scoring.classifier.ClassifierScorer`]);
            * `beaver:PATH`: a `*ForScore` model of Safe RLHF ([`~scoring.beaver.BeaverScorer`]);
            * `PATH`: one of these two, told apart by the names of the weights;
            * `guard:PATH`: a guard model ([`~scoring.guard.GuardScorer`]);
            * `guard-endpoint:URL#MODEL`: one behind a server ([`~scoring.guard_endpoint.GuardEndpointScorer`]);
            * `judge:URL#MODEL`: a judge ([`~scoring.judge.JudgeScorer`]), on `"harmless"` for a cost and `"helpful"`
              for a reward unless `criterion` says otherwise;
            * `module:function` or `file.py:function`, or a function itself: TRL's reward signature;
            * a [`Scorer`], which is returned as it is.
        kind (`str`):
            `"reward"` or `"cost"`. Never read off a model.
        higher_is, zero, name:
            As [`Scorer`].
        options:
            Of the scorer; those of a judge or a guard behind a server include those of its endpoint.

    Raises:
        ValueError: if the spec or an option cannot be used.
        FileNotFoundError: if there is no such model.
    """
    if isinstance(spec, Scorer):
        return _as_it_is(spec, kind, higher_is, zero, name, options)
    sign: Sign = {"kind": kind, "higher_is": higher_is, "zero": zero, "name": name}
    if callable(spec):
        _check_options("a function", FunctionScorer.option_names(), options)
        return FunctionScorer(spec, **sign)
    if not isinstance(spec, str) or not spec.strip():
        known = ", ".join(f"{prefix}:…" for prefix in SCORERS)
        raise ValueError(
            f"You set the scorer to {spec!r}, but it is a function or a text. Write {known} or module:function."
        )
    prefix, _, rest = spec.partition(":")
    if prefix == STAGE:
        raise ValueError(
            f"You set the scorer to {spec!r}, but only a plan has stages. Give the stage's folder, as hf:PATH."
        )
    if prefix in SCORERS:
        scorer = SCORERS[prefix]
    elif _is_path(spec):
        scorer, rest = _BY_FORMAT[model_format(model_folder(spec, options.get("revision")))], spec
    else:
        scorer, rest = FunctionScorer, spec
    # An address is not repeated: someone may have put a password into it.
    _check_options(f"a {prefix}" if "://" in rest else spec, scorer.option_names(), options)
    return scorer.from_spec(rest, sign, options)


def _is_path(spec: str) -> bool:
    """Whether a spec is a path alone, with no prefix."""
    return not spec.partition(":")[2] or Path(spec).is_dir()


_OPPOSITE = {"cost": "better", "reward": "worse"}


def check_spec(spec: Any, options: Mapping[str, Any], kind: Kind = "cost") -> None:
    """Finds the mistakes in the spec and options of a cost, or of a reward, that show without loading anything.

    Raises:
        ValueError: if there is no such scorer or option.
        FileNotFoundError: if there is no such folder.
    """
    what, why = ("constraint", "a budget is on a cost") if kind == "cost" else ("reward", "it is maximised")
    if options.get("kind", kind) != kind:
        raise ValueError(
            f"You set kind={options['kind']!r} for the scorer of a {what}, but {why}. Remove it; "
            f"where a higher score of the model is {_OPPOSITE[kind]}, set higher_is: {_OPPOSITE[kind]}."
        )
    check_sign(options.get("higher_is"), options.get("zero", 0.0))
    own = ("higher_is", "zero", "name", "kind")
    options = {name: value for name, value in options.items() if name not in own}
    if isinstance(spec, Scorer):
        if spec.kind != kind:
            raise ValueError(f"You set the scorer to {spec!r}, which gives a {spec.kind}, but {why}. Give a {kind}.")
        return
    if not isinstance(spec, str):
        _check_options("a function", FunctionScorer.option_names(), options)
        return
    prefix, _, rest = spec.partition(":")
    if prefix == STAGE:
        _check_options(spec, ClassifierScorer.option_names(), options)
        return
    if prefix not in SCORERS and not _is_path(spec):
        _check_function(spec, prefix)
        _check_options(spec, FunctionScorer.option_names(), options)
        return
    known = [SCORERS[prefix]] if prefix in SCORERS else list(_BY_FORMAT.values())
    names = list(dict.fromkeys(name for scorer in known for name in scorer.option_names()))
    _check_options(f"a {prefix}" if "://" in rest else spec, names, options)
    if len(known) == 1:
        known[0].check(rest, options, kind)
    path = rest if prefix in SCORERS else spec
    if "://" not in path and is_path(path) and not Path(path).expanduser().is_dir():
        raise FileNotFoundError(f"You set the scorer to {spec!r}, but there is no folder {path}. Correct the path.")


def spec_fingerprint(spec: Any) -> str | None:
    """What tells a scorer in a folder or a file of Python from another of the same name; None for any other."""
    if not isinstance(spec, str):
        return None
    prefix, _, rest = spec.partition(":")
    path = Path(rest if prefix in SCORERS and not Path(spec).is_dir() else spec).expanduser()
    if path.is_dir():
        return model_fingerprint(path)
    if prefix.endswith(".py") and Path(prefix).is_file():
        return file_digest(Path(prefix))[:32]
    return None


def _check_function(spec: str, module: str) -> None:
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise FileNotFoundError(f"You set the scorer to {spec!r}, but there is no file {module}. Correct it.")
        return
    close = get_close_matches(module, SCORERS, n=1)
    if close and not (module.isidentifier() and find_spec(module)):
        raise ValueError(
            f"You set the scorer to {spec!r}, but there is no scorer {module!r}. Did you mean {close[0]!r}?"
        )


def _as_it_is(scorer: Scorer, kind: Kind, higher_is: Any, zero: float, name: str | None, options: Any) -> Scorer:
    changed = [
        *(["higher_is"] if higher_is not in (None, scorer.higher_is) else []),
        *(["zero"] if zero not in (0.0, scorer.zero) else []),
        *(["name"] if name not in (None, scorer.name) else []),
        *options,
    ]
    if kind != scorer.kind or changed:
        wanted = f"kind={kind!r}" if kind != scorer.kind else ", ".join(changed)
        raise ValueError(
            f"You set {wanted} for {scorer!r}, but that is a scorer already. Make it so in the first place."
        )
    return scorer


def _check_options(what: str, known: list[str], options: Mapping[str, Any]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no options"
        raise ValueError(f"You set {', '.join(unknown)} for {what}, but it {takes}. Remove it, or correct the name.")
