"""What a name means that may be a folder here or a repository on the Hub."""

import pytest

from trl_rsa.storage.hub import is_path, why_not_loaded


@pytest.mark.parametrize("text", ["/data/model", "./model", "../model", "~/model", "outputs/run/model", "."])
def test_what_only_a_path_looks_like(text):
    assert is_path(text)


@pytest.mark.parametrize("text", ["gpt2", "org/model", "outputs/model"])
def test_what_may_be_an_id(text):
    assert not is_path(text)


def test_why_a_model_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = OSError("no connection,\n  or a bad id.")
    (tmp_path / "model").mkdir()
    here = f"there is no such folder (looked for from {tmp_path})"
    assert why_not_loaded("model", error) == "it cannot be loaded: no connection, or a bad id"
    assert why_not_loaded("./nowhere", error) == here
    assert why_not_loaded("outputs/run/model", error) == here
    assert why_not_loaded("org/model", error) == f"{here}, and no such model could be fetched from the Hub (OSError)"
