"""The built wheel: every file of the package is in it, and it works away from the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import trl_rsa


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trl_rsa"
NOT_PACKED = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the repository stays clean and no old build is packed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "trl_rsa", ignore=NOT_PACKED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel):
    assert wheel.name == f"trl_rsa-{trl_rsa.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("trl_rsa/")}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {str(path.relative_to(ROOT)) for path in files}
    assert {".py", ".j2", ".css", ".js", ".yaml"} <= {Path(name).suffix for name in packed}
    assert "trl_rsa/py.typed" in packed


@pytest.mark.slow
def test_the_wheel_works_away_from_the_repository(wheel, tmp_path):
    """The command line, the templates of the page and the engines' configurations, read from the unpacked wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import trl_rsa
from trl_rsa.cli import main
from trl_rsa.report.page import _environment
from trl_rsa.training.launcher import bundled_configs
_environment(autoescape=True).get_template("page.html.j2")
main(["--help"])
print(trl_rsa.__file__, trl_rsa.__version__, *sorted(bundled_configs()), sep="\\n")
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *help_text, path, version, fsdp2, multi_gpu, single, zero1, zero2, zero3, offload = run.stdout.splitlines()
    assert any("align" in line for line in help_text)
    assert Path(path) == tmp_path / "site" / "trl_rsa" / "__init__.py" and version == trl_rsa.__version__
    assert [fsdp2, multi_gpu, single, zero1, zero2, zero3, offload] == [
        "fsdp2", "multi_gpu", "single", "zero1", "zero2", "zero3", "zero3_offload"
    ]  # fmt: skip


def test_the_version_is_stated_once():
    """In `__init__.py`, from which setuptools reads it; CITATION.cff repeats it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "trl_rsa.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == trl_rsa.__version__ and citation["license"] == project["project"]["license"]
