"""Every measure's tilted law from a few numbers per token and, at most, two bits per word.

The expectation, the CVaR family and the semideviation tilt p by a step function of the loss, so the backward needs
only on which side of a threshold each word was: `sides` is 0 below it, 1 on it (within the tie tolerance) and 2 above.
Kept from the forward, the sides make the backward independent of rounding: logits recomputed in another order would
move a word across the threshold, and with it a share of the law. They also spare it the policy's logits, wherever the
policy's own law cancels, as it does in RSA-1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trl_rsa.kernels.cvar import upper_quantiles
from trl_rsa.kernels.scratch import Scratch
from trl_rsa.risk import (
    CVaR,
    Entropic,
    Expectation,
    MeanCVaR,
    RiskMeasure,
    Spectral,
    UpperSemideviation,
    WorstCase,
)
from trl_rsa.risk.measures import TIE_TOLERANCE


class Solution(NamedTuple):
    """What one block of R tokens gives for a measure."""

    risk: Tensor  # [R]
    numbers: Tensor  # [R, S], what `tilted_law` needs to know about each token
    sides: list[Tensor]  # K of [R, V], with values 0, 1 and 2, in the dtype of the losses


class Rows(NamedTuple):
    """The losses of R tokens under their laws, and memory to work in."""

    x: Tensor  # [R, V], losses, 0 where the law is 0
    p: Tensor  # [R, V]
    log_p: Tensor  # [R, V]
    weighted: Tensor  # [R, V], p·x
    scratch: Scratch  # for what is needed in passing, and for `sides`


def solve(
    measure: RiskMeasure, x: Tensor, p: Tensor, log_p: Tensor, weighted: Tensor, scratch: Scratch | None = None
) -> Solution:
    """The risk of each row, and what its tilted law needs. The arguments are those of [`Rows`]."""
    return TILTS[type(measure)].solve(measure, Rows(x, p, log_p, weighted, scratch or Scratch()))


def tilted_law(
    measure: RiskMeasure,
    numbers: Tensor,
    sides: list[Tensor],
    p: Tensor,
    log_p: Tensor,
    x: Tensor | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """The tilted law `[R, V]` in memory of its own or of `scratch`. `x` is needed where [`needs_loss`] says so."""
    return TILTS[type(measure)].law(measure, numbers, sides, p, log_p, x, scratch or Scratch())


def needs_loss(measure: RiskMeasure) -> bool:
    """Whether the tilted law needs the losses themselves, and with them the policy's logits."""
    return TILTS[type(measure)].needs_loss


def by_logarithms(measure: RiskMeasure) -> bool:
    """Whether a word counts even where its probability underflows to 0, as long as its logarithm is finite."""
    return TILTS[type(measure)].by_logarithms


def cvar_mixture(measure: RiskMeasure) -> tuple[float, list[tuple[float, float]]]:
    """A measure of the CVaR family as the weight of the expectation and (tail, weight) of each proper CVaR."""
    parts = TILTS[type(measure)].mixture(measure)
    return sum(w for tail, w in parts if tail == 1), [(tail, w) for tail, w in parts if tail < 1]


def _solve_entropic(measure: Entropic, rows: Rows) -> Solution:
    x, _, log_p, weighted, scratch = rows
    mean = weighted.sum(-1, keepdim=True)
    # Measured from the mean, which is exact by translation invariance, a small θ loses no digits.
    mean = torch.where(mean.isfinite(), mean, 0.0)
    log_norm = torch.sub(x, mean, out=scratch.like(x)).mul_(measure.theta).add_(log_p).logsumexp(-1, keepdim=True)
    risk = mean + (log_norm - log_p.logsumexp(-1, keepdim=True)) / measure.theta
    return Solution(risk.squeeze(-1), torch.cat([mean, log_norm], -1), [])


def _entropic_law(
    measure: Entropic, numbers: Tensor, sides: list[Tensor], p: Tensor, log_p: Tensor, x: Tensor, scratch: Scratch
) -> Tensor:
    mean, log_norm = numbers.split(1, -1)
    return torch.sub(x, mean, out=scratch.like(x)).mul_(measure.theta).add_(log_p).sub_(log_norm).exp_()


def _solve_worst_case(measure: WorstCase, rows: Rows) -> Solution:
    x, p, log_p, _, scratch = rows
    worst = x.masked_fill(log_p == -torch.inf, -torch.inf).amax(-1, keepdim=True)
    side = torch.ge(x, worst - TIE_TOLERANCE[x.dtype], out=scratch.like(x))
    log_mass = log_p.masked_fill(side == 0, -torch.inf).logsumexp(-1, keepdim=True)
    q = _worst_case_law(measure, log_mass, [side], p, log_p, None, scratch)
    return Solution(q.mul_(x).sum(-1), log_mass, [side])


def _worst_case_law(
    measure: WorstCase,
    numbers: Tensor,
    sides: list[Tensor],
    p: Tensor,
    log_p: Tensor,
    x: Tensor | None,
    scratch: Scratch,
) -> Tensor:
    # Above 0 are only words that are not on the threshold.
    return torch.sub(log_p, numbers, out=scratch.like(log_p)).clamp_(max=0.0).exp_().mul_(sides[0])


def _solve_semideviation(measure: UpperSemideviation, rows: Rows) -> Solution:
    x, p, _, weighted, scratch = rows
    mean = weighted.sum(-1, keepdim=True)
    above, product = torch.gt(x, mean + TIE_TOLERANCE[x.dtype], out=scratch.like(x)), scratch.like(x)
    mass, loss = _mass_and_loss(above, p, weighted, product)
    base = 1 - measure.weight * mass
    # On the mean counts as below: X = const gives q = p.
    numbers = torch.cat([base, torch.zeros_like(base), torch.full_like(base, measure.weight)], -1)
    return Solution((base * mean + measure.weight * loss).squeeze(-1), numbers, [above.mul_(2)])


def _solve_cvar(measure: RiskMeasure, rows: Rows) -> Solution:
    """Everything above the quantile keeps p/tail; the atom on it shares the rest of the mass in proportion to p."""
    x, p, _, weighted, scratch = rows
    tolerance = TIE_TOLERANCE[x.dtype]
    of_mean, parts = cvar_mixture(measure)
    risk = x.new_zeros(len(x), 1)
    if of_mean:  # the mean may be infinite
        risk = of_mean * weighted.sum(-1, keepdim=True)
    numbers, sides = [torch.full_like(risk, of_mean)], []
    # A tail that the dtype cannot hold is already the worst case.
    tails = [max(tail, torch.finfo(x.dtype).tiny) for tail, _ in parts]
    etas = upper_quantiles(x, p, tails, scratch).split(1, -1) if parts else ()
    atom, product = scratch.like(x), scratch.like(x)
    for tail, (_, weight), eta in zip(tails, parts, etas, strict=True):
        # Comparisons that write floats, which are several times faster than those that write booleans.
        above = torch.gt(x, eta + tolerance, out=scratch.like(x))
        atom = torch.ge(x, eta - tolerance, out=atom)
        sides.append(torch.add(above, atom, out=scratch.like(x)))
        atom = atom.sub_(above)
        above_mass, above_loss = _mass_and_loss(above, p, weighted, product)
        atom_mass, atom_loss = _mass_and_loss(atom, p, weighted, product)
        share, full = split_atom(tail, weight, above_mass, atom_mass)
        risk = risk + full * (above_loss + share * atom_loss)
        numbers += [share * full, full]
    return Solution(risk.squeeze(-1), torch.cat(numbers, -1), sides)


def split_atom(tail: float, weight: float, above_mass: Tensor, atom_mass: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the atom that is in the tail, and the weight of what is wholly in it, per unit of p."""
    rest = (tail - above_mass).clamp(min=0.0)
    share = torch.where(atom_mass > 0, rest / atom_mass, 0.0).clamp(max=1.0)
    return share, weight / (above_mass + share * atom_mass)


def _mass_and_loss(where: Tensor, p: Tensor, weighted: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Σ p and Σ p·x over an indicator `where`, each `[R, 1]`; `product` is memory for it."""
    mass = torch.mul(where, p, out=product).sum(-1, keepdim=True)
    loss = torch.mul(where, weighted, out=product).sum(-1, keepdim=True)
    if loss.isnan().any():  # 0·∞ = 0
        loss = torch.where(where > 0, weighted, 0.0).sum(-1, keepdim=True)
    return mass, loss


def _law_by_steps(
    measure: RiskMeasure,
    numbers: Tensor,
    sides: list[Tensor],
    p: Tensor,
    log_p: Tensor,
    x: Tensor | None,
    scratch: Scratch,
) -> Tensor:
    """p times a step function of the loss: `numbers` holds its lowest step, then two more for each threshold."""
    base, *steps = numbers.split(1, -1)
    q, factor = torch.mul(p, base, out=scratch.like(p)), scratch.like(p)
    for side, on, above in zip(sides, steps[::2], steps[1::2], strict=True):
        # on·side below 2, and there corrected to `above`: exact, and a table look-up would cost ten times as much.
        torch.sub(side, 1, out=factor).clamp_(min=0).mul_(above - 2 * on).addcmul_(side, on)
        q.addcmul_(factor, p)
    return q


@dataclass(frozen=True)
class Tilt:
    """All that the kernels know about a measure.

    Args:
        solve (`Callable`):
            `(measure, rows) -> Solution`.
        law (`Callable`):
            The tilted law, from the arguments of [`tilted_law`].
        mixture (`Callable`, *optional*):
            `(measure) -> [(tail, weight), …]` for the CVaR family; the expectation has tail 1.
        needs_loss, by_logarithms (`bool`):
            See the functions of the same names.
    """

    solve: Callable[[Any, Rows], Solution]
    law: Callable[..., Tensor] = _law_by_steps
    mixture: Callable[[Any], list[tuple[float, float]]] = lambda measure: []
    needs_loss: bool = False
    by_logarithms: bool = False


# By exact class: a subclass may compute something else.
TILTS: dict[type, Tilt] = {
    Expectation: Tilt(_solve_cvar, mixture=lambda measure: [(1.0, 1.0)]),
    CVaR: Tilt(_solve_cvar, mixture=lambda measure: [(measure.tail, 1.0)]),
    MeanCVaR: Tilt(_solve_cvar, mixture=lambda m: [(1.0, 1 - m.weight), (m.tail, m.weight)]),
    Spectral: Tilt(_solve_cvar, mixture=lambda m: [*zip(m.tails, m.weights, strict=True)]),
    UpperSemideviation: Tilt(_solve_semideviation),
    Entropic: Tilt(_solve_entropic, _entropic_law, needs_loss=True, by_logarithms=True),
    WorstCase: Tilt(_solve_worst_case, _worst_case_law, by_logarithms=True),
}
