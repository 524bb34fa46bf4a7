"""The site: every page is in its navigation, every public name in its reference, and the code on its first pages runs.

`make docs` builds it; these tests need none of its tools.
"""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from trl_rsa.cli import main


ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/site/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def navigation():
    return re.findall(r"^ +- [^:\n]+: (\S+\.md)$", CONFIGURATION.partition("\nnav:\n")[2], re.MULTILINE)


def test_every_page_is_in_the_navigation(hooks):
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    outside = [page for page in navigation() if page.startswith("repository/")]
    reference = [f"reference/{page}.md" for page in hooks.ROOMS]
    assert sorted(navigation()) == sorted([*pages, *outside, *reference])
    assert all((ROOT / page.removeprefix("repository/")).is_file() for page in outside)


def test_every_public_name_is_in_the_reference(hooks):
    # The doors for other people's scripts (compat) have their names in docs/migration.md.
    paths = [ROOT / "trl_rsa/__init__.py", *(ROOT / "trl_rsa").glob("*/__init__.py")]
    assert {path.parent.name for path in paths if "__all__ =" in path.read_text()} == set(hooks.ROOMS)
    for page, room in hooks.ROOMS.items():
        module = importlib.import_module(f"trl_rsa.{room}".rstrip("."))
        assert list(hooks.public_names(room)) == list(module.__all__)
        lines = hooks.reference_page(page).splitlines()
        for name, defined_in in hooks.public_names(room).items():
            assert f"::: {defined_in}.{name}" in lines
            assert getattr(importlib.import_module(defined_in), name) is getattr(module, name)


def test_links_out_of_the_folder_are_found(hooks):
    found = {str(path.relative_to(ROOT)) for path in hooks.linked_files()}
    pictures = {f"benchmarks/alignment/results/constraint/constraint{ending}.png" for ending in ("", "-dark")}
    assert {"benchmarks/alignment/CONSTRAINT.md", *pictures} <= found
    assert not any(path.startswith("docs/") for path in found)


def test_a_picture_with_a_dark_twin_follows_the_toggle_of_the_site(hooks):
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    shown = hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri="index.md")), None, None)
    for ending, shown_on in (("", "light"), ("-dark", "dark")):
        path = f"benchmarks/alignment/results/constraint/constraint{ending}.png"
        assert f"](repository/{path}#only-{shown_on})" in shown
        assert path in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<picture>" in text and "<picture>" not in shown


def test_nothing_is_loaded_from_elsewhere():
    assert "font: false" in CONFIGURATION
    assert "http" not in re.sub(r"#.*", "", CONFIGURATION)
    assert "http" not in (ROOT / "docs/site/site.css").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_quickstart_certifies_its_own_costs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (script,) = blocks("docs/quickstart.md", "python")
    exec(script, {})
    (command,) = [
        line for block in blocks("docs/quickstart.md", "bash") for line in block.splitlines() if "certify" in line
    ]
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().out
    assert (tmp_path / "certificate.json").is_file()


def test_bounds_shrink_as_the_page_says(capsys):
    (script,) = blocks("docs/choosing_a_budget.md", "python")
    exec(script, {})
    found = re.findall(r"(\d+) prompts: estimate +(\S+), bound +(\S+)", capsys.readouterr().out)
    gaps = [float(bound) - float(estimate) for _, estimate, bound in found]
    assert len(gaps) == 5 and gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.5 * gaps[0]
