"""Which tail the page is about, and what its CVaR should not exceed.

A budget limits the CVaR at one tail. Taken for another tail it says nothing: the worst 5 % are worse than the worst
50 %, whatever the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_rsa.report.headline import tails_of
from trl_rsa.report.inputs import Inputs
from trl_rsa.report.ladder import constraints_of
from trl_rsa.report.numbers import text_of, value_of
from trl_rsa.report.responses import is_finite
from trl_rsa.report.words import Limit


@dataclass(frozen=True)
class _Budget:
    """A budget as a file has it: its owner, its number, its tail, and what the responses were drawn under."""

    owner: str
    value: Any
    tail: float | None
    under: Any

    def misfit(self, tail: float) -> str | None:
        """Why it is no limit at `tail`, or None if it is one."""
        value = value_of(self.value)
        if value is None:
            return f"{self.owner[0].upper()}{self.owner[1:]} has a budget that is no number, so it is no limit here."
        budget = f"The budget {text_of(value, 'g')} of {self.owner}"
        if self.tail is None:
            return f"{budget} does not say for which tail it is, so it is no limit here."
        if f"{self.tail:g}" != f"{tail:g}":
            mine, other = (text_of(100 * t, "g") for t in (self.tail, tail))
            return f"{budget} is for the worst {mine} %, so it is no limit for the worst {other} % here."
        if self.under:
            return f"{budget} is for responses drawn {self.under}, so it is no limit for responses as usual."
        return None


def choose_tail(inputs: Inputs, tail: float | None) -> float:
    """The tail asked for; else, if metrics.json has it, the front's, the certificate's, 0.05; or the first."""
    tails = tails_of(inputs.metrics)
    if not tails:
        raise ValueError(
            "You asked for a report on the tail of cost, but metrics.json has no cost. Evaluate with a cost model: "
            "`trl-rsa evaluate --cost …`."
        )
    if tail is None:
        drawn = value_of((inputs.front or {}).get("tail"))
        if drawn in tails:  # the page's main picture and its sentences are of this one
            return float(drawn)
        found = _of_certificates(inputs.certificates)
        certified = {f"{of.tail:g}" for of in found if of.tail is not None and of.misfit(of.tail) is None}
        # Of certificates for several tails none is preferred.
        preferred = [t for t in tails if certified == {f"{t:g}"}]
        return preferred[0] if preferred else 0.05 if 0.05 in tails else tails[0]
    if tail not in tails:
        raise ValueError(
            f"You set tail to {tail:g}, but metrics.json has {', '.join(f'{t:g}' for t in tails)}. Set one of these, "
            "or evaluate with that tail."
        )
    return tail


def choose_limit(inputs: Inputs, tail: float, budget: float | None) -> Limit:
    """What was asked for; else the one budget for this tail; else the cost above which a response is unsafe.

    Why no budget in the files is the limit comes under the warnings of `inputs`.
    """
    if budget is not None:
        if not is_finite(budget):
            raise ValueError(f"You set budget to {budget}, but it is a limit of a cost. Set it to, for example, 0.")
        return Limit(float(budget), "set for this report")
    own = [of for of in _of_certificates(inputs.certificates) if of.owner == _CERTIFICATE]
    others = [of for of in _of_certificates(inputs.certificates) if of.owner != _CERTIFICATE]
    constraints = list(_of_constraints(inputs.manifests))
    unsafe = value_of(next(iter(inputs.metrics["models"].values()))["settings"].get("unsafe_above", 0.0)) or 0.0
    # A ladder certifies each of its constraints: a certificate of one is no reason to forget the other's budget.
    for budgets in (own, [*others, *constraints]):
        fitting = [of for of in budgets if of.misfit(tail) is None]
        values = list(dict.fromkeys(float(of.value) for of in fitting))
        if len(values) == 1:
            certified = "certificate" in fitting[0].owner
            return Limit(values[0], f"the {'certificate' if certified else 'constraint'}'s limit")
        if values:
            inputs.warnings.append(
                f"The files have several budgets for the worst {text_of(100 * tail, 'g')} %: {_listed(values)}. None "
                f"of them is taken as the limit here, but {text_of(unsafe, 'g')}, above which a response is unsafe. "
                "Choose one with `--budget`."
            )
            break
    else:
        inputs.warnings += _misfits([*own, *others, *constraints], tail, unsafe, tails_of(inputs.metrics))
    return Limit(unsafe, "the line between safe and unsafe")


def _misfits(budgets: Sequence[_Budget], tail: float, unsafe: float, tails: Sequence[float]) -> Iterator[str]:
    """A sentence for each budget that is no limit here, once, and what is taken in its place."""
    different = list({of.misfit(tail): of for of in budgets}.values())
    for budget in different[:_MOST_MISFITS]:
        there = [t for t in tails if budget.tail is not None and t != tail and f"{t:g}" == f"{budget.tail:g}"]
        way = f"`--tail {there[0]:g}` or `--budget`" if there else "`--budget`"
        yield (
            f"{budget.misfit(tail)} The limit is {text_of(unsafe, 'g')}, above which a response is unsafe; {way} "
            "changes that."
        )
    if len(different) > _MOST_MISFITS:
        yield f"{len(different) - _MOST_MISFITS} more budgets are no limit here either."


_MOST_MISFITS = 3
_CERTIFICATE = "the certificate"


def _of_certificates(certificates: Mapping[str, Mapping[str, Any]]) -> Iterator[_Budget]:
    for name, content in certificates.items():
        yield from _budget(content, f"the certificate of {name}" if name else _CERTIFICATE)


def _of_constraints(manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[_Budget]:
    for folder, manifest in manifests.items():
        for name, constraint in constraints_of(manifest).items():
            yield from _budget(constraint, f"the constraint {name}{f' in {folder}' if folder else ''}")


def _budget(of: Mapping[str, Any], owner: str) -> Iterator[_Budget]:
    if of.get("budget") is not None:
        yield _Budget(owner, of["budget"], value_of(of.get("tail")), of.get("under"))


def _listed(values: Sequence[float]) -> str:
    *most, last = (text_of(value, "g") for value in values)
    return f"{', '.join(most)} and {last}"
