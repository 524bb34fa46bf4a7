"""Seeded mutations of JSON, bytes and folders, and a command run in this process that must never show a traceback."""

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from trl_rsa.scripts._command import run_command


# `make attack` sets it: as many times what `make test` tries.
TIMES = int(os.environ.get("TRL_RSA_ATTACK", "1"))

ODD = [
    *(None, True, False, 0, -1, 1, 3.5, -0.0, 1e308, 10**30, float("nan"), float("inf"), "", " ", "none", "true"),
    *("1e-1", "-5", "nan", "\x00", "\ud83d", "\x1b[2J", "‮txet", "a" * 5000, "../../etc", "~nouser/x", "/", "\n"),
    *([], [[]], [1, 2, 3], [None], {}, {"": {}}, {"a": [1, {"b": None}]}, [[[[[[[[]]]]]]]], "é😀", "<script>"),
]


class Attack:
    """One seed's mutations.

    Args:
        seed (`int`):
            Says all of them.
    """

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def odd(self) -> Any:
        return copy.deepcopy(self.random.choice(ODD))

    def json(self, value: Any, times: int = 1) -> Any:
        """A copy of a JSON value in which a random place is changed."""
        value = json.loads(json.dumps(value))
        for _ in range(times):
            value = self._change(value)
        return value

    def _change(self, value: Any) -> Any:
        places = [place for place in _places(value) if place]
        if not places:
            return self.odd()
        *above, last = self.random.choice(places)
        parent = value
        for part in above:
            parent = parent[part]
        how = self.random.choice(("odd", "odd", "odd", "remove", "rename", "double", "scale"))
        if how == "remove":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[self.misspelt(last)] = parent.pop(last)
        elif how == "double":
            parent[last] = [parent[last], parent[last]]
        elif how == "scale" and isinstance(parent[last], (int, float)):
            parent[last] = parent[last] * self.random.choice((-1, 0, 10, 1e6, 0.001))
        else:
            parent[last] = self.odd()
        return value

    def misspelt(self, word: str) -> str:
        if len(word) < 2:
            return word + "x"
        place = self.random.randrange(len(word) - 1)
        return self.random.choice(
            (
                word[:place] + word[place + 1] + word[place] + word[place + 2 :],
                word[:place] + word[place + 1 :],
                word + "s",
            )
        )

    def bytes(self, content: bytes) -> bytes:
        """A copy of a file's content in which something is cut, turned, doubled or put in."""
        if not content:
            return b"\xff"
        a, b = sorted(self.random.randrange(len(content)) for _ in range(2))
        noise = self.random.choice((b"\x00", b"\xff\xfe", b"[" * 2000, b'{"', b"\n\n", b"\xed\xa0\xbd", b"\\ud83d"))
        return self.random.choice(
            (
                content[:a],
                content[a:],
                content[:a] + content[b:],
                content + content[a:b],
                content[:a] + noise + content[a:],
            )
        )

    def folder(self, folder: Path) -> str:
        """Damages one file below a folder, and says how."""
        path = self.random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        how = self.random.choice(("remove", "empty", "bytes", "flip", "folder", "loop"))
        if how == "bytes":
            path.write_bytes(self.bytes(path.read_bytes()))
        elif how == "flip":
            content = bytearray(path.read_bytes() or b"\x00")
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)
        elif how == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
            if how == "folder":
                path.mkdir()
            elif how == "loop":
                path.symlink_to(path)
        return f"{how} {path.relative_to(folder)}"


def _places(value: Any) -> list[tuple[Any, ...]]:
    """The path to every value inside a JSON value."""
    found: list[tuple[Any, ...]] = [()]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(key, *rest) for rest in _places(item)]
    return found


def run(capsys: Any, name: str, *argv: str) -> tuple[int, str, str]:
    """A command's exit status, standard output and standard error. What it raises is a bug, and fails the test."""
    capsys.readouterr()
    status = run_command(name, [str(word) for word in argv])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    if status == 2:
        errors = [line for line in captured.err.splitlines() if line.startswith(f"trl-rsa {name}: error: ")]
        assert len(errors) == 1, f"not one sentence: {captured.err!r}"
        assert len(errors[0]) > len(f"trl-rsa {name}: error: ") + 10
        assert "\x1b" not in errors[0]
    return status, captured.out, captured.err


def copy_folder(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to, symlinks=True))
