"""docs/score_models.md names every argument, and the defaults that it states are those of the code."""

import dataclasses
from pathlib import Path

import pytest

from trl_rsa.data.harm import HarmScale
from trl_rsa.score_models.arguments import ScoreModelArguments


PAGE = (Path(__file__).parents[2] / "docs" / "score_models.md").read_text(encoding="utf-8")
FIELDS = {field.name: field.default for field in dataclasses.fields(ScoreModelArguments)}


@pytest.mark.parametrize("name", FIELDS)
def test_every_argument_is_named(name):
    assert f"`{name}`" in PAGE or f"--{name}" in PAGE


def test_defaults():
    assert FIELDS["held_out"] == 0.1 and "`--held_out 0.1`" in PAGE
    assert FIELDS["regularization"] == 0.001 and "`--regularization` (0.001)" in PAGE
    default = ",".join(f"{name}={cost:g}" for name, cost in zip(HarmScale().names, HarmScale().costs, strict=True))
    assert f"--harm_scale {default} " in PAGE
