"""The tree in CONTRIBUTING.md is the package as it is."""

import re
from pathlib import Path

import trl_rsa


ROOT = Path(__file__).parents[2]
PACKAGE = Path(trl_rsa.__file__).parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def names_in_the_tree() -> list[str]:
    """Folders end with a slash, modules with .py; what a line says about them comes after two spaces."""
    tree = re.search(r"^trl_rsa/\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert tree is not None, "CONTRIBUTING.md has no block that begins with trl_rsa/"
    return [name for line in tree[1].splitlines() for name in re.split(r"\s{2,}", line.strip())[0].split()]


def test_the_tree_names_every_room_and_every_module_once():
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    modules = {path.name for path in PACKAGE.glob("*.py")}
    data = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.yaml"))}
    named = names_in_the_tree()
    assert sorted(named) == sorted(rooms | modules | data), "draw the tree in CONTRIBUTING.md as the package is"


def test_every_marker_of_the_tests_is_explained():
    import tomllib

    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    for marker in markers:
        assert f"`{marker.partition(':')[0]}`" in TEXT, marker


def test_the_files_that_it_sends_to_exist():
    """`trl_rsa/x.py`, `tests/y/`: paths in backticks."""
    paths = re.findall(r"`((?:trl_rsa|tests|docs|examples|benchmarks)/[\w./-]*)`", TEXT)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
