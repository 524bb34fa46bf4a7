"""What the system and its libraries say in words of their own becomes one sentence."""

import errno
import gzip
import tempfile
from pathlib import Path

import pytest

from trl_rsa.scripts._command import explain


def error_of(action):
    try:
        action()
    except Exception as error:
        return error


def full():
    raise OSError(errno.ENOSPC, "No space left on device", "out/records.jsonl")


def full_in_a_library():
    raise RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")


def damaged_weights():
    from safetensors import safe_open

    with tempfile.NamedTemporaryFile() as file:
        file.write(b"not weights")
        file.flush()
        safe_open(file.name, "pt").__enter__()


def cut_archive():
    gzip.decompress(gzip.compress(b"whole")[:-4])


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (damaged_weights, "A file of weights cannot be read: "),
        (cut_archive, "A compressed file cannot be read: "),
        (full, "The disk is full: there is no room for out/records.jsonl. Make room"),
        (full_in_a_library, "The disk is full: there is no room. Make room"),
        (lambda: Path("a\0b").read_text(), "NUL character"),
        (lambda: Path("a\ud800b").mkdir(), r"You gave 'a\ud800b', which holds half of a surrogate pair"),
        (lambda: Path("~no-such-user-here/x").expanduser(), "there is no such user"),
        (lambda: Path("/").read_text(), "Is a directory: /"),
    ],
)
def test_one_sentence(action, sentence):
    assert sentence in explain(error_of(action))


def test_a_link_that_leads_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "circle of links" in explain(error_of(lambda: (tmp_path / "a").resolve(strict=True)))
    assert "symbolic links" in explain(error_of(lambda: (tmp_path / "a").read_text()))
