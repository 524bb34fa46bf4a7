"""The fused kernel against the dense one: values and gradients, at odd shapes and at the edges of the floats."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trl_rsa.kernels import tiled
from trl_rsa.kernels.dense import dense_token_statistics
from trl_rsa.kernels.head import _kernel
from trl_rsa.kernels.statistics import Head
from trl_rsa.kernels.tiled import tiled_token_statistics
from trl_rsa.risk import CVaR, Entropic, Expectation, MeanCVaR, Spectral, UpperSemideviation, WorstCase


# dtype of hidden states and heads -> (absolute and relative tolerance of the values, of the gradients relative to
# their largest). Both kernels compute in float32 at least. A loss is a difference of logarithms of magnitude 10, whose
# float32 roundings are 1e-6. In bf16 the gradients are stored in bf16, which rounds by 2^−9 = 0.002.
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (5e-6, 5e-6),
    torch.bfloat16: (5e-6, 5e-3),
}

MEASURES = [
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


# (log_probs, risk) gradients of N tokens, as losses give them: RSA-1's are equal, so that π cancels; RSA-2's chosen
# half has no risk gradient; a mixture, of which some tokens have none at all.
def mixed(first, second):
    """Of four tokens one needs no logits, one the policy's, one the reference's and one both."""
    kind = torch.arange(len(first)) % 4
    return first * (kind > 0), torch.where(kind == 2, first, second * (kind == 3))


GRADIENTS = {
    "rsa1": lambda g: (g[0], g[0]),
    "rsa2": lambda g: (g[0], torch.where(torch.arange(len(g[0])) < len(g[0]) // 2, 0.0, g[1])),
    "mixed": lambda g: mixed(*g),
    "log_probs": lambda g: (g[0], torch.zeros_like(g[0])),
    "risk": lambda g: (torch.zeros_like(g[0]), g[1]),
}


def make_problem(n, h, v, dtype=torch.float64, h_ref=None, bias=True, seed=0, **head):
    """Hidden states, heads and labels with logits of standard deviation 2."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    h_ref = h_ref or h
    hidden, weight = normal(n, h).requires_grad_(), (2 * normal(v, h) / h**0.5).requires_grad_()
    biases = (normal(v).requires_grad_(), normal(v)) if bias else (None, None)
    reference = normal(n, h_ref), Head(2 * normal(v, h_ref) / h_ref**0.5, biases[1], **head)
    return hidden, Head(weight, biases[0], **head), *reference, torch.randint(v, (n,), generator=generator)


def assert_same(problem, measure, gradients="mixed", logits_per_tile=None, scale=1.0):
    """Every output and every gradient; `scale` multiplies the tolerances where the logits are large."""
    dense = dense_token_statistics(*problem, measure)
    fused = tiled_token_statistics(*problem, measure, logits_per_tile=logits_per_tile)
    values, of_largest = (scale * t for t in TOLERANCE[problem[0].dtype])
    for name in dense._fields:
        got, wanted = getattr(fused, name), getattr(dense, name)
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if name == "is_top1":
            assert torch.equal(got, wanted)
        else:
            torch.testing.assert_close(got, wanted, atol=values, rtol=values, msg=lambda m, n=name: f"{n}: {m}")
    leaves = [leaf for leaf in (problem[0], problem[1].weight, problem[1].bias) if leaf is not None]
    weights = torch.randn(2, len(dense.risk), generator=torch.Generator().manual_seed(1)).to(dense.risk.dtype)
    upstream = GRADIENTS[gradients](weights)
    of_dense = torch.autograd.grad((dense.log_probs, dense.risk), leaves, upstream)
    of_fused = torch.autograd.grad((fused.log_probs, fused.risk), leaves, upstream)
    for got, wanted in zip(of_fused, of_dense, strict=True):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, atol=of_largest * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_equals_dense_on_odd_shapes(measure, dtype):
    """3·47 tokens, hidden size 31, 123 words, tiles of 20 tokens: nothing divides anything."""
    assert_same(make_problem(3 * 47, 31, 123, dtype), measure, logits_per_tile=20 * 123)


@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("measure", [CVaR(0.3), Entropic(2.0), UpperSemideviation(1.0)], ids=str)
@pytest.mark.parametrize("head", [{}, {"scale": 0.25}, {"scale": 2.0, "softcap": 4.0}], ids=str)
def test_equals_dense_for_every_loss_and_head(measure, gradients, head):
    """Each loss needs other logits again in the backward."""
    assert_same(make_problem(13, 5, 17, **head), measure, gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("words", [4096, 9001])
def test_equals_dense_in_tiles_of_the_vocabulary(words, dtype):
    """The backward cuts the vocabulary at multiples of 4,096, so 9,001 words are two whole tiles and a part."""
    for measure in (CVaR(0.05), Spectral((0.5, 0.02), (0.5, 0.5)), Entropic()):
        assert_same(make_problem(6, 7, words, dtype, bias=False), measure, logits_per_tile=words)


def test_equals_dense_on_two_threads():
    """70 tokens of 9,001 words are three blocks, which two threads share; PyTorch's number of threads comes back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(make_problem(70, 7, 9001), CVaR(0.05))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("tokens", [1, 7, 13, 100])
def test_equals_dense_at_every_tile_size(tokens):
    assert_same(make_problem(13, 5, 17), CVaR(0.2), logits_per_tile=17 * tokens)


@pytest.mark.parametrize("gradients", GRADIENTS)
def test_equals_dense_when_the_backward_takes_tokens_by_turns(gradients, monkeypatch):
    """Tokens are ordered by what they need, so tiles of 3 of 13 tokens begin and end within each kind."""
    monkeypatch.setattr(tiled, "TOKENS_PER_TILE", 3)
    assert_same(make_problem(13, 5, 17), CVaR(0.2), gradients)


def test_no_gradient_is_zero_not_what_was_in_memory():
    problem = make_problem(13, 5, 4099)
    s = tiled_token_statistics(*problem, CVaR(0.2))
    leaves = problem[0], problem[1].weight, problem[1].bias
    for gradient in torch.autograd.grad((s.log_probs, s.risk), leaves, [torch.zeros(13).to(s.risk)] * 2):
        assert not gradient.any()


def test_a_second_backward_leaves_the_first_one_s_gradient_alone():
    """The forward's tiles of 2 tokens lie in the memory of the gradient of 17 · 5 numbers."""
    problem = make_problem(13, 5, 17)
    s = tiled_token_statistics(*problem, CVaR(0.2), logits_per_tile=2 * 17)
    first, second = (torch.autograd.grad(x.sum(), problem[1].weight, retain_graph=True)[0] for x in (s.risk, s.risk))
    kept = first.clone()
    third = torch.autograd.grad(-2 * s.risk.sum(), problem[1].weight)[0]
    assert torch.equal(first, kept) and torch.equal(first, second) and torch.equal(-2 * first, third)


def test_reference_may_have_another_width():
    assert_same(make_problem(11, 5, 17, h_ref=9), CVaR(0.2))


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_one_token_and_one_word(measure):
    assert_same(make_problem(1, 5, 17), measure)
    *problem, _ = make_problem(5, 3, 1)
    s = tiled_token_statistics(*problem, torch.zeros(5, dtype=torch.long), measure)
    assert not s.risk.any() and not s.log_probs.any() and s.is_top1.all()


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_no_tokens_give_zero_gradients(measure):
    """A micro-batch whose every row is masked must still take part in the backward."""
    hidden, head, *reference = make_problem(0, 5, 17)
    statistics = tiled_token_statistics(hidden, head, *reference, measure)
    assert all(x.shape == (0,) for x in statistics)
    (statistics.risk.sum() + statistics.log_probs.sum()).backward()
    assert hidden.grad.shape == (0, 5) and not head.weight.grad.any() and not head.bias.grad.any()


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_equal_models_have_no_risk(measure):
    """At π = π_ref all losses are exactly 0 and tied: no risk, and the tilted law is p, so that its gradient is 0."""
    hidden, head, _, _, labels = make_problem(9, 5, 123, torch.float32)
    s = tiled_token_statistics(hidden, head, hidden.detach(), head, labels, measure)
    assert not s.risk.any() and not s.kl.any()
    s.risk.sum().backward()
    for leaf in (hidden, head.weight, head.bias):
        assert leaf.grad.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_ties(measure, dtype):
    """Losses on a lattice of three values: logits −1, 0 or 1 apart, so that each quantile lies on a heavy atom."""
    generator = torch.Generator().manual_seed(0)
    logits, steps = torch.randn(7, 123, generator=generator), torch.randint(-1, 2, (7, 123), generator=generator)
    # Hidden states are one-hot, so the head's columns are the logits.
    hidden = torch.eye(7, dtype=dtype).requires_grad_()
    head = Head((logits + steps).T.to(dtype).contiguous().requires_grad_())
    problem = hidden, head, torch.eye(7, dtype=dtype), Head(logits.T.to(dtype).contiguous()), torch.arange(7)
    assert_same(problem, measure)


def test_cvar_splits_the_atom_in_proportion_to_p():
    """p = (.5, .25, .25), losses (0, a, a), tail .1: q = (0, .5, .5), each half of the atom; ∂ρ/∂v = π − q.

    The policy is π ∝ p·(1, e^−1, e^−1), so π = (.5, .092, .092)/.684 = (.731, .134, .134).
    """
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    weight = (p - torch.tensor([0.0, 1.0, 1.0])).unsqueeze(1).requires_grad_()
    one, label = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
    tiled_token_statistics(one, Head(weight), one, Head(p.unsqueeze(1)), label, CVaR(0.1)).risk.sum().backward()
    torch.testing.assert_close(weight.grad.squeeze(1).tolist(), [0.7311, -0.3655, -0.3655], atol=1e-4, rtol=0)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_impossible_words(measure):
    """Two words have logit −inf in both models, one more in the reference only: no loss, no gradient, no NaN."""
    hidden, head, ref_hidden, ref_head, labels = make_problem(9, 5, 17)
    with torch.no_grad():
        head.bias[:2] = -torch.inf
        ref_head.bias[:3] = -torch.inf
    labels = labels.clamp(min=3)
    assert_same((hidden, head, ref_hidden, ref_head, labels), measure)
    s = tiled_token_statistics(hidden, head, ref_hidden, ref_head, labels, measure)
    (s.risk.sum() + 2 * s.log_probs.sum()).backward()
    assert hidden.grad.isfinite().all() and head.bias.grad[:2].eq(0).all()


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_words_that_only_the_policy_rules_out(measure):
    """A possible word of loss +∞: its risk and KL are infinite, and say so."""
    *problem, labels = make_problem(9, 5, 17)
    with torch.no_grad():
        problem[1].bias[2] = -torch.inf
    s = tiled_token_statistics(*problem, labels.clamp(min=3), measure)
    dense = dense_token_statistics(*problem, labels.clamp(min=3), measure)
    assert torch.equal(s.risk, dense.risk) and s.risk.eq(torch.inf).all() and s.kl.eq(torch.inf).all()
    assert s.log_probs.isfinite().all() and s.entropy.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_extreme_logits(measure, dtype):
    """Logits of ±1e4, of which a float32 has 1e-3 and a difference 1e-7 of itself: as dense, and no NaN."""
    hidden, head, ref_hidden, ref_head, labels = make_problem(9, 5, 123, dtype, bias=False)
    with torch.no_grad():
        head.weight[::2] *= 2500.0
        ref_head.weight[1::2] *= 2500.0
    dense = dense_token_statistics(hidden, head, ref_hidden, ref_head, labels, measure)
    tiled = tiled_token_statistics(hidden, head, ref_hidden, ref_head, labels, measure)
    assert dense.risk.abs().max() > 1e3
    for got, wanted in zip(tiled[:-1], dense[:-1], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-5)
    (tiled.risk.sum() + 2 * tiled.log_probs.sum()).backward()
    assert hidden.grad.isfinite().all() and head.weight.grad.isfinite().all()


def test_what_is_not_a_number_stays_visible():
    hidden, *problem = make_problem(3, 5, 17)
    s = tiled_token_statistics(hidden.detach().index_fill(0, torch.tensor([1]), torch.nan), *problem, CVaR())
    for x in (s.log_probs, s.risk, s.kl, s.entropy):
        assert x.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("measure", [m for m in MEASURES if m != CVaR(1e-30)], ids=str)
def test_gradcheck(measure):
    """Analytic against numeric derivatives in float64, in both outputs and all three inputs, away from ties."""
    hidden, head, ref_hidden, ref_head, labels = make_problem(5, 3, 7, softcap=5.0, scale=0.5)

    def outputs(hidden, weight, bias):
        policy = Head(weight, bias, 0.5, 5.0)
        s = tiled_token_statistics(hidden, policy, ref_hidden, ref_head, labels, measure, logits_per_tile=14)
        return s.log_probs, s.risk

    assert torch.autograd.gradcheck(outputs, (hidden, head.weight, head.bias), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("frozen", ["hidden", "head", "all"])
def test_frozen_parts_get_no_gradient(frozen):
    """With LoRA the head is frozen; in evaluation nothing needs a gradient."""
    hidden, head, *reference = make_problem(9, 5, 17)
    parts = [hidden, head.weight, head.bias]
    for i, part in enumerate(parts):
        part.requires_grad_(frozen == ("head" if i == 0 else "hidden"))
    s = tiled_token_statistics(hidden, head, *reference, CVaR())
    assert s.risk.requires_grad == (frozen != "all") and not s.kl.requires_grad
    if frozen != "all":
        (s.risk.sum() + s.log_probs.sum()).backward()
        assert [part.grad is not None for part in parts] == [part.requires_grad for part in parts]


def test_half_precision_under_autocast():
    """Autocast rounds operands only where a device multiplies them into float32; a CPU computes in float32."""
    problem = make_problem(9, 5, 17, torch.float32)
    plain = tiled_token_statistics(*problem, CVaR())
    with torch.autocast("cpu", torch.bfloat16):
        cast = tiled_token_statistics(*problem, CVaR())
    for got, wanted in zip(cast, plain, strict=True):
        assert torch.equal(got, wanted)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor))])
        return result


def test_never_holds_all_logits():
    """200 tokens, 4,096 words, tiles of 16: no tensor above a tile and the 2 bits a word, of 819,200 logits in all."""
    problem = make_problem(200, 8, 4096, torch.float32)
    with Largest() as largest:
        s = tiled_token_statistics(*problem, CVaR(), logits_per_tile=16 * 4096)
        forward = largest.numel
        (s.risk.sum() + 2 * s.log_probs.sum()).backward()
    assert forward <= max(2 * 16 * 4096, 200 * 4096 // 4, 16 * 8192)
    assert largest.numel <= 200 * 4096  # as many as a tile of one packed group must have


def test_a_users_own_measure_takes_dense_chunks():
    """Even one derived from ours: it may compute something else."""

    class Mine(CVaR):
        pass

    with pytest.raises(TypeError, match="knows only"):
        tiled_token_statistics(*make_problem(3, 5, 17), Mine())
    assert _kernel(CVaR()) is tiled_token_statistics
    assert _kernel(Mine()).__name__ == "chunked_token_statistics"
