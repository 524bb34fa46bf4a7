"""`python -m trl_rsa.compat.safe_rlhf.algorithms.dpo`: what its flags become, what it refuses, and runs of it."""

import importlib.util
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest


torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaModel  # noqa: E402

from trl_rsa import RSAConfig  # noqa: E402
from trl_rsa.compat.safe_rlhf import tracker as tracker_module  # noqa: E402
from trl_rsa.compat.safe_rlhf import training  # noqa: E402
from trl_rsa.compat.safe_rlhf.algorithms import dpo  # noqa: E402
from trl_rsa.compat.safe_rlhf.command_line import run  # noqa: E402
from trl_rsa.compat.safe_rlhf.engine import deepspeed_config  # noqa: E402
from trl_rsa.compat.safe_rlhf.pairs import load_pairs  # noqa: E402
from trl_rsa.compat.safe_rlhf.tracker import tracker  # noqa: E402


ROOT = Path(__file__).parents[2]
HOME = os.environ.get("HOME", "")  # where DeepSpeed keeps the operator that it compiles at its first start
NEEDED = ["--model_name_or_path", "m", "--train_datasets", "PKU-SafeRLHF/train", "--output_dir", "out"]

# Safe RLHF's script for DPO, its flags in its order.
SCRIPT = shlex.split("""
--train_datasets PKU-SafeRLHF/train --eval_datasets PKU-SafeRLHF/test
--model_name_or_path PKU-Alignment/alpaca-7b-reproduced --max_length 512 --trust_remote_code True --epochs 2
--per_device_train_batch_size 16 --per_device_eval_batch_size 16 --gradient_accumulation_steps 1
--gradient_checkpointing --learning_rate 1e-6 --lr_scheduler_type cosine --lr_warmup_ratio 0.03 --weight_decay 0.05
--seed 42 --need_eval --eval_strategy epoch --scale_coeff 0.1 --output_dir output/dpo
--log_type wandb --log_project Safe-RLHF-DPO --zero_stage 3 --offload none --bf16 True --tf32 True
""")

# What the flags' documentation says of a run without any of them, in the words of `TrainingArguments`.
DEFAULTS = {
    "output_dir": "out",
    "beta": 0.02,
    "constraint_multiplier": 1.0,
    "label_smoothing": 0.0,
    "loss_type": ["rsa2"],
    "risk_alpha": 0.0,
    "max_length": 512,
    "drop_truncated": True,
    "trust_remote_code": False,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "seed": 42,
    "fp16": False,
    "bf16": False,
    "tf32": None,
    "use_cpu": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 1,
    "run_name": None,
    "deepspeed": None,
}
ZERO_3 = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
}


def arguments_of(*flags):
    return dpo.config_arguments(dpo.make_parser().parse_args(list(flags)))


@pytest.fixture(scope="module")
def model_path(byte_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = {
        "vocab_size": 259,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs_path(tmp_path_factory):
    """PKU-SafeRLHF's columns: the better answer is the first in every second row, the safer one in every fourth."""
    path = tmp_path_factory.mktemp("pairs") / "pku.jsonl"
    rows = [
        {
            "prompt": f"Question {i}?",
            "response_0": "Yes. " * (i % 3 + 1),
            "response_1": "No.",
            "better_response_id": i % 2,
            "safer_response_id": int(i % 4 > 0),
            "is_response_0_safe": i % 4 == 0,
            "is_response_1_safe": True,
        }
        for i in range(16)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def no_tracker_and_own_cache(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "TENSORBOARD_LOGGING_DIR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# ----- what the flags become


def test_the_defaults():
    assert arguments_of(*NEEDED) == DEFAULTS


def test_every_flag_of_the_published_script_has_its_field():
    changed = {
        "output_dir": "output/dpo",
        "trust_remote_code": True,
        "num_train_epochs": 2,
        "gradient_checkpointing": True,
        "learning_rate": 1e-6,
        "warmup_steps": 0.03,
        "weight_decay": 0.05,
        "eval_strategy": "epoch",
        "beta": 0.1,
        "bf16": True,
        "tf32": True,
        "deepspeed": ZERO_3,
    }
    assert arguments_of(*SCRIPT) == DEFAULTS | changed


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--lr", "3e-5"], {"learning_rate": 3e-5}),
        (["--learning_rate=3e-5"], {"learning_rate": 3e-5}),
        (["--gradient_checkpointing", "True"], {"gradient_checkpointing": True}),
        (["--gradient_checkpointing=no"], {}),
        (["--bf16"], {"bf16": True}),
        (["--fp16=1", "--bf16", "f"], {"fp16": True}),
        (["--trust_remote_code", "yes"], {"trust_remote_code": True}),
        (["--use_cpu"], {"use_cpu": True}),
        (["--local_rank=1"], {}),
        (["--save_interval", "100"], {"save_strategy": "steps", "save_steps": 100}),
        (["--log_run_name", "a"], {"run_name": "a"}),
        (["--max_grad_norm", "0.5"], {"max_grad_norm": 0.5}),
        (["--eval_datasets", "PKU-SafeRLHF/test"], {}),
        (["--need_eval", "--eval_split_ratio", "0.1"], {"eval_strategy": "epoch"}),
        (
            ["--need_eval", "--eval_split_ratio=0.1", "--eval_strategy=steps", "--eval_interval=50"],
            {"eval_strategy": "steps", "eval_steps": 50},
        ),
        (["--risk_measure", "cvar", "--risk_tail=0.1"], {"risk_measure": "cvar", "risk_tail": 0.1, "risk_alpha": ...}),
        (["--loss_type", "rsa2"], {"risk_alpha": ...}),
        (["--loss_type", "rsa1"], {"loss_type": ["rsa1"], "risk_alpha": ...}),
        (["--risk_alpha", "0.3"], {"risk_alpha": 0.3}),
        (["--scale_coeff", "0.1", "--constraint_multiplier", "4"], {"beta": 0.1, "constraint_multiplier": 4.0}),
    ],
)
def test_flags_one_by_one(flags, changed):
    """`...` stands for a field that is left to RSAConfig: with a risk flag, its own default holds."""
    expected = {name: value for name, value in (DEFAULTS | changed).items() if value is not ...}
    given = arguments_of(*NEEDED, *flags)
    assert given == expected
    RSAConfig(**given | {"fp16": False, "bf16": False, "use_cpu": True})


@pytest.mark.parametrize(
    ("stage", "offload", "zero"),
    [
        (1, "none", {"stage": 1}),
        (1, "optimizer", {"stage": 1, "offload_optimizer": {"device": "cpu", "pin_memory": True}}),
        (2, "optimizer", {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}}),
        (3, "parameter", ZERO_3["zero_optimization"] | {"offload_param": {"device": "cpu", "pin_memory": True}}),
        (
            3,
            "all",
            ZERO_3["zero_optimization"]
            | {name: {"device": "cpu", "pin_memory": True} for name in ("offload_param", "offload_optimizer")},
        ),
    ],
)
def test_zero_stage_and_offload(stage, offload, zero):
    assert deepspeed_config(stage, offload) == ZERO_3 | {"zero_optimization": zero}


@pytest.mark.parametrize(
    ("log_type", "installed", "environment", "expected"),
    [
        ("wandb", True, {"WANDB_API_KEY": "k"}, ("wandb", {"WANDB_PROJECT": "p", "WANDB_DIR": "d"}, None)),
        (
            "wandb",
            True,
            {},
            ("wandb", {"WANDB_PROJECT": "p", "WANDB_DIR": "d", "WANDB_MODE": "offline"}, "kept offline"),
        ),
        ("wandb", True, {"WANDB_MODE": "online"}, ("wandb", {"WANDB_PROJECT": "p", "WANDB_DIR": "d"}, None)),
        ("wandb", False, {}, ("none", {}, "pip install wandb")),
        ("tensorboard", True, {}, ("tensorboard", {"TENSORBOARD_LOGGING_DIR": "d"}, None)),
        ("none", True, {}, ("none", {}, None)),
    ],
)
def test_trackers(log_type, installed, environment, expected, monkeypatch):
    monkeypatch.setattr(tracker_module, "is_installed", lambda name: installed)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report_to, variables, note = tracker(log_type, "d", "p", "out")
    assert (report_to, variables) == expected[:2]
    assert (note is None) == (expected[2] is None) and (note is None or expected[2] in note)


def test_a_flag_wins_over_a_variable_and_a_variable_over_a_default(monkeypatch):
    monkeypatch.setattr(tracker_module, "is_installed", lambda name: True)
    monkeypatch.setenv("WANDB_PROJECT", "old")
    monkeypatch.setenv("WANDB_DIR", "there")
    assert tracker("wandb", None, "New", "out")[1]["WANDB_PROJECT"] == "New"
    variables = tracker("wandb", None, None, "out")[1]
    assert (variables["WANDB_PROJECT"], variables["WANDB_DIR"]) == ("old", "there")


def test_the_variables_of_the_dry_run_are_those_of_the_run(monkeypatch, capsys):
    """`--log_project New` where WANDB_PROJECT=old: printed and set."""
    monkeypatch.setattr(tracker_module, "is_installed", lambda name: True)
    monkeypatch.setenv("WANDB_PROJECT", "old")
    for name in ("WANDB_DIR", "WANDB_MODE"):  # set by the run, and taken back after the test
        monkeypatch.setenv(name, "offline")
    flags = [*NEEDED, "--log_project", "New"]
    assert run(dpo.make_parser(), dpo.main, [*flags, "--dry_run"], dpo._KNOWN_AS) == 0
    assert json.loads(capsys.readouterr().out)["environment"]["WANDB_PROJECT"] == "New"
    monkeypatch.setattr(training, "check_config", lambda config: None)
    args = dpo.make_parser().parse_args([*flags, "--use_cpu"])
    training.start(dpo.PROG, args, dict, dpo.config_arguments(args), {})
    assert os.environ["WANDB_PROJECT"] == "New"


# ----- what is refused


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([*NEEDED, "--train_dataset", "x"], "no such flag. Did you mean --train_datasets?"),
        ([*NEEDED, "--xyzzy=3"], "See --help"),
        ([*NEEDED, "--beta", "0.1"], "it is Safe RLHF's --scale_coeff"),
        ([*NEEDED, "--margin=1.0"], "has no margin"),
        ([*NEEDED, "--lambda_init", "1"], "--constraint_multiplier"),
        (NEEDED[2:], "required: --model_name_or_path"),
        (NEEDED[:4], "Set --output_dir"),
        ([*NEEDED, "--bf16", "maybe"], "'maybe' is neither true nor false"),
        ([*NEEDED, "--bf16", "--fp16"], "trained in one of them"),
        ([*NEEDED, "--zero_stage", "4"], "invalid choice: 4"),
        ([*NEEDED, "--zero_stage", "2", "--offload", "parameter"], "Set --zero_stage 3"),
        ([*NEEDED, "--offload", "optimizer"], "Set --zero_stage 1"),
        ([*NEEDED, "--need_eval"], "--eval_split_ratio"),
        ([*NEEDED, "--eval_datasets", "a", "--eval_split_ratio", "0.1"], "Remove one"),
        ([*NEEDED, "--need_eval", "--eval_split_ratio", "1.5"], "Set it in (0, 1)"),
        ([*NEEDED, "--lr_warmup_ratio", "1"], "Set it in [0, 1)"),
        ([*NEEDED, "--risk_tail", "2", "--risk_measure", "cvar"], "tail"),
        ([*NEEDED, "--train_datasets", "PKU-SafeRLHF/train:x"], "neither a share"),
        ([*NEEDED, "--dataset_module", "nowhere.py"], "no such file"),
        ([*NEEDED, "--dataset_module", "no.where"], "no such module"),
        ([*NEEDED, "--train_datasets", "nobodys"], "none of that name"),
        ([*NEEDED, "--need_eval", "--eval_datasets", "nobodys:0.5"], "none of that name"),
        (
            [*NEEDED, "--preference", "safer", "--train_datasets", "hh-rlhf-harmless-preference/train"],
            "hold one judgement, which decides. Leave --preference out",
        ),
        ([*NEEDED, "--resume_from_checkpoint", "nowhere"], "there is no such folder"),
        ([*NEEDED, "--deepspeed_config", "ds.json"], "no file is needed"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_status_2(flags, sentence, capsys):
    assert run(dpo.make_parser(), dpo.main, [*flags, "--dry_run"], dpo._KNOWN_AS) == 2
    output = capsys.readouterr()
    assert sentence in output.err and output.out == ""
    assert output.err.count("\n") == 1 and output.err.startswith(f"{dpo.PROG}: error: ")


def test_a_score_model_is_no_policy(write_beaver, tmp_path, capsys):
    sizes = {"vocab_size": 259, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    backbone = LlamaModel(LlamaConfig(**sizes, num_attention_heads=2))
    folder = write_beaver(tmp_path / "cm", backbone, torch.ones(1, 8))
    for flag in ("--model_name_or_path", "--ref_model_name_or_path"):
        assert run(dpo.make_parser(), dpo.main, [*NEEDED, flag, str(folder), "--dry_run"], dpo._KNOWN_AS) == 2
        assert "it is a LlamaForScore: it scores texts and cannot write any" in capsys.readouterr().err


def test_a_flag_of_deepspeeds_parser_is_taken(capsys):
    assert run(dpo.make_parser(), dpo.main, [*NEEDED, "--deepspeed", "--dry_run"], dpo._KNOWN_AS) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(note.startswith("--deepspeed is taken, and without effect") for note in notes)


def test_a_known_name_is_never_an_alias():
    own = dpo.make_parser()._option_string_actions
    assert not set(dpo._KNOWN_AS) & set(own)


def test_dry_run_prints_the_configuration(capsys):
    assert run(dpo.make_parser(), dpo.main, [*SCRIPT, "--dry_run", "--log_type=none"], dpo._KNOWN_AS) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["arguments"]["deepspeed"] == ZERO_3 and printed["arguments"]["beta"] == 0.1
    assert printed["model"] == printed["reference"] == "PKU-Alignment/alpaca-7b-reproduced"
    assert printed["data"]["eval"] == [
        {"name": "PKU-SafeRLHF/test", "proportion": 1.0, "num_samples": None, "path": None}
    ]
    assert any("which is DPO" in note for note in printed["notes"])


@pytest.mark.parametrize("flags", [["--use_cpu"], []])
def test_use_cpu_is_honoured_where_there_is_an_accelerator(flags, monkeypatch):
    """`start` is given a machine with an accelerator, and takes it only if the flag does not forbid it."""
    monkeypatch.setattr(training, "has_accelerator", lambda: True)
    monkeypatch.setattr(training, "check_config", lambda config: None)  # there is none: a `dict` takes its place
    args = dpo.make_parser().parse_args([*NEEDED, "--log_type=none", "--tf32", *flags])
    given = training.start(dpo.PROG, args, dict, dpo.config_arguments(args), {})
    assert given["use_cpu"] == bool(flags)


def test_through_runpy_as_cluster_scripts_start_it(monkeypatch, capsys):
    """A file that a launcher starts, and that runs the module under its own arguments."""
    monkeypatch.setattr(sys, "argv", ["launch.py", *SCRIPT, "--local_rank=0", "--dry_run"])
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the module is imported here already
        runpy.run_module(dpo.PROG, run_name="__main__", alter_sys=True)
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["arguments"]["num_train_epochs"] == 2


def test_what_has_no_twin_says_what_does_its_job(capsys):
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("trl_rsa.compat.safe_rlhf.algorithms.ppo_lag", run_name="__main__")
    assert stopped.value.code == 2 and "trl-rsa align" in capsys.readouterr().err


# ----- data


def test_pairs_in_the_template_by_either_judgement(pairs_path):
    spec = [f"PKU-SafeRLHF/train::{pairs_path}"]
    better = load_pairs(spec, "better", None, "safe-rlhf", "</s>", 42, log=lambda text: None)
    safer = load_pairs(spec, "safer", None, "safe-rlhf", "</s>", 42, log=lambda text: None)
    assert better["prompt"][0] == "BEGINNING OF CONVERSATION: USER: Question 0? ASSISTANT:"
    assert [row["chosen"][:2] for row in better][:4] == ["Ye", "No", "Ye", "No"]
    assert [row["chosen"][:2] for row in safer][:4] == ["Ye", "No", "No", "No"]
    said = []
    load_pairs(spec, "better", "one-safe", "chat", None, 42, log=said.append)
    assert "rows left out by the rule one-safe" in said[0]


def test_a_dataset_of_ones_own(tmp_path, pairs_path):
    """A class in a file, drawn from by number, beside a published file and a file without a name."""
    (tmp_path / "own.py").write_text(
        "from trl_rsa.compat.safe_rlhf.datasets import RawDataset\n"
        "class Own(RawDataset):\n"
        "    NAME = 'own-for-dpo'\n"
        "    def __len__(self): return 10\n"
        "    def __getitem__(self, i):\n"
        "        return {'input': f'Own {i}', 'answer': 'A', 'other_answer': 'B', 'better': i > 4}\n"
        "class Talk(RawDataset):\n"
        "    NAME = 'talk-for-dpo'\n"
        "    def __len__(self): return 1\n"
        "    def __getitem__(self, i):\n"
        "        return {'input': ['Hi', 'Hello.', 'Bye'], 'answer': 'A', 'other_answer': 'B', 'better': False}\n"
    )
    from trl_rsa.compat.safe_rlhf.pairs import import_datasets

    import_datasets(str(tmp_path / "own.py"))
    specs = ["own-for-dpo:4/-1", f"PKU-SafeRLHF/train:0.5:{pairs_path}", pairs_path, "talk-for-dpo"]
    said = []
    pairs = load_pairs(specs, "better", None, "safe-rlhf", "</s>", 42, log=said.append)
    assert len(pairs) == 4 + 8 + 16 + 1 and len(said) == 4
    own = [row for row in pairs if "Own" in row["prompt"]]
    assert len({row["prompt"] for row in own}) == 4
    assert all(row["chosen"] == ("A" if int(row["prompt"].split("Own ")[1][0]) > 4 else "B") for row in own)
    assert pairs[-1]["prompt"].endswith("USER: Hi ASSISTANT:Hello.</s>USER: Bye ASSISTANT:")
    assert (pairs[-1]["chosen"], pairs[-1]["rejected"]) == ("B", "A")
    with pytest.raises(ValueError, match="none of that name"):
        load_pairs(["nobodys"], "better", None, "safe-rlhf", "</s>", 42)


SAMPLE = {"answer": "No.", "other_answer": "Yes.", "better": False, "safer": True, "is_safe": True}


def own(name, *samples):
    """A user's dataset under that name."""
    from trl_rsa.compat.safe_rlhf.datasets import RawDataset

    members = {"NAME": name, "__qualname__": name, "__len__": lambda self: len(samples)}
    type(name, (RawDataset,), members | {"__getitem__": lambda self, i: samples[i]})
    return [name]


@pytest.mark.parametrize("said", ["How?", ["Hi", "Hello.", "How?"]])
@pytest.mark.parametrize(("preferred_by", "chosen"), [("better", "Yes."), ("safer", "No.")])
def test_the_judgement_that_is_asked_for_decides_for_texts_and_dialogues(said, preferred_by, chosen):
    """A more helpful answer that is less safe: by safety it must never be the chosen one."""
    name = own(f"{preferred_by}-{type(said).__name__}", SAMPLE | {"input": said, "is_other_safe": False})
    for template in ("safe-rlhf", "chat"):
        (row,) = load_pairs(name, preferred_by, None, template, "</s>", 42, log=lambda text: None)
        found = row["chosen"] if template == "safe-rlhf" else row["chosen"][0]["content"]
        assert found == chosen
    (row,) = load_pairs(name, preferred_by, "safedpo", "safe-rlhf", "</s>", 42, log=lambda text: None)
    assert row["chosen"] == "No."  # the safety labels are there too


def test_a_sample_without_the_judgement_is_counted_and_never_guessed():
    said = []
    sample = {name: value for name, value in SAMPLE.items() if name != "is_safe"}
    rows = [sample | {"input": ["a"]}, sample | {"input": ["b"], "safer": None}, sample | {"input": "c", "safer": "?"}]
    pairs = load_pairs(own("some-judged", *rows), "safer", None, "safe-rlhf", "</s>", 42, log=said.append)
    assert len(pairs) == 1 and "missing field `safer_response_id`" in said[0] and "is not 0 or 1" in said[0]
    unjudged = own("unjudged", {name: value for name, value in (sample | {"input": ["a"]}).items() if name != "safer"})
    with pytest.raises(
        ValueError, match=r"no sample of unjudged says whether its `answer` is safer.*--preference bet"
    ):
        load_pairs(unjudged, "safer", None, "safe-rlhf", "</s>", 42)


def test_transcripts_have_one_judgement(tmp_path):
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    path = tmp_path / "hh.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert len(load_pairs([str(path)], "better", None, "safe-rlhf", "</s>", 42, log=lambda text: None)) == 1
    with pytest.raises(ValueError, match="hold one judgement, which decides"):
        load_pairs([str(path)], "safer", None, "safe-rlhf", "</s>", 42, log=lambda text: None)


# ----- runs


def test_a_run_in_this_process(model_path, pairs_path, tmp_path, monkeypatch, capsys):
    """The tokens are Safe RLHF's (one <s>, one </s>, no space after ASSISTANT:); the folder loads; β/λ is used."""
    seen = []
    from trl_rsa.trainer import RSATrainer

    original = RSATrainer.train
    monkeypatch.setattr(RSATrainer, "train", lambda self, *a, **k: seen.append(self) or original(self, *a, **k))
    out = tmp_path / "out"
    out.mkdir()
    (out / "stdout.log").write_text("from the wrapper\n")
    flags = ["--model_name_or_path", model_path, "--train_datasets", f"PKU-SafeRLHF/train:1:{pairs_path}"]
    flags += ["--output_dir", str(out), "--per_device_train_batch_size=8", "--lr=1e-3", "--log_type", "none"]
    flags += ["--need_eval", "--eval_split_ratio", "0.25", "--preference", "safer", "--save_16bit"]
    flags += ["--risk_measure", "cvar", "--risk_tail", "0.1", "--scale_coeff", "0.1", "--constraint_multiplier", "4"]
    assert run(dpo.make_parser(), dpo.main, flags, dpo._KNOWN_AS) == 0
    trainer = seen[0]
    assert trainer.beta == 0.025 and trainer.args.risk_alpha == 0.5
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (12, 4)
    row, tokenizer = trainer.train_dataset[0], AutoTokenizer.from_pretrained(model_path)
    text = tokenizer.decode(row["prompt_ids"] + row["chosen_ids"], clean_up_tokenization_spaces=False)
    number = text.split("Question ")[1].split("?")[0]
    answer = "Yes. " * (int(number) % 3 + 1) if int(number) % 4 == 0 else "No."
    assert text == f"<s>BEGINNING OF CONVERSATION: USER: Question {number}? ASSISTANT:{answer}</s>"
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not report["missing_keys"] and not report["unexpected_keys"]
    before = load_file(Path(model_path) / "model.safetensors")
    assert any(
        not torch.equal(value.bfloat16(), before[name].bfloat16()) for name, value in model.state_dict().items()
    )
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert len([entry for entry in log if "loss" in entry]) == 2 and any("eval_loss" in entry for entry in log)
    assert (out / "stdout.log").read_text() == "from the wrapper\n"
    assert "16 rows read as pku-safe-rlhf" in capsys.readouterr().err


def test_a_run_goes_on_from_its_checkpoint(model_path, pairs_path, tmp_path, capsys):
    """Two epochs in one run, and the second after a stop: the same weights. A restart without the flag says so."""

    def train(out, *more):
        flags = ["--model_name_or_path", model_path, "--train_datasets", f"PKU-SafeRLHF/train:8/-1:{pairs_path}"]
        flags += ["--output_dir", str(tmp_path / out), "--per_device_train_batch_size=4", "--lr=1e-3", "--epochs=2"]
        flags += ["--log_type", "none", "--save_interval", "2", "--use_cpu", *more]
        status = run(dpo.make_parser(), dpo.main, flags, dpo._KNOWN_AS)
        return status, capsys.readouterr()

    assert train("whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    (tmp_path / "stopped" / "model.safetensors").unlink()
    status, said = train("stopped", "--resume_from_checkpoint", "true")
    assert status == 0 and "starts anew" not in said.err
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    status, said = train("whole", "--resume_from_checkpoint", "true", "--scale_coeff", "0.5")
    assert status == 2 and "belongs to a run with other settings" in said.err
    status, said = train("whole", "--dry_run")
    notes = json.loads(said.out)["notes"]
    assert any("this run starts anew; 2 checkpoints of another run are in" in note for note in notes)


def wrapper(arguments, launch, pairs_path, tmp_path):
    environment = os.environ | {"LAUNCH": launch, "PAIRS": pairs_path, "PYTHONPATH": str(ROOT), "HOME": HOME}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = ["bash", str(Path(__file__).with_name("wrapper.sh")), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def check_folder(out, model_path):
    """What the wrapper has written is still there, and the model loads whole."""
    assert (out / ".gitignore").read_text() == "*\n" and (out / "script.sh").exists() and (out / "stdout.log").exists()
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    before = load_file(Path(model_path) / "model.safetensors")
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (out / "zero_to_fp32.py").exists()


@pytest.mark.slow
def test_the_wrapper_script(model_path, pairs_path, tmp_path):
    """One process without a launcher; both ways to write a flag; an unknown one is the wrapper's own error."""
    python = f"{sys.executable} -m"
    out = tmp_path / "out"
    done = wrapper(
        [f"--model_name_or_path={model_path}", "--output_dir", str(out), "--zero_stage=0", "--offload=none"],
        python,
        pairs_path,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    check_folder(out, model_path)
    assert "Model saved to" in (out / "stdout.log").read_text()
    assert wrapper(["--frobnicate", "1"], python, pairs_path, tmp_path).returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles an operator at its first start")
def test_the_wrapper_script_under_deepspeed(model_path, pairs_path, tmp_path):
    """Two processes, ZeRO-3 without a configuration file, the optimizer in main memory; in bf16, and saved whole in
    float32: rounding would undo most of what a small learning rate does."""
    deepspeed = Path(sys.executable).with_name("deepspeed")
    out = tmp_path / "out"
    done = wrapper(
        [f"--model_name_or_path={model_path}", "--output_dir", str(out), "--offload", "optimizer", "--bf16", "True"],
        f"{deepspeed} --num_accelerators 2 --module",
        pairs_path,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_folder(out, model_path)
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} == {torch.float32}
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.slow
def test_under_accelerate_launch(model_path, pairs_path, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", dpo.PROG]
    command += ["--model_name_or_path", model_path, "--train_datasets", f"PKU-SafeRLHF/train::{pairs_path}"]
    command += ["--output_dir", str(tmp_path / "out"), "--dry_run"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arguments"]["beta"] == 0.02
