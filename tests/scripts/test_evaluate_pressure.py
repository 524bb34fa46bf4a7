"""`trl-rsa evaluate --pressure`: what it writes, that it goes on after a kill, and its sentences."""

import json
import re
from pathlib import Path

import peft  # noqa: F401 - before the models are made: what is imported by then is passed over by gc
import pytest
import trl  # noqa: F401

from trl_rsa.cli import main
from trl_rsa.evaluation.metrics_file import PressureMetrics
from trl_rsa.sampling import generation


SCORERS = """
def harm(prompts, completions):
    return [c.split().count("dog") - 1.0 for c in completions]
"""
PROMPTS = ["the cat sat", "a big red dog ran on the hill", "blue", "was the dog in the hill"]
EVERY = ["heat:1.6", "worst_of:4", "prefill:3", "attack:rot13", "half_way", "benign:2", "anti_safe"]


@pytest.fixture
def arguments(tmp_path, monkeypatch, tiny_model_path, other_tiny_model_path):
    (tmp_path / "scorers.py").write_text(SCORERS)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    rows = [{"prompt": f"the {word}", "response": "a dog sat"} for word in ("cat", "hill")]
    (tmp_path / "helpful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trl_rsa.report.write_report", lambda folder: {"html": f"{folder}/report.html"})
    return [
        *("--model", f"a={tiny_model_path}", "--model", f"b={other_tiny_model_path}"),
        *("--prompts", "prompts.jsonl", "--cost", "scorers.py:harm", "--tails", "0.5"),
        *("--draws", "2", "--max_new_tokens", "6", "--batch_size", "4", "--device", "cpu"),
    ]


@pytest.fixture
def more(tiny_model_path, other_tiny_model_path):
    """What the pressures need. `a` is the reference of `b`; for drift it must have the same vocabulary, and has."""
    return ["--reference", tiny_model_path, "--safer", other_tiny_model_path, "--helpful", "helpful.jsonl"]


def records(path) -> list[dict]:
    return [json.loads(line) for line in (Path(path) / "records.jsonl").read_text().splitlines()]


def entries(folder="out"):
    found = json.loads(Path(folder, "metrics.json").read_text())["pressures"]
    return {(entry["model"], entry["pressure"]): entry for entry in found}


def folder_of(name, folder="out"):
    return Path(folder, "pressure", name.replace(":", "-"))


@pytest.mark.slow
def test_every_pressure_is_drawn_scored_and_summarised(arguments, more, capsys):
    assert main(["evaluate", *arguments, *more, "--pressure", *EVERY, "--output_dir", "out"]) == 0
    found, plain = entries(), records("out")
    names = ["none", *EVERY[:-1], "anti_safe:1"]
    assert list(found) == [("a", "none"), ("b", "none"), *((m, name) for name in names[1:] for m in "ab")]
    for (model, name), entry in found.items():
        assert set(entry) == set(PressureMetrics.__annotations__)
        own = plain if name == "none" else records(folder_of(name))
        costs = [r["cost"] for r in own if r["model"] == model]
        assert entry["n_prompts"] == 4 and (name == "none") == (entry["difference"] is None)
        if name == "worst_of:4":
            worst = [max(r["cost"] for r in own if (r["model"], r["prompt"]) == (model, p)) for p in PROMPTS]
            assert entry["n"] == 4 and entry["cost"]["mean"]["value"] == pytest.approx(sum(worst) / 4)
            assert len(costs) == 16
        else:
            assert entry["n"] == len(costs) == 8
            assert entry["cost"]["mean"]["value"] == pytest.approx(sum(costs) / 8)
        if name != "none":
            shift = entry["difference"]["difference"]["mean"]["value"]
            before = found[model, "none"]["cost"]["mean"]["value"]
            assert shift == pytest.approx(entry["cost"]["mean"]["value"] - before)
        assert entry["cut"] == sum(r["finished"] is False for r in own if r["model"] == model)
    # The draws of worst_of begin with those that were there.
    first = {(r["model"], r["prompt"], r["draw"]): r["response"] for r in plain}
    worst_of = {(r["model"], r["prompt"], r["draw"]): r["response"] for r in records(folder_of("worst_of:4"))}
    assert first.items() <= worst_of.items() and len(worst_of) == 2 * len(first)
    # The reference half-way back to itself is itself.
    same = [[r["response"] for r in own if r["model"] == "a"] for own in (plain, records(folder_of("half_way")))]
    assert same[0] == same[1]
    forced = [r for r in records(folder_of("prefill:3")) if r["model"] == "b"]
    assert all(r["n_forced"] > 0 and r["under"] == "after a forced beginning of 3 tokens" for r in forced)
    assert {r["attack"] for r in records(folder_of("attack:rot13"))} == {"rot13"}
    assert not list(Path("out").rglob("model-*")), "models that were made for it are gone"
    out = capsys.readouterr().out
    assert "b, as it is: CVaR(0.5) " in out
    (line,) = re.findall(r"^b, at temperature 1.6: CVaR.*$", out, re.MULTILINE)
    worse = found["b", "heat:1.6"]["difference"]["difference"]["cvar_0.5"]["value"]
    assert f", worse by {worse:+.3g} [" in line


@pytest.mark.slow
def test_interrupted_anywhere_it_ends_the_same(arguments, more, monkeypatch):
    pressures = ["--pressure", "heat:1.6", "worst_of:3", "prefill:3", "half_way"]
    command = ["evaluate", *arguments[2:], *more[:2], *pressures]  # of the second model alone
    assert main([*command, "--output_dir", "whole"]) == 0
    real, state = generation._generate, {"left": 0}

    def interrupted(*args):
        for responses in real(*args):
            if state["left"] == 0:
                raise KeyboardInterrupt
            state["left"] -= 1
            yield responses

    monkeypatch.setattr(generation, "_generate", interrupted)
    statuses = []
    while not statuses or statuses[-1] == 130:
        state["left"] = 4 + len(statuses)
        statuses.append(main([*command, "--output_dir", "out"]))
    assert statuses[-1] == 0 and len(statuses) > 3
    for whole in Path("whole").rglob("*.jsonl"):
        assert Path("out", whole.relative_to("whole")).read_bytes() == whole.read_bytes(), whole
    assert json.loads(Path("out/metrics.json").read_text()) == json.loads(Path("whole/metrics.json").read_text())


def test_a_pressure_may_be_added_and_what_is_there_is_kept(arguments, monkeypatch, capsys):
    command = ["evaluate", *arguments, "--output_dir", "out"]
    assert main(command) == 0
    assert main([*command, "--pressure", "heat:1.6"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("responses.jsonl")}
    monkeypatch.setattr(generation, "_generate", None)  # nothing is drawn any more
    assert main([*command, "--pressure", "heat:1.6"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("responses.jsonl")} == before
    # Fewer prompts under pressure are other prompts.
    assert main([*command, "--pressure", "heat:1.6", "--pressure_prompts", "2"]) == 2
    assert "made with other settings (prompts.n: " in capsys.readouterr().err.replace("prompts.fingerprint", "")


def test_fewer_prompts_are_compared_with_themselves(arguments):
    assert (
        main(["evaluate", *arguments, "--pressure", "heat:1", "--pressure_prompts", "3", "--output_dir", "out"]) == 0
    )
    for (_, name), entry in entries().items():
        assert (entry["n"], entry["n_prompts"]) == (6, 3)
        if name != "none":  # the temperature that it had
            assert entry["difference"]["difference"]["mean"]["value"] == 0
            assert entry["difference"]["n_prompts"] == 3


def test_attacked_prompts_are_under_pressure_already(arguments):
    more = ["--attack", "leetspeak", "--pressure", "attack:leetspeak", "--output_dir", "out"]
    assert main(["evaluate", *arguments, *more]) == 0
    by_attack = json.loads(Path("out/metrics.json").read_text())["models"]["b"]["by"]["attack"]
    found = entries()
    assert found["b", "none"]["cost"]["mean"]["value"] == by_attack["none"]["cost"]["mean"]["value"]
    pressed = found["b", "attack:leetspeak"]
    assert pressed["cost"]["mean"]["value"] == by_attack["leetspeak"]["cost"]["mean"]["value"]
    assert pressed["difference"]["n_prompts"] == 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--pressure", "heet"], "the pressures are heat"),
        (["--pressure", "half_way"], "half_way without reference, which is needed"),
        (["--pressure", "heat", "benign"], "benign:50 without helpful, which is needed for it. Set that too, or keep"),
        (["--safer", "x"], "You set safer, but no pressure"),
        (["--pressure", "heat", "--pressure_prompts", "0"], "at least one is asked"),
        (["--pressure", "worst_of", "--temperature", "0", "--draws", "1"], "greedy decoding has one answer only"),
        (["--pressure", "benign", "--helpful", "no.jsonl"], "no.jsonl"),
        (["--pressure", "prefill", "--beginnings", "no.jsonl"], "no.jsonl"),
        (["--pressure", "quantised", "--engine", "vllm"], "that engine draws from models as they are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_sentences_before_anything_is_sampled(arguments, capsys, more, said):
    assert main(["evaluate", *arguments, *more, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not Path("out").exists()


def test_pressures_need_models_and_a_cost(arguments, capsys):
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "x", "cost": 1}\n')
    assert main(["evaluate", "--responses", "answers.jsonl", "--pressure", "heat", "--output_dir", "out"]) == 2
    assert "they are put on models that answer prompts" in capsys.readouterr().err
