"""What cannot work on an engine, or would go wrong without a word, is refused with one sentence, before any step.

(Vocabularies that differ: tests/test_trainer_data.py.)
"""

import importlib.util

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.kernels.head import Reference, RiskHeadRequest, add_risk_head, output_head
from trl_rsa.refusals import check_placement
from trl_rsa.risk import Expectation


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def make_trainer(tiny_model_path, preference_dataset, tiny_args):
    def make(model=tiny_model_path, args=None, **trainer):
        args = args or RSAConfig(**tiny_args())
        return RSATrainer(model=model, args=args, train_dataset=preference_dataset, **trainer)

    return make


def test_adapter_on_the_head(make_trainer):
    """By TRL's words where it refuses it itself (from 1.15 on)."""
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match=r"adapter.*head.*would never be trained"):
        make_trainer(peft_config=lora)


def test_adapter_on_the_words_of_a_tied_head(make_trainer, tiny_tied_model_path, tiny_tokenizer):
    """PEFT trains the rows of single words in embedding and head alike; the reference would be trained with them."""
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=[3, 4])
    with pytest.raises(ValueError, match=r"adapter on the LM head \(TrainableTokensWrapper\)"):
        make_trainer(tiny_tied_model_path, peft_config=lora, processing_class=tiny_tokenizer)


@needs_bitsandbytes
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_quantised_head(make_trainer, tiny_args, storage):
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_storage=storage, llm_int8_skip_modules=["down_proj"]
    )
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"LM head is quantised \(Linear4bit\).*add 'lm_head'"):
        make_trainer(quantization_config=quantised, peft_config=lora)


def test_data_parallel(make_trainer, tiny_args):
    """Two GPUs are visible and nothing was launched: `Trainer` would wrap the model in `nn.DataParallel`."""
    args = RSAConfig(**tiny_args())
    args._n_gpu = 2
    with pytest.raises(ValueError, match=r"nn\.DataParallel.*`accelerate launch`"):
        make_trainer(args=args)


@pytest.mark.parametrize("placed", ["auto", "balanced", {"model": 0, "lm_head": 1}])
def test_model_over_all_devices_in_every_process(make_trainer, tiny_args, tiny_model_path, monkeypatch, placed):
    model, init = tiny_model_path, {"model_init_kwargs": {"device_map": placed}}
    if isinstance(placed, dict):
        # As a model loaded with device_map="auto" on two GPUs says of itself.
        model, init = AutoModelForCausalLM.from_pretrained(tiny_model_path), {}
        model.hf_device_map = placed
    args = RSAConfig(**tiny_args(**init))
    monkeypatch.setattr(RSAConfig, "world_size", 2)
    with pytest.raises(ValueError, match=r"You set device_map=.*the job has 2 processes"):
        make_trainer(model, args)


def test_a_model_on_one_device_per_process_is_not_refused(tiny_args, tiny_model_path, monkeypatch):
    """QLoRA under DDP is loaded so."""
    args = RSAConfig(**tiny_args(model_init_kwargs={"device_map": {"": 1}}))
    monkeypatch.setattr(RSAConfig, "world_size", 2)
    check_placement(args, tiny_model_path)


def test_head_that_is_still_sharded(tiny_model_path):
    """ZeRO-3 leaves empty parameters outside their modules: a loss of 0, had it not been seen."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    add_risk_head(model)
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0, 32))
    ids = torch.tensor([[3, 4, 5]])
    reference = Reference(torch.zeros(2, 32), output_head(model))
    with pytest.raises(RuntimeError, match="was not gathered"):
        model(input_ids=ids, labels=ids, risk_head=RiskHeadRequest(Expectation(), reference))
