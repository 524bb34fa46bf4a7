"""Which trackers are installed."""

import pytest

from trl_rsa.training.trackers import PACKAGES, is_installed


def test_a_folder_of_runs_is_no_package(tmp_path, monkeypatch):
    """wandb keeps its runs in a folder `wandb`, which Python takes for a package without files of its own."""
    monkeypatch.setitem(PACKAGES, "runs", ("a_folder_of_runs",))
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("runs")
    (tmp_path / "a_folder_of_runs").mkdir()
    assert not is_installed("runs")
    (tmp_path / "a_folder_of_runs" / "__init__.py").write_text("")
    assert is_installed("runs")


@pytest.mark.parametrize("name", ["nobody_knows"])
def test_nothing_is_known_against_a_tracker_that_is_not_in_the_table(name):
    assert is_installed(name)
