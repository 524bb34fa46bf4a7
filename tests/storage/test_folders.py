"""What is in a folder, and what is no longer as it was."""

from trl_rsa.storage.folders import describe_files, file_digest, find_damage, model_fingerprint


def test_damage_is_said_in_words(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x", "y"):
        (tmp_path / name).write_text("content")
    files = describe_files(tmp_path, leave_out=["y"])
    assert list(files) == ["a/x"] and files["a/x"]["size"] == 7
    assert find_damage(tmp_path, files) is None
    (tmp_path / "a/x").write_text("contend")
    assert find_damage(tmp_path, files) == "a/x has another content"
    (tmp_path / "a/x").write_text("con")
    assert find_damage(tmp_path, files) == "a/x has 3 bytes, not 7"
    (tmp_path / "a/x").unlink()
    assert find_damage(tmp_path, files) == "a/x is missing"


def test_a_large_file_is_known_by_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_rsa.storage.folders.WHOLE", 1000)
    monkeypatch.setattr("trl_rsa.storage.folders.PIECE", 100)
    path = tmp_path / "large"
    path.write_bytes(bytes(20_000))
    before = file_digest(path)
    path.write_bytes(bytes(19_999) + b"x")
    assert file_digest(path) != before
    path.write_bytes(bytes(20_001))
    assert file_digest(path) != before


def test_a_model_is_its_weights_and_settings_not_its_name(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "README.md").write_text(name)
    assert model_fingerprint(tmp_path / "one") == model_fingerprint(tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text("{}")
    assert model_fingerprint(tmp_path / "one") != model_fingerprint(tmp_path / "two")
