"""docs/scoring.md: what it says about options and defaults is what the code has."""

import ast
import inspect
import re
from pathlib import Path

import yaml

from trl_rsa import RiskConstraint, scoring
from trl_rsa.scoring.guard_presets import PRESETS
from trl_rsa.scoring.load import SCORERS


PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")


def test_every_option_is_documented():
    for prefix, scorer in SCORERS.items():
        assert f"`{prefix}:" in PAGE, prefix
        for name in scorer.option_names():
            assert f"`{name}`" in PAGE, f"{scorer.__name__}'s {name}"


def test_the_examples_call_what_exists():
    """Every call of a public name takes the keywords that the examples give it."""
    checked = 0
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            function = getattr(scoring, node.func.id, None)
            if function is None:
                continue
            parameters = inspect.signature(function).parameters
            options = {name for scorer in SCORERS.values() for name in scorer.option_names()}
            for keyword in node.keywords:
                assert keyword.arg in parameters or keyword.arg in options | {"reference"}, keyword.arg
            checked += 1
    assert checked >= 10


def test_the_defaults_of_the_judge():
    defaults = {
        name: parameter.default
        for cls in (scoring.PairwiseJudge, scoring.ChatEndpoint)
        for name, parameter in inspect.signature(cls).parameters.items()
    }
    names = ("repeats", "temperature", "max_tokens", "timeout", "max_retries", "backoff", "max_wait", "concurrency")
    assert [defaults[name] for name in names] == [1, 0.0, 512, 120, 5, 1, 120, 4]
    assert "| by kind, 1, 0, 512, – |" in PAGE
    assert "| 120 s, 5, 1 s, 120 s |" in PAGE
    assert "| none, 4 | pace |" in PAGE


def test_the_guards_in_the_table_are_those_that_we_know():
    rows = re.findall(r"^\| `([\w.-]+)` \| .*(?:word|behind|no words)", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(PRESETS)


def test_the_budget_with_a_guard_is_one():
    (example,) = re.findall(r"```yaml\n(constraint:.*?)```", PAGE, re.DOTALL)
    settings = yaml.safe_load(example)["constraint"]
    constraint = RiskConstraint(**settings)
    prefix, _, _ = constraint.scorer.partition(":")
    assert set(constraint.scorer_options) <= set(SCORERS[prefix].option_names())
