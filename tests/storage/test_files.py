"""Files that are written at once or not at all."""

import errno
import json
import os
import subprocess
import sys

import pytest

from trl_rsa.storage import files
from trl_rsa.storage.files import replacing, write_json


def test_json_is_written_whole_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"λ": [1, None], "odd": "\ud800"})
    assert json.loads(path.read_bytes()) == {"λ": [1, None], "odd": "\ud800"}
    assert "λ" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(), "as any other file"


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, 2)
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as other:
        assert one != other and one.parent == path.parent
        one.write_text("one")
        other.write_text("other")
        assert not path.exists()
    assert path.read_text() == "one", "the outer block ends last"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    code = (
        "import os, sys; from trl_rsa.storage import files\n"
        "files.os.replace = lambda *names: os._exit(9)\n"
        "files.write_json(sys.argv[1], 2)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "1\n"


def test_a_full_disk_is_said_with_the_files_name(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(OSError, match="No space left") as error, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(path) and list(tmp_path.iterdir()) == [path]
