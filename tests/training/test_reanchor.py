"""ReanchorCallback: the reference follows the policy, in memory, and a resumed run ends as an uninterrupted one."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from trl_rsa import ReanchorCallback, RSAConfig, RSATrainer
from trl_rsa.risk import Entropic
from trl_rsa.training.reanchor import reanchor


LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
KINDS = ("full", "lora")


@pytest.fixture
def make_trainer(tiny_model_path, tiny_tokenizer, preference_dataset, tiny_args):
    def make(kind, **changes):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
        if kind == "lora":
            model, reference = get_peft_model(model, LORA), None
        else:
            reference = AutoModelForCausalLM.from_pretrained(tiny_model_path)
        args = RSAConfig(**tiny_args(**{"max_steps": 6, "lr_scheduler_type": "constant", **changes}))
        return RSATrainer(
            model,
            reference,
            args=args,
            train_dataset=preference_dataset,
            eval_dataset=preference_dataset,
            processing_class=tiny_tokenizer,
        )

    return make


def policy_weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


class AtStep(TrainerCallback):
    """Does something when a step begins: after the callbacks that were added before it."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


@pytest.mark.parametrize("kind", KINDS)
def test_after_re_anchoring_the_policy_is_its_reference(make_trainer, kind):
    trainer, seen = make_trainer(kind), {}
    trainer.add_callback(ReanchorCallback(trainer, constraint_steps=3))

    def look(name):
        return lambda: seen.update({name: trainer.evaluate()})

    trainer.add_callback(AtStep(2, look("before")))
    trainer.add_callback(AtStep(3, look("after")))
    trainer.train()
    names = ("rewards/chosen", "rewards/rejected", "kl/chosen", "kl/rejected", "risk/chosen", "risk/rejected")
    for name in names:
        assert abs(seen["after"][f"eval_{name}"]) < 1e-6, name
    assert seen["before"]["eval_kl/chosen"] > 1e-4, "three steps should move the policy"
    assert trainer.evaluate()["eval_kl/chosen"] > 1e-6, "and after re-anchoring it should move on"


def test_temperature_and_risk_aversion_follow_the_rung(make_trainer):
    """β = 0.1. Δλ = 2, 6: temperatures 0.05 and 0.1/6; λ = 2, then 8. θ = 3, then 1: θ/β stays 60."""
    trainer = make_trainer("lora", constraint_multiplier=2.0, risk_theta=3.0, logging_steps=1)
    seen = {}
    trainer.add_callback(ReanchorCallback(trainer, constraint_steps=4, growth=3.0))
    for step in (3, 4):
        trainer.add_callback(AtStep(step, lambda step=step: seen.update({step: (trainer.beta, trainer.risk_measure)})))
    trainer.train()
    assert seen[3] == (pytest.approx(0.05), Entropic(3.0))
    assert seen[4] == (pytest.approx(0.1 / 6), Entropic(1.0))
    log = [
        (entry["stage/rung"], entry["constraint/multiplier"]) for entry in trainer.state.log_history if "loss" in entry
    ]
    assert log == [(0.0, 2.0)] * 4 + [(1.0, 8.0)] * 2


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_forgets_or_remembers(make_trainer, reset):
    trainer, steps = make_trainer("lora"), []
    trainer.add_callback(ReanchorCallback(trainer, constraint_steps=4, reset_optimizer=reset))
    trainer.train()
    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == ({2} if reset else {6})


@pytest.mark.parametrize(("kind", "stop"), [("full", 2), ("full", 3), ("full", 5), ("lora", 3), ("lora", 5)])
def test_a_resumed_run_ends_as_an_uninterrupted_one(make_trainer, kind, stop, tmp_path):
    """Stopped before, at (the reference moves only when the next step begins) and after the re-anchoring at 3."""

    def run(resume=None, **changes):
        trainer = make_trainer(kind, save_strategy="steps", save_steps=1, **changes)
        trainer.add_callback(ReanchorCallback(trainer, constraint_steps=3, growth=2.0))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    expected = run()
    again = run(resume=str(tmp_path / "out" / f"checkpoint-{stop}"))
    one, other = policy_weights(expected), policy_weights(again)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert again.evaluate()["eval_kl/chosen"] == pytest.approx(expected.evaluate()["eval_kl/chosen"], abs=1e-9)


def test_resuming_with_other_rungs_or_without_its_file_is_refused(make_trainer, tmp_path):
    def run(resume=None, steps=2):
        trainer = make_trainer("lora", save_strategy="steps", save_steps=2, max_steps=4)
        trainer.add_callback(ReanchorCallback(trainer, constraint_steps=steps))
        trainer.train(resume_from_checkpoint=resume)

    run()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(ValueError, match=r"resume with constraint_steps=1, but .* was written with 2"):
        run(str(checkpoint), steps=1)
    (checkpoint / "reference" / "rung.json").unlink()
    with pytest.raises(ValueError, match=r"resume from .*checkpoint-2, but it holds no reference/rung.json"):
        run(str(checkpoint))


def test_what_cannot_move_is_refused(tiny_model_path, tiny_tokenizer, preference_dataset, tiny_args, make_trainer):
    trainer = RSATrainer(
        tiny_model_path,
        args=RSAConfig(**tiny_args()),
        train_dataset=preference_dataset,
        processing_class=tiny_tokenizer,
        peft_config=LORA,
    )
    with pytest.raises(ValueError, match=r"adapter switched off, but that cannot move. Give .*get_peft_model"):
        ReanchorCallback(trainer, constraint_steps=2)
    with pytest.raises(ValueError, match="get_peft_model"):
        reanchor(trainer)
    for name in ("precompute_ref_log_probs", "sync_ref_model"):
        with pytest.raises(ValueError, match=f"You set {name}=True, but re-anchoring moves the reference by itself"):
            ReanchorCallback(make_trainer("full", loss_type="sigmoid", **{name: True}), constraint_steps=2)
    with pytest.raises(ValueError, match="at least one optimizer step"):
        ReanchorCallback(make_trainer("lora"), constraint_steps=0)
    with pytest.raises(ValueError, match="Set it above 0"):
        ReanchorCallback(make_trainer("lora"), constraint_steps=1, growth=0.0)
