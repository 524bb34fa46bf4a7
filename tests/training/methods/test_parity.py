"""A stage with a method of TRL's ends with the weights of TRL's own trainer, to the last bit: three steps each."""

import pytest
import torch
import trl
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from trl_rsa import Plan, Stage, align
from trl_rsa._trl import find_trainer
from trl_rsa.alignment.stage_data import load_stage_data
from trl_rsa.training.methods.table import METHODS
from trl_rsa.training.methods.terms import RewardTerm


SEED = 3
ARGS = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "disable_tqdm": True,
    "save_strategy": "no",
}
OWN = {
    "dpo": {"loss_type": ["ipo"]},
    "kto": {"desirable_weight": 1.5},
    "cpo": {"loss_type": "simpo", "cpo_alpha": 0.5},
    "rloo": {"num_generations": 2, "max_completion_length": 6},
}


def short_is_good(prompts, completions, **kwargs):
    return [-float(len(text.split())) for text in completions]


def stage_of(method, dataset):
    more = {"rewards": [RewardTerm(short_is_good)]} if method == "rloo" else {}
    return Stage("one", dataset, method=method, dataset_options={"template": "none"}, args=OWN.get(method, {}), **more)


def plan_of(method, model, dataset, folder):
    return Plan([stage_of(method, dataset)], model=model, output_dir=str(folder), args=ARGS, seed=SEED)


def trained_by_trl(method, plan, tmp_path):
    """What someone writes who has no plan: TRL's classes, the same rows, the same seed."""
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    rows = load_stage_data(plan, plan.stages[0], tokenizer).train
    config, trainer_class = find_trainer("Reward" if method == "reward" else method.upper())
    beta = {"beta": 0.1} if "beta" in METHODS[method].takes else {}
    args = config(output_dir=str(tmp_path / "trl"), seed=SEED, **ARGS, **OWN.get(method, {}), **beta)
    models = {"model": AutoModelForCausalLM.from_pretrained(plan.model, dtype=torch.float32)}
    if method == "reward":
        set_seed(SEED)  # of the new head
        models = {"model": plan.model}
    elif method in ("dpo", "kto"):
        models["ref_model"] = AutoModelForCausalLM.from_pretrained(plan.model, dtype=torch.float32)
    elif method == "rloo":
        models["reward_funcs"] = [short_is_good]
    trainer = trainer_class(args=args, train_dataset=rows, processing_class=tokenizer, **models)
    trainer.train()
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("method", ["dpo", "kto", "sft", "orpo", "cpo", "reward", "rloo"])
def test_the_weights_of_trls_own_trainer(method, tiny_model_path, make_preference_dataset, tmp_path):
    if method in ("orpo", "cpo") and find_trainer(method.upper()) is None:
        pytest.skip(f"TRL {trl.__version__} has no {method}")
    plan = plan_of(method, tiny_model_path, make_preference_dataset(16), tmp_path / "plan")
    align(plan, log=lambda line: None)
    expected = trained_by_trl(method, plan, tmp_path)
    found = load_file(tmp_path / "plan" / "01-one" / "model.safetensors")
    start = load_file(f"{tiny_model_path}/model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert any(not torch.equal(found[name], start[name]) for name in found if name in start), "nothing was trained"


def test_pairs_for_kto_are_taken_apart_and_mixed(make_preference_dataset, tiny_model_path, tiny_tokenizer, tmp_path):
    pairs = make_preference_dataset(16)
    plan = plan_of("kto", tiny_model_path, pairs, tmp_path)
    found = load_stage_data(plan, plan.stages[0], tiny_tokenizer)
    rows = found.train
    assert isinstance(rows, Dataset) and len(rows) == 32 and found.data["train"]["pairs_kept"] == 16
    assert {(row["prompt"], row["completion"]) for row in rows if row["label"]} == {
        (row["prompt"], row["chosen"]) for row in pairs
    }
    assert 4 < sum(rows["label"][:16]) < 12, "the desirable ones must not come first"
