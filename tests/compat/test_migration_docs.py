"""docs/migration.md names every flag of the dpo module with its default, and nothing that does not exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from trl_rsa.compat.safe_rlhf.algorithms import dpo
from trl_rsa.compat.safe_rlhf.evaluate import arena
from trl_rsa.migration.migrate import migrate


PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
SECTION = PAGE.split("### `safe_rlhf.algorithms.dpo`")[1].split("### λ")[0]


def flags_of_the_tables():
    """From each flag in a first column to the defaults in the second: `--a_{b,c}` is two flags."""
    found = {}
    for line in SECTION.splitlines():
        if not line.startswith("| `--"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for flag in re.findall(r"`(--[\w{},]+)`", cells[0]):
            choices = re.search(r"\{(.*)\}", flag)
            for choice in choices.group(1).split(",") if choices else [""]:
                found[re.sub(r"\{.*\}", choice, flag)] = cells[1]
    return found


def test_every_flag_is_in_the_tables_and_every_flag_of_the_tables_exists():
    own = {option for option in dpo.make_parser()._option_string_actions if option.startswith("--")}
    assert own - {"--help", "--local_rank", "--dry_run", "--dataset_module"} == set(flags_of_the_tables())
    assert "`--dataset_module FILE.py`" in PAGE and "`--dry_run`" in SECTION


def test_the_defaults_in_the_tables_are_the_parsers():
    parser, checked = dpo.make_parser(), 0
    for flag, written in flags_of_the_tables().items():
        default = parser.get_default(parser._option_string_actions[flag].dest)
        if isinstance(default, bool):
            assert written == {True: "true", False: "off"}[default] or "off" in written, flag
        elif isinstance(default, int | float):
            numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\.?\d+(?:e-?\d+)?", written)]
            assert default in numbers, flag
        elif isinstance(default, str):
            assert default in written, flag
        else:
            continue
        checked += 1
    assert checked >= 20


def section(title: str) -> str:
    return re.split(r"\n##", PAGE.split(title + "\n", 1)[1], maxsplit=1)[0]


def test_migrate_knows_every_flag_of_ppo_lag_that_the_table_names(tmp_path):
    rows = [line for line in section("### `safe_rlhf.algorithms.ppo_lag`").splitlines() if line.startswith("| ")]
    flags = re.findall(r"`--(\w+)`", " ".join(row.split("|")[1] for row in rows))
    assert len(flags) > 50
    words = dict.fromkeys(flags, "1") | {"log_type": "wandb", "offload": "none"}
    script = tmp_path / "lag.sh"
    script.write_text(
        "deepspeed --module safe_rlhf.algorithms.ppo_lag " + " ".join(f"--{k}={v}" for k, v in words.items()) + "\n"
    )
    found = migrate(script)
    assert found.is_plan and not [line for line in found.without if "no such flag" in line]
    # What the table says becomes nothing is named, with the reason.
    nothing = " ".join(row.split("|")[1] for row in rows if "| nothing" in row)
    for flag in re.findall(r"`--(\w+)`", nothing):
        assert any(line.startswith(f"--{flag} 1: ") for line in found.without), flag


def test_flags_of_the_arena_are_in_its_table():
    own = {option for option in arena.make_parser()._option_string_actions if option.startswith("--")}
    named = set(re.findall(r"`(--\w+)(?: \w+)?`", section("### `safe_rlhf.evaluate.arena`")))
    assert own - {"--help", "--local_rank", "--dataset_module"} == named


def test_line_for_three_numbers_runs(tmp_path):
    (line,) = re.findall(r"^python -c .*$", section("### Mean reward, mean cost, safe rate"), re.MULTILINE)
    estimates = {"reward": {"mean": {"value": 1.5}}, "cost": {"mean": {"value": -2.0}, "unsafe_rate": {"value": 0.25}}}
    (tmp_path / "metrics.json").write_text(json.dumps({"models": {"m": estimates}}))
    words = [sys.executable, *shlex.split(line)[1:-1], str(tmp_path / "metrics.json")]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == {"model": "m", "mean_reward": 1.5, "mean_cost": -2.0, "safe_rate": 0.75}
