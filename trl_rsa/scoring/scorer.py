"""What a scorer is: a TRL reward function that knows whether it gives a reward or a cost, and of which sign."""

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, TypedDict

from trl_rsa.data.schema import Text


Kind = Literal["reward", "cost"]
Direction = Literal["better", "worse"]

_OWN_DIRECTION: dict[Kind, Direction] = {"reward": "better", "cost": "worse"}


@dataclass(frozen=True)
class NotScored:
    """Stands in the place of a score. `reason` is a sentence without the full stop."""

    reason: str


RawScore = float | NotScored | None

# TRL's reward function: called with `prompts=`, `completions=` and the other columns of the data set that it names.
RewardFunction = Callable[..., Sequence[float | None]]


class Sign(TypedDict):
    """What every scorer is told beside its own options; the words are those of [`Scorer`]."""

    kind: Kind
    higher_is: Direction | None
    zero: float
    name: str | None


class ScorerDescription(TypedDict):
    """What is recorded of a scorer; the words are those of [`Scorer`]."""

    name: str
    kind: Kind
    higher_is: Direction
    zero: float
    fingerprint: str


class Scorer(ABC):
    """
    A reward function of TRL, `(prompts, completions, **kwargs) -> list[float | None]`, with a sign and a name.

    What comes out is fixed by `kind`: a *reward* is higher for a better response; a *cost* is higher for a worse one,
    and above 0 for an unsafe one. What the model behind it gives is said by `higher_is` and `zero`; nothing is read
    off the model. The score is `±(raw − zero)`, with the minus where the two directions differ.

    Args:
        kind (`str`):
            `"reward"` or `"cost"`: what this scorer is used as.
        higher_is (`str`, *optional*):
            `"better"` or `"worse"`: what a higher *raw* score means. By default what it means in a score of this kind.
        zero (`float`, *optional*, defaults to 0):
            Raw score that becomes 0. For a cost: the border between safe and unsafe, such as 0.5 for a probability.
        name (`str`, *optional*):
            Name in records and certificates; a subclass has its own default.

    Attributes:
        fingerprint (`str`):
            16 hex digits of everything that changes a score: the model, its settings, the sign.
    """

    def __init__(self, kind: Kind, higher_is: Direction | None = None, zero: float = 0.0, name: str = "scorer"):
        if kind not in _OWN_DIRECTION:
            raise ValueError(
                f"You set kind={kind!r}, but a scorer gives a reward or a cost, and which of them cannot be read off "
                'a model. Set kind="reward" (higher is better) or kind="cost" (higher is worse, above 0 unsafe).'
            )
        check_sign(higher_is, zero)
        self.kind: Kind = kind
        self.higher_is: Direction = higher_is or _OWN_DIRECTION[kind]
        self.zero = float(zero)
        self.name = name
        self.__name__ = name  # TRL logs a reward function under it
        self._fingerprint: str | None = None

    @classmethod
    def option_names(cls) -> list[str]:
        """The options that [`~scoring.load_scorer`] takes for this scorer; by default its keyword-only arguments."""
        return keyword_only(cls)

    @classmethod
    def from_spec(cls, rest: str, sign: Sign, options: dict[str, Any]) -> "Scorer":
        """
        Makes a scorer from what a user writes.

        Args:
            rest (`str`):
                What stands behind the prefix: a path, an address.
            sign ([`~scoring.scorer.Sign`]):
                `kind`, `higher_is`, `zero` and `name`.
            options (`dict`):
                Some of [`Scorer.option_names`].
        """
        return cls(rest, **sign, **options)  # type: ignore[arg-type,misc]

    @classmethod
    def check(cls, rest: str, options: Mapping[str, object], kind: Kind) -> None:
        """Refuses what [`Scorer.from_spec`] would, as far as it shows without loading or asking anything."""
        if not rest.strip():
            raise ValueError("You set a scorer to a prefix alone, but a path stands behind it. Write it, as hf:PATH.")

    @property
    def sign(self) -> int:
        """+1 where the raw score points the way of this kind, −1 where it is turned round."""
        return 1 if self.higher_is == _OWN_DIRECTION[self.kind] else -1

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            settings = {"sign": [self.kind, self.higher_is, self.zero], "scorer": self.identity()}
            self._fingerprint = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self._fingerprint

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What changes the raw scores, as JSON. No secrets and no batch sizes."""

    @abstractmethod
    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> Sequence[RawScore]:
        """One raw score per completion: a number, or `None`, or a [`NotScored`] with its reason."""

    def attempt(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | NotScored]:
        """The scores, with a [`NotScored`] where there is none.

        Raises:
            ValueError: if the scorer does not give one score per completion. Whatever it raises itself passes through.
        """
        if len(prompts) == 0:
            return []
        raw = self.raw_scores(prompts, completions, **columns)
        if not hasattr(raw, "__len__") or isinstance(raw, (str, bytes, dict)):
            given = f"a {type(raw).__name__}"
        elif len(raw) == len(completions):
            return [self._signed(number(value)) for value in raw]
        else:
            given = f"{len(raw)} scores"
        raise ScorerContractError(
            f"You set the scorer {self.name!r}, but it returned {given} for {len(completions)} completions. Let it "
            "return a list with one number, or None, for each."
        )

    def _signed(self, value: float | NotScored) -> float | NotScored:
        if isinstance(value, NotScored):
            return value
        return self.sign * (value - self.zero) + 0.0  # + 0.0: never −0

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | None]:
        """TRL's signature. `None` where there is no score."""
        scores = self.attempt(prompts, completions, **columns)
        return [None if isinstance(value, NotScored) else value for value in scores]

    def describe(self) -> ScorerDescription:
        """For records and certificates."""
        return {
            "name": self.name,
            "kind": self.kind,
            "higher_is": self.higher_is,
            "zero": self.zero,
            "fingerprint": self.fingerprint,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, kind={self.kind!r}, higher_is={self.higher_is!r})"


def check_sign(higher_is: Any, zero: Any) -> None:
    if higher_is not in ("better", "worse", None):
        raise ValueError(
            f'You set higher_is={higher_is!r}, but a raw score is either "better" or "worse" when it is higher. '
            "Set one of the two."
        )
    if isinstance(zero, bool) or not isinstance(zero, (int, float)) or not math.isfinite(zero):
        raise ValueError(f"You set zero={zero!r}, but it is subtracted from scores. Set a finite number.")


def keyword_only(function: Callable[..., Any]) -> list[str]:
    """Names of the keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def pick(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that are keyword-only arguments of `function`."""
    return {name: options[name] for name in keyword_only(function) if name in options}


class ScorerContractError(ValueError):
    """A scorer returned something that is not one score per completion, so that none can be attributed."""


def number(value: Any) -> float | NotScored:
    """`value` as a finite float, or why it is none. Takes Python's, NumPy's and torch's scalars."""
    if value is None:
        return NotScored("the scorer returned None")
    if isinstance(value, NotScored):
        return value
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several elements
        return NotScored(f"the scorer returned a {type(value).__name__}, which is not a number")
    if math.isnan(result):
        return NotScored("the scorer returned NaN")
    if math.isinf(result):
        return NotScored("the scorer returned an infinite number")
    return result
