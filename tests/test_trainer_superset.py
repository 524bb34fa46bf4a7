"""With TRL's losses RSATrainer is DPOTrainer: its options, data and references, to the last bit."""

import copy
import itertools

import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict, IterableDatasetDict
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, ProcessorMixin
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.config import TRL_LOSS_TYPES


pytestmark = pytest.mark.usefixtures("working_dpo_trainer")

CLOCKS = ("runtime", "per_second", "preparation_time")


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    """Every trainer precomputes its references by itself: TRL would find those that the other one has cached."""
    count = itertools.count()
    monkeypatch.setattr(
        Dataset, "_get_cache_file_path", lambda self, fingerprint: str(tmp_path / f"{next(count)}.arrow")
    )


@pytest.fixture(scope="module")
def eval_pairs(make_preference_dataset) -> Dataset:
    """Seven pairs in batches of four: the last batch is smaller."""
    return make_preference_dataset(7, seed=1)


@pytest.fixture
def make(tiny_model_path, preference_dataset, eval_pairs, tiny_args):
    """`make(kind, trainer={…}, **options)`: a trainer of `kind` "dpo" or "rsa". A `…model` is made."""

    def make(kind, trainer=None, **options):
        arguments = {"max_steps": 3, "per_device_eval_batch_size": 4} | options
        trainer_class, config_class = {"dpo": (DPOTrainer, DPOConfig), "rsa": (RSATrainer, RSAConfig)}[kind]
        data = {"train_dataset": preference_dataset, "eval_dataset": eval_pairs}
        given = {name: value() if name.endswith("model") else value for name, value in (trainer or {}).items()}
        return trainer_class(
            **({"model": tiny_model_path} | data | given), args=config_class(**tiny_args(**arguments))
        )

    return make


def assert_same_weights(theirs, ours):
    ours = ours.state_dict()
    assert set(ours) == set(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours[name]), name


def numbers(logs):
    return {name: value for name, value in logs.items() if not any(clock in name for clock in CLOCKS)}


def assert_superset(make, trainer=None, **options):
    """Three steps and an evaluation of both trainers: the same logs under the same names, the same weights."""
    dpo, rsa = (make(kind, trainer, **options) for kind in ("dpo", "rsa"))
    start = {name: p.clone() for name, p in rsa.model.named_parameters() if p.requires_grad}
    for each in (dpo, rsa):
        each.train()
        each.evaluate()
    assert [numbers(logs) for logs in dpo.state.log_history] == [numbers(logs) for logs in rsa.state.log_history]
    assert rsa.state.log_history[-1]["eval_loss"] is not None
    assert_same_weights(dpo.model, rsa.model)
    assert any(not torch.equal(p, start[name]) for name, p in rsa.model.named_parameters() if name in start)
    return dpo, rsa


@pytest.mark.parametrize("loss_type", TRL_LOSS_TYPES)
def test_loss(make, other_tiny_model_path, loss_type):
    """The policy is far from its reference; labels are smoothed where the loss knows of it."""
    reference = {"ref_model": lambda: AutoModelForCausalLM.from_pretrained(other_tiny_model_path)}
    assert_superset(make, reference, loss_type=loss_type, label_smoothing=0.1)


def test_several_losses_with_weights(make):
    """The mixture of MPO."""
    assert_superset(make, loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])


OPTIONS = {
    "wpo": {"use_weighting": True},
    "ld": {"ld_alpha": 0.3},
    "forward kl": {"f_divergence_type": "forward_kl"},
    "js": {"f_divergence_type": "js_divergence", "loss_type": "ipo"},
    "alpha": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    "discopop": {"loss_type": "discopop", "discopop_tau": 0.2},
    "precomputed": {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 5},
    "precomputed ld": {"precompute_ref_log_probs": True, "ld_alpha": 0.5},
    "cut at the end": {"max_length": 8},
    "cut at the start": {"max_length": 8, "truncation_mode": "keep_end"},
    "padded": {"padding_free": True, "pad_to_multiple_of": 16},
    "accumulated": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    "bf16": {"bf16": True},
}


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")
def test_option(make, name):
    assert_superset(make, **({"loss_type": "sigmoid"} | OPTIONS[name]))


def test_reference_that_follows_the_policy(make):
    dpo, rsa = assert_superset(make, loss_type="ipo", sync_ref_model=True, ref_model_sync_steps=2)
    assert_same_weights(dpo.ref_model, rsa.ref_model)


def test_a_risk_aware_loss_has_a_reference_that_follows_the_policy_too(make):
    """α = 0 is DPO: the same reference after three steps, one sync among them. Sums are taken in another order."""
    sync = {"sync_ref_model": True, "ref_model_sync_steps": 2, "optim": "sgd"}
    dpo, rsa = make("dpo", **sync), make("rsa", risk_alpha=0.0, **sync)
    before = {name: value.clone() for name, value in rsa.ref_model.state_dict().items()}
    for each in (dpo, rsa):
        each.train()
    for name, value in dpo.ref_model.state_dict().items():
        torch.testing.assert_close(rsa.ref_model.state_dict()[name], value, atol=1e-6, rtol=0)
    assert any(not torch.equal(value, before[name]) for name, value in rsa.ref_model.state_dict().items())


def lora(**changes):
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **changes)


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize("options", [{}, {"precompute_ref_log_probs": True}], ids=str)
def test_new_adapter(make, options):
    assert_superset(make, {"peft_config": lora()}, loss_type="hinge", **options)


def test_trained_adapter(make, tiny_model_path):
    """TRL keeps a frozen copy of it as the reference."""

    def adapted():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
        return get_peft_model(model, lora(init_lora_weights=False))

    assert_superset(make, {"model": adapted}, loss_type="sigmoid_norm")


def test_temperature_of_a_stage(make):
    """β/λ is TRL's β."""
    dpo, rsa = make("dpo", loss_type="ipo", beta=0.05), make("rsa", loss_type="ipo", beta=0.2, constraint_multiplier=4)
    for each in (dpo, rsa):
        each.train()
    assert [numbers(logs) for logs in dpo.state.log_history] == [numbers(logs) for logs in rsa.state.log_history]
    assert_same_weights(dpo.model, rsa.model)


# Data


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize("kind", ["dict", "dataset_dict", "streaming", "streaming_dict"])
@pytest.mark.parametrize("precompute", [False, True])
def test_evaluate_takes_raw_datasets(make, eval_pairs, kind, precompute):
    stream = eval_pairs.to_iterable_dataset()
    data = {
        "dict": {"a": eval_pairs, "b": eval_pairs.select(range(3))},
        "dataset_dict": DatasetDict({"a": eval_pairs}),
        "streaming": stream,
        "streaming_dict": IterableDatasetDict({"a": stream}),
    }[kind]
    dpo, rsa = (
        make(each, loss_type="sigmoid", precompute_ref_log_probs=precompute, max_length=8) for each in ("dpo", "rsa")
    )
    if precompute and kind.startswith("streaming"):
        with pytest.raises(ValueError, match="precompute_ref_log_probs=True` is not supported with IterableDataset"):
            rsa.evaluate(data)
        return
    assert numbers(dpo.evaluate(data)) == numbers(rsa.evaluate(data))


def test_precomputed_references_of_new_pairs_are_refused_after_training(make, eval_pairs):
    trainer = make("rsa", loss_type="sigmoid", precompute_ref_log_probs=True, max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] is not None
    with pytest.raises(ValueError, match=r"Cannot compute reference log-probs for a dataset passed to `evaluate\(\)`"):
        trainer.evaluate(eval_pairs)


def test_collator_and_columns_are_trls(make):
    trainer, dpo = make("rsa", loss_type="sigmoid"), make("dpo")
    assert type(trainer.data_collator) is DataCollatorForPreference
    for each in (trainer, dpo):
        each._set_signature_columns_if_needed()
    assert trainer._signature_columns == dpo._signature_columns


def test_pairs_may_be_dropped_as_for_a_risk_aware_loss(make):
    kept, dropped = (make("rsa", loss_type="ipo", max_length=8, drop_truncated=drop) for drop in (False, True))
    lengths = [
        [
            len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
            for row in trainer.train_dataset
        ]
        for trainer in (kept, dropped)
    ]
    assert max(lengths[0]) > 8 and lengths[1] == [n for n in lengths[0] if n <= 8]


# What only a risk-aware loss refuses


def test_a_processor_is_left_to_trl(make):
    class Processor(ProcessorMixin):
        def __init__(self):
            pass

    processor = {"processing_class": Processor()}
    with pytest.raises(AttributeError) as theirs:
        make("dpo", processor)
    with pytest.raises(AttributeError) as ours:
        make("rsa", processor, loss_type="sigmoid")
    assert str(ours.value) == str(theirs.value)


@pytest.fixture
def tiny_llava(tiny_tokenizer, tmp_path) -> str:
    """A vision tower of two layers on images of four patches, before the Llama of the other tests."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}{{ m.role + ' ' }}{% for part in m.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{{ ' <eos> ' }}{% endfor %}"
    )
    size, head = {"height": 16, "width": 16}, {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    image_processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(
        size={"shortest_edge": 16}, crop_size=size
    )
    processor = transformers.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    torch.manual_seed(0)
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, pad_token_id=0, bos_token_id=None, eos_token_id=1, **head
    )
    vision = transformers.CLIPVisionConfig(num_hidden_layers=2, image_size=16, patch_size=8, **head)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    return str(tmp_path / "llava")


def test_images(make, tiny_llava, conversational_preference_dataset):
    """Text only is what the risk-aware losses have been tested with; TRL's take a vision-language model and images."""
    image = pytest.importorskip("PIL.Image")
    rows = conversational_preference_dataset.select(range(6)).to_list()
    pairs = Dataset.from_list(
        [row | {"image": image.new("RGB", (16, 16), (40 * i, 9, 7))} for i, row in enumerate(rows)]
    )
    data = {"model": lambda: tiny_llava, "train_dataset": pairs, "eval_dataset": pairs}
    _, rsa = assert_superset(make, data, loss_type="sigmoid", max_length=None, per_device_train_batch_size=2)
    assert type(rsa.model).__name__ == "LlavaForConditionalGeneration"
    with pytest.raises(ValueError, match="RSATrainer's own losses have been tested with text only"):
        make("rsa", data)


@pytest.mark.filterwarnings("ignore:`return_outputs=True`:FutureWarning")
def test_compute_metrics(make):
    rows = {"compute_metrics": lambda prediction: {"rows": len(prediction.predictions)}}
    theirs, ours = make("dpo", rows).evaluate(), make("rsa", rows, loss_type="sigmoid").evaluate()
    assert theirs["eval_rows"] > 0 and numbers(theirs) == numbers(ours)


# What it is called


def test_tags_and_model_card(make, tmp_path):
    rsa, dpo = make("rsa"), make("rsa", loss_type="sigmoid")
    assert {"trl", "dpo", "trl-rsa", "rsa"} <= set(rsa.model.model_tags)
    assert {"trl", "dpo", "trl-rsa"} <= set(dpo.model.model_tags) and "rsa" not in dpo.model.model_tags
    cards = []
    for trainer in (rsa, dpo):
        trainer.create_model_card(model_name="tiny")
        cards.append((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert "2512.24263" in cards[0] and "2305.18290" not in cards[0]
    assert "2305.18290" in cards[1] and "2512.24263" not in cards[1]
