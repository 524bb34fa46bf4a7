"""The examples: plans that load, a quickstart that stays short, and a table that lists every file."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from trl_rsa import Plan
from trl_rsa.alignment.plan import args_of
from trl_rsa.scripts import align
from trl_rsa.scripts._launch import make_launcher, split_arguments
from trl_rsa.training.configuration import risk_arguments
from trl_rsa.training.launcher import bundled_configs


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_plan_loads_and_its_arguments_are_valid(path, tmp_path):
    plan = Plan.from_yaml(path)
    for stage in plan.stages:
        arguments = args_of(plan, stage) | {"output_dir": str(tmp_path)}
        if stage.method == "rsa":
            arguments |= {"beta": stage.beta, **risk_arguments(stage.risk_measure, arguments)}
        # Where the plan is for a GPU, its precision is the machine's business, not the plan's.
        stage.does.config_class(**arguments | {"bf16": False, "use_cpu": True})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("configs/*_[0-9]*gb.yaml")), ids=lambda path: path.name)
def test_the_command_in_a_plan_for_a_machine_is_accepted(path):
    """Its plan, its engine and its number of processes, as its name says them: `…_2x80gb.yaml`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    (command,) = [line.removeprefix("#   ") for line in lines if line.startswith("#   trl-rsa align ")]
    own, launch = split_arguments(align.make_parser(), shlex.split(command)[2:])
    assert align.make_parser().parse_args(own).config == f"examples/configs/{path.name}"
    launcher, devices = make_launcher(launch, {}), re.search(r"_(\d+)x", path.name)[1]
    assert devices == "1" if launcher is None else f"--num_processes {devices} " in " ".join(launcher.command("m", []))


@pytest.mark.parametrize("name", sorted(bundled_configs()))
def test_accelerate_accepts_every_configuration(name):
    config = load_config_from_file(str(EXAMPLES / "accelerate_configs" / f"{name}.yaml"))
    kinds = {"single": "NO", "multi_gpu": "MULTI_GPU", "zero": "DEEPSPEED", "fsdp": "FSDP"}
    assert [config.distributed_type.value] == [kind for start, kind in kinds.items() if name.startswith(start)]
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[4])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_script_parses_and_says_how_it_is_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"python examples/{path.name}" in ast.get_docstring(tree)


def test_the_quickstart_is_short():
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 40


def test_the_table_lists_every_file():
    table = (EXAMPLES / "README.md").read_text()
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("configs/*.yaml")]:
        assert f"({path.relative_to(EXAMPLES)})" in table, path.name
