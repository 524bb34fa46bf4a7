"""The Python in the documentation runs, page by page, on a CPU: models and data sets are small ones of the same names.

A block that cannot run here says so in the line before it: `<!-- not run: WHY -->`. It is only compiled, and what it
imports of ours is looked for.
"""

import ast
import dataclasses
import functools
import importlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_evaluation import fill

from trl_rsa import cli, sandbox
from trl_rsa.evaluation.scores import ScorerSpec


ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>.*?) -->\n+)?^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = {"README.md": "tests/docs/test_readme.py"}


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int
    code: str
    why: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(str(page.relative_to(ROOT)), text[: found.start("code")].count("\n"), found["code"], found["why"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) for block in blocks_of(page)]
PAGES = {name: [block for block in BLOCKS if block.page == name] for name in dict.fromkeys(b.page for b in BLOCKS)}
MARKED = [block for block in BLOCKS if block.why is not None]


def stated(code: str) -> Iterator[tuple[str, Any]]:
    """Lines such as `f(x)  # 2.0, as it should be`, and the value: the longest beginning of a comment that is one."""
    for line, comment in re.findall(r"^([\w.]+(?:\(.*\))?) +# (.*)$", code, re.MULTILINE):
        for end in (len(comment), *(found.start() for found in reversed([*re.finditer("[:,] ", comment)]))):
            try:
                value = ast.literal_eval(comment[:end])
            except (ValueError, SyntaxError):
                continue
            yield line, value
            break


def test_a_stated_value_is_found():
    code = (
        "f(1)  # [1, 0]: the first\nx.y  # 2.0, not 3\nprint(x)  # one of us\nz  # {'a': …}\ng(x, 'y')   # {'a': 1}\n"
    )
    assert list(stated(code)) == [("f(1)", [1, 0]), ("x.y", 2.0), ("g(x, 'y')", {"a": 1})]


# What a page takes for granted


@pytest.fixture(scope="module")
def named(tmp_path_factory, tiny_model_path, tiny_tokenizer) -> Path:
    """A folder with small models and data sets under the names that the pages use."""
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    folder = tmp_path_factory.mktemp("named")
    (folder / "my-org").mkdir()
    for name in ("my-sft-model", "sft"):
        (folder / "my-org" / name).symlink_to(tiny_model_path)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    for name in ("my-classifier", "my-reward-model", "cost", "beaver-7b-v1.0-cost", "beaver-7b-v1.0-reward"):
        config.id2label = {0: "fine", 1: "toxic"} if name == "my-classifier" else {0: "score"}
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    (folder / "PKU-Alignment").mkdir()
    (folder / "PKU-Alignment/beaver-7b-v1.0-cost").symlink_to(folder / "beaver-7b-v1.0-cost")
    for name in ("PKU-SafeRLHF", "PKU-SafeRLHF-30K"):
        (folder / "PKU-Alignment" / name).mkdir()
        write_lines(folder / "PKU-Alignment" / name / "train.jsonl", [pku_row(i) for i in range(24)])
    return folder


def pku_row(index: int) -> dict[str, Any]:
    words = ("cat", "dog", "mat", "hill")
    return {
        "prompt": f"the {words[index % 4]} {words[index // 4 % 4]} {('is', 'was')[index // 16]}",
        "response_0": "red",
        "response_1": "blue",
        "is_response_0_safe": True,
        "is_response_1_safe": index % 2 == 0,
        "better_response_id": index % 2,
        "safer_response_id": 0,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclasses.dataclass
class Here:
    """What a page may use: fixtures, and the folder that it runs in."""

    folder: Path
    model: str
    tokenizer: Any
    pairs: Any
    patch: pytest.MonkeyPatch

    def load(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model)


def of_evaluate(here: Here) -> dict[str, Any]:
    (here.folder / "data.jsonl").write_text("", encoding="utf-8")
    return {
        "model": here.load(),
        "tokenizer": here.tokenizer,
        "prompts": ["the cat", "a big dog"],
        "models": {"one": "my-org/sft"},
        "rows": [{"prompt": "the cat", "category": None, "benign": None}],
        "cost": ScorerSpec(lambda prompts, completions: [0.0] * len(prompts), "cost"),
    }


def of_merging(here: Here) -> dict[str, Any]:
    (here.folder / "runs/aligned").mkdir(parents=True)
    for name in ("01-helpful", "02-safe"):
        (here.folder / "runs/aligned" / name).symlink_to(here.model)
    return {}


def of_metrics(here: Here) -> dict[str, Any]:
    fill(here.folder, n=20, complete=False)
    return {}


def of_report(here: Here) -> dict[str, Any]:
    folder = here.folder / "runs/demo-tail-0"
    folder.mkdir(parents=True)
    fill(folder, n=20, complete=False)
    return {"metrics": json.loads((folder / "metrics.json").read_text(encoding="utf-8"))}


def of_sandbox(here: Here) -> dict[str, Any]:
    small = sandbox.SandboxSettings(
        policy=sandbox.PolicySettings(hidden_size=32, intermediate_size=48, layers=1, heads=2, batch_size=8, steps=6),
        scorer=sandbox.ScorerSettings(batch_size=4, steps=3),
        splits={"train": 24, "decide": 6, "certify": 6, "test": 6},
    )
    build = functools.partial(sandbox.build_sandbox, cache_dir=here.folder / "cache", settings=small)
    here.patch.setattr("trl_rsa.sandbox.build_sandbox", build)
    return {}


def of_scheduler(here: Here) -> dict[str, Any]:
    """Models are their multipliers: each unit of λ takes 1 off the bound."""

    def measure(model: float) -> dict[str, float]:
        return {"estimate": 1.6 - model, "upper_bound": 2.0 - model}

    return {"train": lambda decision: decision.multiplier, "measure": measure}


def of_scoring(here: Here) -> dict[str, Any]:
    return {"prompts": ["the cat"] * 3, "completions": ["sat", "ran", "is"], "write": lambda *values: None}


def of_stages(here: Here) -> dict[str, Any]:
    write_lines(here.folder / "helpful.jsonl", list(here.pairs))
    write_lines(here.folder / "prompts.jsonl", [{"prompt": f"the cat {i}"} for i in range(40)])
    return {"model": here.load(), "ref_model": here.load(), "safer_pairs": here.pairs}


PREPARED: dict[str, Callable[[Here], dict[str, Any]]] = {
    "docs/evaluate.md": of_evaluate,
    "docs/merging.md": of_merging,
    "docs/metrics.md": of_metrics,
    "docs/report.md": of_report,
    "docs/sandbox.md": of_sandbox,
    "docs/scheduler.md": of_scheduler,
    "docs/scoring.md": of_scoring,
    "docs/stages.md": of_stages,
}
# Other stand-ins: a model of Safe RLHF's is a classifier here, responses are short, and rungs have two steps.
SHORTER = {
    "docs/evaluate.md": {"max_new_tokens=256": "max_new_tokens=8"},
    "docs/scoring.md": {"beaver:": "hf:"},
    "docs/stages.md": {"max_steps=600": "max_steps=6", "constraint_steps=200": "constraint_steps=2"},
}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE and set(PAGES[page]) - set(MARKED)])
def test_the_code_of_a_page_runs(
    page, named, tiny_model_path, tiny_tokenizer, make_preference_dataset, tmp_path, monkeypatch
):
    """Its blocks one after the other, with the names of those before, and the values that stand behind their lines."""
    for path in named.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    here = Here(tmp_path, tiny_model_path, tiny_tokenizer, make_preference_dataset(8), monkeypatch)
    names: dict[str, Any] = PREPARED[page](here) if page in PREPARED else {}
    for block in PAGES[page]:
        if block.why is None:
            code = block.code
            for long, short in SHORTER.get(page, {}).items():
                code = code.replace(long, short)
            exec(compile(code, block.where, "exec"), names)
            for line, value in stated(code):
                found = eval(line, names)
                assert getattr(found, "tolist", lambda found=found: found)() == value, line


@pytest.mark.parametrize("block", MARKED, ids=lambda block: block.where)
def test_what_is_not_run_has_a_reason_and_imports_what_exists(block):
    assert len(block.why.split()) >= 3
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("trl_rsa"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_block_of_python_is_found():
    """A fence that is indented, or written otherwise, would be passed over."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^\s*(?:```|~~~)\s*(?:python|py)\b", text, re.MULTILINE)) == len(blocks_of(page)), page


# The commands


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `trl-rsa` command in a block, with its page. A usage, which has …, is none."""
    for page in (ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```(?:bash|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s#\s.*", "", line.removeprefix("$ "))  # without its comment
                if command.startswith("trl-rsa ") and "…" not in command:
                    yield str(page.relative_to(ROOT)), shlex.split(command)[1:]


COMMANDS = list(commands())


def test_every_command_of_the_command_line_is_shown():
    assert {words[0] for _, words in COMMANDS} == cli.COMMANDS.keys() - {"data", "presets", "migrate"}


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in COMMANDS))
def test_the_commands_of_a_page_are_accepted(page, tmp_path, monkeypatch, capsys):
    """Their arguments are read, as on the command line, and nothing is done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stage.yaml").write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\n")
    for words in (words for of, words in COMMANDS if of == page):
        module = importlib.import_module(f"trl_rsa.scripts.{words[0].replace('-', '_')}")
        for function in ("main", "launch"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda *given: 0)
        assert cli.main(words) == 0, (" ".join(words), capsys.readouterr().err)
