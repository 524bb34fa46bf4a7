"""docs/sweeps.md: its lines of Python give what stands behind them, and its example is one."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from trl_rsa import Plan
from trl_rsa.scripts import evaluate, sweep
from trl_rsa.sweep.axes import Axis


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples/sweep"


def test_the_lines_of_python():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(block, names)
    lines = re.findall(r"^(\w+\(.*\)) +# ([^:,\n]*(?:, \d+\])?)", block, re.MULTILINE)
    assert len(lines) == 3
    for line, value in lines:
        found = eval(line, names)
        assert getattr(found, "tolist", lambda found=found: found)() == ast.literal_eval(value), line


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
