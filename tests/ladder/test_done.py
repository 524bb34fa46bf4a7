"""done.json vouches for a model: a rung that was damaged later is named, not climbed on."""

import pytest

from trl_rsa.ladder.done import DONE, is_done, write_done


@pytest.fixture
def rung(tmp_path):
    folder = tmp_path / "rung-01"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_finished_model_is_done(rung):
    assert not is_done(rung)
    write_done(rung, {"rung": 1})
    (rung / "README.md").write_text("a card, written later")
    assert is_done(rung)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'"fingerprint"', b"[" * 2000, b"\xff"])
def test_a_damaged_marker_is_named(rung, damage):
    write_done(rung, {})
    (rung / DONE).write_bytes(damage)
    with pytest.raises(ValueError, match="is not as it was saved"):
        is_done(rung)


def test_damaged_weights_are_named(rung):
    write_done(rung, {})
    (rung / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(ValueError, match="rung-01 is not as it was saved"):
        is_done(rung)
