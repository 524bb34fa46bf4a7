"""With `rsa2` and `risk_alpha=0`, RSATrainer is TRL's DPOTrainer: step by step, every metric, every weight."""

import math
from inspect import isfunction

import pytest
import torch
import trl
from packaging.version import Version
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from trl import DPOConfig, DPOTrainer

from trl_rsa import RSAConfig, RSATrainer


pytestmark = pytest.mark.usefixtures("working_dpo_trainer")

OURS = {f"{kind}/{side}" for kind in ("risk", "kl") for side in ("chosen", "rejected")}
OURS |= {"risk/margins", "risk/max_token"}

# Both trainers compute in float32, but sum in another order: log-probabilities of answers are sums of up to 8 terms.
# A millionth of the number, or of 1 where it is smaller.
TOLERANCE = 1e-6
CLOCKS = ("runtime", "per_second")


def run(trainer_class, config_class, model, dataset, eval_dataset, arguments, **kwargs):
    trainer = trainer_class(
        model=model() if isfunction(model) else model,
        args=config_class(**arguments),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        **{name: value() if isfunction(value) else value for name, value in kwargs.items()},
    )
    trainer.train()
    return trainer


def assert_parity(model, dataset, eval_dataset, arguments, dpo_arguments=None, rsa_arguments=None, **kwargs):
    dpo_arguments = arguments | (dpo_arguments or {})
    dpo = run(DPOTrainer, DPOConfig, model, dataset, eval_dataset, dpo_arguments, **kwargs)
    rsa_arguments = arguments | {"loss_type": "rsa2", "risk_alpha": 0.0} | (rsa_arguments or {})
    rsa = run(RSATrainer, RSAConfig, model, dataset, eval_dataset, rsa_arguments, **kwargs)
    assert len(dpo.state.log_history) == len(rsa.state.log_history)
    for theirs, ours in zip(dpo.state.log_history, rsa.state.log_history, strict=True):
        prefix = "eval_" if "eval_loss" in theirs else ""
        added = {prefix + name for name in OURS} if f"{prefix}rewards/chosen" in theirs else set()
        assert set(ours) - set(theirs) == added
        for name, value in theirs.items():
            if not any(clock in name for clock in CLOCKS):
                assert math.isclose(ours[name], value, rel_tol=TOLERANCE, abs_tol=TOLERANCE), (theirs["step"], name)
    for (name, theirs), ours in zip(dpo.model.state_dict().items(), rsa.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    return dpo, rsa


def lora(**changes):
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **changes)


@pytest.fixture(scope="module")
def eval_pairs(make_preference_dataset):
    """Seven pairs in batches of four: the last batch is smaller."""
    return make_preference_dataset(7, seed=1)


@pytest.fixture
def arguments(tiny_args):
    """Also two micro-batches per step and two evaluations, by SGD: Adam would blow up rounding in tiny gradients."""
    return tiny_args(
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
        optim="sgd",
        learning_rate=0.1,
        beta=0.3,
    )


def test_full(tiny_model_path, preference_dataset, eval_pairs, arguments):
    dpo, rsa = assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments)
    assert len(dpo.state.log_history) == 4 + 2 + 1  # steps, evaluations, summary
    before = AutoModelForCausalLM.from_pretrained(tiny_model_path).state_dict()
    assert all(not torch.equal(before[name], p) for name, p in rsa.model.named_parameters())


def test_full_with_adamw(tiny_model_path, preference_dataset, eval_pairs, arguments):
    arguments |= {"optim": "adamw_torch", "learning_rate": 1e-3}
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments)


def test_tied_head_and_gradient_checkpointing(tiny_tied_model_path, preference_dataset, eval_pairs, arguments):
    arguments |= {"gradient_checkpointing": True}
    assert_parity(tiny_tied_model_path, preference_dataset, eval_pairs, arguments)


def test_explicit_reference(
    tiny_model_path, other_tiny_model_path, preference_dataset, eval_pairs, arguments, tiny_tokenizer
):
    """A reference far from the policy, and a policy given as an object."""
    _, rsa = assert_parity(
        lambda: AutoModelForCausalLM.from_pretrained(tiny_model_path),
        preference_dataset,
        eval_pairs,
        arguments,
        ref_model=lambda: AutoModelForCausalLM.from_pretrained(other_tiny_model_path),
        processing_class=tiny_tokenizer,
    )
    assert rsa.state.log_history[0]["kl/chosen"] > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora(tiny_model_path, preference_dataset, eval_pairs, arguments, checkpointing):
    arguments |= {"gradient_checkpointing": checkpointing}
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments, peft_config=lora())


def test_lora_with_a_trained_head(tiny_model_path, preference_dataset, eval_pairs, arguments):
    _, rsa = assert_parity(
        tiny_model_path, preference_dataset, eval_pairs, arguments, peft_config=lora(modules_to_save=["lm_head"])
    )
    head = rsa.model.get_base_model().lm_head
    assert not torch.equal(head.modules_to_save["default"].weight, head.original_module.weight)


def test_given_peft_model_is_anchored_at_its_own_adapter(tiny_model_path, preference_dataset, eval_pairs, arguments):
    """TRL copies the adapter that came with the model into a frozen one, "ref"."""

    def adapted():
        torch.manual_seed(7)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_model_path), lora(modules_to_save=["lm_head"])
        )
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * 0.05)
        return model

    fresh = adapted().state_dict()
    _, rsa = assert_parity(adapted, preference_dataset, eval_pairs, arguments)
    first = rsa.state.log_history[0]
    assert first["risk/max_token"] == 0 and first["kl/chosen"] == 0
    for name, p in rsa.model.named_parameters():
        if ".ref." in name:
            assert torch.equal(p, fresh[name.replace(".ref.", ".default.")])


@pytest.mark.skipif(
    Version(trl.__version__) < Version("1.15"),
    reason="the DPOTrainer of TRL 1.13 and 1.14 loses virtual tokens, or stops with an error",
)
@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig], ids=lambda c: c.__name__)
def test_prompt_learning(tiny_model_path, preference_dataset, eval_pairs, arguments, config):
    """Virtual tokens stand before the real ones (prompt tuning), or in the cache (prefix tuning)."""
    peft_config = config(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments, peft_config=peft_config)


def test_sft_beside_it(tiny_model_path, preference_dataset, eval_pairs, arguments):
    arguments |= {"loss_weights": [1.0, 0.3]}
    theirs, ours = {"loss_type": ["sigmoid", "sft"]}, {"loss_type": ["rsa2", "sft"]}
    dpo, _ = assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments, theirs, ours)
    assert dpo.state.log_history[0]["loss"] > 1  # log 2 from the pairs, the rest from the chosen answers


@pytest.mark.parametrize("link", ["ipo", "hinge", "robust"])
def test_link_is_trls_loss_of_that_name(tiny_model_path, preference_dataset, eval_pairs, arguments, link):
    """IPO divides an answer's score by its tokens, as TRL does; robust takes back the flips of `label_smoothing`."""
    arguments |= {"label_smoothing": 0.1} if link == "robust" else {}
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments, {"loss_type": link}, {"link": link})


def test_cut_answers_kept(tiny_model_path, preference_dataset, eval_pairs, arguments):
    """`drop_truncated=False` is DPO's habit: answers are cut at `max_length`."""
    arguments |= {"max_length": 8}
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments, rsa_arguments={"drop_truncated": False})


def test_padding_to_a_multiple(tiny_model_path, preference_dataset, eval_pairs, arguments):
    assert_parity(tiny_model_path, preference_dataset, eval_pairs, arguments | {"pad_to_multiple_of": 16})


def test_mixture_of_experts(preference_dataset, eval_pairs, arguments, tiny_tokenizer, tmp_path):
    config = MixtralConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        router_aux_loss_coef=0.2,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    tiny_tokenizer.save_pretrained(tmp_path / "moe")
    dpo, _ = assert_parity(str(tmp_path / "moe"), preference_dataset, eval_pairs, arguments)
    assert dpo.state.log_history[0]["aux_loss"] > 0


def test_conversational_and_implicit_prompt(
    tiny_model_path, conversational_preference_dataset, implicit_prompt_dataset, eval_pairs, arguments
):
    arguments |= {"max_steps": 2}
    for dataset in (conversational_preference_dataset, implicit_prompt_dataset):
        assert_parity(tiny_model_path, dataset, eval_pairs, arguments)
