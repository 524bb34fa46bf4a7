"""What a plan needs of the machine: named where it is missing, with what to do."""

import pytest

from trl_rsa import Plan, RiskConstraint, RungSettings, Stage
from trl_rsa.alignment import needs as module
from trl_rsa.alignment.needs import needs


@pytest.fixture
def make(tiny_model_path, tmp_path):
    def plan(**changes):
        given = {"stages": [], "model": tiny_model_path, "output_dir": str(tmp_path / "a" / "b")} | changes
        if not given["stages"] and "constraint" not in given:
            given["stages"] = [Stage("helpful", [{"prompt": "a", "chosen": "b", "rejected": "c"}])]
        return Plan(**given)

    return plan


def constraint(tmp_path, **changes):
    given = {"scorer": "math:floor", "prompts": ["a", "b"], "budget": 0.0, "bounds": (-1.0, 1.0)}
    return RiskConstraint(**given | changes)


def missing(plan, **arguments):
    return {need.what: need.words for need in needs(plan, **arguments) if not need.found}


def test_nothing_is_missing(make, tmp_path):
    plan = make(constraint=constraint(tmp_path))
    assert missing(plan) == {}
    assert [need.what for need in needs(plan)] == [
        "the model",
        "the scorer of the constraint 'cost'",
        "the prompts of 'cost'",
        "output_dir",
    ]
    assert not (tmp_path / "a").exists(), "looking must not write"


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"model": "./none"}, "the model", "there is no folder ./none"),
        ({"model": "a/b/c"}, "the model", "there is no folder a/b/c"),
        ({"model": "a b"}, "the model", "neither a folder nor the name of a model"),
        ({"model": "my-org/none"}, "the model", "HF_HUB_OFFLINE is set"),
        ({"stages": [Stage("s", "none.jsonl")]}, "the data of the stage 's'", "there is no file none.jsonl"),
        ({"stages": [Stage("s", "my-org/none")]}, "the data of the stage 's'", "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_not_there(make, changes, what, words):
    found = missing(make(**changes))
    assert list(found) == [what] and words in found[what]


def test_what_was_downloaded_before_is_found(make, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    plan = make(stages=[Stage("s", "my-org/pairs")])
    assert list(missing(plan)) == ["the data of the stage 's'"]
    (tmp_path / "datasets--my-org--pairs").mkdir()
    assert missing(plan) == {}


def test_a_constraint_s_files_and_keys(make, tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    options = {"api_key_env": "MY_KEY"}
    judged = constraint(
        tmp_path, scorer="guard-endpoint:http://h/v1#Llama-Guard-3", scorer_options=options, prompts="none.txt"
    )
    found = missing(make(constraint=judged))
    assert list(found) == ["the prompts of 'cost'", "the key of the constraint 'cost'"]
    assert found["the key of the constraint 'cost'"] == "set the environment variable MY_KEY"
    monkeypatch.setenv("MY_KEY", "secret")
    assert list(missing(make(constraint=judged))) == ["the prompts of 'cost'"]
    assert all("secret" not in need.words for need in needs(make(constraint=judged)))


def test_packages(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    plan = make(
        constraint=constraint(tmp_path),
        rungs=RungSettings(sampling={"engine": "vllm"}),
        model_init_kwargs={"quantization_config": {"load_in_4bit": True}, "attn_implementation": "flash_attention_2"},
        args={"report_to": ["wandb"]},
    )
    found = missing(plan, accelerate_config="zero3")
    assert list(found) == [
        "4-bit or 8-bit weights",
        "ZeRO",
        "sampling with vLLM",
        "flash_attention_2",
        "the tracker wandb",
    ]
    assert found["ZeRO"] == 'pip install "trl-rsa[deepspeed]"'
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    assert missing(plan, accelerate_config="zero3") == {}


def test_a_folder_that_cannot_be_written(make, tmp_path):
    (tmp_path / "file").write_text("")
    assert list(missing(make(output_dir=str(tmp_path / "file" / "out")))) == ["output_dir"]
