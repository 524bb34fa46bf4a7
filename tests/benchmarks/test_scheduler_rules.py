"""The table of the scheduler's rules in the documentation."""

from benchmarks.alignment.scheduler_rules import BEGIN, END, PAGE, table


def test_table_in_the_documentation_is_current():
    assert f"{BEGIN}\n{table()}\n{END}" in PAGE.read_text(encoding="utf-8")
