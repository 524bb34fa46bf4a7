"""align() with a process group per stage ends like align() in one process, survives a kill, and takes its processes
with it. Two processes on gloo; each launch costs some ten seconds, so there are few."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cpu_args import CPU_ARGS
from mortal import MortalExpectation
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback

from trl_rsa import Launcher, Plan, Stage, align
from trl_rsa.cli import main
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.launched import Launched, check_status
from trl_rsa.training.runner import InProcess


TWO = ("--num_processes", "2")
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
# Sums over two processes round otherwise than sums over one, and Adam divides by the size of a gradient: where one is
# next to nothing, a rounding becomes a part of a step of 1e-3. 12 steps in two stages; metrics are in nats.
WEIGHTS_TOLERANCE, METRICS_TOLERANCE = 1e-4, 1e-3


def make_plan(model, output_dir, dataset, processes, peft_config=None):
    args = {
        **CPU_ARGS,
        "per_device_train_batch_size": 4 // processes,
        "per_device_eval_batch_size": 4 // processes,
        "max_steps": 6,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
    }
    stages = [
        Stage(
            "helpful",
            dataset,
            held_out=4,
            dataset_options={"template": "none"},
            risk_measure="cvar",
            args={"risk_tail": 0.3},
        ),
        Stage(
            "safe",
            dataset,
            held_out=4,
            dataset_options={"template": "none"},
            constraint_multiplier=2.0,
            risk_measure=MortalExpectation(f"{output_dir}/02-safe"),
        ),
    ]
    return Plan(stages, model=model, output_dir=str(output_dir), args=args, peft_config=peft_config)


def assert_same_end(one, other):
    """Weights of both stages, and everything in the manifest that is not about time or the engine."""
    for stage in ("01-helpful", "02-safe"):
        (expected,), (found,) = (list(Path(folder, stage).glob("*.safetensors")) for folder in (one, other))
        expected, found = load_file(expected), load_file(found)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=WEIGHTS_TOLERANCE, msg=f"{stage} {name}")
    manifests = [json.loads(Path(folder, "manifest.json").read_text())["stages"] for folder in (one, other)]
    for expected, found in zip(*manifests, strict=True):
        assert found["status"] == "complete" and found["steps"] == expected["steps"]
        assert found["data"] == expected["data"] and found["temperature"] == expected["temperature"]
        assert found["metrics"] == pytest.approx(expected["metrics"], abs=METRICS_TOLERANCE)


class FsdpOnCpu(Launcher):
    """Sharded on gloo, which accelerate itself does not do."""

    def start(self, module, arguments):
        assert module == "trl_rsa.training"
        return super().start("fsdp_stage_worker", arguments)


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize(
    ("launcher", "engine"),
    [(Launcher("zero3", TWO), "DeepSpeed ZeRO-3"), (FsdpOnCpu("multi_gpu", TWO), "FSDP")],
    ids=["zero3", "fsdp2"],
)
def test_sharded_stages_end_like_those_of_one_process(
    launcher, engine, tiny_model_path, make_preference_dataset, tmp_path
):
    dataset = make_preference_dataset(24)
    align(make_plan(tiny_model_path, tmp_path / "one", dataset, 1))
    (tmp_path / "two/02-safe").mkdir(parents=True)
    (tmp_path / "two/02-safe/died").touch()  # nobody dies in this one
    alignment = align(make_plan(tiny_model_path, tmp_path / "two", dataset, 2), launcher=launcher)
    assert_same_end(tmp_path / "one", tmp_path / "two")
    for stage in alignment.manifest["stages"]:
        assert (stage["engine"], stage["processes"]) == (engine, 2)
    assert "02-safe" in alignment.model and AutoTokenizer.from_pretrained(alignment.model).eos_token == "<eos>"


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("launcher", [Launcher("zero3", TWO), FsdpOnCpu("multi_gpu", TWO)], ids=["zero3", "fsdp2"])
def test_a_scorer_with_an_adapter_is_put_together_from_its_pieces(
    launcher, tiny_model_path, make_preference_dataset, tmp_path
):
    """No process has weights to merge the adapter into."""
    dataset = make_preference_dataset(8)
    found = []
    for processes, launch in ((1, None), (2, launcher)):
        args = {**CPU_ARGS, "per_device_train_batch_size": 4 // processes, "max_steps": 2, "learning_rate": 1e-2}
        options = {"dataset_options": {"template": "none"}, "method": "reward"}
        folder = tmp_path / str(processes)
        stages = [Stage("liked", dataset, **options)]
        align(Plan(stages, tiny_model_path, str(folder), args=args, peft_config=LORA), launcher=launch)
        found.append(load_file(folder / "01-liked/model.safetensors"))
    assert found[0].keys() == found[1].keys()
    start = load_file(f"{tiny_model_path}/model.safetensors")
    name = next(name for name in found[0] if "q_proj" in name)
    assert (found[0][name] - start[name]).abs().max() > 10 * WEIGHTS_TOLERANCE
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=WEIGHTS_TOLERANCE, msg=name)


@pytest.mark.slow
@pytest.mark.engines
def test_a_killed_process_is_an_error_and_the_stage_resumes(tiny_model_path, make_preference_dataset, tmp_path):
    dataset = make_preference_dataset(24)
    align(make_plan(tiny_model_path, tmp_path / "one", dataset, 1, LORA))
    plan = make_plan(tiny_model_path, tmp_path / "two", dataset, 2, LORA)
    with pytest.raises(ChildProcessError, match=r"launched for \[2/2\] safe ended with status 1"):
        align(plan, launcher=Launcher("multi_gpu", TWO))
    assert (tmp_path / "two/02-safe/died").exists()
    assert json.loads((tmp_path / "two/manifest.json").read_text())["stages"][1]["status"] == "running"

    with pytest.raises(ValueError, match=r"resume with PyTorch in 1 process, but .*checkpoint-2 was .* DDP in 2 proc"):
        align(plan)

    align(plan, launcher=Launcher("multi_gpu", TWO))
    assert_same_end(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two/02-safe/ref").exists() and not (tmp_path / "two/.launch").exists()


@pytest.mark.slow
@pytest.mark.engines
def test_responses_drawn_in_two_processes_are_those_of_one(tiny_model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    models = ModelSettings.of({}, None, {"use_cpu": True})
    runners = [
        InProcess(models, tokenizer, (), print),
        Launched(models, tokenizer, Launcher("multi_gpu", TWO), tmp_path),
    ]
    drawn = [
        sorted(
            (response.prompt, response.draw, response.text)
            for batch in runner.sample(
                tiny_model_path,
                ["the cat", "a dog sat", "the big red hill"],
                Sampling(draws=2, max_new_tokens=8),
                batch_size=4,
                skip={(1, 0)},
            )
            for response in batch
        )
        for runner in runners
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5


class Dying(Launcher):
    """Its one process writes what lies beside the folder, and waits until that has been read."""

    def command(self, module, arguments):
        code = """
import pathlib, shutil, sys, time
folder = pathlib.Path(sys.argv[1])
shutil.copy(folder.parent / "drawn", folder / "responses-0.jsonl")
while not (folder / "taken").exists():
    time.sleep(0.01)
sys.exit(3)
"""
        return [sys.executable, "-c", code, *arguments]


def test_what_was_drawn_before_a_kill_is_kept(tiny_model_path, tmp_path):
    """Two responses, and a part of a third."""
    lines = [json.dumps(vars(Response(0, draw, "café", [5, 3], True))) + "\n" for draw in range(3)]
    (tmp_path / "drawn").write_text("".join(lines)[:-5])
    launched = Launched(None, AutoTokenizer.from_pretrained(tiny_model_path), Dying(), tmp_path)
    sampled = launched.sample("m", ["p"], Sampling(draws=4), batch_size=8, skip=())
    first = next(sampled)
    assert [(response.draw, response.text) for response in first] == [(0, "café"), (1, "café")]
    (tmp_path / ".launch/taken").touch()
    with pytest.raises(ChildProcessError, match="sampling from m ended with status 3"):
        next(sampled)


@pytest.mark.slow
@pytest.mark.engines
def test_train_on_the_command_line_launches(tiny_model_path, make_preference_dataset, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    make_preference_dataset(8).to_json(pairs)
    for processes in (1, 2):
        flags = {
            "model_name_or_path": tiny_model_path,
            "dataset_name": pairs,
            "output_dir": tmp_path / str(processes),
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "max_steps": 2,
            "save_strategy": "no",
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 2 // processes,
            "gradient_accumulation_steps": 2,
        }
        launch = ["--accelerate_config", "zero2", *TWO] if processes == 2 else []
        assert (
            main(["train", *launch, "--use_cpu", *(str(w) for kv in flags.items() for w in (f"--{kv[0]}", kv[1]))])
            == 0
        )
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("1", "2"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=WEIGHTS_TOLERANCE, msg=name)


@pytest.mark.slow
@pytest.mark.engines
def test_the_processes_end_when_the_parent_is_killed(tmp_path):
    code = f"from trl_rsa import Launcher; Launcher('multi_gpu', {TWO!r}).run('sleeper', [{str(tmp_path / 'pid')!r}])"
    here = str(Path(__file__).parent)
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": here})
    _wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), seconds=120)
    child = int((tmp_path / "pid").read_text())
    assert _is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not _is_alive(child), seconds=30)


def _wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An ended process whose parent has not asked for its status is still there, by name.
    return (
        Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if Path("/proc").exists() else True
    )


def test_the_first_process_to_fail_says_why(tmp_path):
    """A ValueError is what one process would have raised; of other errors the later ones are lost peers."""
    with pytest.raises(ChildProcessError, match=r"for \[1/1\] safe ended with status 1 \(a process was killed\)"):
        check_status(1, tmp_path, "[1/1] safe")
    for place, (rank, error) in enumerate([(1, "ValueError"), (0, "RuntimeError")]):
        path = tmp_path / f"error-{rank}.json"
        path.write_text(json.dumps({"type": error, "message": f"I am {rank}."}))
        os.utime(path, (place, place))
    with pytest.raises(ValueError, match=r"^I am 1\.$"):
        check_status(1, tmp_path, "[1/1] safe")
    os.utime(tmp_path / "error-1.json", (2, 2))
    with pytest.raises(ChildProcessError, match=r"RuntimeError: I am 0\."):
        check_status(1, tmp_path, "[1/1] safe")


# What is refused, before anything is launched


@pytest.fixture
def plan(tiny_model_path, make_preference_dataset, tmp_path):
    return make_plan(tiny_model_path, tmp_path / "refused", make_preference_dataset(12), 2)


def test_a_launcher_around_align_is_refused(plan, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"launched align in 2 processes.*trl-rsa align --accelerate_config"):
        align(plan)


@pytest.mark.parametrize(("use_cpu", "said"), [(True, "FSDP and use_cpu, but"), (False, "machine has no accelerator")])
def test_fsdp_on_a_cpu_is_refused(use_cpu, said, monkeypatch):
    monkeypatch.setattr("trl_rsa._device.has_accelerator", lambda: use_cpu)
    with pytest.raises(ValueError, match=f"{said}.*falls back to DDP"):
        Launcher("fsdp2", TWO).check(use_cpu)


def test_callbacks_are_refused(plan):
    with pytest.raises(ValueError, match=r"callbacks \(TrainerCallback\) and a launcher"):
        align(plan, callbacks=[TrainerCallback()], launcher=Launcher("zero3", TWO))


def test_several_machines_are_refused(plan):
    with pytest.raises(ValueError, match="launch on 2 machines"):
        align(plan, launcher=Launcher("zero3", ("--num_machines", "2", "--num_processes", "4")))


def test_two_ways_to_choose_the_engine_are_refused(plan):
    plan.stages[1].args["deepspeed"] = "ds.json"
    with pytest.raises(ValueError, match=r"set 'deepspeed' in the args of stage 'safe' and a launcher"):
        align(plan, launcher=Launcher("zero3", TWO))


def test_objects_that_cannot_be_sent_are_refused(plan):
    plan.stages[1].risk_measure = MortalExpectation(lambda: None)
    with pytest.raises(ValueError, match=r"\[2/2\] safe .*cannot be sent to them"):
        align(plan, launcher=Launcher("zero3", TWO))


def test_a_measure_defined_in_the_script_is_refused(plan, monkeypatch):
    monkeypatch.setattr(MortalExpectation, "__module__", "__main__")
    with pytest.raises(ValueError, match="defined in the script that you run"):
        align(plan, launcher=Launcher("zero3", TWO))


def test_an_adapter_configuration_travels(plan):
    plan.peft_config = LoraConfig(r=2, task_type="CAUSAL_LM")
    models = ModelSettings.of(plan.model_init_kwargs, plan.peft_config, plan.args)
    runner = Launched(models, None, Launcher("zero3", TWO), Path(plan.output_dir))
    from trl_rsa.alignment.prepare import prepare_stage

    runner.check(prepare_stage(plan, 0, AutoTokenizer.from_pretrained(plan.model)))
