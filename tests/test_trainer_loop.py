"""RSATrainer in the training loop: invariances, checkpoints, metrics, what is saved."""

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.kernels.head import RiskHeadRequest
from trl_rsa.risk import CVaR, Expectation


@pytest.fixture
def make_trainer(tiny_model_path, preference_dataset, tiny_args):
    def make(path=tiny_model_path, dataset=preference_dataset, trainer=None, **arguments):
        return RSATrainer(
            model=path, args=RSAConfig(**tiny_args(**arguments)), train_dataset=dataset, **(trainer or {})
        )

    return make


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


# Averages over answers. Averages over tokens are taken per micro-batch, as TRL takes them.
PER_ANSWER = ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"]
PER_ANSWER += ["logps/rejected", "risk/chosen", "risk/rejected", "risk/margins", "risk/max_token", "kl/chosen"]
PER_ANSWER += ["kl/rejected", "num_tokens", "grad_norm"]


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 2), (1, 4)])
@pytest.mark.parametrize("loss_type", ["rsa1", "rsa2"])
def test_accumulation_does_not_matter(make_trainer, loss_type, batch, accumulation):
    """4 pairs at once, or in 2 or 4 micro-batches: the same steps. SGD, for Adam divides by tiny gradients."""
    arguments = {"loss_type": loss_type, "optim": "sgd", "learning_rate": 0.1, "beta": 0.3}
    whole = make_trainer(**arguments)
    parts = make_trainer(**arguments, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    whole.train()
    parts.train()
    for a, b in zip(whole.state.log_history[:-1], parts.state.log_history[:-1], strict=True):
        for name in PER_ANSWER:
            assert math.isclose(a[name], b[name], rel_tol=1e-5, abs_tol=2e-6), (a["step"], name)
    for (name, a), b in zip(weights(whole).items(), weights(parts).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_max_token_is_a_maximum(make_trainer, make_preference_dataset, other_tiny_model_path):
    """One log of 2 steps of 2 micro-batches of 2 pairs: the largest of the 8 pairs, each looked at alone. A learning
    rate of 0 keeps the policy where it is.
    """
    trainer = make_trainer(
        dataset=make_preference_dataset(8),
        trainer={"ref_model": AutoModelForCausalLM.from_pretrained(other_tiny_model_path)},
        learning_rate=0.0,
        max_steps=2,
        logging_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    logged = trainer.state.log_history[0]["risk/max_token"]
    alone = []
    for row in trainer.train_dataset:
        trainer.compute_loss(trainer.model, trainer.data_collator([row]))
        alone += trainer._metrics["train"].pop("risk/max_token")
    assert len(set(alone)) == 8
    assert logged == pytest.approx(max(alone), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_a_risk_in_the_loss_it_is_measured_where_it_is_logged(make_trainer, monkeypatch, accumulation):
    """α = 0: steps 2 and 4 are logged, and no other step's head is asked for the CVaR. The loss does not notice."""
    asked = []
    forward = RiskHeadRequest.__init__

    def watched(self, measure=None, reference=None):
        forward(self, measure, reference)
        asked.extend([] if measure is None else [(trainer.state.global_step + 1, trainer.model.training, measure)])

    monkeypatch.setattr(RiskHeadRequest, "__init__", watched)
    options = {"risk_measure": "cvar", "risk_tail": 0.1, "risk_alpha": 0.0, "max_steps": 4}
    options |= {"gradient_accumulation_steps": accumulation, "learning_rate": 1e-2}
    trainer = make_trainer(**options, logging_steps=2)
    trainer.train()
    assert [step for step, _, measure in asked if measure == CVaR(0.1)] == [2] * accumulation + [4] * accumulation
    assert [step for step, _, measure in asked if measure == Expectation()] == [1] * accumulation + [3] * accumulation
    last = trainer.state.log_history[1]
    assert last["risk/chosen"] > last["kl/chosen"] > 0 and last["risk/max_token"] > 0
    of_all = trainer
    asked.clear()
    trainer.evaluate(trainer.train_dataset)
    assert asked and all(measure == CVaR(0.1) for *_, measure in asked)
    trainer = make_trainer(**options, logging_steps=1)
    trainer.train()
    for (name, a), b in zip(weights(of_all).items(), weights(trainer).values(), strict=True):
        assert torch.equal(a, b), name


def test_every_trainable_parameter_moves(make_trainer, tiny_tied_model_path):
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    for arguments in ({}, {"path": tiny_tied_model_path}, {"trainer": {"peft_config": lora}}):
        trainer = make_trainer(**arguments, weight_decay=0.0)
        before = weights(trainer)
        trainer.train()
        still = [
            name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name]) == p.requires_grad
        ]
        assert still == []  # trainable ones have moved, frozen ones have not


def test_reference_does_not_move(make_trainer):
    trainer = make_trainer()
    before = {name: p.clone() for name, p in trainer.ref_model.named_parameters()}
    trainer.train()
    assert all(torch.equal(before[name], p) for name, p in trainer.ref_model.named_parameters())
    assert not torch.equal(trainer.model.lm_head.weight, trainer.ref_model.lm_head.weight)


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_resumed_equals_uninterrupted(make_trainer, tmp_path, peft):
    def make(folder, **arguments):
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.0)
        trainer = {"peft_config": lora} if peft else {}
        return make_trainer(output_dir=str(tmp_path / folder), trainer=trainer, **arguments)

    whole = make("whole")
    whole.train()
    make("parts", save_strategy="steps", save_steps=2).train()
    resumed = make("parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    for (name, a), b in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    last = [[x for x in t.state.log_history if "loss" in x][-1] for t in (whole, resumed)]
    assert last[0]["risk/chosen"] == last[1]["risk/chosen"]


def test_evaluation_metrics(make_trainer, make_preference_dataset):
    """Every metric of a training step under `eval_`, also of several datasets; `evaluate` takes raw pairs."""
    pairs = make_preference_dataset(5, seed=2)
    trainer = make_trainer(
        trainer={"eval_dataset": {"a": pairs, "b": pairs}}, eval_strategy="steps", eval_steps=4, max_steps=4
    )
    trainer.train()
    step = next(x for x in trainer.state.log_history if "loss" in x)
    names = {name for name in step if "/" in name} | {"loss", "entropy", "mean_token_accuracy", "num_tokens"}
    for dataset in ("a", "b"):
        evaluation = next(x for x in trainer.state.log_history if f"eval_{dataset}_loss" in x)
        # TRL's trainer gives its own metrics the prefix `eval_` alone.
        assert {f"eval_{name}" for name in names - {"loss"}} <= set(evaluation)
    result = trainer.evaluate(make_preference_dataset(6, seed=3))
    assert math.isfinite(result["eval_loss"])
    assert trainer.state.log_history[-1]["eval_risk/chosen"] > 0
    # Evaluation touches neither the token count of training nor its metrics.
    assert result.get("eval_num_tokens", trainer._total_train_tokens) == trainer._total_train_tokens


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("weights_in_bf16", [False, True], ids=["autocast", "bf16"])
def test_bf16_stays_finite(make_trainer, weights_in_bf16, lora):
    peft = {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")} if lora else {}
    init = {"model_init_kwargs": {"dtype": "bfloat16"}} if weights_in_bf16 else {}
    trainer = make_trainer(bf16=True, trainer=peft, gradient_checkpointing=True, **init)
    trainer.train()
    steps = [x for x in trainer.state.log_history if "loss" in x]
    assert all(math.isfinite(value) for step in steps for value in step.values())
    # At the first step policy and reference are computed alike, down to the last bit.
    assert steps[0]["risk/max_token"] == 0 and steps[0]["rewards/margins"] == 0
    assert steps[-1]["risk/max_token"] > 0


def test_model_card(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.create_model_card(model_name="my-model")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("- rsa\n", "- trl-rsa\n", "- trl\n", "trained with RSA", "2512.24263", "song2025constrained"):
        assert part in card
    assert "rafailov" not in card.lower()


def test_saved_model_is_an_ordinary_folder(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(p, loaded.state_dict()[name]) for name, p in trainer.model.state_dict().items())
    again = torch.load(tmp_path / "saved" / "training_args.bin", weights_only=False)
    assert again.to_dict() == trainer.args.to_dict()


@pytest.mark.usefixtures("working_dpo_trainer")
def test_compute_metrics_sees_what_dpo_shows(tiny_model_path, preference_dataset, tiny_args):
    seen = []

    def compute_metrics(prediction):
        seen.append((prediction.predictions, prediction.label_ids))
        return {"mine": 1.0}

    for trainer_class, config_class in ((DPOTrainer, DPOConfig), (RSATrainer, RSAConfig)):
        trainer = trainer_class(
            model=tiny_model_path,
            args=config_class(**tiny_args()),
            train_dataset=preference_dataset,
            eval_dataset=preference_dataset.select(range(5)),
            compute_metrics=compute_metrics,
        )
        assert trainer.evaluate()["eval_mine"] == 1.0
    (theirs, their_labels), (ours, our_labels) = seen
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(our_labels, their_labels)


def test_generates_after_training(make_trainer, tiny_tokenizer):
    """The patched forward leaves generation alone: as a model loaded from the same weights does."""
    trainer = make_trainer(max_steps=2)
    trainer.train()
    prompt = tiny_tokenizer("the cat", return_tensors="pt")["input_ids"]
    fresh = AutoModelForCausalLM.from_config(trainer.model.config)
    fresh.load_state_dict(trainer.model.state_dict())
    a, b = (m.eval().generate(prompt, max_new_tokens=6, do_sample=False) for m in (trainer.model, fresh))
    assert torch.equal(a, b)
