"""Every relative link and anchor of the documentation leads somewhere, and every plan in it is one."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from trl_rsa import Plan
from trl_rsa.cli import COMMANDS
from trl_rsa.scripts._pages import ABOUT, OF_COMMAND, page_for


ROOT = Path(__file__).parents[2]
FOLDERS = ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/**/*.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))
# The keys of a plan that nothing else has; a part of a plan has one of them too.
OF_A_PLAN = {"stages", "constraint", "rungs", "peft_config", "model_init_kwargs"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """Without blocks of code and `code`, in which brackets are no links and # is no heading."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace("[", "(").replace("]", ")"), text)


def links(text: str) -> list[str]:
    """The targets of `[text](target)`, `![text](target)`, `[name]: target`, and of `href` and `src` in HTML."""
    found = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose(text))
    found += re.findall(r"^\[[^\]]+\]:\s*<?(\S+?)>?\s*$", prose(text), re.MULTILINE)
    return found + re.findall(r"\b(?:href|src|srcset)=\"([^\"]+)\"", prose(text))


def anchors(text: str) -> set[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for spaces, a number for a repeated heading."""
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", prose(text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number, unique = number + 1, f"{slug}-{number + 1}"
        found.add(unique)
    return found


def broken(page: Path) -> list[str]:
    """The relative links of `page` that lead nowhere."""
    found = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (target != ROOT and ROOT not in target.parents):
            found.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            found.append(f"{link}: {name_of(target)} has no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_what_is_broken_is_found(tmp_path, monkeypatch):
    """Of nine targets, the first two are sound and the third is code."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A `code` heading, twice!\n# A code heading, twice\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#a-code-heading-twice-1) [b](https://x.y) `[c](code.md)`\n"
        "[d](there.md#no-heading) [e](gone.md) ![f](gone.png) [g](#nowhere) [h](../there.md)\n"
        "[i]: gone.txt\n"
    )
    assert [line.partition(":")[0] for line in broken(page)] == [
        "there.md#no-heading",
        "gone.md",
        "gone.png",
        "#nowhere",
        "../there.md",
        "gone.txt",
    ]


def yaml_blocks() -> list[tuple[str, dict]]:
    """All blocks of YAML that hold a mapping, with their page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            content = yaml.safe_load(block[1])
            if isinstance(content, dict):
                found.append((f"{name_of(page)}:{text[: block.start()].count(chr(10)) + 1}", content))
    return found


PLANS = [(where, content) for where, content in yaml_blocks() if OF_A_PLAN & content.keys()]


def test_plans_are_found():
    """A whole plan, a budget alone, several budgets, and a part without stages."""
    assert len(PLANS) >= 4


@pytest.mark.parametrize("content", [content for _, content in PLANS], ids=[where for where, _ in PLANS])
def test_every_plan_is_one(content, tmp_path):
    """A part of a plan is completed by what it leaves out."""
    needed = {f.name for f in dataclasses.fields(Plan) if f.default is f.default_factory is dataclasses.MISSING}
    rest = {"model": "my-org/my-model", "output_dir": str(tmp_path), "stages": [{"name": "helpful", "dataset": "d"}]}
    if "constraint" in content:
        rest["stages"] = []
    assert needed <= rest.keys() | content.keys()
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(rest | content))
    assert Plan.from_yaml(path).model


@pytest.mark.parametrize("page", sorted({page for _, page in ABOUT} | set(OF_COMMAND.values())))
def test_the_page_that_an_error_names_is_there(page):
    name, _, anchor = page.partition("#")
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert not anchor or anchor in anchors(text)


def test_every_command_has_its_page():
    assert OF_COMMAND.keys() == COMMANDS.keys()


@pytest.mark.parametrize(
    ("command", "sentence", "page"),
    [
        ("align", "You set the scorer to 'x', but there is no file x. Correct it.", "docs/scoring.md"),
        ("align", "You set budget to 3, but it lies outside the range.", "docs/stages.md#a-budget"),
        (
            "align",
            "You have TRL 1.17.0, but this trl-rsa works with 1.16.",
            "docs/engines.md#when-trl-moves",
        ),
        ("report", "There is no file records.jsonl.", "docs/report.md"),
        ("fake", "You set the scorer to 'x'.", None),
    ],
)
def test_an_error_leads_to_its_page(command, sentence, page):
    assert page_for(command, sentence) == page
