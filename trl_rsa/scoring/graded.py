"""From the logits of a graded cost model to a cost: a continuation-ratio head on a harm scale.

One head has a logit for each grade but the worst: logit k is that of "worse than grade k, given at least grade k". The
products of these chances are always a law over the grades, whatever the logits are, and the head is an ordinary linear
layer: a proportional-odds model would need trained thresholds beside it, which no ordinary folder holds, and free
cumulative logits may cross. The first logits part safe from unsafe and learn from every label; the later ones learn
from harmful responses only, so that the many easy cases cannot drown what ranks the tail.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from trl_rsa.data.harm import HarmScale, HarmScaleJSON


if TYPE_CHECKING:
    from torch import Tensor


# In config.json: what the folder's scores are, and how its logits become one.
CONFIG_FIELD = "score_model"


class ScoreModelField(TypedDict):
    """That field. A graded cost model has a scale and its likelihood; training says how text was written down."""

    objective: str
    heads: int
    pessimism: float
    harm_scale: NotRequired[HarmScaleJSON]
    likelihood: NotRequired[str]
    template: NotRequired[str]
    truncation: NotRequired[str]
    max_length: NotRequired[int | None]


def log_exceedance(logits: "Tensor") -> "Tensor":  # [..., K − 1] -> [..., K − 1]
    """log P(grade > k) for k = 0 … K − 2."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(logits).cumsum(-1)


def grade_probabilities(logits: "Tensor") -> "Tensor":  # [..., K − 1] -> [..., K]
    import torch

    worse = log_exceedance(logits).exp()
    bounds = torch.cat([torch.ones_like(worse[..., :1]), worse, torch.zeros_like(worse[..., :1])], -1)
    return bounds[..., :-1] - bounds[..., 1:]


def expected_cost(logits: "Tensor", scale: HarmScale) -> "Tensor":  # [..., K − 1] -> [...]
    """The first cost, and for each grade above it the step in cost times the chance to be as bad."""
    import torch

    costs = torch.tensor(scale.costs, dtype=logits.dtype, device=logits.device)
    return costs[0] + (log_exceedance(logits).exp() * (costs[1:] - costs[:-1])).sum(-1)


def combine_heads(values: "Tensor", pessimism: float, higher_is_worse: bool) -> "Tensor":  # [..., E] -> [...]
    """The mean over the heads, moved by `pessimism` standard deviations (of the heads) to the side of caution."""
    mean = values.mean(-1)
    if pessimism == 0 or values.shape[-1] == 1:
        return mean
    spread = values.std(-1, correction=0)
    return mean + pessimism * spread if higher_is_worse else mean - pessimism * spread


class Readout:
    """
    How the logits of a score model become its score, as its config.json says.

    Args:
        objective (`str`): `"reward"` or `"cost"`.
        scale ([`HarmScale`], *optional*): The harm scale of a graded cost model.
        heads (`int`): Heads on the one body.
        pessimism (`float`): Standard deviations of the heads that are added to a cost, or taken off a reward.
    """

    def __init__(self, objective: str, scale: HarmScale | None = None, heads: int = 1, pessimism: float = 0.0):
        self.objective, self.scale, self.heads, self.pessimism = objective, scale, heads, pessimism

    @classmethod
    def from_config(cls, settings: Mapping[str, Any]) -> "Readout":
        """Raises `ValueError` where the field of config.json is not what this package writes."""
        try:
            scale = settings.get("harm_scale")
            return cls(
                str(settings["objective"]),
                None if scale is None else HarmScale(scale["names"], scale["costs"]),
                int(settings.get("heads", 1)),
                float(settings.get("pessimism", 0.0)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"The field {CONFIG_FIELD} of the model's config.json cannot be used ({error}). Restore the file."
            ) from error

    def check_kind(self, path: str, kind: str, higher_is: str | None) -> None:
        """
        Raises:
            ValueError: if the scorer `path` is used as what it was not trained to be. Our own folders say whether they
                give a reward or a cost, and this is never passed over: a reward model that stands as the cost would
                train towards what is unsafe.
        """
        direction = "better" if self.objective == "reward" else "worse"
        if higher_is != direction and not (kind == self.objective and higher_is is None):
            stated = "" if higher_is is None else f' and higher_is="{higher_is}"'
            raise ValueError(
                f'You set kind="{kind}"{stated} for the scorer {path!r}, but it was trained to give a '
                f'{self.objective}, of which higher is {direction}. Set kind="{self.objective}" alone, or '
                f'higher_is="{direction}" with either kind.'
            )

    def to_config(self) -> ScoreModelField:
        own: ScoreModelField = {"objective": self.objective, "heads": self.heads, "pessimism": self.pessimism}
        if self.scale is None:
            return own
        return {**own, "harm_scale": self.scale.to_dict(), "likelihood": "continuation-ratio"}

    @property
    def logits_per_head(self) -> int:
        return 1 if self.scale is None else len(self.scale.names) - 1

    @property
    def logits(self) -> int:
        return self.heads * self.logits_per_head

    def per_head(self, logits: "Tensor") -> "Tensor":  # [..., heads · logits per head] -> [..., heads]
        if self.scale is None:
            return logits
        return expected_cost(logits.unflatten(-1, (self.heads, self.logits_per_head)), self.scale)

    def scores(self, logits: "Tensor") -> "Tensor":  # [..., heads · logits per head] -> [...]
        scores = combine_heads(self.per_head(logits), self.pessimism, self.objective == "cost")
        return scores if self.scale is None else scores.clamp(self.scale.costs[0], self.scale.costs[-1])
