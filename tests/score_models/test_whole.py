"""A model in pieces is put together as a whole one. (With engines: tests/distributed/test_align_launched.py.)"""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification
from transformers.integrations import HfDeepSpeedConfig, deepspeed

from trl_rsa.score_models.whole import _merge, undivided


@pytest.mark.parametrize("bias", [False, True], ids=["hf", "beaver"])
def test_merged_from_its_state(tiny_model_path, bias):
    """Safe RLHF's head has a bias, which no configuration tells of."""
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model_path, num_labels=1)
    if bias:
        base.score.bias = torch.nn.Parameter(torch.ones(1))
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["score"], init_lora_weights=False)
    model = get_peft_model(base, lora)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True))
    found = _merge(trainer, model, deepcopy(model.state_dict()), torch.float32).state_dict()
    expected = model.merge_and_unload().state_dict()
    assert found.keys() == expected.keys() and ("score.bias" in found) is bias
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_engine_s_configuration_is_the_same_one_afterwards():
    """accelerate fills in another copy of it than its plugin shows."""
    content = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}
    given = HfDeepSpeedConfig(content)  # it is held weakly
    for _ in range(2):
        assert deepspeed.deepspeed_config() == content and deepspeed.is_deepspeed_zero3_enabled()
        with pytest.raises(KeyError), undivided():
            assert not deepspeed.is_deepspeed_zero3_enabled()
            raise KeyError
    del given
    deepspeed.unset_hf_deepspeed_config()
