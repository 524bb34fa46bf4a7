"""The Triton kernels against their torch twins, on a CPU through Triton's interpreter.

Triton reads TRITON_INTERPRET when it is first imported, so that the comparisons run in a process of their own, started
by `test_in_the_interpreter`. Where PyTorch sees a CUDA device, `test_on_a_gpu` runs the compiled kernels as well.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from trl_rsa.kernels import block, triton_kernels
from trl_rsa.kernels.tilts import TILTS
from trl_rsa.risk import CVaR, Entropic, Expectation, MeanCVaR, Spectral, UpperSemideviation, WorstCase


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Values of magnitude 10 in float32, summed in another order: a few roundings of 1e-6.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}

MEASURES = [
    Expectation(),
    CVaR(0.1),
    CVaR(1.0),
    MeanCVaR(0.2),
    Spectral(),
    UpperSemideviation(),
    Entropic(2.0),
    WorstCase(),
]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: PyTorch's CPU builds come without it"
)
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="is the interpreter's process")
def test_in_the_interpreter():
    """Runs the rest of this file in a process with Triton's interpreter."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout and "failed" not in result.stdout


def test_every_measure_that_is_fused_has_its_twin():
    assert triton_kernels.TWINS.keys() == TILTS.keys()


def make_tiles(rows, words, device="cpu", kind="normal"):
    """Logits of both models, labels, and the gradients of the outputs."""
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(rows, words, generator=generator)
    r = 2 * torch.randn(rows, words, generator=generator)
    if kind == "equal":
        r = z.clone()
    elif kind == "ties":
        r = z + torch.randint(-1, 2, (rows, words), generator=generator)
    elif kind == "impossible":
        z[:, :2], r[:, :3] = -torch.inf, -torch.inf
    elif kind == "extreme":
        z[:, ::2] *= 2500
        r[:, 1::2] *= 2500
    elif kind == "ruled out":
        z[:, 4] = -torch.inf
    labels = torch.randint(3, words, (rows,), generator=generator) if words > 5 else torch.zeros(rows).long()
    grads = torch.randn(2, rows, 1, generator=generator)
    return [x.to(device) for x in (z, r, labels, *grads)]


def assert_same(measure, z, r, labels, g_logp, g_risk, **tolerance):
    """Statistics, what is kept, and the gradient for each set of logits that a loss may need."""
    tolerance = TOLERANCE | tolerance
    of_torch = block.block_statistics(z.clone(), r.clone(), labels, measure)
    of_triton = triton_kernels.block_statistics(z.clone(), r.clone(), labels, measure)
    for name, got, wanted in zip(of_torch[0]._fields, of_triton[0], of_torch[0], strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if got.dtype == torch.bool:
            assert torch.equal(got, wanted)
        else:
            torch.testing.assert_close(got, wanted, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
    assert [x.shape for x in of_triton[1]] == [x.shape for x in of_torch[1]]
    assert torch.equal(of_triton[1].sides, of_torch[1].sides)
    by_loss = isinstance(measure, Entropic)
    cases = [(z, r, g_logp, g_risk), (z, None, g_logp, torch.zeros_like(g_risk))]
    for policy, reference, *grads in cases if by_loss else [*cases, (None, r, g_risk, g_risk)]:
        args = (labels, measure), grads

        def clones(a=policy, b=reference):
            return [None if x is None else x.clone() for x in (a, b)]

        wanted = block.block_gradient(*clones(), *args[0], of_torch[1], *args[1])
        got = triton_kernels.block_gradient(*clones(), *args[0], of_triton[1], *args[1])
        torch.testing.assert_close(got, wanted, **tolerance)


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("words", [1, 123, 4097])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_equals_torch(measure, words):
    """Vocabularies below and above Triton's blocks of 1,024 and the packed groups of 4,096 words."""
    assert_same(measure, *make_tiles(2, words))


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("kind", ["equal", "ties", "impossible"])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_equals_torch_at_the_edges(measure, kind):
    assert_same(measure, *make_tiles(3, 123, kind=kind))


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("kind", ["normal", "ties", "impossible"])
@pytest.mark.parametrize("measure", [CVaR(0.1), Spectral()], ids=str)
def test_words_that_find_no_room_beside_the_logits(measure, kind, monkeypatch):
    """Their bin has more than there is memory for: they are looked for in the logits."""
    monkeypatch.setattr(triton_kernels, "CAPACITY", 2)
    assert_same(measure, *make_tiles(2, 300, kind=kind))


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("tail", [1e-30, 0.5])
def test_quantiles_are_losses_and_exact(tail):
    """Against a sort in float64, with one loss far above all others, so that nearly all are in a bin."""
    z, r, *_ = make_tiles(4, 5000)
    z[2:, 7] -= 5e4
    table = torch.empty(4, 12)
    tiles = (z, z.stride(0), r, r.stride(0))
    triton_kernels._statistics_kernel[(4,)](*tiles, torch.zeros(4).long(), table, 5000, BLOCK=1024)
    eta = triton_kernels._quantiles(triton_kernels.Tiles(tiles, table), [tail])
    x, p = block_loss_and_law(z, r, table)
    for row in range(4):
        order = x[row].argsort(descending=True, stable=True)
        mass = p[row, order].double().cumsum(0)
        at = int((mass < tail * mass[-1]).sum())
        near = x[row, order[max(at - 1, 0) : at + 2]]
        assert eta[row, 0] in near, (row, eta[row], near)


def block_loss_and_law(z, r, table):
    z_max, z_log, r_max, r_log = (table[:, i : i + 1] for i in range(4))
    return ((r - r_max) - (z - z_max)) + (z_log - r_log), ((r - r_max) - r_log).exp()


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_no_token(measure):
    z, r, labels, *_ = make_tiles(0, 17)
    statistics, kept = triton_kernels.block_statistics(z, r, labels, measure)
    assert all(x.shape == (0,) for x in statistics) and all(len(x) == 0 for x in kept)


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_extreme_logits(measure):
    """Logits of ±1e4, whose differences have a rounding of 1e-3."""
    assert_same(measure, *make_tiles(2, 123, kind="extreme"), atol=2e-3)


@needs_triton
@in_the_interpreter
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_words_that_only_the_policy_rules_out(measure):
    z, r, labels, *_ = make_tiles(2, 123, kind="ruled out")
    risk = triton_kernels.block_statistics(z, r, labels.clamp(min=5), measure)[0].risk
    assert risk.eq(torch.inf).all()


@pytest.mark.cuda
@needs_triton
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_on_a_gpu(measure):
    for words in (123, 4097, 152_000):
        assert_same(measure, *make_tiles(5, words, "cuda"))
