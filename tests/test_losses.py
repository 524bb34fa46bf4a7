"""The RSA losses by hand, and against the published formulas of the methods that they contain."""

import ast
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import trl_rsa.losses
from trl_rsa.losses import LINKS, preference_loss, rsa1_loss, rsa2_loss
from trl_rsa.risk import CVaR, Expectation


BETA = 0.3


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# Two pairs. First: u = 2 − (−1) = 3, risks .5 and .25. Second: u = −1 − 1 = −2, risks 0 and 2.
LOGRATIOS = {"chosen_logratios": _tensor(2, -1), "rejected_logratios": _tensor(-1, 1)}
RISKS = {"chosen_risk": _tensor(0.5, 0), "rejected_risk": _tensor(0.25, 2)}
BATCH = LOGRATIOS | RISKS


def test_rsa1_by_hand():
    """z = 2·(3 + .5 − .25) = 6.5 and 2·(−2 + 0 − 2) = −8."""
    loss = rsa1_loss(**BATCH, beta=2.0)
    assert loss.tolist() == pytest.approx([-math.log(_sigmoid(6.5)), -math.log(_sigmoid(-8))], abs=1e-12)


def test_rsa2_by_hand():
    """α = ½: z = 2·(3 − ½(.25 − .5)) = 6.25 and 2·(−2 − ½(2 − 0)) = −6."""
    loss = rsa2_loss(**BATCH, beta=2.0, alpha=0.5)
    assert loss.tolist() == pytest.approx([-math.log(_sigmoid(6.25)), -math.log(_sigmoid(-6))], abs=1e-12)


def test_label_smoothing_by_hand():
    """ε = ¼: ¾·L(z) + ¼·L(−z) at the margins above."""

    def smoothed(z: float) -> float:
        return -0.75 * math.log(_sigmoid(z)) - 0.25 * math.log(_sigmoid(-z))

    loss = rsa1_loss(**BATCH, beta=2.0, label_smoothing=0.25)
    assert loss.tolist() == pytest.approx([smoothed(6.5), smoothed(-8)], abs=1e-12)
    loss = rsa2_loss(**BATCH, beta=2.0, alpha=0.5, label_smoothing=0.25)
    assert loss.tolist() == pytest.approx([smoothed(6.25), smoothed(-6)], abs=1e-12)


# Links


def test_hinge_by_hand():
    """β = .2. RSA-1's margins are 3.25 and −4: 1 − .65 and 1 + .8. RSA-2's at α = ½, 3.125 and −3: 1 − .625, 1 + .6.
    At β = .5 the first is beyond 1, and costs nothing.
    """
    assert rsa1_loss(**BATCH, beta=0.2, link="hinge").tolist() == pytest.approx([0.35, 1.8], abs=1e-12)
    assert rsa2_loss(**BATCH, beta=0.2, alpha=0.5, link="hinge").tolist() == pytest.approx([0.375, 1.6], abs=1e-12)
    assert rsa1_loss(**BATCH, beta=0.5, link="hinge").tolist() == pytest.approx([0, 3], abs=1e-12)


def test_ipo_by_hand():
    """β = .2 aims at 1/(2β) = 2.5: (3.25 − 2.5)² and (−4 − 2.5)²; RSA-2: (3.125 − 2.5)² and (−3 − 2.5)²."""
    assert rsa1_loss(**BATCH, beta=0.2, link="ipo").tolist() == pytest.approx([0.5625, 42.25], abs=1e-12)
    loss = rsa2_loss(**BATCH, beta=0.2, alpha=0.5, link="ipo")
    assert loss.tolist() == pytest.approx([0.390625, 30.25], abs=1e-12)


def test_robust_by_hand():
    """ε = ¼: (¾·L(z) − ¼·L(−z))/½ = 1.5·L(z) − ½·L(−z), at z = 6.5 and −8. At ε = 0 it is the sigmoid."""

    def robust(z: float) -> float:
        return -1.5 * math.log(_sigmoid(z)) + 0.5 * math.log(_sigmoid(-z))

    loss = rsa1_loss(**BATCH, beta=2.0, label_smoothing=0.25, link="robust")
    assert loss.tolist() == pytest.approx([robust(6.5), robust(-8)], abs=1e-12)
    assert torch.equal(rsa1_loss(**BATCH, beta=2.0, link="robust"), rsa1_loss(**BATCH, beta=2.0))


@pytest.mark.parametrize("link", ["hinge", "ipo", "sigmoid"])
def test_smoothed_and_soft_labels_by_hand(link):
    """A label of .9 that is flipped with probability ¼: p = .9·¾ + .1·¼ = .7."""
    m = _tensor(0.4)
    forward, backward = (preference_loss(sign * m, 0.5, link=link) for sign in (1, -1))
    loss = preference_loss(m, 0.5, 0.25, link, pair_label=_tensor(0.9))
    torch.testing.assert_close(loss, 0.7 * forward + 0.3 * backward, rtol=0, atol=1e-12)


def test_robust_takes_back_what_smoothing_did():
    """A true label of .6, of which flips with ε = .2 leave .6·.8 + .4·.2 = .56: the robust loss at .56 is the loss at
    .6. So its mean over flipped labels is the loss of the true one.
    """
    m = _tensor(1.3, -0.2)
    robust = preference_loss(m, 0.7, 0.2, "robust", pair_label=_tensor(0.56, 0.56))
    torch.testing.assert_close(robust, preference_loss(m, 0.7, pair_label=_tensor(0.6, 0.6)), rtol=0, atol=1e-12)
    flips = 0.8 * preference_loss(m, 0.7, 0.2, "robust") + 0.2 * preference_loss(-m, 0.7, 0.2, "robust")
    torch.testing.assert_close(flips, preference_loss(m, 0.7), rtol=0, atol=1e-12)


def test_the_risk_of_the_chosen_answer_has_no_gradient_in_rsa2_whatever_the_link():
    for link in LINKS:
        batch = {name: value.clone().requires_grad_() for name, value in BATCH.items()}
        rsa2_loss(**batch, beta=0.2, alpha=0.5, link=link).sum().backward()
        assert batch["chosen_risk"].grad is None
        assert batch["rejected_risk"].grad[1] != 0


def test_unknown_link():
    with pytest.raises(ValueError, match=r"You set link='probit', which does not exist\. Set it to one of sigmoid"):
        rsa1_loss(**BATCH, beta=1.0, link="probit")


@pytest.mark.parametrize(("loss_fn", "weights"), [(rsa1_loss, {}), (rsa2_loss, {"alpha": 0.5})])
def test_no_reduction(loss_fn, weights):
    """One loss per pair, of the pair's own numbers only; in the arguments' dtype; an empty batch is empty."""
    together = loss_fn(**BATCH, beta=BETA, **weights)
    assert together.shape == (2,)
    for i in range(2):
        alone = loss_fn(**{name: value[i : i + 1] for name, value in BATCH.items()}, beta=BETA, **weights)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=0)
    assert loss_fn(**{name: value[:0] for name, value in BATCH.items()}, beta=BETA, **weights).shape == (0,)
    assert (
        loss_fn(**{name: value.float() for name, value in BATCH.items()}, beta=BETA, **weights).dtype == torch.float32
    )


@pytest.mark.parametrize(("loss_fn", "weights"), [(rsa1_loss, {}), (rsa2_loss, {"alpha": 0.5})])
def test_large_margins_neither_overflow_nor_lose_their_gradient(loss_fn, weights):
    """−log σ(−1000) = 1000, with slope −1 in z."""
    u = torch.tensor([-1000.0], requires_grad=True)
    zero = torch.zeros(1)
    loss = loss_fn(u, zero, zero, zero, beta=1.0, **weights)
    loss.sum().backward()
    assert (loss.item(), u.grad.item()) == (1000.0, -1.0)


def test_tensor_label_smoothing_is_a_soft_label():
    """The loss is the cross-entropy of Bernoulli(1 − ε) under σ(z), pair by pair, least where σ(z) = 1 − ε."""
    epsilon = _tensor(0.1, 0.8)
    z = BETA * _tensor(3.25, -4)
    expected = F.binary_cross_entropy_with_logits(z, 1 - epsilon, reduction="none")
    torch.testing.assert_close(rsa1_loss(**BATCH, beta=BETA, label_smoothing=epsilon), expected)

    u = (torch.log((1 - epsilon) / epsilon) / BETA).requires_grad_()
    zero = torch.zeros_like(u)
    for loss in (
        rsa1_loss(u, zero, zero, zero, BETA, label_smoothing=epsilon),
        rsa2_loss(u, zero, zero, zero, BETA, alpha=0.5, label_smoothing=epsilon),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), u)
        torch.testing.assert_close(gradient, zero, rtol=0, atol=1e-15)


def test_equal_scalar_and_tensor_label_smoothing():
    scalar = rsa2_loss(**BATCH, beta=BETA, alpha=0.5, label_smoothing=0.2)
    torch.testing.assert_close(
        rsa2_loss(**BATCH, beta=BETA, alpha=0.5, label_smoothing=_tensor(0.2, 0.2)), scalar, rtol=0, atol=0
    )


def test_swapping_the_pair_flips_the_label():
    """ε = 1 is the pair with its answers exchanged."""
    swapped = {
        "chosen_logratios": LOGRATIOS["rejected_logratios"],
        "rejected_logratios": LOGRATIOS["chosen_logratios"],
        "chosen_risk": RISKS["rejected_risk"],
        "rejected_risk": RISKS["chosen_risk"],
    }
    torch.testing.assert_close(rsa1_loss(**BATCH, beta=BETA, label_smoothing=1.0), rsa1_loss(**swapped, beta=BETA))


def _pairs(seed: int = 0) -> dict[str, torch.Tensor]:
    """Three random pairs over V = 6, four tokens each: logits of policy and reference, the tokens and a mask."""
    generator = torch.Generator().manual_seed(seed)

    def logits() -> torch.Tensor:
        return torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)

    return {
        "chosen": logits(),
        "rejected": logits(),
        "ref_chosen": logits().log_softmax(-1),
        "ref_rejected": logits().log_softmax(-1),
        "chosen_ids": torch.randint(6, (3, 4), generator=generator),
        "rejected_ids": torch.randint(6, (3, 4), generator=generator),
        "mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.float64),
    }


def _statistics(pairs: dict[str, torch.Tensor], side: str, measure) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_t ℓ_t and Σ_t ρ(X_t) over the unmasked tokens."""
    ref = pairs[f"ref_{side}"]
    logratios = pairs[side].log_softmax(-1) - ref
    picked = logratios.gather(-1, pairs[f"{side}_ids"].unsqueeze(-1)).squeeze(-1)
    return (picked * pairs["mask"]).sum(-1), (measure(-logratios, ref) * pairs["mask"]).sum(-1)


def _rsa(loss_fn, measure, pairs: dict[str, torch.Tensor], **weights: float) -> torch.Tensor:
    chosen_logratios, chosen_risk = _statistics(pairs, "chosen", measure)
    rejected_logratios, rejected_risk = _statistics(pairs, "rejected", measure)
    return loss_fn(chosen_logratios, rejected_logratios, chosen_risk, rejected_risk, BETA, **weights)


def _log_prob(pairs: dict[str, torch.Tensor], side: str, who: str) -> torch.Tensor:
    """log of the probability of the whole response, as the product of its tokens' probabilities."""
    p = pairs[who].softmax(-1).gather(-1, pairs[f"{side}_ids"].unsqueeze(-1)).squeeze(-1)
    return torch.where(pairs["mask"] > 0, p, 1.0).prod(-1).log()


def _sequential_kl(pairs: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """D_SeqKL(x, y; π_ref‖π) = Σ_t KL(π_ref(·|s_t)‖π(·|s_t)), TDPO's definition."""
    terms = F.kl_div(pairs[side].log_softmax(-1), pairs[f"ref_{side}"], log_target=True, reduction="none")
    return (terms.sum(-1) * pairs["mask"]).sum(-1)


def _dpo_margin(pairs: dict[str, torch.Tensor]) -> torch.Tensor:
    """β log π(y_w)/π_ref(y_w) − β log π(y_l)/π_ref(y_l), DPO's and TDPO's u."""
    chosen = _log_prob(pairs, "chosen", "chosen") - _log_prob(pairs, "chosen", "ref_chosen")
    return BETA * (chosen - _log_prob(pairs, "rejected", "rejected") + _log_prob(pairs, "rejected", "ref_rejected"))


def _tdpo1(pairs: dict[str, torch.Tensor]) -> torch.Tensor:
    """−log σ(u − δ), δ = β D_SeqKL(y_l) − β D_SeqKL(y_w)."""
    delta = BETA * _sequential_kl(pairs, "rejected") - BETA * _sequential_kl(pairs, "chosen")
    return -torch.log(torch.sigmoid(_dpo_margin(pairs) - delta))


def _tdpo2(pairs: dict[str, torch.Tensor], alpha: float) -> torch.Tensor:
    """−log σ(u − αδ₂), δ₂ = β D_SeqKL(y_l) − sg(β D_SeqKL(y_w))."""
    delta = BETA * _sequential_kl(pairs, "rejected") - (BETA * _sequential_kl(pairs, "chosen")).detach()
    return -torch.log(torch.sigmoid(_dpo_margin(pairs) - alpha * delta))


def _dpo(pairs: dict[str, torch.Tensor]) -> torch.Tensor:
    """−log σ(u)."""
    return -torch.log(torch.sigmoid(_dpo_margin(pairs)))


def _assert_same_loss_and_gradient(ours, published) -> None:
    """Losses and gradients in the logits of both responses, of two functions of `_pairs()`."""
    results = []
    for loss_fn in (ours, published):
        pairs = _pairs()
        logits = [pairs["chosen"].requires_grad_(), pairs["rejected"].requires_grad_()]
        loss = loss_fn(pairs)
        results.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_alpha_zero_is_dpo():
    _assert_same_loss_and_gradient(lambda pairs: _rsa(rsa2_loss, CVaR(tail=0.1), pairs, alpha=0.0), _dpo)


def test_no_risk_is_dpo():
    """At ρ = 0 RSA-1 is DPO too."""
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(
        rsa1_loss(**LOGRATIOS, chosen_risk=zero, rejected_risk=zero, beta=BETA), -F.logsigmoid(BETA * _tensor(3, -2))
    )


def test_rsa1_with_the_expectation_is_tdpo1():
    _assert_same_loss_and_gradient(lambda pairs: _rsa(rsa1_loss, Expectation(), pairs), _tdpo1)


def test_rsa2_with_the_expectation_is_tdpo2():
    _assert_same_loss_and_gradient(
        lambda pairs: _rsa(rsa2_loss, Expectation(), pairs, alpha=0.5), lambda pairs: _tdpo2(pairs, 0.5)
    )


def test_tdpo1_and_tdpo2_are_told_apart():
    """With α = 1 they agree in value and differ in gradient: the comparison above can fail."""
    torch.testing.assert_close(_tdpo1(_pairs()), _tdpo2(_pairs(), 1.0))
    with pytest.raises(AssertionError):
        _assert_same_loss_and_gradient(_tdpo1, lambda pairs: _tdpo2(pairs, 1.0))


def test_rsa2_stops_the_gradient_at_the_chosen_risk():
    """∂L/∂rejected_risk = (1 − σ(z))·β·α; the chosen risk counts in the value, not in the gradient."""
    batch = {name: value.clone().requires_grad_() for name, value in BATCH.items()}
    rsa2_loss(**batch, beta=2.0, alpha=0.5).sum().backward()
    assert batch["chosen_risk"].grad is None
    residual = torch.sigmoid(-_tensor(6.25, -6))
    torch.testing.assert_close(batch["rejected_risk"].grad, residual * 2.0 * 0.5)
    torch.testing.assert_close(batch["chosen_logratios"].grad, -residual * 2.0)
    torch.testing.assert_close(batch["rejected_logratios"].grad, residual * 2.0)


def test_rsa1_sends_gradient_into_both_risks():
    """∂L/∂z = −(1 − σ(z)): −β on the chosen risk, +β on the rejected one."""
    batch = {name: value.clone().requires_grad_() for name, value in BATCH.items()}
    rsa1_loss(**batch, beta=2.0).sum().backward()
    residual = torch.sigmoid(-_tensor(6.5, -8))
    torch.testing.assert_close(batch["chosen_risk"].grad, -residual * 2.0)
    torch.testing.assert_close(batch["rejected_risk"].grad, residual * 2.0)


def test_losses_can_be_lifted_out():
    """The module imports torch and nothing else, and runs as a text of its own."""
    source = Path(trl_rsa.losses.__file__).read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported == {"torch"}
    lifted: dict = {}
    exec(compile(source, "lifted", "exec"), lifted)
    torch.testing.assert_close(lifted["rsa1_loss"](**BATCH, beta=BETA), rsa1_loss(**BATCH, beta=BETA))
