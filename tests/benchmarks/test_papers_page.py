"""docs/papers.md is what the presets and the CSV say now."""

from benchmarks.alignment.constraint_page import read
from benchmarks.alignment.papers import CSV, ORDER, PAGE, _measured, render
from trl_rsa.alignment.presets import PRESETS


def test_the_page_is_as_generated():
    assert PAGE.read_text(encoding="utf-8") == render(), "run python -m benchmarks.alignment.papers"


def test_every_preset_has_a_section_with_its_file():
    assert set(ORDER) == set(PRESETS)
    for name, preset in PRESETS.items():
        assert f"## {name}\n" in render() and preset.text.rstrip() in render()


def test_numbers_by_hand():
    """The reward of two searches, 0.5 and 0.3 below ours, and the far tail of one; one is above its budget."""
    row = dict.fromkeys(read(CSV)[0], "") | {"part": "main", "world": "w", "seed": 0.0, "steps": 10.0}
    row |= {"cvar_01": 2.0}
    rows = [
        row | {"method": "α = 0, truncated", "budget": budget, "reward": 1.0, "cvar_05": 0.0} for budget in (1.0, 2.0)
    ]
    rows += [
        row | {"method": "M", "budget": 1.0, "reward": 0.5, "cvar_05": 1.5},
        row | {"method": "M", "budget": 2.0, "reward": 0.7, "cvar_05": 1.5, "cvar_01": 1.0},
    ]
    (line,) = _measured("M", rows)
    assert "in 1 of 2 searches; reward -0.40 against ours (" in line and "far tail -0.50 (" in line
    assert _measured("N", rows) == ["* N of the constraint track has not been run yet."]
