"""The gallery in miniature: its runs, its pages, and their place in the site."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.real.settings import NEUTRAL, START
from benchmarks.real.split import Sets
from trl_rsa.sandbox import PolicySettings, SandboxSettings


SITE = Path(__file__).parents[2] / "docs/site"


def load(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gallery():
    return load("gallery")


def real_track(folder):
    """What two arms of the real track leave behind, made up: the ladder's answers cost less."""
    sets = Sets(folder / "data")
    sets.folder.mkdir(parents=True)
    sets.add("certify", [{"prompt": f"question {i}"} for i in range(12)])
    (sets.folder / "sets.json").write_text(json.dumps({"files": sets.files, "counts": sets.counts}))
    (folder / "answers").mkdir()
    for arm, cost in ((START, 1.0), (NEUTRAL, -0.5)):
        lines = [
            {"number": i, "draw": 0, "response": f"<b>{arm.key}</b>", "a": cost + 0.1 * i, "b": 0.0} for i in range(12)
        ]
        (folder / f"answers/{arm.key}-0-certify.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    run = folder / f"runs/{NEUTRAL.key}-0"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"stages": []}))
    return folder


@pytest.mark.slow
def test_its_pages_are_made_once_and_linked(gallery, tmp_path, monkeypatch):
    policy = PolicySettings(hidden_size=32, intermediate_size=64, layers=1, heads=2, steps=60)
    small = SandboxSettings(policy, splits={"train": 24, "decide": 24, "certify": 24, "test": 12})
    sizes = gallery.Sizes(small, steps=2, draws=1, max_rungs=1)
    made = {"real": real_track(tmp_path / "real"), "folder": tmp_path / "gallery", "sizes": sizes, "cache": tmp_path}
    gallery.build(**made)
    pages = {name: tmp_path / "gallery/pages" / name / "report.html" for name in gallery.TITLES}
    texts = {name: path.read_text(encoding="utf-8") for name, path in pages.items()}
    for name, title in gallery.TITLES.items():
        assert title in texts[name]
    for name in ("ladder", "two-budgets"):
        assert all(f"worst responses of {model}" in texts[name] for model in ("SFT", "helpful", "aligned"))
    found = {name: sorted(p.name for p in (tmp_path / "gallery/runs" / name).glob("cert*")) for name in pages}
    assert found["ladder"] == ["certificate-cost.json"]
    assert found["two-budgets"] == ["certificate-cost.json", "certificate-refusals.json"]
    assert START.name in texts["real"] and NEUTRAL.name in texts["real"] and "<b>" not in texts["real"]

    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    monkeypatch.setattr(gallery, "command", lambda words: 0)
    gallery.build(**made)
    assert weights == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}

    hooks = load("hooks")
    monkeypatch.setattr(hooks, "GALLERY", tmp_path / "gallery/pages")
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path / "site")))
    shown = page_of(hooks)
    for name in pages:
        assert f'<a href="gallery/{name}/report.html">' in shown
        assert (tmp_path / "site/gallery" / name / "report.html").is_file()


def page_of(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="gallery.md"))
    return hooks.on_page_markdown((SITE.parent / "gallery.md").read_text(encoding="utf-8"), page, None, None)


def test_without_pages_there_are_no_links_to_them(gallery, tmp_path, monkeypatch):
    hooks = load("hooks")
    monkeypatch.setattr(hooks, "GALLERY", tmp_path / "none")
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path / "site")))
    shown = page_of(hooks)
    assert not (tmp_path / "site").exists() and "<a href" not in shown
    assert all(f"`gallery/{name}/report.html`" in shown for name in gallery.TITLES)


def test_a_folder_without_a_finished_arm_is_named(gallery, tmp_path):
    with pytest.raises(FileNotFoundError, match="no arm of the real track is finished there"):
        gallery.real_run(tmp_path, tmp_path / "real")
