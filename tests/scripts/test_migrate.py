"""`trl-rsa migrate`: scripts as people write them become plans that `align --dry_run` takes; every flag is named."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.scoring.conftest import byte_tokenizer, write_beaver
from trl_rsa.cli import main
from trl_rsa.migration.draft import write_plan
from trl_rsa.migration.migrate import migrate
from trl_rsa.migration.policies import answers_in_chat
from trl_rsa.migration.programs import KNOWN, find_started
from trl_rsa.migration.shell import Script


__all__ = ["byte_tokenizer", "write_beaver"]

KEY = "0123456789abcdef" * 2 + "01234567"  # as long as W&B's

# The habits of Safe RLHF's wrappers: places from the script's own, flags with a space or `=`, logs by process
# substitution, an array of arguments, a comment behind a line that goes on.
WRAPPER = """\
#!/usr/bin/env bash
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" &>/dev/null && pwd)"
ROOT="$(dirname "${HERE}")"
export WANDB_API_KEY='%(key)s'
MODEL="PKU-Alignment/alpaca-7b-reproduced"
OUT="${ROOT}/output/dpo"
unset HOSTS
STAGE=3
OFFLOAD="none"
while [[ "$#" -gt 0 ]]; do
	arg="$1"
	shift
	case "${arg}" in
		--model_name_or_path)
			MODEL="$1"
			shift
			;;
		--model_name_or_path=*)
			MODEL="${arg#*=}"
			;;
		--offload) OFFLOAD="$1"; shift ;;
		--offload=*) OFFLOAD="${arg#*=}" ;;
		*)
			echo "Unknown parameter passed: '${arg}'" >&2
			exit 1
			;;
	esac
done
if [[ -z "${REFERENCE+x}" ]]; then
	REFERENCE="${MODEL}"
fi
mkdir -p "${OUT}"
OUT="$(cd "${OUT}" &>/dev/null && pwd)"
if [[ ! -f "${OUT}/.gitignore" ]]; then
	echo '*' >"${OUT}/.gitignore"
fi
PORT="$(
	comm -23 <(seq 1 9 | sort) \\
		<(ss -Htan | awk -F ':' '{ print $NF }' | sort -u) |
		shuf | head -n 1
)"
LAUNCH=()
if [[ -n "${HOSTS+x}" ]]; then
	LAUNCH+=("--hostfile" "${HOSTS}")
fi
LAUNCH+=("--master_port" "${PORT}")
exec 1> >(tee "${OUT}/stdout.log" >&1) 2> >(tee "${OUT}/stderr.log" >&2)
deepspeed "${LAUNCH[@]}" \\
	--module safe_rlhf.algorithms.dpo \\
	--train_datasets %(train)s --eval_datasets=%(test)s \\
	--model_name_or_path "${MODEL}" --max_length 48 --trust_remote_code True --epochs 2 \\
	--per_device_train_batch_size 4 --gradient_checkpointing --learning_rate 1e-6 \\
	--lr_scheduler_type cosine --lr_warmup_ratio 0.03 --weight_decay 0.05 --seed 42 \\
	--need_eval --eval_strategy epoch --scale_coeff 0.1 --output_dir "${OUT}" --log_type wandb \\
	--log_run_name secret-%(key)s --zero_stage "${STAGE}" --offload "${OFFLOAD}" --bf16 True --tf32 True \\
	# --save_16bit \\
	# --save_interval 10
"""

LAG = """\
deepspeed --master_port 1 --module safe_rlhf.algorithms.ppo_lag --train_datasets "%(train)s" \\
  --ptx_datasets alpaca:0.01 --ptx_coeff 8 --actor_model_name_or_path %(model)s \\
  --reward_model_name_or_path output/rm --cost_model_name_or_path %(cost)s --max_length 48 --epochs 3 \\
  --update_iters 1 --per_device_prompt_batch_size 8 --per_device_train_batch_size 4 \\
  --gradient_accumulation_steps 8 --actor_gradient_checkpointing --critic_gradient_checkpointing --actor_lr 1e-6 \\
  --actor_weight_decay 0.01 --actor_lr_warmup_ratio 0.03 --critic_lr 5e-6 --seed 7 --kl_coeff 0.02 \\
  --clip_range_ratio 0.2 --lambda_init 0.5 --lambda_lr 0.01 --lambda_max 5 --threshold 25.0 --temperature 0.7 \\
  --output_dir O --log_type wandb --zero_stage 3 --offload none --bf16 True
"""

SACPO = """\
accelerate launch --config_file a.yaml -m src.train.helpfulness_dpo --model_name_or_path '%(model)s' \\
  --experiment_name trial --run_name='helpful' --output_dir='./output/trial/helpful_0.1' \\
  --per_device_train_batch_size 16 --gradient_accumulation_steps 2 --beta 0.1 --num_train_epochs 3 \\
  --save_strategy 'steps' --save_steps 0.99999 --model_dtype 'bfloat16'
  --learning_rate 2e-5 --warmup_ratio 0.2
accelerate launch --config_file b.yaml -m src.train.safety_dpo --model_name_or_path './output/trial/helpful_0.1' \\
  --output_dir './output/trial/safe_0.025' --beta 0.025 --num_train_epochs 3 --per_device_train_batch_size 16 \\
  --gradient_accumulation_steps 2 --model_dtype bfloat16 --learning_rate 2e-5
mergekit-yaml merge.yaml output/trial/merged
"""

MERGE = """\
models:
  - {model: output/trial/helpful_0.1, parameters: {weight: 0.25}}
  - {model: output/trial/safe_0.025, parameters: {weight: 0.75}}
merge_method: linear
"""

ALIGN_ANYTHING = """\
PORT=1
deepspeed --master_port ${PORT} --module align_anything.trainers.text_to_text.%(program)s \\
  --model_name_or_path %(model)s --train_template %(template)s --train_datasets %(train)s %(more)s \\
  --output_dir ../outputs/it --epochs 1
"""

CONFIGURATION = """\
train_cfgs: {epochs: 2, learning_rate: 1.e-6, adam_betas: [0.9, 0.95], scale_coeff: 0.1, bf16: true, seed: 5}
data_cfgs: {train_datasets: %(train)s, train_template: PKUSafeRLHF, train_split: null, eval_datasets: {}}
logger_cfgs: {log_type: tensorboard, output_dir: out, save_total_limit: 3}
model_cfgs: {model_name_or_path: %(model)s, model_max_length: 48}
lora_cfgs: {use_lora: true, r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: [q_proj, v_proj]}
bnb_cfgs: {use_bnb: false, load_in_4bit: true, bnb_4bit_quant_type: nf4}
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with pairs in PKU-SafeRLHF's columns, in which the test runs."""
    words = ["the cat sat", "a dog ran", "red hill", "blue mat", "big cat", "small dog", "slow cat", "quick dog"]
    rows = [
        {
            "prompt": f"{a} on {b}",
            "response_0": f"{b} is in",
            "response_1": f"{a} was at",
            "better_response_id": i % 2,
            "safer_response_id": (i + 1) % 2,
            "is_response_0_safe": bool(i % 2),
            "is_response_1_safe": True,
        }
        for i, (a, b) in enumerate((a, b) for a in words for b in words)
    ]
    for name, part in (("train", rows[8:]), ("test", rows[:8])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(text: str, name: str = "run.sh", **values: str) -> str:
    values = {"key": KEY, "train": "PKU-SafeRLHF/train:1.0:train.jsonl", "test": "test.jsonl"} | values
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text % values)
    return name


def plan_of(name: str, *arguments: str, capsys) -> tuple[dict, str, str]:
    """The plan, its text, and what was said beside it."""
    capsys.readouterr()
    assert main(["migrate", name, *arguments]) == 0
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    return yaml.safe_load(shown.out), shown.out, shown.err


def dry_run(text: str, capsys) -> str:
    Path("plan.yaml").write_text(text)
    assert main(["align", "--config", "plan.yaml", "--dry_run"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


# Safe RLHF


def test_wrapper_with_its_own_defaults_and_with_flags(work, tiny_model_path, capsys):
    name = script(WRAPPER, "scripts/dpo.sh")
    plan, text, said = plan_of(name, capsys=capsys)
    assert (plan["model"], plan["output_dir"]) == ("PKU-Alignment/alpaca-7b-reproduced", "output/dpo")
    stage = {
        "name": "helpful",
        "dataset": "PKU-SafeRLHF/train:1.0:train.jsonl",
        "preferred_by": "better",
        "dataset_options": {"template": "safe-rlhf"},
        "eval_dataset": "test.jsonl",
        "beta": 0.1,
    }
    assert plan["stages"] == [stage]
    # Written from the documentation of the flags, in the words of `TrainingArguments`.
    assert plan["args"] == {
        "loss_type": ["rsa2"],
        "risk_alpha": 0.0,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.05,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": True,
        "bf16": True,
        "max_length": 48,
        "trust_remote_code": True,
        "eval_strategy": "epoch",
    }
    assert "--accelerate_config zero3\n" in text and "save_16bit" not in text + said
    assert "no equivalent: --tf32 True: a matter of the GPU" in said and "keys in the script are not copied" in said
    given, text, said = plan_of(
        name, "--", f"--model_name_or_path={tiny_model_path}", "--offload", "optimizer", capsys=capsys
    )
    assert given["model"] == tiny_model_path and given["stages"][0]["dataset_options"] == {"template": "chat"}
    assert "zero3_offload" in text and "no equivalent: --offload optimizer" in said
    shown = dry_run(text, capsys)
    assert "[1/1] helpful: 56 pairs, 8 held out; rsa2" in shown and "at temperature 0.1; " in shown


def test_script_that_calls_the_wrapper(work, capsys):
    script(WRAPPER, "scripts/dpo.sh")
    name = script("bash scripts/dpo.sh --model_name_or_path my/model --offload=all\n")
    plan, text, _ = plan_of(name, capsys=capsys)
    assert plan["model"] == "my/model" and "zero3_offload" in text
    assert main(["migrate", script("bash scripts/gone.sh --x 1\n", "other.sh")]) == 2
    assert "calls scripts/gone.sh, which is not beside it. Known are safe_rlhf" in capsys.readouterr().err


def test_flags_that_a_wrapper_takes_and_passes_on(work, capsys):
    name = script(WRAPPER, "scripts/dpo.sh")
    assert main(["migrate", name, "--", "--beta", "3"]) == 2
    assert "You give scripts/dpo.sh --beta, but its case takes no such flag" in capsys.readouterr().err
    name = script('python -m safe_rlhf.algorithms.dpo --scale_coeff 0.3 "$@"\n')
    plan, _, _ = plan_of(name, "--", "--model_name_or_path", "m y", "--epochs=4", capsys=capsys)
    assert plan["model"] == "m y" and plan["args"]["num_train_epochs"] == 4 and plan["stages"][0]["beta"] == 0.3


@pytest.fixture
def cost_folder(work, write_beaver):
    import torch
    from transformers import LlamaConfig, LlamaModel

    config = {"vocab_size": 259, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    backbone = LlamaModel(LlamaConfig(**config, num_attention_heads=2, num_key_value_heads=2))
    return str(write_beaver(work / "cm", backbone, torch.ones(1, 8)))


def test_ppo_lag_becomes_a_budget(work, cost_folder, tiny_model_path, capsys):
    name = script(LAG, model=tiny_model_path, cost=cost_folder)
    plan, text, said = plan_of(name, capsys=capsys)
    assert plan["constraint"] == {
        "scorer": cost_folder,
        "prompts": "PKU-SafeRLHF/train:1.0:train.jsonl",
        "budget": 25.0,
        "bounds": [-10.0, 35.0],
        "tail": 1.0,
        "labels": "raw",
    }
    assert plan["rungs"] == {
        "sampling": {"max_new_tokens": 36, "temperature": 0.7, "top_p": 1.0, "template": "chat"},
        "batch_size": 8,
        "rule": "log_dual_ascent",
        "initial_delta": 0.5,
    }
    assert plan["args"]["learning_rate"] == 1e-6 and plan["args"]["weight_decay"] == 0.01 and plan["seed"] == 7
    for flag in ("critic_lr", "critic_gradient_checkpointing", "ptx_datasets", "ptx_coeff", "clip_range_ratio"):
        assert f"no equivalent: --{flag}" in said
    for flag in ("kl_coeff", "reward_model_name_or_path", "lambda_max", "update_iters"):
        assert f"no equivalent: --{flag}" in said and f"#   --{flag}" in text
    assert "no such flag" not in said
    shown = dry_run(text, capsys)
    assert "[ladder] cost: CVaR 1 of cost at most 25, clipped to [-10.0, 35.0]" in shown
    # Our form stands beside it, and works when it is taken.
    mean, tail = "  tail: 1.0\n  labels: raw\n", "  # tail: 0.05\n  # labels: unsafe\n"
    ours = text.replace(tail + mean, tail.replace("# ", ""))
    assert ours != text and "[ladder] cost: CVaR 0.05 of cost at most 25" in dry_run(ours, capsys)


def test_fork_of_ppo_lag_and_plain_ppo(work, capsys):
    command = "deepspeed --module safe_rlhf.algorithms.{} --train_datasets mine --actor_model_name_or_path A {}\n"
    more = "--cost_model_name_or_path C --threshold -1 --quantile 0.9"
    plan, _, said = plan_of(script(command.format("reinforce_lag", more)), capsys=capsys)
    assert plan["constraint"]["budget"] == -1.0 and "no equivalent: --quantile: " in said and "0.9" not in said
    assert "note: mine is no dataset that is known here" in said and "is taken as a fork of ppo_lag" in said
    plan, _, said = plan_of(script(command.format("ppo_reward_shaping", "--cost_model_name_or_path C")), capsys=capsys)
    assert plan["constraint"]["budget"] == 0.0 and "no --threshold is given" in said
    more = "--reward_model_name_or_path R --temperature 0.7"
    plan, _, said = plan_of(script(command.format("ppo", more)), capsys=capsys)
    assert "no equivalent: --temperature 0.7: no answers are sampled" in said
    assert "constraint" not in plan and plan["stages"][0]["beta"] == 0.1


def test_safedpo(work, tiny_model_path, capsys):
    command = (
        "python -m safe_rlhf.algorithms.safedpo --train_datasets %(train)s --model_name_or_path %(model)s --delta 5"
    )
    plan, text, said = plan_of(script(command + "\n", model=tiny_model_path), capsys=capsys)
    assert plan["stages"][0]["dataset_options"] == {"template": "chat", "pair_rule": "safedpo"}
    assert "no equivalent: --delta 5: the loss has no margin" in said
    assert "[1/1] safe: " in dry_run(text, capsys)


def command_of(name, capsys):
    """The one command that a script becomes, and what is said of it."""
    assert main(["migrate", name]) == 0
    shown = capsys.readouterr()
    (command,) = [line for line in shown.out.splitlines() if not line.startswith("#") and line]
    return command, shown.err


def test_cost_model_behind_a_python_file(work, capsys):
    Path("_launch.py").write_text('import runpy\nrunpy.run_module("safe_rlhf.values.cost", run_name="__main__")\n')
    name = script(
        "deepspeed --master_port 1 _launch.py --train_datasets %(train)s --model_name_or_path tiny/llama \\\n"
        "  --normalize_score_during_training False --normalizer_type ExponentialMovingAverage --epochs 2 \\\n"
        "  --regularization 0.001 \\\n"
        "  --output_dir cm --bf16 True && python cm/zero_to_fp32.py cm cm/pytorch_model.bin\n"
    )
    command, said = command_of(name, capsys)
    assert command.startswith("trl-rsa score-model --objective cost --model_name_or_path tiny/llama --data PKU-")
    assert "--layout beaver" in command and "--normalizer" not in command and "--regularization 0.001" in command
    assert "zero_to_fp32 is not needed" in said and "no such flag" not in said
    _understood(command)


@pytest.mark.parametrize(
    ("flags", "held_out"),
    [
        ("", "--held_out 0 "),
        ("--eval_split_ratio 0.3", "--held_out 0 "),
        ("--need_eval --eval_split_ratio 0.3", "--held_out 0.3 "),
    ],
)
def test_a_cost_model_trains_on_the_rows_that_it_did(work, capsys, flags, held_out):
    name = script(
        f"torchrun -m safe_rlhf.values.cost --model_name_or_path m --train_datasets PKU-SafeRLHF/train {flags}\n"
    )
    command, _ = command_of(name, capsys)
    assert held_out in command
    _understood(command)


def test_a_loss_of_a_fork_is_named_and_not_passed_on(work, capsys):
    name = script(
        "deepspeed --num_nodes 2 --num_gpus 8 --hostfile h --master_port 1 --module safe_rlhf.values.cost \\\n"
        "  --train_datasets PKU-SafeRLHF/train --model_name_or_path m --loss_type sequence-wise-bt\n"
    )
    command, said = command_of(name, capsys)
    assert "--loss_type sequence-wise " in command
    assert "no equivalent: --loss_type sequence-wise-bt: here it is sequence-wise or token-wise" in said
    assert "no equivalent: --num_nodes 2: one machine trains here" in said
    assert "no equivalent: --num_gpus 8: add --num_processes N" in said
    assert "no equivalent: --hostfile h: one machine" in said and "master_port" not in said
    assert "it takes the same flags" not in said
    _understood(command)


def test_one_machine_is_what_there_is(work, capsys):
    name = script("deepspeed --num_nodes=1 --module safe_rlhf.algorithms.dpo --train_datasets PKU-SafeRLHF/train\n")
    assert main(["migrate", name]) == 0
    assert "num_nodes" not in capsys.readouterr().err


def test_python_that_names_safe_rlhf_in_a_text_is_no_script_of_its(work, capsys):
    Path("slurm.py").write_text("print('sbatch safe_rlhf/run.sh')\n")
    assert main(["migrate", "slurm.py"]) == 2
    assert "Change safe_rlhf" not in capsys.readouterr().err


def _understood(command: str) -> None:
    """Where the command is there, its parser takes the line."""
    module = pytest.importorskip("trl_rsa.scripts.score_model")
    words = [word for word in command.split()[2:] if word]
    at = words.index("--accelerate_config") if "--accelerate_config" in words else len(words)
    module.make_parser().parse_args([*words[:at], *words[at + 2 :], "--use_cpu", "true", "--bf16", "false"])


def test_arena(work, capsys):
    name = script(
        "deepspeed --module safe_rlhf.evaluate.arena --datasets PKU-SafeRLHF/test \\\n"
        "  --red_corner_model_name_or_path a --blue_corner_model_name_or_path b \\\n"
        "  --reward_model_name_or_path r --cost_model_name_or_path c \\\n"
        "  --output_dir O --trust_remote_code True --zero_stage 3 --offload none\n"
    )
    assert main(["migrate", name]) == 0
    shown = capsys.readouterr()
    assert "python -m trl_rsa.compat.safe_rlhf.evaluate.arena --red_corner_model_name_or_path a" in shown.out
    assert "no equivalent: --zero_stage 3" in shown.err


def test_a_budget_below_zero_without_a_leading_digit(work, capsys):
    command = "deepspeed --module safe_rlhf.algorithms.ppo_lag --train_datasets PKU-SafeRLHF/train --threshold {}\n"
    for text, budget in (("-.5", -0.5), ("-5", -5.0), ("-2.5e-1", -0.25)):
        plan, _, _ = plan_of(script(command.format(text)), capsys=capsys)
        assert plan["constraint"]["budget"] == budget
    for text in ("", "''"):
        assert main(["migrate", script(command.format(text))]) == 2
        assert "sets --threshold to nothing, but it is a number" in capsys.readouterr().err


def test_our_own_module_becomes_the_stage_that_it_is(work, tiny_model_path, capsys):
    command = (
        "python -m trl_rsa.compat.safe_rlhf.algorithms.dpo --train_datasets %(train)s \\\n"
        "  --model_name_or_path %(model)s --output_dir o --max_length 48 --preference safer --scale_coeff 0.1 \\\n"
        "  --constraint_multiplier 4 \\\n"
        "  --template chat --pair_rule one-safe --drop_truncated False --use_cpu --log_type none %(more)s\n"
    )
    more = "--risk_measure cvar --risk_tail 0.1 --risk_alpha 0.3 --label_smoothing 0.1"
    plan, text, said = plan_of(script(command, model=tiny_model_path, more=more), capsys=capsys)
    (stage,) = plan["stages"]
    assert (stage["beta"], stage["constraint_multiplier"], stage["risk_measure"]) == (0.1, 4.0, "cvar")
    assert stage["dataset_options"] == {"template": "chat", "pair_rule": "one-safe"}
    expected = {"loss_type": ["rsa2"], "risk_tail": 0.1, "risk_alpha": 0.3, "label_smoothing": 0.1}
    expected |= {"drop_truncated": False, "use_cpu": True}
    assert {name: plan["args"][name] for name in expected} == expected
    assert "no equivalent" not in said and "note:" not in said
    assert "at temperature 0.025; " in dry_run(text, capsys)
    plan, _, _ = plan_of(script(command, model=tiny_model_path, more="--loss_type rsa1"), capsys=capsys)
    assert plan["args"]["loss_type"] == ["rsa1"] and "risk_alpha" not in plan["args"]
    plan, _, _ = plan_of(script(command, model=tiny_model_path, more="--risk_measure cvar"), capsys=capsys)
    assert plan["args"]["risk_alpha"] == 0.5


def test_a_value_model_is_evaluated_as_before_and_keeps_its_digits(work, capsys):
    name = script(
        "deepspeed --module safe_rlhf.values.cost --train_datasets PKU-SafeRLHF/train --model_name_or_path m \\\n"
        "  --eval_datasets PKU-SafeRLHF/test --need_eval --eval_strategy steps --eval_interval 100 --save_16bit \\\n"
        "  --per_device_eval_batch_size 32 --learning_rate 1.2345678e-5 --normalize_score_during_training True\n"
    )
    command, said = command_of(name, capsys)
    for words in ("--eval_strategy steps --eval_steps 100", "--per_device_eval_batch_size 32", "--save_16bit true"):
        assert words in command
    assert "--learning_rate 1.2345678e-05" in command
    assert "no equivalent: --normalize_score_during_training True: the script gives no --normalizer_type" in said
    _understood(command)


def test_the_note_names_the_flag_that_the_script_has(work, capsys):
    command = "python -m safe_rlhf.algorithms.dpo "
    _, _, said = plan_of(script(command + "--learning_rate $LR --epochs 2.5e0\n"), capsys=capsys)
    assert "--learning_rate is ${LR} in the script, which is no number" in said
    _, _, said = plan_of(script(command + "--max_length 12.5\n"), capsys=capsys)
    assert "--max_length is 12.5 in the script, which is no whole number: the plan has the default 512" in said


# SACPO


def test_sacpo_is_one_plan_of_two_stages(work, tiny_model_path, capsys):
    Path("merge.yaml").write_text(MERGE)
    plan, text, said = plan_of(script(SACPO, model=tiny_model_path), capsys=capsys)
    helpful, safe = plan["stages"]
    assert (helpful["preferred_by"], helpful["beta"]) == ("better", 0.1)
    assert (safe["preferred_by"], safe["beta"], safe["constraint_multiplier"]) == ("safer", 0.1, 4.0)
    # What stands behind the missing backslash never reached the program: its default is in the plan.
    assert helpful["args"]["learning_rate"] == 1e-6 and safe["args"]["learning_rate"] == 2e-5
    assert plan["args"]["warmup_steps"] == 0.03 and plan["model_init_kwargs"] == {"dtype": "bfloat16"}
    assert "note: line 5: --learning_rate 2e-5 --warmup_ratio 0.2 stands behind a line" in said
    assert "NOT part of the command: src.train.helpfulness_dpo" in said
    assert "a linear merge: 0.25 of output/trial/helpful_0.1, 0.75 of output/trial/safe_0.025" in said
    assert "#   mergekit-yaml merge.yaml output/trial/merged" in text
    local = text.replace("PKU-SafeRLHF-30K/train", "train.jsonl").replace("PKU-SafeRLHF-30K/test", "test.jsonl")
    shown = dry_run(local, capsys)
    assert "[1/2] helpful: 56 pairs, 8 held out; rsa2" in shown and "at temperature 0.1; " in shown
    assert "[2/2] safe: 56 pairs, 8 held out; rsa2" in shown and "at temperature 0.025; " in shown
    alone, _, said = plan_of("run.sh", "--command", "1", capsys=capsys)
    assert [stage["name"] for stage in alone["stages"]] == ["helpful"] and "merge" not in said


def test_flags_behind_a_missing_backslash_count_where_the_shell_makes_them_count(work, capsys):
    """In a text that is evaluated without quotes, the end of a line is a space: bash itself says so."""
    text = (
        'betas=(0.1 0.05)\nrun() {\n  for i in $(seq 0 1); do\n    cmd="nohup accelerate launch \\\n'
        "      -m src.train.safety_dpo --model_name_or_path 'm' \\\n --beta ${betas[i]} --model_dtype 'bfloat16'\n"
        '      --learning_rate 2e-5 \\\n      > log_${betas[i]}.txt &"\n    echo $cmd\n    eval $cmd\n  done\n}\n'
        "case $1 in\n"
        '  "safe") run ;;\nesac\n'
    )
    plan, _, said = plan_of(script(text), capsys=capsys)
    assert plan["args"]["learning_rate"] == 2e-5 and "NOT part" not in said
    assert "i runs over 0, 1 in the script: the plan is that of 0" in said
    assert "--beta 0.1 of src.train.safety_dpo is β/λ: the β before it is not in the script" in said
    bash = subprocess.run(
        ["bash", "-c", "cmd=\"printf %s, \\\n a 'b'\n c\"; eval $cmd"], capture_output=True, text=True, check=True
    )
    assert bash.stdout == "a,b,c,"


def test_programs_that_do_not_follow_each_other(work, capsys):
    text = SACPO.replace("./output/trial/helpful_0.1' \\\n  --output_dir './o", "elsewhere' \\\n  --output_dir './o")
    plan, _, said = plan_of(script(text, model="first"), capsys=capsys)
    assert plan["model"] == "elsewhere" and len(plan["stages"]) == 1
    assert "command 1, src.train.helpfulness_dpo to ./output/trial/helpful_0.1, is no step of this plan" in said


# align-anything, mergekit


def test_align_anything(work, tiny_model_path, capsys):
    values = {
        "program": "dpo",
        "model": tiny_model_path,
        "template": "PKUSafeRLHF",
        "more": "",
        "train": "train.jsonl",
    }
    plan, text, _ = plan_of(script(ALIGN_ANYTHING, **values), capsys=capsys)
    assert plan["stages"][0]["dataset_options"] == {"format": "pku-safe-rlhf", "template": "chat"}
    assert plan["args"]["max_length"] == 2048 and plan["args"]["adam_beta2"] == 0.95  # its defaults
    assert plan["args"]["num_train_epochs"] == 1 and plan["stages"][0]["beta"] == 0.1
    assert "56 pairs" in dry_run(text, capsys)


def test_align_anything_configuration_with_an_adapter(work, tiny_model_path, capsys):
    name = script(CONFIGURATION, "dpo.yaml", model=tiny_model_path, train="train.jsonl")
    plan, text, said = plan_of(name, capsys=capsys)
    assert plan["peft_config"] == {
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
    }
    assert "model_init_kwargs" not in plan and plan["seed"] == 5 and "eval_dataset" not in plan["stages"][0]
    assert "no such flag" not in said and "56 pairs" in dry_run(text, capsys)


def test_the_eval_split_of_align_anything_is_that_of_the_eval_data(work, capsys):
    more = "--train_split train --eval_datasets test.jsonl --eval_split test"
    values = {"program": "dpo", "model": "m", "template": "PKUSafeRLHF", "train": "train.jsonl", "more": more}
    plan, _, _ = plan_of(script(ALIGN_ANYTHING, **values), capsys=capsys)
    assert plan["stages"][0]["eval_options"] == {"split": "test"}


def test_what_align_anything_computes_in_and_when_it_evaluates(work, capsys):
    more = "--eval_datasets test.jsonl --eval_strategy steps --eval_interval 100 --fp16 True --bf16 False"
    values = {"program": "dpo", "model": "m", "template": "PKUSafeRLHF", "train": "train.jsonl", "more": more}
    plan, _, _ = plan_of(script(ALIGN_ANYTHING, **values), capsys=capsys)
    expected = {"fp16": True, "bf16": False, "eval_strategy": "steps", "eval_steps": 100}
    assert {name: plan["args"][name] for name in expected} == expected


def test_cost_model_of_align_anything_says_its_sign(work, capsys):
    values = {"program": "rm", "model": "m", "template": "PKUSafeRLHF_Cost", "train": "train.jsonl"}
    name = script(ALIGN_ANYTHING, more="--train_split train", **values)
    assert main(["migrate", name]) == 0
    shown = capsys.readouterr()
    assert "--objective cost --model_name_or_path m --data train.jsonl --split train --preferred_by safer" in shown.out
    assert "scores safer answers HIGHER" in shown.err and "--cost_higher_is better" in shown.out
    _understood(next(line for line in shown.out.splitlines() if line.startswith("trl-rsa")))


def test_single_dimension_data_has_no_judgement_of_safety(work, capsys):
    values = {"program": "rm", "model": "m", "more": "", "train": "PKU-Alignment/PKU-SafeRLHF-single-dimension"}
    assert main(["migrate", script(ALIGN_ANYTHING, template="PKUSafeRLHF_Cost", **values)]) == 2
    assert "one judgement only, better_response_id, and none of safety" in capsys.readouterr().err
    plan, _, _ = plan_of(script(ALIGN_ANYTHING, template="PKUSafeRLHF", **values | {"program": "dpo"}), capsys=capsys)
    assert plan["stages"][0]["preferred_by"] == "better"


def test_mergekit(work, capsys):
    Path("linear.yaml").write_text(MERGE)
    assert main(["migrate", "linear.yaml"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "mergekit-yaml linear.yaml MERGED" and "0.75 of output/trial" in shown.err


# What cannot be done


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "a.sh",
            "python -m llama.train --x 1\n",
            f"starts llama.train, of which nothing is known here. Known are {', '.join(KNOWN)}.",
        ),
        ("a.sh", "echo hello\n", "starts no program that is known here. Known are"),
        ("a.sh", "python3 -m verl.trainer.main_ppo a=b\n", "verl has its own trainers and reward servers"),
        ("a.sh", "trl dpo --model_name_or_path m\n", "trl-rsa train takes the flags of trl dpo"),
        ("a.py", "from trl import DPOTrainer\n", "DPOConfig to RSAConfig and DPOTrainer to RSATrainer"),
        ("a.py", "from safe_rlhf.models import AutoModelForScore\n", "Change safe_rlhf to trl_rsa.compat.safe_rlhf"),
        ("a.yaml", "stages: []\n", "is a plan already"),
        ("kto.yaml", "train_cfgs: {scale_coeff: 1}\nmodel_cfgs: {}\n", "neither a configuration of align-anything"),
        ("a.yaml", "x: 1\n", "neither a configuration of align-anything"),
        ("a.yaml", "x: [1\n", "The YAML file cannot be read"),
    ],
)
def test_what_is_not_known_is_one_sentence(work, capsys, name, text, sentence):
    Path(name).write_text(text)
    assert main(["migrate", name]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_output_is_written_once(work, capsys):
    name = script(WRAPPER, "scripts/dpo.sh")
    assert main(["migrate", name, "--output", "plan.yaml"]) == 0
    assert capsys.readouterr().out == "Written to plan.yaml.\n"
    before = Path("plan.yaml").read_text()
    assert main(["migrate", name, "--output", "plan.yaml"]) == 2
    assert "that file is there" in capsys.readouterr().err and Path("plan.yaml").read_text() == before
    assert main(["migrate", name, "--command", "3"]) == 2
    assert "has 1 known commands" in capsys.readouterr().err
    assert main(["migrate", "gone.sh"]) == 2
    assert "there is no such file" in capsys.readouterr().err


# The shell


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run a \\\n  b # c\n", ["run", "a", "b"]),
        ('X=1 Y=\'two words\' run $X "$X y" $Z""\n', ["run", "${X}", "${X} y", "${Z}"]),
        ("X='a b'; run $X \"$X\" '$X'\n", ["run", "a", "b", "a b", "$X"]),
        (
            "X=a/b/c.tar; run ${X##*/} ${X%.tar} ${N:-none} ${X:+set} \\$X\n",
            ["run", "c.tar", "a/b/c", "none", "set", "$X"],
        ),
        ("A=(1 '2 3'); A+=(4); run \"${A[@]}\" ${A[1]}\n", ["run", "1", "2 3", "4", "2", "3"]),
        ("run a > out 2>&1 | tee log\n", ["run", "a"]),
        ('if [ -z "$X" ]; then X=y; fi; run $X\n', ["run", "y"]),
        ('X=$X\nif [ -z "$X" ]; then\n echo no\n X=y\nfi\nrun $X/z\n', ["run", "y/z"]),
        ('X=z; if [ -z "$X" ]; then X=y; else X=w; fi; run $X\n', ["run", "w"]),
        ('X=a; [ -z "$X" ] && X=b; [[ -n "$X" ]] || X=c; run $X\n', ["run", "a"]),
        ('X=a; [ -z "$X" ] || X=b; run $X\n', ["run", "b"]),
        ('X=a; [ -z "$Y" ] && { X=b; Z=c; } || X=d; run $X $Z\n', ["run", "b", "c"]),
        ('X=a; [ -n "$Y" ] && { X=b; Z=c; } || X=d; run $X "$Z"\n', ["run", "d", "${Z}"]),
        ('X=a; [[ "$D" == "1" ]] && X=b; run $X\n', ["run", "a"]),
        ('M=full; if [ "$M" = "lora" ]; then X=1; Y+=2; else X=3; fi; run $X "$Y"\n', ["run", "3", "${Y}"]),
        (
            'M=b; if [ "$M" = a ]; then X=1; elif [[ $M == b* && -n $M ]]; then X=2; else X=3; fi; run $X\n',
            ["run", "2"],
        ),
        ('N=3; if [ ! "$N" -gt 2 ]; then X=1; else X=2; fi; run $X\n', ["run", "2"]),
        ("if [ -d x ]; then X=1; else X=2; fi; run $X\n", ["run", "1"]),
        ('C="run a"; A=(0); if [ -d x ]; then C+=" b"; A+=(1); fi; $C "${A[@]}"\n', ["run", "a", "0"]),
        ("M=b\ncase $M in a) X=1 ;; b | c) X=2 ;; *) X=3 ;; esac\nrun $X\n", ["run", "2"]),
        ('M=z; case "$M" in\n a) X=1 ;;\n *) X=3 ;;\nesac; run $X\n', ["run", "3"]),
        ("case $M in\n a) X=1 ;;\n b) X=2 ;;\nesac\nrun $X\n", ["run", "1"]),
        (': "${X:=3}"; : ${Y:=$X}; run $X $Y\n', ["run", "3", "3"]),
        ('f() { local a=$1; run "$a" "${@}"; }\nf p --q\n', ["run", "p", "p", "--q"]),
        ("function f {\n run $1\n}\nif true; then f x; fi\n", ["run", "x"]),
        ('f() { g; }; g() { run; }; [ -n "$N" ] && run no; f\n', ["run"]),
        ("mkdir x && X=1; which y || X=2; run $X\n", ["run", "1"]),
        ('cat <<EOF\nrun no\nEOF\nexport X="q"; run --x="$X r"\n', ["run", "--x=q r"]),
        ("bash -c 'run in'\n", ["run", "in"]),
        ("run a\\ b \\ \n  --c\n", ["run", "a b", " "]),  # a space behind the backslash: the line ends here
        ('X=`date`; run "at-$X" $(seq 2)\n', ["run", "at-${X}", "$(…)"]),
        ("run 'open", ["run", "open"]),
        ('run "${X\n', ["run", "${X\n}"]),
    ],
)
def test_words_of_a_command(text, words):
    found = [command.words for command in Script(text).commands if command.words[0] == "run"]
    if "${X\n" in text:  # never closed: whatever comes of it, reading ends
        assert len(found) == 1
        return
    assert found[0] == words


GUARDS = """\
A=1; [ -z "$A" ] && A=2; [ -n "$A" ] && B=3 || B=4; [[ "$A" == 1 && "$B" != 3 ]] || C=5
if [ "$A" -eq 1 ] && ! [ -z "$B" ]; then D=6; else D=7; fi
case "$D" in [0-5]) E=8 ;; 6) E=9 ;; *) E=10 ;; esac
{ false || F=11; } && G=12
f() { H=$2; shift; I=$1; }
f a b; : "${J:=13}"
if false; then K=14; elif [[ $A = 1 ]]; then K=15; fi
env echo $A $B $C $D $E $F $G $H $I $J $K
"""


@pytest.mark.skipif(os.name != "posix", reason="needs bash")
def test_conditions_are_those_of_bash():
    bash = subprocess.run(["bash", "-c", GUARDS], capture_output=True, text=True, check=True).stdout.split()
    found = Script(GUARDS)
    assert found.commands[-1].words[2:] == bash and not found.conditional


def test_what_a_branch_sets_holds_in_it():
    """Nothing is known of the directory: both branches are read, each with its own values."""
    found = Script("X=0; if [ -d x ]; then X=1; run $X; else X+=2; run $X; fi; run $X; [ -d y ] && Y=3; Z=4; run $Z\n")
    assert [command.words[1] for command in found.commands] == ["1", "02", "0", "4"]
    assert [command.maybe for command in found.commands] == [True, True, False, False]
    assert found.conditional == ["line 1: what is set depends on a condition; the plan has X=0"]  # Y is not used


def test_what_depends_on_a_condition_is_said(work, capsys):
    text = (
        'LR=5e-6\nEPOCHS=3\n[ -z "$LR" ] && LR=1e-6\n[[ "$DEBUG" == "1" ]] && EPOCHS=1\n'
        "python -m safe_rlhf.algorithms.dpo --model_name_or_path m --learning_rate $LR --epochs $EPOCHS\n"
    )
    plan, _, said = plan_of(script(text), capsys=capsys)
    assert (plan["args"]["learning_rate"], plan["args"]["num_train_epochs"]) == (5e-6, 3)
    assert "note: line 4: what is set depends on a condition; the plan has EPOCHS=3" in said and "LR=" not in said


MODE = """\
case $1 in
  help) python -m safe_rlhf.algorithms.dpo --model_name_or_path m --output_dir a --scale_coeff 0.1 ;;
  safe) python -m safe_rlhf.algorithms.dpo --model_name_or_path m --output_dir b --scale_coeff 0.2 ;;
esac
"""


@pytest.mark.parametrize(("word", "folder"), [("help", "a"), ("safe", "b")])
def test_a_case_takes_the_branch_of_its_word(work, capsys, word, folder):
    plan, _, said = plan_of(script(MODE), "--", word, capsys=capsys)
    assert plan["output_dir"] == folder and "depends" not in said and "no step of this plan" not in said
    plan, _, said = plan_of(script(MODE), capsys=capsys)
    assert "line 3: whether safe_rlhf.algorithms.dpo runs depends on a condition" in said


def test_places_of_a_script_and_of_its_functions(work, capsys):
    text = 'MODEL=$1\nshift\npython -m safe_rlhf.algorithms.dpo --model_name_or_path "$MODEL" "$@"\n'
    plan, _, _ = plan_of(script(text), "--", "base", "--epochs", "4", capsys=capsys)
    assert plan["model"] == "base" and plan["args"]["num_train_epochs"] == 4
    text = (
        "run() {\n  local beta=$2\n"
        "  python -m safe_rlhf.algorithms.dpo --model_name_or_path $1 --scale_coeff $beta --output_dir $3\n}\n"
        "run base 0.1 out/a\nrun out/a 0.02 out/b\n"
    )
    plan, _, _ = plan_of(script(text), capsys=capsys)
    assert plan["model"] == "base" and [stage["beta"] for stage in plan["stages"]] == [0.1, 0.02]


@pytest.mark.parametrize(
    "launcher",
    [
        "python -m torch.distributed.run --nproc_per_node 1 -m",
        "python -m accelerate.commands.launch --mixed_precision no -m",
        "docker run -m 64g --gpus all image deepspeed --module",
        "nohup $PYTHON -u -m",
        "./launch.sh -m",
    ],
)
def test_launchers(work, capsys, launcher):
    before = 'mkdir -m 755 -p out\ncp "$0" train.py out/\n'
    command = f"{launcher} safe_rlhf.algorithms.dpo --model_name_or_path m --train_datasets PKU-SafeRLHF/train\n"
    plan, _, said = plan_of(script(before + command), capsys=capsys)
    assert plan["model"] == "m" and "nothing is known of it" not in said


@pytest.mark.skipif(os.name != "posix", reason="needs bash")
def test_words_are_those_of_bash():
    text = (
        "A='x y'; B=(p 'q r'); C=dir/file.txt\n"
        'env printf "%s\\n" $A "$A" "${B[@]}" ${C##*/} ${C%/*} "a\\"b" a\\ b \'c d\' --f="$A" \\\n  ${N:-"d e"} # no\n'
    )
    bash = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()
    (command,) = Script(text).commands
    assert command.words[3:] == bash


@pytest.mark.parametrize(
    "text", ["export WANDB_API_KEY=%s", "wandb login %s", "export HF_TOKEN='%s'", "echo %s", 'MY_PASSWORD="%s"']
)
def test_keys_are_hidden(text):
    found = Script(text % KEY + "\nrun --x " + KEY + "\nexport TOKENIZERS_PARALLELISM=falsefalse\n")
    assert KEY not in found.hide(f"a {KEY} b") and found.hide("falsefalse") == "falsefalse"


def test_migrate_runs_nothing(work):
    Path("a.sh").write_text("touch made; $(touch made2); python -m safe_rlhf.algorithms.dpo --model_name_or_path m\n")
    assert migrate("a.sh").is_plan
    assert not Path("made").exists() and not Path("made2").exists()


# Pieces


def test_comments_stand_above_their_keys():
    plan = {"model": "m", "stages": [{"name": "a", "beta": 0.1}], "rungs": {"rule": "bracket"}}
    lines = write_plan(plan, {"stages.name": ["first"], "stages.beta": ["β"], "rungs.rule": ["why"]})
    assert lines == [
        "model: m",
        "stages:",
        "  # first",
        "  - name: a",
        "    # β",
        "    beta: 0.1",
        "rungs:",
        "  # why",
        "  rule: bracket",
    ]
    assert yaml.safe_load("\n".join(lines)) == plan


@pytest.mark.parametrize(
    ("model", "chat"),
    [
        ("PKU-Alignment/alpaca-7b-reproduced", False),
        ("Qwen/Qwen2.5-7B", True),
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("google/gemma-2-2b-it", True),
        ("org/digital-model", False),
    ],
)
def test_policies_by_name(model, chat):
    assert answers_in_chat(model) is chat


def test_script_that_calls_itself_ends(work):
    Path("a.sh").write_text("bash a.sh\nsource a.sh\npython -m safe_rlhf.algorithms.dpo --model_name_or_path m\n")
    assert migrate("a.sh").is_plan


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ('[[ "$M" == *"llama"* ]]', True),
        ('[[ "$M" == "llama"* ]]', False),
        ('[[ "$M" == "*llama*" ]]', False),
        ('[ "$M" = *llama* ]', False),
        ("$FULL", False),
        ("[[ $N > 1 ]]", None),
    ],
)
def test_a_condition_is_that_of_bash(test, holds):
    script = Script(f'M=meta-llama/L; FULL=false; N=1; A=no; if {test}; then A=yes; fi; python x.py --a "$A"', Path())
    said = any("depends on a condition" in note for note in script.variables.notes())
    assert (script.commands[0].words[-1], said) == ({True: "yes", False: "no", None: "no"}[holds], holds is None)


@pytest.mark.parametrize("launcher", ["accelerate-launch x.py", "nohup ./x.py", "deepspeed.pt --num_gpus 1 x.py"])
def test_what_starts_a_file(launcher):
    assert find_started([*launcher.split(), "--a", "1"], Path()).name == "x"
