"""Whether prompts, responses and settings of models fit is asked before a stage is trained, whatever draws."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from trl_rsa.alignment.prepare import check_room
from trl_rsa.sampling.response import Sampling
from trl_rsa.training import launched, runner
from trl_rsa.training.anchor import ModelSettings


@pytest.fixture
def check(tiny_model_path, tiny_tokenizer):
    def run(prompt, settings, peft_config=None, **sampling):
        plan = SimpleNamespace(
            model=tiny_model_path, model_init_kwargs=settings, peft_config=peft_config, args={}, seed=0
        )
        group = SimpleNamespace(names=["cost"], asked=[prompt])
        one = Sampling(max_new_tokens=8, **sampling)
        ladder = SimpleNamespace(
            groups={"certify": [group]},
            settings=SimpleNamespace(sampling_of=lambda split, seed: one),
            processing_class=tiny_tokenizer,
        )
        check_room(plan, [], ladder)

    return run


ENGINES = [{}, {"engine": "vllm"}, {"engine": "server", "server_url": "http://localhost:8000"}]


@pytest.mark.parametrize("engine", ENGINES)
def test_prompts_that_are_too_long(check, engine):
    check("the cat", {"dtype": "bfloat16"}, **engine)
    with pytest.raises(ValueError, match=r"The certify prompts of cost: .* this model takes 56 tokens"):
        check("the " * 70, {}, **engine)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_weights_that_an_engine_does_not_load(check, engine):
    with pytest.raises(ValueError, match="You set subfolder for a model with engine="):
        check("the cat", {"subfolder": "policy"}, **engine)
    with pytest.warns(UserWarning, match=r"trained on quantised weights, and engine=.* with its weights whole"):
        check("the cat", {"quantization_config": {"load_in_4bit": True}}, **engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_that_an_engine_loads_otherwise(check, engine):
    check("the cat", {}, peft_config={"r": 4, "target_modules": ["q_proj"]}, **engine)
    refused = pytest.raises(ValueError, match="for the plan's peft_config, but its init_lora_weights, 'pissa'")
    with refused if engine else contextlib.nullcontext():
        check("the cat", {}, peft_config={"r": 4, "init_lora_weights": "pissa"}, **engine)


def test_how_other_engines_load_the_policies_of_a_plan(monkeypatch, tmp_path):
    """As the plan says; its default, float32, and a server's dtype are left to them."""
    given = []
    for room in (runner, launched):
        monkeypatch.setattr(
            room, "generate", lambda *args, model_options, **kw: given.append(model_options) or iter(())
        )
    for settings in ({}, {"dtype": "bfloat16", "revision": "v2"}):
        models = ModelSettings.of(settings, None, {})
        for one in (
            runner.InProcess(models, None, (), print),
            launched.Launched(models=models, processing_class=None, launcher=None, output_dir=tmp_path),
        ):
            for engine in ENGINES[1:]:
                list(one.sample("a folder", ["q"], Sampling(**engine), batch_size=1, skip=()))
    bfloat16 = {"dtype": torch.bfloat16, "revision": "v2"}
    assert given == [{}, {}] * 2 + [bfloat16, {"revision": "v2"}] * 2
