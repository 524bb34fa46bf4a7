"""The contract with TRL: every hook that trl-rsa hangs on, by name.

When a new minor of TRL is allowed in `_trl.py`, this is the test that says what moved. Each test's message names the
hook and the file of ours that uses it.
"""

import ast
import inspect
import os
import textwrap
from dataclasses import fields

import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from trl_rsa import RSATrainer, _trl
from trl_rsa.config import TRL_LOSS_TYPES


def parameters(function):
    return list(inspect.signature(function).parameters)


def moved(hook, user):
    return f"TRL has moved {hook}, which {user} relies on"


def test_installed_version_is_one_we_say_we_support():
    import trl

    low, high = _trl.SUPPORTED_TRL
    assert (low <= Version(Version(trl.__version__).base_version) < high) == _trl.IS_TESTED
    assert _trl.IS_TESTED or os.environ.get(_trl.ALLOW) == "1"


def test_supported_range_is_that_of_the_package():
    from importlib.metadata import requires

    (requirement,) = [r for r in requires("trl-rsa") if r.startswith("trl") and "extra" not in r]
    low, high = _trl.SUPPORTED_TRL
    assert requirement.replace(" ", "") in (f"trl<{high},>={low}", f"trl>={low},<{high}")


@pytest.mark.parametrize("name", [name for name in _trl.__all__ if not name.isupper()])
def test_imported_names_exist(name):
    assert callable(getattr(_trl, name)), moved(name, "_trl.py")


def test_imported_functions_take_what_we_give_them():
    assert parameters(_trl.disable_gradient_checkpointing)[:2] == ["model", "gradient_checkpointing_kwargs"], moved(
        "disable_gradient_checkpointing", "trainer.py"
    )
    assert parameters(_trl.use_adapter)[:2] == ["model", "adapter_name"], moved("use_adapter", "trainer.py")
    assert parameters(_trl.get_config_model_id) == ["config"], moved("get_config_model_id", "trainer.py")
    (gathered,) = inspect.signature(_trl.maybe_gather_lm_head_ctx).parameters.values()
    assert gathered.kind == gathered.VAR_POSITIONAL, moved("maybe_gather_lm_head_ctx(*params)", "kernels/head.py")
    with _trl.maybe_gather_lm_head_ctx(torch.nn.Parameter(torch.ones(1)), None):
        pass


def test_use_adapter_switches_off_and_over(tiny_model_path):
    """`None` switches every adapter off, a name makes it the active one, and both are undone."""
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path), config)
    model.add_adapter("ref", config)
    ids = torch.tensor([[3, 4, 5]])

    def logits(adapter):
        with torch.no_grad(), _trl.use_adapter(model, adapter_name=adapter):
            return model(ids).logits

    plain, ref, default = logits(None), logits("ref"), logits("default")
    assert not torch.equal(plain, ref) and not torch.equal(plain, default) and not torch.equal(ref, default)
    assert model.active_adapter == "default"
    assert all(p.requires_grad == (".default." in n) for n, p in model.named_parameters() if "lora" in n)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("_prepare_dataset", ["self", "dataset", "processing_class", "args", "dataset_name"]),
        ("_set_signature_columns_if_needed", ["self"]),
        ("log", ["self", "logs", "start_time"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
    ],
)
def test_overridden_hooks_have_the_signatures_we_override(hook, expected):
    assert parameters(getattr(DPOTrainer, hook)) == expected, moved(f"DPOTrainer.{hook}", "trainer.py")
    if hook in vars(RSATrainer):
        assert parameters(getattr(RSATrainer, hook)) == expected


def test_constructor_is_dpos_plus_risk_measure():
    theirs = inspect.signature(DPOTrainer.__init__).parameters
    ours = dict(inspect.signature(RSATrainer.__init__).parameters)
    ours.pop("risk_measure")
    assert list(ours) == list(theirs), moved("the arguments of DPOTrainer", "trainer.py")
    assert all(ours[name].default == p.default for name, p in theirs.items())


def test_class_attributes():
    # transformers' word for it, which TRL uses from 1.15 on.
    assert DPOTrainer.loss_is_scaled_for_ga in (None, False), moved("loss_is_scaled_for_ga", "trainer.py")
    assert RSATrainer.loss_is_scaled_for_ga is False
    for name in ("_tag_names", "_name", "_paper"):
        assert hasattr(DPOTrainer, name), moved(f"DPOTrainer.{name}", "trainer.py")
    assert set(DPOTrainer._paper) == set(RSATrainer._paper), moved("the keys of DPOTrainer._paper", "trainer.py")


@pytest.fixture(scope="module")
def dpo_trainer(tiny_model_path, preference_dataset, tmp_path_factory):
    args = DPOConfig(output_dir=str(tmp_path_factory.mktemp("contract")), use_cpu=True, bf16=False, report_to="none")
    return DPOTrainer(model=tiny_model_path, args=args, train_dataset=preference_dataset)


# Set by DPOTrainer.__init__, read by ours.
ATTRIBUTES = ["aux_loss_enabled", "router_aux_loss_coef", "loss_types", "loss_weights", "beta", "ref_model"]
ATTRIBUTES += ["_is_vlm", "_total_train_tokens", "_tp_size", "_metrics", "data_collator", "accelerator", "args"]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_set_by_the_constructor(dpo_trainer, name):
    assert hasattr(dpo_trainer, name), moved(f"DPOTrainer().{name}", "trainer.py")


def test_beta_of_the_trainer_is_what_the_loss_reads(dpo_trainer):
    assert dpo_trainer.beta == dpo_trainer.args.beta
    assert dpo_trainer.loss_types == ["sigmoid"] and dpo_trainer.loss_weights == [1.0]


def test_prepared_dataset_has_the_columns_we_filter_and_collate(dpo_trainer, preference_dataset):
    columns = {"prompt_ids", "chosen_ids", "rejected_ids"}
    assert columns <= set(dpo_trainer.train_dataset.column_names), moved("_prepare_dataset's columns", "trainer.py")
    # Our own columns survive the preparation.
    pairs = preference_dataset.add_column("pair_weight", [1.0] * len(preference_dataset))
    prepared = dpo_trainer._prepare_dataset(pairs, dpo_trainer.processing_class, dpo_trainer.args, "train")
    assert "pair_weight" in prepared.column_names, moved("what _prepare_dataset keeps", "collator.py")


def test_signature_columns_are_a_list_we_add_to(dpo_trainer):
    dpo_trainer._set_signature_columns_if_needed()
    columns = dpo_trainer._signature_columns
    assert isinstance(columns, list), moved("_signature_columns", "trainer.py")
    assert {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(columns), moved("_signature_columns", "trainer.py")


def test_log_averages_the_lists_in_metrics(dpo_trainer):
    """`_metrics[mode][name]` is a list of numbers; `log` averages it, prefixes it in evaluation, and clears it."""
    for training, key in ((True, "mine"), (False, "eval_mine")):
        dpo_trainer.model.train(training)
        mode = "train" if training else "eval"
        dpo_trainer._metrics[mode]["mine"] += [1.0, 4.0]
        dpo_trainer.log({})
        assert dpo_trainer.state.log_history[-1][key] == 2.5, moved("the _metrics of DPOTrainer", "trainer.py")
        assert not dpo_trainer._metrics[mode]


def test_collator_fields_and_batch(dpo_trainer):
    collator = _trl.DataCollatorForPreference
    expected = {"pad_token_id", "max_length", "truncation_mode", "pad_to_multiple_of", "return_tensors"}
    assert {f.name for f in fields(collator)} == expected, moved("DataCollatorForPreference's fields", "collator.py")
    assert parameters(collator.torch_call) == ["self", "examples"], moved("torch_call", "collator.py")
    assert type(dpo_trainer.data_collator) is collator, moved("the default collator", "trainer.py")
    rows = [
        {"prompt_ids": [3], "chosen_ids": [4, 5], "rejected_ids": [6]},
        {"prompt_ids": [7, 8], "chosen_ids": [9], "rejected_ids": [10]},
    ]
    batch = collator(pad_token_id=0)(rows)
    # Chosen rows, then rejected rows, padded on the right.
    assert batch["input_ids"].tolist() == [[3, 4, 5], [7, 8, 9], [3, 6, 0], [7, 8, 10]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}, moved("the batch's keys", "trainer.py")


def test_dpo_options_are_the_ones_we_have_judged():
    """A risk-aware loss honours or refuses a new option of DPOConfig, in config.py; it must not slip in unseen."""
    from transformers import TrainingArguments
    from trl.trainer.base_config import _BaseConfig

    from trl_rsa.config import _NOT_HONOURED

    honoured = {"model_init_kwargs", "trust_remote_code", "router_aux_loss_coef", "disable_dropout", "beta"}
    honoured |= {"dataset_num_proc", "max_length", "pad_to_multiple_of", "pad_token", "activation_offloading"}
    honoured |= {"loss_type", "loss_weights", "label_smoothing", "padding_free"}
    honoured |= {"sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"}
    general = {f.name for f in fields(TrainingArguments)} | {f.name for f in fields(_BaseConfig)}
    own = {f.name for f in fields(DPOConfig)} - general
    assert own == honoured | set(_NOT_HONOURED), moved("the options of DPOConfig", "config.py")


def test_losses_are_those_of_the_installed_trl():
    """`_compute_loss` compares `loss_type` with each name; a name that only we know would fail at the first step."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(DPOTrainer._compute_loss)))
    names = {
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "loss_type"
    }
    assert names == set(TRL_LOSS_TYPES), moved("the losses of DPOTrainer", "config.py")
