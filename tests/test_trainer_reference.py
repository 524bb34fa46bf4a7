"""What a policy in memory is compared with if no reference is given: itself before training, whatever is on disk."""

import pytest


torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from trl_rsa import RSAConfig, RSATrainer  # noqa: E402


@pytest.fixture
def train(tiny_model_path, tiny_args, preference_dataset):
    """`train(model)` trains it, with no reference given, and returns the trainer."""

    def run(model, **arguments):
        trainer = RSATrainer(
            model=model,
            args=RSAConfig(**tiny_args(max_steps=2)),
            train_dataset=preference_dataset,
            processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
            **arguments,
        )
        trainer.train()
        return trainer

    return run


def merged_model(path):
    """A model with an adapter merged into it: its configuration still names the folder of the base model."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path), LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM")
    ).merge_and_unload()
    assert model.config.name_or_path == path
    return model.requires_grad_(True)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_reference_of_a_merged_model_is_the_merged_model(train, tiny_model_path):
    model = merged_model(tiny_model_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    on_disk = AutoModelForCausalLM.from_pretrained(tiny_model_path).state_dict()
    assert any(not torch.equal(before[name], on_disk[name]) for name in before)
    trainer = train(model)
    reference = trainer.ref_model.state_dict()
    assert all(torch.equal(reference[name], before[name]) for name in before)
    assert any(not torch.equal(model.state_dict()[name], before[name]) for name in before)  # it was trained
    first = trainer.state.log_history[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6) and first["kl/chosen"] == pytest.approx(0, abs=1e-6)


def test_a_model_as_it_is_on_disk_trains_as_if_its_path_were_given(train, tiny_model_path):
    in_memory = train(AutoModelForCausalLM.from_pretrained(tiny_model_path))
    assert losses(in_memory) == losses(train(tiny_model_path))


def test_a_second_stage_in_memory_is_anchored_at_the_first_ones_policy(train, tiny_model_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    train(model)
    after_one = {name: value.clone() for name, value in model.state_dict().items()}
    second = train(model)
    assert all(torch.equal(value, after_one[name]) for name, value in second.ref_model.state_dict().items())
    assert second.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_an_adapter_needs_no_copy(train, tiny_model_path):
    model = merged_model(tiny_model_path)
    trainer = train(model, peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"))
    assert trainer.ref_model is None
    assert trainer.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_a_model_that_is_divided_is_not_copied(tiny_model_path, caplog):
    """ZeRO-3 marks its parameters with `ds_id`."""
    from trl_rsa.trainer import _copy_as_reference

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    assert _copy_as_reference(model) is not None
    next(model.parameters()).ds_id = 0
    assert _copy_as_reference(model) is None


@pytest.mark.parametrize("given", [{}, {"peft_config": LoraConfig(r=2, task_type="CAUSAL_LM")}], ids=["copy", "lora"])
def test_the_reference_is_without_noise_while_the_policy_has_it(tiny_model_path, tiny_args, preference_dataset, given):
    """Attention's dropout is no module, which TRL could switch off; NEFTune's noise is in shared embeddings."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, attention_dropout=0.5).train()
    args = RSAConfig(**tiny_args(disable_dropout=False, neftune_noise_alpha=5.0))
    trainer = RSATrainer(
        model=model,
        args=args,
        train_dataset=preference_dataset,
        processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
        **given,
    )
    seen = []
    find = trainer._reference

    def compare(policy, inputs, labels):
        one, other = (find(policy, inputs, labels).hidden for _ in range(2))
        seen.append(torch.equal(one, other) and policy.training)
        return find(policy, inputs, labels)

    trainer._reference = compare
    trainer.train()
    assert seen and all(seen)
    assert trainer.state.log_history[0]["kl/chosen"] > 1e-6, "the policy has its noise"
