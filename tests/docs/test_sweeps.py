"""docs/sweeps.md: its example is one."""

import shlex
from pathlib import Path

import pytest

from trl_rsa import Plan
from trl_rsa.scripts import evaluate, sweep
from trl_rsa.sweep.axes import Axis


ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/sweep"


@pytest.mark.parametrize("name", ["sacpo", "rsa"])
def test_the_command_of_an_example_is_accepted(name, monkeypatch):
    """With the plan beside it, whose fields are found, and the evaluation, whose arguments are known."""
    monkeypatch.chdir(ROOT)
    lines = (EXAMPLE / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    command = next(line.removeprefix("#   ") for line in lines if line.startswith("#   trl-rsa sweep examples"))
    args = sweep.make_parser().parse_args(shlex.split(command)[2:])
    # Its prompts are made by make_world.py.
    monkeypatch.setattr("trl_rsa.ladder.constraint.load_prompts", lambda path: None)
    plan = Plan.from_yaml(args.plan)
    (axis,) = [Axis.read(text, plan) for text in args.over]
    assert axis.path == {"sacpo": "stages.safe.constraint_multiplier", "rsa": "constraints.cost.budget"}[name]
    given, scorers, *_ = evaluate.make_parser().parse_args(["--config", args.evaluation])
    assert given.prompts and not given.model and scorers.reward and scorers.cost


def test_both_examples_share_their_helpful_stage():
    plans = [Plan.from_yaml(EXAMPLE / f"{name}.yaml") for name in ("sacpo", "rsa")]
    assert plans[0].stages[0] == plans[1].stages[0] and plans[0].args == plans[1].args
