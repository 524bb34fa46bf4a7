"""`trl-rsa train`: TRL's dpo arguments, files as datasets, and what the user can mend in one sentence."""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from cpu_args import CPU_ARGS


torch = pytest.importorskip("torch")

from datasets import DatasetDict  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import DatasetMixtureConfig, DPOConfig  # noqa: E402

from trl_rsa import RSAConfig, RSATrainer  # noqa: E402
from trl_rsa.cli import main  # noqa: E402
from trl_rsa.data import load_preferences  # noqa: E402
from trl_rsa.score_models.arguments import ScoreModelArguments  # noqa: E402
from trl_rsa.score_models.rows import read_rows  # noqa: E402
from trl_rsa.scripts import _datasets, score_model, train  # noqa: E402
from trl_rsa.scripts._command import explain, parse_arguments, run_command  # noqa: E402
from trl_rsa.scripts._launch import launch_names, make_launcher, split_arguments  # noqa: E402
from trl_rsa.training.anchor import described  # noqa: E402
from trl_rsa.training.checkpoints import refuse_pieces  # noqa: E402


@pytest.fixture(autouse=True)
def own_dataset_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def pairs_file(preference_dataset, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_dataset))
    return str(path)


@pytest.fixture
def arguments(tiny_model_path, pairs_file, tmp_path) -> dict:
    """As in a YAML file of TRL's dpo script: one step on the CPU."""
    return {
        "model_name_or_path": tiny_model_path,
        "dataset_name": pairs_file,
        "output_dir": str(tmp_path / "out"),
        **CPU_ARGS,
        "learning_rate": "1e-2",  # YAML 1.1 reads 1e-2 without a point as text
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
    }


def as_flags(arguments: dict) -> list[str]:
    return [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


def as_yaml(arguments: dict, path: Path) -> list[str]:
    path.write_text(yaml.safe_dump(arguments))
    return ["--config", str(path)]


def fail(arguments: dict, capsys, *flags: str) -> str:
    """The sentence with which `trl-rsa train` refuses `arguments`."""
    assert main(["train", *as_flags(arguments), *flags]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("trl-rsa train: error: ")
    return last.removeprefix("trl-rsa train: error: ")


def moved(arguments: dict) -> bool:
    """Whether training wrote a model whose every matrix differs from the model it began with."""
    from transformers import AutoModelForCausalLM

    before, after = (
        AutoModelForCausalLM.from_pretrained(arguments[name]).state_dict()
        for name in ("model_name_or_path", "output_dir")
    )
    return all(not torch.equal(before[name], after[name]) for name in before if "proj" in name)


# Training


def test_train_from_flags(arguments, capsys):
    assert main(["train", *as_flags(arguments), "--risk_measure", "cvar", "--risk_tail", "0.2"]) == 0
    assert f"Model saved to {arguments['output_dir']}." in capsys.readouterr().out
    assert moved(arguments)
    saved = torch.load(Path(arguments["output_dir"]) / "training_args.bin", weights_only=False)
    assert (saved.loss_type, saved.risk_measure, saved.risk_tail) == (["rsa2"], "cvar", 0.2)


def test_train_from_a_dpo_yaml_file(arguments, monkeypatch, tmp_path, make_preference_dataset):
    """Everything of TRL's script in one file: `env`, splits, LoRA, evaluation. A flag goes before the file."""
    from datasets import DatasetDict

    monkeypatch.setenv("MY_VARIABLE", "before")
    folder = str(tmp_path / "saved")
    DatasetDict(train=make_preference_dataset(8), test=make_preference_dataset(4, seed=1)).save_to_disk(folder)
    arguments |= {"env": {"MY_VARIABLE": 3}, "dataset_name": folder, "eval_strategy": "steps", "eval_steps": 1}
    arguments |= {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear", "max_steps": 7}
    arguments |= {"save_strategy": "steps", "save_steps": 1}
    assert main(["train", *as_yaml(arguments, tmp_path / "dpo.yaml"), "--max_steps", "1"]) == 0
    assert os.environ["MY_VARIABLE"] == "3"
    out = Path(arguments["output_dir"])
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    history = json.loads((out / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in history if "eval_loss" in row] == [1]

    # Resumed from there, the second step is step 2, not step 1 again.
    assert main(["train", f"--config={tmp_path}/dpo.yaml", "--max_steps=2", "--resume_from_checkpoint=true"]) == 0
    history = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in history if "loss" in row] == [1, 2]


def test_a_run_that_has_ended_is_not_trained_on(arguments, tmp_path):
    """transformers would make one step more at each start."""
    arguments |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
    config = as_yaml(arguments, tmp_path / "dpo.yaml")
    out = Path(arguments["output_dir"])
    assert main(["train", *config]) == 0
    before = (out / "model.safetensors").read_bytes()
    assert main(["train", *config, "--resume_from_checkpoint", "true"]) == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    # More steps are another matter.
    assert main(["train", *config, "--max_steps", "3", "--resume_from_checkpoint", "true"]) == 0
    assert (out / "checkpoint-3").is_dir() and (out / "model.safetensors").read_bytes() != before


def test_the_best_model_is_not_written_over_when_a_run_that_has_ended_is_started_again(arguments, tmp_path):
    arguments |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    arguments |= {"test_split_size": 0.25, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    # The rate is so high that the second step makes it worse.
    config, out = as_yaml(arguments, tmp_path / "dpo.yaml"), Path(arguments["output_dir"])
    assert main(["train", *config]) == 0
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].endswith("checkpoint-1")
    before = (out / "model.safetensors").read_bytes()
    assert before != (out / "checkpoint-2" / "model.safetensors").read_bytes()
    assert main(["train", *config, "--resume_from_checkpoint", "true"]) == 0
    assert (out / "model.safetensors").read_bytes() == before


def test_the_checkpoint_of_another_number_of_processes_is_not_resumed(arguments, tmp_path, capsys):
    arguments |= {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    config = as_yaml(arguments, tmp_path / "dpo.yaml")
    assert main(["train", *config]) == 0
    path = Path(arguments["output_dir"]) / "checkpoint-1" / "complete.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"engine": "DDP", "processes": 2}))
    assert main(["train", *config, "--max_steps", "2", "--resume_from_checkpoint", "true"]) == 2
    said = "You resume with PyTorch in 1 process, but .*checkpoint-1 was written by DDP in 2 processes"
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


def test_a_checkpoint_cut_short_by_a_kill_is_left_out(arguments, tmp_path, capsys):
    """The trainer alone would take the highest number, and die over the file that is not there."""
    arguments |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    config = as_yaml(arguments, tmp_path / "dpo.yaml")
    assert main(["train", *config]) == 0
    newest = Path(arguments["output_dir"]) / "checkpoint-2"
    for name in ("complete.json", "trainer_state.json", "optimizer.pt"):
        (newest / name).unlink()
    weights = (newest / "model.safetensors").read_bytes()
    assert main(["train", *config, "--resume_from_checkpoint", "true"]) == 0
    assert "going on from checkpoint-1" in capsys.readouterr().err
    assert (newest / "complete.json").is_file() and (newest / "model.safetensors").read_bytes() == weights


def test_the_order_of_an_adapter_s_modules_tells_no_runs_apart():
    """A configuration keeps them as a set, whose order is another one in every process."""
    several = [LoraConfig(target_modules=names) for names in (["v_proj", "q_proj"], ["q_proj", "v_proj"])]
    assert described(several[0]) == described(several[1])
    assert '"target_modules": ["q_proj", "v_proj"]' in described(several[0])
    assert described(several[0]) != described(LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("fsdp", "zero", "said"),
    [
        ("SHARDED_STATE_DICT", None, "fsdp_state_dict_type to SHARDED_STATE_DICT"),
        ("FULL_STATE_DICT", None, None),
        (None, {"stage": 3}, "stage3_gather_16bit_weights_on_model_save"),
        (None, {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}, None),
        (None, {"stage": 2}, None),
    ],
)
def test_an_engine_that_would_write_pieces_is_refused(fsdp, zero, said):
    plugins = {
        "fsdp_plugin": SimpleNamespace(state_dict_type=f"StateDictType.{fsdp}"),
        "deepspeed_plugin": SimpleNamespace(deepspeed_config={"zero_optimization": zero}),
    }
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(state=SimpleNamespace(**plugins)),
        is_fsdp_enabled=fsdp is not None,
        is_deepspeed_enabled=zero is not None,
    )
    with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
        refuse_pieces(trainer)


def test_a_column_that_is_not_trained_on_may_hold_anything(arguments, tmp_path, make_preference_dataset):
    from datetime import datetime

    from datasets import DatasetDict

    rows = make_preference_dataset(4)
    folder = str(tmp_path / "dated")
    DatasetDict(train=rows.add_column("date", [datetime(2026, 1, 1)] * len(rows))).save_to_disk(folder)
    arguments |= {"max_steps": 1, "dataset_name": folder}
    assert main(["train", *as_yaml(arguments, tmp_path / "dpo.yaml")]) == 0


def test_the_checkpoint_of_another_run_is_not_resumed(arguments, tmp_path, capsys, make_preference_dataset):
    from datasets import DatasetDict

    arguments |= {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    config = as_yaml(arguments, tmp_path / "dpo.yaml")
    assert main(["train", *config]) == 0
    resume = [*config, "--max_steps", "2", "--resume_from_checkpoint", "true"]
    other = tmp_path / "other"
    DatasetDict(train=make_preference_dataset(8, seed=7)).save_to_disk(str(other))
    for change in (["--beta", "0.7"], ["--dataset_name", str(other)]):
        assert main(["train", *resume, *change]) == 2
        assert "belongs to a run with other settings, data or starting model" in capsys.readouterr().err
    # What a checkpoint of another trainer belongs to is not known.
    (Path(arguments["output_dir"]) / "checkpoint-1" / "complete.json").unlink()
    assert main(["train", *resume, "--beta", "0.7"]) == 0


def test_train_on_a_published_format(arguments, tmp_path, monkeypatch):
    """PKU-SafeRLHF rows, gzipped, by safety: the safer answer is chosen, as text in Safe RLHF's template."""
    path = tmp_path / "pku.jsonl.gz"
    row = {"prompt": "the cat", "response_0": "sat", "response_1": "ran", "better_response_id": 0}
    rows = [row | {"prompt": f"the {word} cat", "safer_response_id": 1} for word in ("red", "blue", "big", "small")]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    seen = {}

    class Recorder(RSATrainer):
        def __init__(self, **kwargs):
            seen.update(kwargs)
            super().__init__(**kwargs)

    monkeypatch.setattr(train, "RSATrainer", Recorder)
    arguments |= {"dataset_name": str(path), "preferred_by": "safer", "dataset_template": "safe-rlhf"}
    arguments |= {"eval_strategy": "steps", "test_split_size": 0.25}
    assert main(["train", *as_flags(arguments)]) == 0
    assert len(seen["train_dataset"]) == 3 and len(seen["eval_dataset"]) == 1
    first = seen["train_dataset"][0]
    assert (first["chosen"], first["rejected"]) == ("ran", "sat")
    assert first["prompt"].startswith("BEGINNING OF CONVERSATION: USER: the ")


@pytest.mark.slow
def test_train_under_accelerate_launch(arguments):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    flags = as_flags(arguments | {"dataset_streaming": True})
    run = subprocess.run(
        [*launch, "-m", "trl_rsa.scripts.train", *flags], capture_output=True, text=True, env=os.environ
    )
    assert run.returncode == 0, run.stderr
    assert moved(arguments)


# Launching


def test_arguments_of_the_launcher_are_told_apart():
    argv = ["--max_steps", "-1", "--accelerate-config=zero3", "--beta", "0.2", "--num_processes", "2", "--use_cpu"]
    own, launch = split_arguments(train.make_parser(), argv)
    assert own == ["--max_steps", "-1", "--beta", "0.2", "--use_cpu"]
    launcher = make_launcher(launch, {})
    assert launcher.accelerate_config == "zero3" and launcher.arguments == ("--num_processes", "2")


def test_the_yaml_file_may_name_the_engine_as_for_trl(arguments, monkeypatch, tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text(yaml.safe_dump(arguments | {"accelerate_config": "zero2", "num_processes": 3}))
    launched = []
    monkeypatch.setattr(train, "launch", lambda args, argv, launcher: launched.append((argv, launcher)))
    assert main(["train", "--config", str(path), "--beta", "0.2"]) == 0
    (argv, launcher) = launched.pop()
    assert argv == ["--config", str(path), "--beta", "0.2"]
    assert launcher.accelerate_config == "zero2" and launcher.arguments == ("--num_processes=3",)
    # In the processes that this has started the keys are the launcher's business.
    assert run_command("train", ["--config", str(path)], launched=True) == 0 and not launched


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accelerate_config", "zero4"], "neither a file nor one of fsdp2, multi_gpu, single, zero1"),
        (["--accelerate_config", "zero3"], "there is none. Add --num_processes"),
        (["--accelerate_config", "fsdp2", "--num_processes", "2"], "it falls back to DDP without a word"),
        (["--num_processes", "two"], "does not accept: argument --num_processes"),
        (["--num_procesess", "2"], "unrecognized arguments: --num_procesess 2. Did you mean --num_processes?"),
    ],
)
def test_what_cannot_be_launched_is_one_sentence(flags, message, arguments, capsys, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    assert main(["train", *as_flags(arguments), *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trl-rsa train: error")]
    assert message in line


@pytest.mark.parametrize("command", [train, score_model])
def test_two_ways_to_choose_the_engine_are_refused(command):
    training_args = SimpleNamespace(use_cpu=True, deepspeed="ds.json", fsdp=None)
    with pytest.raises(ValueError, match="You set deepspeed and arguments of a launcher"):
        command.launch((None, training_args), [], make_launcher(["--num_processes", "2"], {}))


# Help


def test_help_fits_on_a_screen(capsys):
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    assert any("trl-rsa train --model_name_or_path" in line for line in lines)


def test_help_shows_all_of_our_arguments_and_no_other():
    parser = train.make_parser()
    shown = {name for arguments in train._SHOWN.values() for name in arguments}
    assert shown <= {action.dest for action in parser._actions} | launch_names()
    theirs = {field.name for field in dataclasses.fields(DPOConfig)}
    ours = {field.name for field in dataclasses.fields(RSAConfig)} - theirs
    assert ours and ours | {"loss_type", "label_smoothing", "beta"} <= shown


def test_help_all_shows_every_argument(capsys):
    assert main(["train", "--help_all"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{action.dest}" in out for action in train.make_parser()._actions if action.dest != "==SUPPRESS==")


# What the user can mend


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"risk_tial": 0.1}, "unrecognized arguments: --risk_tial 0.1. Did you mean --risk_tail?"),
        ({"max_step": 1}, "unrecognized arguments: --max_step 1. Did you mean --max_steps?"),  # no abbreviations
        ({"beta": "small"}, "argument --beta: invalid float value: 'small'"),
        ({"beta": 0}, "You set beta=0.0, but the stage's temperature is beta / constraint_multiplier and must be"),
        ({"loss_type": "sigmoyd"}, "You set loss_type=['sigmoyd'], but there is no loss 'sigmoyd'. Set it to"),
        ({"loss_type": "sigmoid", "risk_tail": 0.1}, "You set risk_tail=0.1, but loss_type=['sigmoid'] is TRL's"),
        ({"f_divergence_type": "js_divergence"}, "You set f_divergence_type='js_divergence', but the risk-aware"),
        ({"link": "probit"}, "argument --link: invalid choice: 'probit'"),
        ({"risk_measure": "var"}, "argument --risk_measure/--risk-measure: invalid choice: 'var'"),
        ({"config": "missing.yaml"}, "You set the file of arguments to missing.yaml, but there is no such file."),
        ({"model_name_or_path": "./missing"}, "You set model_name_or_path='./missing', but there is no such folder"),
        ({"model_name_or_path": "missing"}, "You set model_name_or_path='missing', but there is no such folder"),
        ({"dataset_name": "missing.jsonl"}, "You set dataset_name='missing.jsonl', but there is no such file or"),
        ({"dataset_name": "missing"}, "You set dataset_name='missing', but it cannot be loaded: "),
        ({"dataset_train_split": "trian"}, "You set dataset_train_split='trian', but "),  # codespell:ignore
        ({"resume_from_checkpoint": "missing"}, "You set resume_from_checkpoint='missing', but there is no such"),
        ({"resume_from_checkpoint": "true"}, "No valid checkpoint found in output directory"),
        ({"gradient_accumulation_steps": 0}, "You set gradient_accumulation_steps=0, but it is at least 1"),
        ({"gradient_accumulation_steps": -1}, "You set gradient_accumulation_steps=-1, but it is at least 1"),
        ({"num_train_epochs": 0, "max_steps": -1}, "You set num_train_epochs=0.0, but then nothing is trained."),
        ({"learning_rate": "-1e-3"}, "You set learning_rate=-0.001, but it is at least 0"),
        ({"report_to": "wandbb"}, "You set report_to='wandbb', but no tracker has that name. Set one of"),
        ({"report_to": "neptune"}, "You set report_to='neptune', but it is not installed here. Install it with"),
        ({"lr_scheduler_kwargs": '{"a": 1}'}, "You set lr_scheduler_type="),
        ({"dataset_streaming": True, "max_length": 2}, "You set max_length=2, but of every pair of the train dataset"),
        ({"dataset_name": "PKU-SafeRLHF/train:0.5:none.jsonl"}, "There is no file or folder none.jsonl"),
        ({"dataset_format": "pku"}, "argument --dataset_format/--dataset-format: invalid choice: 'pku'"),
        ({"dataset_format": "beavertails"}, "No pair is left of the 16 rows"),
        ({"dataset_format": "preference", "dataset_streaming": True}, "You set dataset_streaming, but rows of"),
    ],
)
def test_refused(arguments, change, sentence, capsys):
    if "dataset_train_split" in change:  # a file has one split, which takes the name that is asked for
        from datasets import Dataset, DatasetDict

        folder = arguments["dataset_name"] + ".saved"
        DatasetDict(train=Dataset.from_dict({"chosen": ["a"], "rejected": ["b"]})).save_to_disk(folder)
        change = change | {"dataset_name": folder}
    assert fail(arguments | change, capsys).startswith(sentence)


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name"])
def test_missing_argument(arguments, name, capsys):
    del arguments[name]
    assert f"Set {name} to " in fail(arguments, capsys)


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "but it is empty. Give a file with at least one pair."),
        ('{"prompt": "a", "answer": "b"}\n', "has the columns prompt, answer, but chosen and rejected are missing."),
        ('{"prompt": "a", "chosen": "b"}\n', "has the columns prompt, chosen, but rejected is missing."),
        ('{"prompt": "a"\n', "but it cannot be loaded: "),
        (
            GOOD + '{"prompt": "a", "chosen": null, "rejected": "b"}\n',
            "Row 1 of {path} (counted from 0) has no text in `ch",
        ),
        (
            GOOD + '{"prompt": "a", "chosen": "b"}\n',
            "Row 1 of {path} (counted from 0) has no text in `rejected`. Correct",
        ),
        ('{"prompt": "a", "chosen": 1, "rejected": 2}\n', "hold prompt: text, chosen: something else, rejected: some"),
        (
            '{"chosen": [{"role": "user", "content": "a"}], "rejected": "b"}\n',
            "hold chosen: messages, rejected: text, but",
        ),
        (
            '{"chosen": [{"from": "a", "value": "b"}], "rejected": [{"from": "a", "value": "b"}]}\n',
            "chosen: something",
        ),
        (
            '{"chosen": [{"role": "user", "content": null}], "rejected": [{"role": "user", "content": "a"}]}\n',
            "Row 0 of {path} (counted from 0) has no text in `chosen`.",
        ),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "pair_weight": "1"}\n', "has pair_weight='1', but it must"),
    ],
)
def test_unusable_file(arguments, text, sentence, tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    assert sentence.format(path=path) in fail(arguments | {"dataset_name": str(path)}, capsys)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("pair_weight", -1.0, "pair_weight=-1.0, but it must be a number of at least 0. Correct or drop the row."),
        ("pair_weight", float("nan"), "pair_weight=nan, but it must be a number of at least 0."),
        ("pair_label", 1.5, "pair_label=1.5, but it must be a number in [0, 1]."),
        ("sft_weight", -0.5, "sft_weight=-0.5, but"),
    ],
)
def test_a_weight_that_cannot_be_is_found_before_the_model_is_loaded(
    arguments, column, value, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train, "RSATrainer", None)
    rows = [
        {"prompt": p, "chosen": "b", "rejected": "c", column: v} for p, v in (("a", 1.0), ("b", None), ("c", value))
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = fail(arguments | {"dataset_name": str(path)}, capsys)
    assert error.startswith(f"Row 2 of {path} (counted from 0) has {said}")


def test_a_row_without_a_weight_counts_in_full(arguments, tmp_path, preference_dataset):
    """As `load_preferences` reads it (docs/data.md)."""
    path = tmp_path / "pairs.jsonl"
    rows = [row | {"pair_weight": None if i % 2 else 0.5} for i, row in enumerate(preference_dataset)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = _datasets.PreferenceScriptArguments(dataset_name=str(path))
    pairs, _ = _datasets.load_pairs(args, DatasetMixtureConfig(), with_test=False, seed=0)
    assert pairs["pair_weight"][:4] == [0.5, 1.0, 0.5, 1.0]
    assert main(["train", *as_flags(arguments | {"dataset_name": str(path)})]) == 0


def test_a_saved_dataset_without_splits_is_read_as_a_file(arguments, tmp_path, monkeypatch, caplog):
    from datasets import Dataset

    label = {"is_response_0_safe": True, "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0}
    rows = [{"prompt": f"p {i}", "response_0": "the cat", "response_1": "the dog", **label} for i in range(6)]
    folder = str(tmp_path / "saved")
    Dataset.from_list(rows).save_to_disk(folder)
    args = _datasets.PreferenceScriptArguments(dataset_name=folder, preferred_by="safer")
    pairs, held_out = _datasets.load_pairs(args, DatasetMixtureConfig(test_split_size=0.5), with_test=True, seed=0)
    assert len(pairs) == len(held_out) == 3 and pairs[0]["chosen"][0]["content"] == "the cat"
    assert len(load_preferences(f"PKU-SafeRLHF-30K/train:1:{folder}", preferred_by="safer").dataset) == 6
    with pytest.raises(ValueError, match=r"You set split='train', but .*saved holds one dataset without splits"):
        load_preferences(folder, split="train")
    # A score model reads it beside sources with splits.
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(folder + "-splits")
    given = ScoreModelArguments(objective="cost", data=[folder, f"{folder}-splits"], split="train")
    assert [source.rows_read for source in read_rows(given, seed=0).sources] == [6, 6]


def test_a_preference_that_decides_nothing_is_said(arguments, pairs_file, caplog):
    args = _datasets.PreferenceScriptArguments(dataset_name=pairs_file, preferred_by="safer")
    with caplog.at_level("WARNING"):
        _datasets.load_pairs(args, DatasetMixtureConfig(), with_test=False, seed=0)
    assert f"You set preferred_by='safer', but the pairs of {pairs_file} say themselves" in caplog.text


def test_a_stream_says_that_pairs_may_be_dropped(arguments, capsys, caplog):
    short = arguments | {"dataset_streaming": True, "max_length": 12}
    with caplog.at_level("WARNING"):
        assert main(["train", *as_flags(short)]) == 0
    assert "max_length=12 tokens are dropped, and not counted" in caplog.text + capsys.readouterr().err


def test_dataset_without_rows(arguments, tmp_path, capsys):
    from datasets import Dataset

    none = Dataset.from_dict({"chosen": [], "rejected": []})
    none.save_to_disk(str(tmp_path / "none"))
    none.to_parquet(tmp_path / "none.parquet")
    assert "it holds no rows" in fail(arguments | {"dataset_name": str(tmp_path / "none")}, capsys)
    assert "it is empty" in fail(arguments | {"dataset_name": str(tmp_path / "none.parquet")}, capsys)


def test_mixture_without_rows(arguments, tmp_path, monkeypatch, capsys):
    from datasets import Dataset, DatasetDict

    none = DatasetDict(train=Dataset.from_dict({"chosen": [], "rejected": []}))
    monkeypatch.setattr(_datasets, "get_dataset", lambda mixture: none)
    config = as_yaml({"datasets": [{"path": "pairs"}]}, tmp_path / "mixture.yaml")
    sentence = fail(arguments, capsys, *config)
    assert sentence.startswith("The split 'train' of the mixture in `datasets` is empty.")


def test_evaluation_without_a_test_split(arguments, capsys):
    sentence = fail(arguments | {"eval_strategy": "epoch"}, capsys)
    assert "has only train. Set dataset_test_split to one of these, set test_split_size to hold pairs out," in sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("risk_tial: 0.1\n", "unrecognized argument in {path}: risk_tial. Did you mean risk_tail?"),
        ("- beta\n", "{path} does not hold `argument: value` lines"),
        ("", "{path} does not hold `argument: value` lines"),
        ("env: [1]\n", "{path} does not hold `argument: value` lines (`env` holds `VARIABLE: value` lines)"),
        ("beta: [0.1\n", "You gave the file of arguments {path}, but it is not valid YAML: "),
        ("beta: {a: 1}\n", "{path} sets beta to {{'a': 1}}, which is no number"),
        (
            "datasets: [{paht: x}]\n",  # codespell:ignore
            "You set datasets to [{{'paht': 'x'}}] in {path}, but it cannot be that: ",  # codespell:ignore
        ),
        ("max_steps: 1\nbeta: null\n", "{path} sets beta to None, which is no number"),
        (
            "beta: 0.1\nbeta: 0.2\n",
            "You gave the file of arguments {path}, but it is not valid YAML: the key 'beta' stands",
        ),
        ("beta: abc\n", "{path} sets beta to 'abc', which is no number (See"),
        ("model_init_kwargs: abc\n", "You set model_init_kwargs to 'abc', but they are `name: value`."),
        ("risk_measure: var\n", "You set the risk measure to 'var', which does not exist."),
        ("loss_type: [rsa1, rsa2]\n", "You set loss_type=['rsa1', 'rsa2'], but 'rsa1' and"),
    ],
)
def test_refused_yaml(arguments, text, sentence, tmp_path, capsys):
    path = tmp_path / "stage.yaml"
    path.write_text(text)
    assert fail(arguments, capsys, "--config", str(path)).startswith(sentence.format(path=path))


def test_a_whole_number_may_be_written_with_a_point(arguments, tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text("seed: 1.0\nmax_steps: 1.0\n")
    _, config, *_ = train.make_parser().parse_args(["--config", str(path), *as_flags({"output_dir": "o"})])
    assert config.seed == 1 and type(config.seed) is int and type(config.max_steps) is int


@pytest.mark.parametrize("value", ["-1e-2", "-5.", "-.5", "-1E1", "-3"])
def test_a_negative_number_is_no_flag(value):
    parser = argparse.ArgumentParser()
    parser.add_argument("--bounds", nargs=2, type=float)
    parsed = parse_arguments(parser, ["--bounds", value, "5"], "x")
    assert parsed.bounds == [float(value), 5.0]


def test_config_without_a_path(arguments, capsys):
    assert fail(arguments, capsys, "--config") == (
        "argument --config: expected one argument (See docs/cli.md#trl-rsa-train.)"
    )


def test_type_error_of_ours_is_a_sentence():
    with pytest.raises(TypeError) as raised:
        RSATrainer(model="tiny", args=DPOConfig(use_cpu=True, bf16=False))
    assert explain(raised.value).startswith("You gave args of type DPOConfig")
