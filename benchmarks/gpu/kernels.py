"""(a) The fused risk head against the dense one in float64: values and gradients, for every measure.

On CUDA the fused head is Triton's. Hidden states and heads are the same numbers on both sides: float32 and bfloat16
are converted to float64 without loss. So the differences are those of the arithmetic alone.
"""

import traceback
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.results import Results
from benchmarks.gpu.settings import Deadline, Settings
from trl_rsa.kernels import triton_kernels
from trl_rsa.kernels.cvar import upper_quantiles
from trl_rsa.kernels.dense import dense_token_statistics, project
from trl_rsa.kernels.projection import operand_dtype
from trl_rsa.kernels.statistics import Head
from trl_rsa.kernels.tiled import tiled_token_statistics
from trl_rsa.kernels.tilts import cvar_mixture
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


# As in tests/kernels/test_tiled.py: absolute and relative tolerance of the values; of the gradients, relative to the
# largest of each.
TOLERANCE = {torch.float32: (5e-6, 5e-6), torch.bfloat16: (5e-6, 5e-3)}
# CUDA multiplies bfloat16 into float32 sums, so that the gradient of the logits is rounded by up to 2⁻⁸ before the
# product, and the product once more after it: 0.0078 in all. A CPU, and the table above, round only once.
BF16_PRODUCTS = 1e-2
MEASURES: list[RiskMeasure] = [
    Expectation(),
    CVaR(0.1),
    CVaR(1.0),
    CVaR(1e-30),
    Entropic(),
    MeanCVaR(),
    Spectral(),
    Spectral((0.3, 0.05), (0.4, 0.6)),
    UpperSemideviation(),
    WorstCase(),
]
# A word whose loss is nearer to a threshold than this may fall on its other side in float32, and takes its share of
# the law along: a property of the measure, not an error of a kernel. Tokens with such a word are left out.
SEPARATION = 4 * TIE_TOLERANCE[torch.float32]


@dataclass(frozen=True)
class Case:
    """Shapes, and what is special.

    Args:
        name (`str`):
            For the rows.
        tokens, hidden, words (`int`):
            N, H, V.
        kind (`str`, *optional*):
            `"normal"`; `"ties"`, losses on a lattice; `"equal"`, both models the same; `"impossible"`, words that one
            or both models rule out.
        gradients (`str`, *optional*):
            What the loss asks for: that of `"rsa1"`, of `"rsa2"`, or `"mixed"`, tokens of every sort.
        head (`dict`, *optional*):
            Scale and softcap.
        logits_per_tile (`int`, *optional*):
            As in [`tiled_token_statistics`].
    """

    name: str
    tokens: int
    hidden: int
    words: int
    kind: str = "normal"
    gradients: str = "mixed"
    head: dict[str, float] = field(default_factory=dict)
    logits_per_tile: int | None = None


CASES = [
    Case("odd shapes", 141, 31, 123, logits_per_tile=20 * 123),
    Case("above a group of words", 13, 7, 4097),
    Case("tiles of the vocabulary", 6, 31, 9001, logits_per_tile=9001),
    Case("one token", 1, 5, 17, gradients="rsa2"),
    Case("rsa1", 141, 31, 123, gradients="rsa1"),
    Case("rsa2", 141, 31, 123, gradients="rsa2"),
    Case("ties", 7, 7, 123, kind="ties"),
    Case("equal models", 9, 9, 4097, kind="equal"),
    Case("impossible words", 9, 5, 17, kind="impossible"),
    Case("scale", 13, 5, 17, head={"scale": 0.25}),
    Case("softcap", 13, 5, 17, head={"scale": 2.0, "softcap": 4.0}),
    Case("Qwen2.5-0.5B's head", 64, 896, 151_936),
]
SMALL_CASES = [
    Case("odd shapes", 29, 5, 123, logits_per_tile=10 * 123),
    Case("ties", 7, 7, 123, kind="ties"),
    Case("impossible words", 9, 5, 17, kind="impossible"),
    Case("softcap", 13, 5, 17, head={"scale": 2.0, "softcap": 4.0}),
]


class Problem(NamedTuple):
    hidden: Tensor
    head: Head
    ref_hidden: Tensor
    ref_head: Head
    labels: Tensor


class Errors(NamedTuple):
    """The largest error, and the largest share of its tolerance; above 1, or not a number, it is too much."""

    error: float
    of_tolerance: float
    where: str


def make_problem(case: Case, dtype: torch.dtype, device: str) -> Problem:
    """Logits of standard deviation 2, made on the CPU: the same everywhere."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    n, h, v = case.tokens, case.hidden, case.words
    biases: tuple[Tensor | None, Tensor | None] = (None, None)
    if case.kind in ("ties", "equal"):
        # Hidden states are one-hot, so that the heads' columns are the logits; thirty-seconds are exact in bfloat16.
        logits = (32 * normal(n, v)).round().div(32).clamp(-2, 2)
        steps = torch.randint(-1, 2, (n, v), generator=generator) if case.kind == "ties" else 0
        hidden, ref_hidden, weight, ref_weight = torch.eye(n), torch.eye(n), (logits + steps).t(), logits.t()
    else:
        hidden, ref_hidden = normal(n, h), normal(n, h)
        weight, ref_weight = (2 * normal(v, h) / h**0.5 for _ in range(2))
        if v < 2**14:
            biases = normal(v), normal(v)
    labels = torch.randint(3 if v > 5 else 0, v, (n,), generator=generator)
    if case.kind == "impossible":
        bias, ref_bias = biases
        assert bias is not None and ref_bias is not None
        bias[:2], ref_bias[:3] = -torch.inf, -torch.inf

    def head(weight: Tensor, bias: Tensor | None) -> Head:
        parts = (None if x is None else x.contiguous().to(device, dtype) for x in (weight, bias))
        return Head(*parts, **case.head)

    return Problem(
        hidden.to(device, dtype),
        head(weight, biases[0]),
        ref_hidden.to(device, dtype),
        head(ref_weight, biases[1]),
        labels.to(device),
    )


def exact(problem: Problem) -> Problem:
    """The same numbers in float64."""

    def double(head: Head) -> Head:
        return Head(head.weight.double(), None if head.bias is None else head.bias.double(), head.scale, head.softcap)

    return Problem(
        problem.hidden.double(),
        double(problem.head),
        problem.ref_hidden.double(),
        double(problem.ref_head),
        problem.labels,
    )


def choose(problem: Problem, tokens: Tensor) -> Problem:
    """The problem of some of its tokens."""
    return problem._replace(
        hidden=problem.hidden[tokens], ref_hidden=problem.ref_hidden[tokens], labels=problem.labels[tokens]
    )


def separated(problem: Problem, measure: RiskMeasure) -> Tensor:
    """Indices of the tokens none of whose words is as near to a threshold of the measure as rounding; in float64."""
    with torch.no_grad():
        log_pi = project(problem.hidden, problem.head).log_softmax(-1)
        log_p = project(problem.ref_hidden, problem.ref_head).log_softmax(-1)
        p = log_p.exp()
        x = torch.where(p > 0, log_p - log_pi, 0.0)
        tails = [max(tail, torch.finfo(torch.float32).tiny) for tail, _ in cvar_mixture(measure)[1]]
        match measure:
            case UpperSemideviation():
                thresholds = (p * x).sum(-1, keepdim=True)
            case WorstCase():
                thresholds = x.masked_fill(p == 0, -torch.inf).amax(-1, keepdim=True)
            case CVaR() | MeanCVaR() | Spectral() if tails:
                thresholds = upper_quantiles(x, p, tails)
            case _:
                return torch.arange(len(x), device=x.device)
        near = [((x - t).abs() < SEPARATION) & (x != t) & (p > 0) for t in thresholds.split(1, -1)]
        return (~torch.stack(near).any(0).any(-1)).nonzero().squeeze(-1)


def upstream(kind: str, n: int, device: str) -> tuple[Tensor, Tensor]:
    """Gradients of a loss in (log_probs, risk) of N tokens."""
    first, second = torch.randn(2, n, generator=torch.Generator().manual_seed(1)).to(device)
    place = torch.arange(n, device=device)
    if kind == "rsa1":  # equal, so that π cancels
        return first, first
    if kind == "rsa2":  # the chosen half has none of the risk
        return first, torch.where(place < n // 2, 0.0, second)
    # Of four tokens one needs no logits, one the policy's, one the reference's and one both.
    sort = place % 4
    return first * (sort > 0), torch.where(sort == 2, first, second * (sort == 3))


def compare(case: Case, problem: Problem, truth: Problem, measure: RiskMeasure) -> tuple[int, Errors, Errors]:
    """The fused head on `problem` against the dense one on `truth`, the same in float64.

    Returns:
        The number of tokens compared; the errors of the values, in nats; and those of the gradients, relative to the
        largest of each.
    """
    if case.kind not in ("ties", "equal"):  # there whole atoms lie on the thresholds, in any dtype
        kept = separated(truth, measure)
        problem, truth = choose(problem, kept), choose(truth, kept)
    dtype = problem.hidden.dtype
    values, of_largest = TOLERANCE[dtype]
    if operand_dtype(problem.hidden) == torch.bfloat16:
        of_largest = BF16_PRODUCTS
    wanted, wanted_grads = run(dense_token_statistics, truth, measure, case.gradients)
    got, got_grads = run(
        tiled_token_statistics, problem, measure, case.gradients, logits_per_tile=case.logits_per_tile
    )
    values, of_largest = TOLERANCE[dtype]
    if operand_dtype(problem.hidden) == torch.bfloat16:
        of_largest = BF16_PRODUCTS
    of_values = [
        error_of(name, getattr(got, name), getattr(wanted, name), lambda w: values + values * w.abs())
        for name in wanted._fields
    ]
    of_gradients = []
    for name, one, other in zip(("hidden", "weight", "bias"), got_grads, wanted_grads, strict=False):
        largest = other.abs().max().item() if other.numel() else 0.0
        # The gradient of equal models may be 0 altogether: then it is measured against the upstream's 1.
        unit = largest if largest > 1e-6 else 1.0
        of_gradients.append(error_of(name, one / unit, other / unit, lambda w: torch.full_like(w, of_largest)))
    return len(problem.labels), worst(of_values), worst(of_gradients)


def run(kernel: Any, problem: Problem, measure: RiskMeasure, gradients: str, **options: Any) -> tuple[Any, list]:
    """The statistics, and the gradients in hidden states, weight and bias."""
    leaves = [x for x in (problem.hidden, problem.head.weight, problem.head.bias) if x is not None]
    for leaf in leaves:
        leaf.requires_grad_(True)
    statistics = kernel(*problem, measure, **options)
    grads = [
        g.to(x.dtype)
        for g, x in zip(
            upstream(gradients, len(problem.labels), problem.hidden.device.type),
            (statistics.log_probs, statistics.risk),
            strict=True,
        )
    ]
    found = torch.autograd.grad((statistics.log_probs, statistics.risk), leaves, grads)
    return type(statistics)(*(x.detach() for x in statistics)), list(found)


def error_of(name: str, got: Tensor, wanted: Tensor, tolerance: Any) -> Errors:
    if wanted.dtype == torch.bool:
        wrong = float((got != wanted).sum())
        return Errors(wrong, torch.inf if wrong else 0.0, name)
    got, wanted = got.double(), wanted.double()
    # Infinities must be the same; ∞ − ∞ is not a number.
    error = torch.where(got == wanted, 0.0, (got - wanted).abs())
    share = torch.where(error == 0, 0.0, error / tolerance(wanted))
    if not error.numel():
        return Errors(0.0, 0.0, name)
    return Errors(error.max().item(), share.max().item(), name)  # `max` keeps what is not a number


def worst(several: list[Errors]) -> Errors:
    return max(several, key=lambda errors: torch.inf if errors.of_tolerance != errors.of_tolerance else errors[1])


def measure_part(settings: Settings, results: Results, deadline: Deadline) -> bool:
    """All cases, odd shapes first; whether every one passed. Where time runs out, the rest is said to be skipped."""
    torch.set_float32_matmul_precision("highest")
    kernel = "triton" if triton_kernels.is_usable(torch.empty(0, device=settings.device)) else "torch"
    fine = True
    if settings.device == "cuda" and kernel != "triton":
        results.add("failed", "Triton is not installed: on this machine the fused head would be torch's.")
        return False
    for case in SMALL_CASES if settings.small else CASES:
        for dtype in TOLERANCE:
            problem = make_problem(case, dtype, settings.device)
            truth = exact(problem)
            for measure in MEASURES:
                cells: dict[str, object] = {"case": case.name, "hidden": case.hidden, "vocabulary": case.words}
                cells |= {"measure": str(measure), "dtype": str(dtype)[6:], "gradients": case.gradients}
                cells |= {"tokens": case.tokens, "kernel": kernel}
                if deadline.left() < 5:
                    results.add("skipped", "no time was left", **cells)
                    continue
                try:
                    tokens, values, gradients = compare(case, problem, truth, measure)
                except Exception as error:  # a kernel that does not compile is a result too
                    traceback.print_exc()
                    results.add("failed", f"{type(error).__name__}: {str(error)[:300]}", **cells)
                    fine = False
                    continue
                passed = values.of_tolerance <= 1 and gradients.of_tolerance <= 1
                fine &= passed
                errors = {
                    "tokens": tokens,
                    "values": values.error,
                    "values of tolerance": values.of_tolerance,
                    "gradients error": gradients.error,
                    "gradients of tolerance": gradients.of_tolerance,
                }
                note = "" if passed else f"largest in {values.where} and in the gradient of {gradients.where}"
                results.add("passed" if passed else "failed", note, **(cells | errors))
    return fine
