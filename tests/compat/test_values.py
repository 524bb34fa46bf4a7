"""`values.reward` and `values.cost` of Safe RLHF: the flags of published command lines, field by field, and a run."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import trl_rsa
from tests.score_models.conftest import pku_rows, write_jsonl
from trl_rsa.compat.safe_rlhf import tracker as tracker_module
from trl_rsa.compat.safe_rlhf.algorithms import dpo
from trl_rsa.compat.safe_rlhf.command_line import run
from trl_rsa.compat.safe_rlhf.engine import deepspeed_config
from trl_rsa.compat.safe_rlhf.tracker import tracker
from trl_rsa.compat.safe_rlhf.training import training_arguments
from trl_rsa.compat.safe_rlhf.values._main import _KNOWN_AS, make_parser, score_model_arguments, train
from trl_rsa.scoring import load_scorer


# Acceptance case 4, as it stands.
CASE_4 = shlex.split("""
--train_datasets PKU-SafeRLHF/train --eval_datasets PKU-SafeRLHF/test
--model_name_or_path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --max_length 512 --trust_remote_code True
--loss_type sequence-wise --epochs 2 --per_device_train_batch_size 16 --per_device_eval_batch_size 16
--gradient_accumulation_steps 1 --gradient_checkpointing --regularization 0.001
--normalize_score_during_training False --normalizer_type ExponentialMovingAverage --normalizer_momentum 0.9
--learning_rate 2e-5 --lr_scheduler_type cosine --lr_warmup_ratio 0.03 --weight_decay 0.1 --seed 42
--need_eval --eval_strategy epoch --output_dir output/cm --log_type wandb --log_project Safe-RLHF-CM
--zero_stage 3 --offload none --bf16 True --tf32 True
""")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_every_flag_of_a_published_command_has_a_field(monkeypatch):
    monkeypatch.setattr(tracker_module, "is_installed", lambda name: True)
    args = make_parser("cost").parse_args(["--local_rank=0", *CASE_4])
    found = training_arguments(args)
    expected = {
        "output_dir": "output/cm",
        "max_length": 512,
        "trust_remote_code": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": True,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.1,
        "seed": 42,
        "bf16": True,
        "tf32": True,
        "eval_strategy": "epoch",
        "adam_beta2": 0.95,
        "fp16": False,
        "use_cpu": False,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["deepspeed"]["zero_optimization"]["stage"] == 3
    assert found["deepspeed"]["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    report_to, variables, _ = tracker(args.log_type, args.log_dir, args.log_project, args.output_dir)
    expected = {"WANDB_MODE": "offline", "WANDB_PROJECT": "Safe-RLHF-CM", "WANDB_DIR": "output/cm"}
    assert (report_to, variables) == ("wandb", expected)
    settings = score_model_arguments("cost", args)
    assert (settings.objective, settings.layout, settings.loss_type) == ("cost", "beaver", "sequence-wise")
    assert (settings.data, settings.eval_data) == (["PKU-SafeRLHF/train"], ["PKU-SafeRLHF/test"])
    # The normalizer is named and not asked for.
    assert (settings.regularization, settings.normalizer, settings.normalizer_momentum) == (0.001, None, 0.9)


def test_defaults():
    needed = ["--train_datasets=a", "--model_name_or_path=m", "--output_dir=o"]
    args = make_parser("reward").parse_args(needed)
    expected = {"max_length": 512, "epochs": 1, "per_device_train_batch_size": 16, "lr": 2e-5, "weight_decay": 0.0}
    expected |= {"lr_scheduler_type": "cosine", "lr_warmup_ratio": 0.0, "seed": 42, "loss_type": "sequence-wise"}
    expected |= {"regularization": 0.0, "normalize_score_during_training": False, "zero_stage": 0, "offload": "none"}
    assert {name: getattr(args, name) for name in expected} == expected


def test_a_name_of_another_program_is_not_a_flag():
    assert not set(_KNOWN_AS) & set(make_parser("cost")._option_string_actions)


def test_offload():
    zero = deepspeed_config(2, "optimizer")["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu" and "offload_param" not in zero
    zero = deepspeed_config(3, "all")["zero_optimization"]
    assert {"offload_optimizer", "offload_param"} <= zero.keys()
    with pytest.raises(ValueError, match="You set offload=all with zero_stage=2, but DeepSpeed offloads"):
        deepspeed_config(2, "all")


def test_dry_run_prints_the_configuration(capsys, tmp_path):
    flags = [*CASE_4, "--dry_run", "--log_type=none", "--max_grad_norm", "0.5", f"--output_dir={tmp_path / 'o'}"]
    assert train("cost", flags) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"] == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert printed["arguments"]["max_grad_norm"] == 0.5
    assert printed["arguments"]["deepspeed"]["zero_optimization"]["stage"] == 3
    assert printed["data"]["eval"][0]["name"] == "PKU-SafeRLHF/test"
    assert (printed["score_model"]["objective"], printed["score_model"]["regularization"]) == ("cost", 0.001)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "flags",
    [
        "--bf16 maybe",
        "--xyzzy=3",
        "--zero_stage 4",
        "--offload optimizer",
        "--lr_warmup_ratio 1",
        "--bf16 --fp16",
        "--need_eval",
        "--eval_datasets a --eval_split_ratio 0.1",
        "--eval_split_ratio 1.5",
        "--num_train_epochs 2",
        "--lr_scheduler_type sawtooth",
        "--use_cpu perhaps",
        "--output_dir=",
    ],
)
def test_a_wrong_flag_is_the_same_sentence_in_every_trainer(flags, capsys):
    needed = ["--train_datasets", "PKU-SafeRLHF/train", "--model_name_or_path", "m", "--output_dir", "o"]
    assert train("cost", [*needed, *flags.split(), "--dry_run"]) == 2
    values = capsys.readouterr().err.partition(": error: ")[2]
    assert run(dpo.make_parser(), dpo.main, [*needed, *flags.split(), "--dry_run"], dpo._KNOWN_AS) == 2
    assert capsys.readouterr().err.partition(": error: ")[2] == values
    assert values.count("\n") == 1


@pytest.mark.slow
def test_cost_through_runpy(tiny_model_path, tmp_path):
    """As acceptance case 4 starts it: a file that runs the module, into a folder that the wrapper has written to."""
    data, folder = write_jsonl(tmp_path / "pku.jsonl", pku_rows(120)), tmp_path / "out"
    folder.mkdir()
    for name in ("stdout.log", "script.sh", ".gitignore"):
        (folder / name).write_text("*\n")
    launcher = tmp_path / "_launch_cost.py"
    launcher.write_text(
        'import runpy\nrunpy.run_module("trl_rsa.compat.safe_rlhf.values.cost", run_name="__main__", alter_sys=True)\n'
    )
    flags = f"""
    --train_datasets PKU-SafeRLHF/train:1.0:{data} --eval_datasets PKU-SafeRLHF/test:20/-1:{data}
    --model_name_or_path {tiny_model_path} --output_dir={folder} --max_length 64 --trust_remote_code False --epochs 6
    --per_device_train_batch_size 16 --lr 1e-2 --need_eval --eval_strategy epoch --regularization 0.001
    --normalize_score_during_training False --log_type tensorboard --zero_stage 0 --offload none --bf16 False
    --tf32 True
    """
    environment = os.environ | {"PYTHONPATH": str(Path(trl_rsa.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(launcher), *shlex.split(flags)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pair_accuracy" in done.stdout and f"Saved to {folder}" in done.stdout
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"] and config["score_type"] == "cost"
    assert (folder / "stdout.log").exists() and not (folder / "zero_to_fp32.py").exists()
    good, bad = load_scorer(f"beaver:{folder}", kind="cost")(
        ["the cat a dog"] * 2, ["the cat sat on a mat the", "red blue cat big a dog on"]
    )
    assert good < bad


def test_reward_in_process_with_a_normalizer(tiny_model_path, tmp_path, capsys):
    data = write_jsonl(tmp_path / "pku.jsonl", pku_rows(40))
    flags = f"--train_datasets PKU-SafeRLHF/train::{data} --model_name_or_path {tiny_model_path} --max_length 64"
    flags += f" --output_dir {tmp_path / 'rm'} --epochs 1 --normalize_score_during_training yes --use_cpu"
    assert (
        train(
            "reward",
            [*flags.split(), "--normalizer_type", "RunningMeanStd", "--need_eval", "--eval_split_ratio", "0.2"],
        )
        == 0
    )
    assert "pair_accuracy" in capsys.readouterr().out
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert config["do_normalize"] and config["normalizer_type"] == "RunningMeanStd"
    # In training a normalized reward has mean 0 and spread 1 over what it has seen.
    scores = load_scorer(f"beaver:{tmp_path / 'rm'}", kind="reward")(
        [row["prompt"] for row in pku_rows(40)], [row["response_0"] for row in pku_rows(40)]
    )
    assert abs(sum(scores) / len(scores)) < 5 and max(scores) > min(scores)


def test_a_dataset_of_ones_own_and_prompts_that_are_measured_on(tiny_model_path, tmp_path, capsys):
    """Read with --dataset_module; of 30 rows to train on 10 share their prompt with the eval data, which is said."""
    (tmp_path / "own.py").write_text(
        "from trl_rsa.compat.safe_rlhf.datasets import RawDataset\n"
        "class Own(RawDataset):\n"
        "    NAME = 'own-for-values'\n"
        "    def __len__(self): return 30\n"
        "    def __getitem__(self, i):\n"
        "        talk = ['the cat', 'a dog', f'Own {i}']\n"
        "        return {'input': talk, 'answer': 'the cat sat', 'other_answer': 'a dog', 'better': bool(i % 2),\n"
        "                'safer': True, 'is_safe': True, 'is_other_safe': False}\n"
    )
    flags = f"--dataset_module {tmp_path / 'own.py'} --train_datasets own-for-values"
    flags += " --eval_datasets own-for-values:10/-1 --need_eval --log_type none"
    flags += f" --model_name_or_path {tiny_model_path} --max_length 64 --output_dir {tmp_path / 'cm'} --use_cpu"
    assert train("cost", flags.split()) == 0
    shown = capsys.readouterr()
    assert "30 pairs, 60 labels" in shown.out
    assert "10  rows not trained on, 33.3% of all, because their prompt is measured on" in shown.out
    assert "rows to train on whose prompt is in the eval data are left out" in shown.err


@pytest.mark.parametrize(("fp16", "dtype"), [(True, "float16"), (False, "bfloat16")])
def test_save_16bit_is_the_type_that_was_trained_in(fp16, dtype, monkeypatch, tmp_path):
    """As in the dpo module. There is no fp16 on a CPU, so that the training is left out."""
    from trl_rsa.score_models import train as module

    rounded = []
    monkeypatch.setattr(module, "save_whole", lambda trainer, folder: None)
    monkeypatch.setattr(module, "round_weights", lambda folder, dtype: rounded.append(str(dtype)))
    alone = SimpleNamespace(wait_for_everyone=lambda: None, is_main_process=True)
    trainer = SimpleNamespace(accelerator=alone, args=SimpleNamespace(fp16=fp16), normalizer=None)
    module._save(trainer, SimpleNamespace(save_16bit=True, layout="hf"), tmp_path)
    assert rounded == [f"torch.{dtype}"]


def test_a_reward_and_a_cost_model_are_not_taken_for_each_other(tiny_model_path, tmp_path):
    data = write_jsonl(tmp_path / "pku.jsonl", pku_rows(40))
    flags = f"--train_datasets PKU-SafeRLHF/train::{data} --model_name_or_path {tiny_model_path} --max_length 64"
    assert train("reward", f"{flags} --output_dir {tmp_path / 'rm'} --use_cpu --log_type none".split()) == 0
    with pytest.raises(ValueError, match="it was trained to give a reward, of which higher is better"):
        load_scorer(f"beaver:{tmp_path / 'rm'}", kind="cost")


def test_without_need_eval_all_rows_are_trained_on():
    """As in Safe RLHF, where the ratio waits for --need_eval."""
    flags = shlex.split("--train_datasets x.jsonl --model_name_or_path m --output_dir o --eval_split_ratio 0.25")
    for more, share in ([], 0.0), (["--need_eval"], 0.25):
        args = make_parser("cost").parse_args([*flags, *more])
        assert score_model_arguments("cost", args).held_out == share


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--bf16 maybe", "argument --bf16: 'maybe' is neither true nor false"),
        ("--loss_typ token-wise", "You set --loss_typ, but there is no such flag. Did you mean --loss_type?"),
        ("--normalize_score_during_training True", "You set normalize_score_during_training=True without"),
        ("--train_datasets none.jsonl", "There is no file or folder none.jsonl"),
        ("--epochs 0", "You set epochs=0, but it counts from 1"),
        ("--save_interval -5", "You set save_interval=-5, but it counts from 1"),
        ("--lr nan --dry_run", "You set learning_rate=nan, but it is at least 0"),
        ("--per_device_train_batch_size 0 --dry_run", "You set per_device_train_batch_size=0, but it is at least 1"),
        ("--gradient_accumulation_steps 0 --dry_run", "You set gradient_accumulation_steps=0, but it is at least 1"),
        ("--max_length 0 --dry_run", "You set max_length=0, but it is at least 1"),
        ("--output_dir /dev/null --dry_run", "You set output_dir to '/dev/null', but /dev/null is a file"),
        ("--regularization -1", "You set regularization=-1.0, but it is at least 0"),
    ],
)
def test_refused(flags, sentence, tiny_model_path, tmp_path, capsys):
    base = f"--train_datasets x.jsonl --model_name_or_path {tiny_model_path} --output_dir {tmp_path / 'o'} --use_cpu"
    assert train("cost", [*base.split(), *flags.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.removeprefix("trl_rsa.compat.safe_rlhf.values.cost: error: ").startswith(sentence)
