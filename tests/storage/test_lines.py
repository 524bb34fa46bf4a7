"""JSON lines: whole lines are never lost, fragments never glued to the next one."""

import errno

import pytest

from trl_rsa.storage.lines import LineWriter, last_fragment, read_lines, write_whole


def write(path, *contents):
    with LineWriter(path) as writer:
        for content in contents:
            writer.write(content)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.jsonl"
    assert list(read_lines(path)) == []
    lines = [{"λ": 0.5, "none": None}, {"odd": "line\u2028break\n \ud800"}]
    write(path, lines[0])
    write(path, lines[1])
    assert list(read_lines(path)) == lines
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("fragment", ['{"a": 2', "{", '{"a": "λ'.encode()[:-1], "[1]", "7", "[" * 200_000])
def test_a_fragment_is_passed_over_and_removed_by_the_next_writer(tmp_path, fragment):
    path = tmp_path / "a.jsonl"
    write(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + (fragment if isinstance(fragment, bytes) else fragment.encode()))
    assert list(read_lines(path)) == [{"a": 1}]
    write(path)
    assert path.read_bytes() == whole
    write(path, {"a": 3})
    assert list(read_lines(path)) == [{"a": 1}, {"a": 3}]


def test_a_line_that_lacks_only_its_break_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    write(path, {"a": 3})
    assert [line["a"] for line in read_lines(path)] == [1, 2, 3]


@pytest.mark.parametrize(("content", "fragment"), [("", ""), ("a\n", ""), ("abc", "abc"), ("a\nbcdefg", "bcdefg")])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_last_fragment_is_found_whatever_the_chunk(tmp_path, content, fragment, chunk):
    path = tmp_path / "a"
    path.write_text(content)
    assert last_fragment(path, chunk) == fragment.encode()


def test_a_line_beyond_all_measure_is_passed_over_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_rsa.storage.lines.LONGEST_LINE", 100)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b'{"b": "' + b"x" * 1000 + b'"}\n' + b'{"c": 3}\n' + b"y" * 1000)
    assert list(read_lines(path)) == [{"a": 1}, {"c": 3}]


def test_a_line_is_written_whole_or_with_the_files_name_in_the_error(tmp_path):
    """A disk that is nearly full takes a part, and then nothing."""

    class NearlyFull:
        def __init__(self, room):
            self.room, self.taken = room, b""

        def write(self, content):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = bytes(content[: min(3, self.room)])
            self.taken, self.room = self.taken + part, self.room - len(part)
            return len(part)

    roomy = NearlyFull(100)
    write_whole(roomy, b"0123456789", tmp_path / "f")
    assert roomy.taken == b"0123456789"
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(NearlyFull(7), b"0123456789", tmp_path / "f")
    assert error.value.filename == str(tmp_path / "f")
