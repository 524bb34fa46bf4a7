"""docs/migration.md names every flag of the dpo module with its default, and nothing that does not exist."""

import re
from pathlib import Path

from trl_rsa.compat.safe_rlhf.algorithms import dpo


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
