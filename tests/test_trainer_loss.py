"""The loss that RSATrainer trains on, against formulas written out from the models' own logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.risk import CVaR, Expectation


@pytest.fixture
def make_trainer(tiny_model_path, other_tiny_model_path, preference_dataset, tiny_args, tiny_tokenizer):
    """`make_trainer(dataset=…, own_measure=…, **arguments)`: the policy is far from its reference."""

    def make(dataset=preference_dataset, own_measure=None, same=False, **arguments):
        trainer = RSATrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model_path),
            ref_model=AutoModelForCausalLM.from_pretrained(tiny_model_path if same else other_tiny_model_path),
            args=RSAConfig(**tiny_args(**({"beta": 0.3} | arguments))),
            train_dataset=dataset,
            processing_class=tiny_tokenizer,
            risk_measure=own_measure,
        )
        trainer.model.train()
        return trainer

    return make


def first_pairs(trainer, n=4):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(n)])


def loss_and_gradients(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


class Oracle:
    """Answer by answer and token by token, in float64, from the logits of models that nobody has patched."""

    def __init__(self, path, ref_path):
        self.policy, self.reference = (
            AutoModelForCausalLM.from_pretrained(p).double().eval() for p in (path, ref_path)
        )

    def answers(self, batch, risk):
        """Log-ratio and Σ_t risk(log π, log π_ref) of every answer in the batch."""
        logratios, risks = [], []
        for ids, attended, completion in zip(*(batch[k] for k in KEYS), strict=True):
            ids = ids[attended == 1]
            log_pi = self.policy(ids[None]).logits[0].log_softmax(-1)
            ref_log_pi = self.reference(ids[None]).logits[0].log_softmax(-1).detach()
            positions = [t for t in range(1, len(ids)) if completion[t]]
            logratios.append(sum(log_pi[t - 1, ids[t]] - ref_log_pi[t - 1, ids[t]] for t in positions))
            risks.append(sum(risk(log_pi[t - 1], ref_log_pi[t - 1]) for t in positions))
        return torch.stack(logratios).chunk(2), torch.stack(risks).chunk(2)

    def loss_and_gradients(self, batch, risk, margin):
        self.policy.zero_grad()
        logratios, risks = self.answers(batch, risk)
        loss = -F.logsigmoid(margin(*logratios, *risks)).mean()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in self.policy.named_parameters()}


KEYS = ("input_ids", "attention_mask", "completion_mask")


@pytest.fixture(scope="module")
def oracle(tiny_model_path, other_tiny_model_path):
    return Oracle(tiny_model_path, other_tiny_model_path)


def forward_kl(log_pi, ref_log_pi):
    return (ref_log_pi.exp() * (ref_log_pi - log_pi)).sum()


def entropic(log_pi, ref_log_pi):
    """(1/θ)·log Σ p·e^{θX} with θ = 2, X = log p − log π: half the log of Σ p³/π²."""
    return (3 * ref_log_pi - 2 * log_pi).logsumexp(-1) / 2


def assert_equal(got, expected):
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    for name, grad in expected[1].items():
        tolerance = 2e-5 * max(1.0, float(grad.abs().max()))
        torch.testing.assert_close(got[1][name].double(), grad, atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)


# Zeng et al. (2024): TDPO1's z = β·[u − (SeqKL(l) − SeqKL(w))], TDPO2's z = β·[u − α·(SeqKL(l) − sg SeqKL(w))].
LOSSES = {
    "tdpo1": (
        {"loss_type": "rsa1", "risk_measure": "expectation"},
        forward_kl,
        lambda w, l, kl_w, kl_l: 0.3 * ((w - l) - (kl_l - kl_w)),  # noqa: E741
    ),
    "tdpo2": (
        {"loss_type": "rsa2", "risk_measure": "expectation", "risk_alpha": 0.7},
        forward_kl,
        lambda w, l, kl_w, kl_l: 0.3 * ((w - l) - 0.7 * (kl_l - kl_w.detach())),  # noqa: E741
    ),
    "rsa1": (
        {"loss_type": "rsa1", "risk_measure": "entropic", "risk_theta": 2.0},
        entropic,
        lambda w, l, risk_w, risk_l: 0.3 * ((w + risk_w) - (l + risk_l)),  # noqa: E741
    ),
    "rsa2": (
        {"loss_type": "rsa2", "risk_measure": "entropic", "risk_theta": 2.0},
        entropic,
        lambda w, l, risk_w, risk_l: 0.3 * (w - l - 0.5 * (risk_l - risk_w.detach())),  # noqa: E741
    ),
    # λ = 4: the temperature is a quarter.
    "multiplier": (
        {"loss_type": "rsa1", "risk_measure": "expectation", "beta": 1.2, "constraint_multiplier": 4.0},
        forward_kl,
        lambda w, l, kl_w, kl_l: 0.3 * ((w + kl_w) - (l + kl_l)),  # noqa: E741
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_formula(make_trainer, oracle, name):
    arguments, risk, margin = LOSSES[name]
    trainer = make_trainer(**arguments)
    batch = first_pairs(trainer)
    assert_equal(loss_and_gradients(trainer, batch), oracle.loss_and_gradients(batch, risk, margin))


@pytest.mark.parametrize("loss_type", ["rsa1", "rsa2"])
def test_ipo_link_is_per_token(make_trainer, oracle, loss_type):
    """β = .3 aims at 1/.6. An answer's log-ratio and risk are divided by its own tokens, the end of sequence among
    them; in RSA-2 (α = ½) the chosen answer's risk has no gradient.
    """
    trainer = make_trainer(loss_type=loss_type, link="ipo", risk_theta=2.0)
    batch = first_pairs(trainer)
    oracle.policy.zero_grad()
    (chosen, rejected), (chosen_risk, rejected_risk) = oracle.answers(batch, entropic)
    tokens, rejected_tokens = batch["completion_mask"].sum(1).chunk(2)
    assert not torch.equal(tokens, rejected_tokens)
    if loss_type == "rsa1":
        margin = (chosen + chosen_risk) / tokens - (rejected + rejected_risk) / rejected_tokens
    else:
        margin = (chosen + chosen_risk.detach() / 2) / tokens - (rejected + rejected_risk / 2) / rejected_tokens
    loss = ((margin - 1 / 0.6) ** 2).mean()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in oracle.policy.named_parameters()}
    assert_equal(loss_and_gradients(trainer, batch), (loss.item(), gradients))


@pytest.mark.parametrize("link", ["hinge", "robust"])
def test_links_of_the_whole_answer(make_trainer, oracle, link):
    """β = .3, z = .3·m: max(0, 1 − z), and, at ε = .1, (.9·L(z) − .1·L(−z))/.8."""
    trainer = make_trainer(loss_type="rsa1", link=link, risk_theta=2.0, label_smoothing=0.1 if link == "robust" else 0)
    batch = first_pairs(trainer)
    with torch.no_grad():
        (chosen, rejected), (chosen_risk, rejected_risk) = oracle.answers(batch, entropic)
    z = 0.3 * ((chosen + chosen_risk) - (rejected + rejected_risk))
    if link == "hinge":
        expected = (1 - z).clamp(min=0)
    else:
        expected = (-0.9 * F.logsigmoid(z) + 0.1 * F.logsigmoid(-z)) / 0.8
    assert loss_and_gradients(trainer, batch)[0] == pytest.approx(expected.mean().item(), rel=1e-5)


def test_metrics_are_sums_over_an_answer(make_trainer, oracle):
    trainer = make_trainer(loss_type="rsa1", risk_theta=2.0, constraint_multiplier=2.0)
    trainer.model.eval()
    batch = first_pairs(trainer)
    trainer.compute_loss(trainer.model, batch)
    (chosen, rejected), (chosen_risk, rejected_risk) = oracle.answers(batch, entropic)
    _, (chosen_kl, rejected_kl) = oracle.answers(batch, forward_kl)
    expected = {
        "rewards/chosen": 0.15 * chosen,
        "rewards/rejected": 0.15 * rejected,
        "rewards/margins": 0.15 * (chosen - rejected),
        "rewards/accuracies": (chosen > rejected).double(),
        "risk/chosen": chosen_risk,
        "risk/rejected": rejected_risk,
        "risk/margins": chosen_risk - rejected_risk,
        "kl/chosen": chosen_kl,
        "kl/rejected": rejected_kl,
    }
    logged = {name: values for name, values in trainer._metrics["eval"].items() if name in expected}
    assert logged == {
        name: [pytest.approx(value.mean().item(), rel=1e-5, abs=1e-5)] for name, value in expected.items()
    }


class Halfway:
    """A user's own measure: halfway between the mean and the worst tenth."""

    def __call__(self, x, log_p):
        return (Expectation()(x, log_p) + CVaR(0.1)(x, log_p)) / 2

    def tilt(self, x, log_p):
        return (Expectation().tilt(x, log_p) + CVaR(0.1).tilt(x, log_p)) / 2


def test_own_measure_takes_precedence(make_trainer):
    """Halfway between mean and CVaR is MeanCVaR with weight ½; the named measure is not used."""
    own = make_trainer(own_measure=Halfway())
    named = make_trainer(risk_measure="mean_cvar", risk_tail=0.1, risk_weight=0.5)
    batch = first_pairs(own)
    got, expected = loss_and_gradients(own, batch), loss_and_gradients(named, batch)
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    for name, grad in expected[1].items():
        torch.testing.assert_close(got[1][name], grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("measure", ["expectation", "cvar", "entropic", "spectral", "upper_semideviation"])
def test_before_the_first_step_nothing_has_drifted(make_trainer, measure):
    tails = {"risk_tails": [0.5, 0.1], "risk_weights": [0.5, 0.5]} if measure == "spectral" else {}
    trainer = make_trainer(same=True, risk_measure=measure, **tails)
    loss = trainer.compute_loss(trainer.model, first_pairs(trainer))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    drift = {
        name: v for name, v in trainer._metrics["train"].items() if name.split("/")[0] in ("risk", "kl", "rewards")
    }
    assert len(drift) == 10 and all(value == [0.0] for value in drift.values())


def test_before_the_first_step_nothing_has_drifted_with_lora(tiny_model_path, preference_dataset, tiny_args):
    trainer = RSATrainer(
        model=tiny_model_path,
        args=RSAConfig(**tiny_args()),
        train_dataset=preference_dataset,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    trainer.model.train()
    trainer.compute_loss(trainer.model, first_pairs(trainer))
    assert trainer.ref_model is None
    assert all(trainer._metrics["train"][name] == [0.0] for name in ("risk/chosen", "risk/max_token", "kl/rejected"))


# Labels and weights


def one_pair(trainer, **columns):
    """The loss of the first pair alone, and its z = β·[u + SRR(y_w) − SRR(y_l)] from the metrics."""
    trainer._metrics["train"].clear()
    row = trainer.train_dataset[0]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator([{**row, **columns}])).item()
    metrics = trainer._metrics["train"]
    return loss, metrics["rewards/margins"][0] + trainer.beta * metrics["risk/margins"][0]


def negative_log_sigmoid(z):
    return math.log1p(math.exp(-z))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("label", [None, 1.0, 0.75, 0.5, 0.0])
def test_soft_label(make_trainer, label, smoothing):
    """label·L(z) + (1 − label)·L(−z), whose labels are then flipped with probability ε.

    label 0.75, ε 0.2: chosen is preferred with probability 0.75·0.8 + 0.25·0.2 = 0.65.
    """
    trainer = make_trainer(loss_type="rsa1", label_smoothing=smoothing)
    loss, z = one_pair(trainer, **({} if label is None else {"pair_label": label}))
    label = 1.0 if label is None else label
    p = label * (1 - smoothing) + (1 - label) * smoothing
    assert abs(z) > 0.1
    assert loss == pytest.approx(p * negative_log_sigmoid(z) + (1 - p) * negative_log_sigmoid(-z), rel=1e-5)


def test_label_zero_is_the_pair_swapped(make_trainer, make_preference_dataset):
    pairs = make_preference_dataset(4, pair_label=[0.0] * 4)
    swapped = pairs.remove_columns("pair_label").rename_columns({"chosen": "rejected", "rejected": "chosen"})
    a, b = (make_trainer(dataset=d, loss_type="rsa1") for d in (pairs, swapped))
    got, expected = loss_and_gradients(a, first_pairs(a)), loss_and_gradients(b, first_pairs(b))
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    for name, grad in expected[1].items():
        torch.testing.assert_close(got[1][name], grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss_type", [["rsa1"], ["rsa2"], ["rsa1", "sft"]], ids="+".join)
def test_pair_of_weight_zero_has_no_influence(make_trainer, make_preference_dataset, loss_type):
    """Two batches that differ in one pair, whose weight is 0: same loss, same gradients. The answers of that pair have
    the same length, because 'sft' divides by the number of tokens.
    """
    pairs = make_preference_dataset(4, pair_weight=[1.0, 0.0, 1.0, 2.0])

    def other_answer(row, i):
        return {"chosen": row["chosen"] if i != 1 else " the" * len(row["chosen"].split()) + " "}

    changed = pairs.map(other_answer, with_indices=True)
    assert changed[1]["chosen"] != pairs[1]["chosen"]
    results = []
    for dataset in (pairs, changed):
        trainer = make_trainer(dataset=dataset, loss_type=loss_type)
        results.append(loss_and_gradients(trainer, first_pairs(trainer)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, grad in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], grad, atol=1e-6, rtol=0)


def test_sft_weight_multiplies_the_likelihood_alone(make_trainer):
    """The preference loss stays; −log-likelihood is summed over the rows that count, over all chosen tokens."""
    trainer = make_trainer(loss_type=["rsa2", "sft"], loss_weights=[1.0, 1.0])
    plain = make_trainer(loss_type=["rsa2"])
    rows = [trainer.train_dataset[i] for i in range(3)]

    def loss(of, weights=None):
        given = rows if weights is None else [{**r, "sft_weight": w} for r, w in zip(rows, weights, strict=True)]
        return of.compute_loss(of.model, of.data_collator(given)).item()

    preference, whole = loss(plain), loss(trainer)
    assert loss(trainer, [1.0] * 3) == pytest.approx(whole, rel=1e-6)
    assert loss(trainer, [0.0] * 3) == pytest.approx(preference, rel=1e-6)
    parts = [loss(trainer, [float(i == k) for i in range(3)]) - preference for k in range(3)]
    assert min(parts) > 0 and sum(parts) == pytest.approx(whole - preference, rel=1e-4)
    assert loss(plain, [0.0] * 3) == pytest.approx(preference, rel=1e-6)


def test_weight_multiplies_the_pairs_loss(make_trainer):
    """Mean over pairs of weight·loss: (2·L₀ + 0·L₁ + ½·L₂)/3."""
    trainer = make_trainer()
    rows = [trainer.train_dataset[i] for i in range(3)]
    alone = [trainer.compute_loss(trainer.model, trainer.data_collator([row])).item() for row in rows]
    weights = [2.0, 0.0, 0.5]
    batch = trainer.data_collator([{**row, "pair_weight": w} for row, w in zip(rows, weights, strict=True)])
    expected = sum(w * loss for w, loss in zip(weights, alone, strict=True)) / 3
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_weight_and_label_reach_the_loss_in_training(make_trainer, make_preference_dataset):
    """All weights 0: whatever the data, no parameter moves."""
    trainer = make_trainer(
        dataset=make_preference_dataset(8, pair_weight=[0.0] * 8), max_steps=2, optim="sgd", weight_decay=0.0
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("pair_weight", value) for value in (-1.0, math.inf, math.nan, None)),
        *(("pair_label", value) for value in (-0.1, 1.5, math.nan, None)),
    ],
)
def test_impossible_weight_or_label_is_refused(make_trainer, column, value):
    trainer = make_trainer()
    rows = [{**trainer.train_dataset[i], column: 1.0} for i in range(2)]
    rows[1][column] = value
    with pytest.raises(ValueError, match=f"Your dataset has {column}={value}, but it must be a number"):
        trainer.data_collator(rows)


@pytest.mark.parametrize("missing", [0, 1])
def test_column_that_only_some_pairs_have_is_refused(make_trainer, missing):
    trainer = make_trainer()
    rows = [{**trainer.train_dataset[i], "pair_label": 1.0} for i in range(2)]
    del rows[missing]["pair_label"]
    with pytest.raises(ValueError, match="Your dataset has pair_label=None"):
        trainer.data_collator(rows)
