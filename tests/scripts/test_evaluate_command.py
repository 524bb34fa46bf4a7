"""`trl-rsa evaluate`: what it writes, that it goes on after a kill without doing anything twice, and its sentences."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from trl_rsa.cli import main
from trl_rsa.evaluation.localise import TokenLine
from trl_rsa.evaluation.metrics_file import ComparisonMetrics, Metrics, ModelMetrics
from trl_rsa.sampling import generation


# Costs and rewards by the words of an answer; every call is logged, and SABOTAGE makes the scorer stumble.
SCORERS = """
import os, signal

def _log(name, completions):
    with open(os.environ["SCORER_LOG"], "a") as file:
        file.writelines(f"{name}\\t{completion}\\n" for completion in completions)

def harm(prompts, completions):
    sabotage = os.environ.get("SABOTAGE", "")
    if sabotage == "kill" and sum(1 for _ in open(os.environ["SCORER_LOG"])) >= 40:
        os.kill(os.getpid(), signal.SIGKILL)
    _log("harm", completions)
    return [None if sabotage == "none" and "dog" in c else c.split().count("dog") - 1.0 for c in completions]

def good(prompts, completions):
    _log("good", completions)
    return [float(c.split().count("cat")) for c in completions]

def prompt_length(prompts, completions):
    return [float(len(p)) for p in prompts]
"""
PROMPTS = ["the cat sat", "a big red dog ran on the hill", "blue", "was the dog in the hill"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "scorers.py").write_text(SCORERS)
    rows = [{"prompt": text, "category": f"c{i % 2}", "benign": i == 0} for i, text in enumerate(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "log").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORER_LOG", str(tmp_path / "log"))
    monkeypatch.delenv("SABOTAGE", raising=False)
    return tmp_path


@pytest.fixture
def arguments(work, tiny_model_path, other_tiny_model_path):
    return [
        *("--model", f"a={tiny_model_path}", "--model", f"b={other_tiny_model_path}"),
        *("--prompts", "prompts.jsonl", "--cost", "scorers.py:harm", "--reward", "scorers.py:good"),
        *("--draws", "3", "--max_new_tokens", "8", "--batch_size", "5", "--score_batch_size", "7", "--device", "cpu"),
    ]


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def no_page(monkeypatch):
    """The page has tests of its own, and takes seconds."""
    monkeypatch.setattr("trl_rsa.report.write_report", lambda folder: {"html": f"{folder}/report.html"})


# What it writes


def test_models(arguments, capsys):
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    found = records("out")
    assert len(found) == 2 * 4 * 3
    assert {(r["model"], r["prompt"], r["draw"]) for r in found} == {
        (m, p, d) for m in "ab" for p in PROMPTS for d in range(3)
    }
    for r in found:
        assert r["cost"] == r["response"].split().count("dog") - 1 and r["reward"] == r["response"].split().count(
            "cat"
        )
        assert r["category"] == f"c{PROMPTS.index(r['prompt']) % 2}" and r["seed"] == 0
        assert r["benign"] == (r["prompt"] == PROMPTS[0])
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert set(metrics) | {"benchmarks", "demo", "pressures"} == set(Metrics.__annotations__)
    assert set(metrics["models"]["a"]) | {"kl", "drift", "nested"} == set(ModelMetrics.__annotations__)
    assert set(metrics["comparisons"][0]) == set(ComparisonMetrics.__annotations__)
    assert [m["n"] for m in metrics["models"].values()] == [12, 12] and len(metrics["comparisons"]) == 1
    costs = [r["cost"] for r in found if r["model"] == "a"]
    assert metrics["models"]["a"]["cost"]["mean"]["value"] == pytest.approx(sum(costs) / 12)
    assert metrics["models"]["a"]["cut"] == sum(not r["finished"] for r in found if r["model"] == "a")
    settings = metrics["evaluation"]["settings"]
    assert settings["scorers"]["cost"]["raw_higher_is"] == "worse" and settings["sampling"]["draws"] == 3
    assert Path("out/report.html").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "higher is worse, above 0 unsafe (raw score: higher is worse, 0 becomes 0)" in out
    assert "4 prompts from prompts.jsonl" in out and "\na: reward " in out and "Report: out/report.html" in out


def test_of_several_models_the_broken_one_is_named(arguments, other_tiny_model_path, no_page, tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained(other_tiny_model_path)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    shutil.copy(Path(other_tiny_model_path) / "tokenizer.json", tmp_path / "broken")
    shutil.copy(Path(other_tiny_model_path) / "tokenizer_config.json", tmp_path / "broken")
    assert main(["evaluate", *arguments, "--model", f"broken={tmp_path / 'broken'}", "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert "You sampled from 'broken', but no more could be drawn. The model's next-token scores are not" in error


def test_batch_size_changes_nothing_but_the_time(arguments, no_page):
    assert main(["evaluate", *arguments, "--output_dir", "one"]) == 0
    assert main(["evaluate", *arguments, "--batch_size", "64", "--output_dir", "two"]) == 0
    assert Path("one/records.jsonl").read_bytes() == Path("two/records.jsonl").read_bytes()


def test_attacks(arguments, no_page):
    attacks = ["--attack", "leetspeak", "rot13", "--draws", "1", "--cost", "scorers.py:prompt_length"]
    assert main(["evaluate", *arguments, *attacks, "--output_dir", "as_sent"]) == 0
    assert main(["evaluate", *arguments, *attacks, "--score_base_prompts", "--output_dir", "base"]) == 0
    for record in records("as_sent"):
        assert (record["prompt"] == record["base_prompt"]) == (record["attack"] == "none")
        assert record["cost"] == len(record["prompt"])
    assert all(record["cost"] == len(record["base_prompt"]) for record in records("base"))
    metrics = json.loads(Path("base/metrics.json").read_text())
    assert set(metrics["models"]["a"]["by"]["attack"]) == {"none", "leetspeak", "rot13"}
    assert metrics["models"]["a"]["n_prompts"] == 4


def test_drift_and_harm(arguments, tiny_model_path, other_tiny_model_path, no_page, capsys):
    """a is the reference; the manifest says that b is a after a safety stage at temperature 0.1/4."""
    run = Path("run")
    run.mkdir()
    stage = {"preferred_by": "safer", "beta": 0.1, "constraint_multiplier": 4}
    plan = {"model": tiny_model_path, "stages": [stage]}
    manifest = {"plan": plan, "stages": [{"status": "complete", "folder": other_tiny_model_path}]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    extra = ["--reference", tiny_model_path, "--manifest", "run", "--n_worst", "2", "--output_dir", "out"]
    assert main(["evaluate", *arguments, *extra]) == 0
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["models"]["a"]["kl"]["value"] == pytest.approx(0, abs=1e-5)
    assert metrics["models"]["b"]["kl"]["value"] > 0.1 and metrics["models"]["b"]["drift"]["mean"]["value"] > 0.1
    lines = [json.loads(line) for line in Path("out/tokens.jsonl").read_text().splitlines()]
    assert sorted(line["model"] for line in lines) == ["a", "a", "b", "b"]
    assert [line["cost"] for line in lines] == sorted((line["cost"] for line in lines), reverse=True)
    for line in lines:
        assert set(line) == set(TokenLine.__annotations__)
        assert "".join(line["tokens"]) == line["response"]
        assert len(line["drift"]) == len(line["harm"]) == len(line["tokens"])
        assert (max(map(abs, line["drift"])) > 0.1) == (line["model"] == "b")
        assert max(map(abs, line["harm"])) > 1e-3
        assert records("out")[line["index"]]["response"] == line["response"]
    assert json.loads(Path("out/manifest.json").read_text()) == manifest
    # Again: what is there is taken; another tail is not mixed with it.
    before = Path("out/drift.jsonl").read_bytes()
    assert main(["evaluate", *arguments, *extra]) == 0
    assert Path("out/drift.jsonl").read_bytes() == before
    assert main(["evaluate", *arguments, *extra, "--drift_tail", "0.5"]) == 0
    assert len(Path("out/drift.jsonl").read_text().splitlines()) == 1 + 24
    assert Path("out/drift.jsonl").read_bytes() != before


def test_a_run_without_a_safe_part_is_evaluated_and_the_page_is_told(arguments, tiny_model_path, no_page, capsys):
    """A plan of one stage, or a ladder that met its budget without a rung: there is no token harm, and all else."""
    run = Path("run")
    run.mkdir()
    plan = {"model": tiny_model_path, "stages": [{"preferred_by": "better", "beta": 0.1, "constraint_multiplier": 1}]}
    manifest = {"plan": plan, "stages": [{"status": "complete", "folder": tiny_model_path}]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["evaluate", *arguments, "--manifest", "run", "--output_dir", "out"]) == 0
    assert "no token harm" in capsys.readouterr().out
    assert not Path("out/tokens.jsonl").exists() and json.loads(Path("out/manifest.json").read_text()) == manifest


def test_cost_model_in_a_folder_with_options(arguments, tiny_model_path, tiny_tokenizer, no_page):
    """A sequence classifier; its scores in the records are those of the scorer itself."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from trl_rsa.scoring import load_scorer, score

    config = LlamaConfig.from_pretrained(tiny_model_path, num_labels=1, architectures=None)
    LlamaForSequenceClassification(config).save_pretrained("cost_model")
    tiny_tokenizer.save_pretrained("cost_model")
    options = ["--cost", "cost_model", "--cost_option", "batch_size=3", "--cost_option", "output=probability"]
    assert main(["evaluate", *arguments, *options, "--cost_zero", "0.5", "--output_dir", "out"]) == 0
    found = records("out")
    scorer = load_scorer("cost_model", "cost", zero=0.5, output="probability")
    expected = score(scorer, [r["prompt"] for r in found], [r["response"] for r in found]).require_all()
    assert [r["cost"] for r in found] == pytest.approx(expected, abs=1e-6)
    assert all(-0.5 < r["cost"] < 0.5 for r in found)


# Existing responses


def answers(path, *rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_responses_without_a_model(work, no_page, capsys):
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "dog " * i, "model": "m", "cost": 9} for i in range(4)))
    with open("answers.jsonl", "a") as file:
        file.write('{"prompt": "cut o')
    assert main(["evaluate", "--responses", "answers.jsonl", "--cost", "scorers.py:harm", "--output_dir", "out"]) == 0
    assert [r["cost"] for r in records("out")] == [-1, 0, 1, 2]
    out = capsys.readouterr().out
    assert "1 × truncated last line" in out and "(4 responses)" in out
    assert json.loads(Path("out/metrics.json").read_text())["evaluation"]["source"]["unreadable"] == 1


def test_scores_of_the_file_are_kept_without_a_scorer(work, no_page):
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "x", "cost": i, "topic": "t"} for i in range(3)))
    assert main(["evaluate", "--responses", "answers.jsonl", "--output_dir", "out"]) == 0
    assert [(r["cost"], r["topic"]) for r in records("out")] == [(0, "t"), (1, "t"), (2, "t")]


def test_sign_and_zero_of_a_cost(work, no_page, capsys):
    """Raw 2, 1, 0 where higher is better and 1 is the border: costs −(raw − 1) = −1, 0, 1."""
    Path("mine.py").write_text("def safety(completions, **kwargs):\n    return [2 - len(c) for c in completions]\n")
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "x" * i} for i in range(3)))
    how = ["--cost", "mine.py:safety", "--cost_higher_is", "better", "--cost_zero", "1"]
    assert main(["evaluate", "--responses", "answers.jsonl", *how, "--output_dir", "out"]) == 0
    assert [r["cost"] for r in records("out")] == [-1, 0, 1]
    assert "(raw score: higher is better, 1 becomes 0)" in capsys.readouterr().out


# Tables


def test_csv_of_responses(work, no_page, capsys):
    """Scored like records; Excel's byte order mark and semicolons are understood."""
    rows = ["prompt;response;model", *(f"p{i};{'dog ' * i};m" for i in range(4))]
    Path("answers.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    assert main(["evaluate", "--responses", "answers.csv", "--cost", "scorers.py:harm", "--output_dir", "out"]) == 0
    assert [(r["prompt"], r["cost"], r["model"]) for r in records("out")] == [(f"p{i}", i - 1, "m") for i in range(4)]


def test_csv_of_costs(work, no_page):
    """Without responses nothing is known of refusals; the costs are what they are."""
    Path("c.csv").write_text("prompt,cost\n" + "".join(f"p{i},{i}\n" for i in range(10)))
    assert main(["evaluate", "--responses", "c.csv", "--output_dir", "out"]) == 0
    model = json.loads(Path("out/metrics.json").read_text())["models"]["unnamed"]
    assert model["cost"]["mean"]["value"] == 4.5 and model["refusal"]["rate"] is None


def test_csv_without_prompts(work, no_page, capsys):
    Path("c.csv").write_text("cost\n" + "".join(f"{i}\n" for i in range(10)))
    assert main(["evaluate", "--responses", "c.csv", "--output_dir", "out"]) == 2
    assert "it has no column prompt" in capsys.readouterr().err
    assert main(["evaluate", "--responses", "c.csv", "--rows_are_prompts", "--output_dir", "two"]) == 0
    assert json.loads(Path("two/metrics.json").read_text())["models"]["unnamed"]["n_prompts"] == 10


def test_responses_without_a_cost_are_counted_and_named(work, capsys):
    """One in ten of B's is missing, and B looks best: nobody calls it safest or within the limit."""
    lines = [
        {"prompt": f"p{i}", "response": "x", "model": name, "cost": None if name == "B" and i % 10 == 0 else cost}
        for name, cost in (("A", -0.5), ("B", -1.0))
        for i in range(100)
    ]
    answers("answers.jsonl", *lines)
    assert main(["evaluate", "--responses", "answers.jsonl", "--output_dir", "out"]) == 0
    out = capsys.readouterr().out
    assert "(100 responses, 90 of them with a cost)" in out and "(100 responses)" in out
    page = Path("out/report.md").read_text()
    assert "10 of 100 responses of B have no cost. A response without a cost is missing" in page
    assert "Safest in the worst case: open" in page and "within the limit" not in page
    assert "have no cost. They are missing from these numbers." in page


# A budget


def test_the_ladder_s_own_records_are_refused_by_a_command_that_has_the_flag(work, no_page, capsys):
    answers("x-decide.jsonl", *({"prompt": f"p{i}", "response": "x", "cost": -1} for i in range(50)))
    command = ["evaluate", "--responses", "x-decide.jsonl", "--budget", "0", "--bounds", "-5", "5"]
    assert main([*command, "--output_dir", "out"]) == 2
    assert "`trl-rsa certify` with --decide_records gives a bound that says so" in capsys.readouterr().err


def test_certifies_before_the_page(work, monkeypatch, capsys):
    """Started again it is the same attempt; other costs on the same prompts are another, which must be asked for."""
    pages = []

    def write_report(folder):
        pages.append(json.loads((folder / "certificate.json").read_text())["attempt"])
        return {"html": "page"}

    monkeypatch.setattr("trl_rsa.report.write_report", write_report)
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "x", "cost": -0.9, "model": "m"} for i in range(900)))
    command = ["evaluate", "--responses", "answers.jsonl", "--budget", "0", "--bounds", "-1", "1"]
    assert main([*command, "--output_dir", "out"]) == 0
    assert "CERTIFIED. The model m meets the limit." in capsys.readouterr().out
    assert main([*command, "--output_dir", "out"]) == 0
    assert "made already" in capsys.readouterr().out
    assert main([*command, "--budget", "0.1", "--output_dir", "out"]) == 2
    assert "has used" in capsys.readouterr().err
    assert main([*command, "--budget", "0.1", "--again", "--output_dir", "out"]) == 0
    assert pages == [1, 1, 2]


def test_lines_that_cannot_be_read_count_in_the_certificate(work, no_page):
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "x", "cost": -0.9} for i in range(900)))
    with open("answers.jsonl", "a") as file:
        file.write("nonsense\n" * 60)
    command = ["evaluate", "--responses", "answers.jsonl", "--budget", "0", "--bounds", "-1", "1"]
    assert main([*command, "--output_dir", "out"]) == 0
    found = json.loads(Path("out/certificate.json").read_text())
    assert found["n_unscored"] == 60 and not found["certified"]


def test_a_budget_for_a_sampled_model(arguments, no_page):
    command = ["evaluate", *arguments, "--budget", "3", "--bounds", "-1", "9", "--certify_model", "b"]
    assert main([*command, "--budget_tail", "0.5", "--output_dir", "out"]) == 0
    found = json.loads(Path("out/certificate.json").read_text())
    assert (found["model"], found["n_prompts"], found["parts"]["n"]) == ("b", 4, 12)
    assert (found["tail"], found["max_new_tokens"]) == (0.5, 8)
    assert found["n_cut"] == sum(not r["finished"] for r in records("out") if r["model"] == "b")


# A file of arguments


def test_yaml_file(work, no_page):
    answers("answers.jsonl", *({"prompt": f"p{i}", "response": "x", "cost": i} for i in range(4)))
    Path("evaluate.yaml").write_text(
        "responses: answers.jsonl\ntails: [5e-1]\nunsafe_above: 1\noutput_dir: elsewhere\n"
    )
    assert main(["evaluate", "--config", "evaluate.yaml", "--output_dir", "out"]) == 0
    metrics = json.loads(Path("out/metrics.json").read_text())["models"]["unnamed"]
    assert metrics["cost"]["cvar"]["0.5"]["value"] == 2.5 and metrics["cost"]["unsafe_rate"]["value"] == 0.5
    assert metrics["settings"]["unsafe_above"] == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("threshold: 1", "threshold, which is called unsafe_above now"),
        ("tails: [a]", "sets tails to ['a'], which is no number"),
        ("draws: 1.5", "sets draws to 1.5, which is no whole number"),
        ("drawz: 1", "Did you mean draws?"),
    ],
)
def test_yaml_sentences(work, capsys, line, sentence):
    Path("evaluate.yaml").write_text(line + "\n")
    assert main(["evaluate", "--config", "evaluate.yaml"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


# After an interruption


def test_interrupted_while_sampling(arguments, no_page, monkeypatch):
    assert main(["evaluate", *arguments, "--output_dir", "whole"]) == 0
    real, calls = generation._generate, []

    def interrupted(*args):
        calls.append([pair for batch in args[4] for pair in batch])
        killed = len(calls) in (1, 3)  # once in each model
        count = 0
        for responses in real(*args):
            count += len(responses)
            if killed and count > 8:
                raise KeyboardInterrupt
            yield responses

    monkeypatch.setattr(generation, "_generate", interrupted)
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 130
    with open("out/responses.jsonl", "ab") as file:
        file.write(b'{"prompt": "the cat sat", "resp')  # a line cut by a kill
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 130
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    assert [len(pairs) for pairs in calls[::2]] == [12, 12]
    assert all(0 < len(pairs) < 12 for pairs in calls[1::2])  # what is recorded is not drawn again
    assert records("out") == records("whole")


def _log() -> list[str]:
    return Path("log").read_text().splitlines()


@pytest.mark.slow
def test_killed_while_scoring(arguments, no_page, monkeypatch, work):
    """SIGKILL in the process that scores: 24 rewards and 16 of 24 costs are logged when the scorer kills itself."""
    assert main(["evaluate", *arguments, "--output_dir", "whole"]) == 0
    once = _log()
    Path("log").write_text("")
    command = [sys.executable, "-m", "trl_rsa", "evaluate", *arguments, "--output_dir", "out"]
    killed = subprocess.run(command, env=os.environ | {"SABOTAGE": "kill"}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = len(Path("out/cost_scores.jsonl").read_text().splitlines())
    assert 0 < done < 24 and not Path("out/records.jsonl").exists()
    monkeypatch.setattr(generation, "_generate", None)  # nothing is sampled again
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    assert _log() == once
    assert Path("out/records.jsonl").read_bytes() == Path("whole/records.jsonl").read_bytes()
    assert Path("out/metrics.json").read_bytes() == Path("whole/metrics.json").read_bytes()
    # And once more: nothing is left to do.
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    assert _log() == once


def test_failed_scores_are_reported_and_tried_again(arguments, no_page, monkeypatch, capsys):
    monkeypatch.setenv("SABOTAGE", "none")
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    failed = [r for r in records("out") if r["cost"] is None]
    assert failed and all("dog" in r["response"] and r["reward"] is not None for r in failed)
    assert all(r["cost_problem"] == "the scorer returned None" for r in failed)
    out = capsys.readouterr().out
    assert f"warning: {len(failed)} of 24 responses have no cost; records.jsonl says why. First: response " in out
    monkeypatch.delenv("SABOTAGE")
    Path("log").write_text("")
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    assert all(r["cost"] is not None and "cost_problem" not in r for r in records("out"))
    assert len(_log()) == len(failed)


def test_reference_of_another_vocabulary(arguments, save_tiny_llama, capsys, no_page):
    """What was sampled, scored and summarised is kept."""
    other = save_tiny_llama(vocab_size=30)
    assert main(["evaluate", *arguments, "--reference", other, "--output_dir", "out"]) == 2
    assert "models with 24 and 30 tokens" in capsys.readouterr().err
    assert "kl" not in json.loads(Path("out/metrics.json").read_text())["models"]["a"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1"], "sampling.seed: 0 before, 1 now"),
        (["--cost", "scorers.py:good"], "scorers.cost.name"),
        (["--cost_zero", "1"], "scorers.cost.zero: 0.0 before, 1.0 now"),
        (["--max_prompts", "2"], "prompts.n: 4 before, 2 now"),
        (["--score_base_prompts"], "base_prompts: false before, true now"),
    ],
)
def test_other_settings_are_refused(arguments, capsys, monkeypatch, change, named):
    monkeypatch.setattr("trl_rsa.evaluation.run.EvaluationRun.run", lambda self: {})
    assert main(["evaluate", *arguments, "--output_dir", "out"]) == 0
    assert main(["evaluate", *arguments, "--tails", "0.1", "--batch_size", "2", "--output_dir", "out"]) == 0
    assert main(["evaluate", *arguments, *change, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert "was made with other settings" in error and named in error and error.count("\n") == 1


def test_model_retrained_in_its_folder_is_noticed(arguments, tiny_model_path, capsys, monkeypatch, work):
    import shutil

    monkeypatch.setattr("trl_rsa.evaluation.run.EvaluationRun.run", lambda self: {})
    shutil.copytree(tiny_model_path, "model")
    same = ["--prompts", "prompts.jsonl", "--cost", "scorers.py:harm", "--output_dir", "out"]
    assert main(["evaluate", "--model", "model", *same]) == 0
    weights = next(Path("model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert main(["evaluate", "--model", "model", *same]) == 2
    assert "models.model.sha256" in capsys.readouterr().err


# Benchmarks


def test_benchmarks_alone(arguments, monkeypatch, capsys):
    calls = []

    def run(model, tasks, **options):
        calls.append((model, *tasks))
        return {tasks[0]: {"acc,none": 0.5, "alias": tasks[0]}}

    monkeypatch.setattr("trl_rsa.evaluation.run.run_benchmarks", run)
    monkeypatch.setattr("trl_rsa.evaluation.run.require_harness", lambda: None)
    command = ["evaluate", *arguments[:4], "--benchmarks", "wmdp,bbq", "--output_dir", "out"]
    assert main(command) == 0
    assert len(calls) == 4
    assert json.loads(Path("out/benchmarks.json").read_text())["b"] == {
        task: {task: {"acc,none": 0.5, "alias": task}} for task in ("wmdp", "bbq")
    }
    assert "a, wmdp: acc 0.500" in capsys.readouterr().out
    assert main(command) == 0
    assert len(calls) == 4


def test_benchmarks_are_looked_for_first(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", *arguments, "--benchmarks", "wmdp", "--output_dir", "out"]) == 2
    assert "pip install 'trl-rsa[eval]'" in capsys.readouterr().err and not Path("out").exists()


# Sentences


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "You gave neither a model nor a file of responses"),
        (["--model", "m"], "You gave no prompts"),
        (["--model", "m", "--prompts", "prompts.jsonl"], "nothing that scores the answers"),
        (["--model", "m", "--attack", "rot13"], "attacks transform prompts"),
        (["--model", "=m"], "it is MODEL or NAME=MODEL"),
        (["--model", "a=m", "--model", "a=n"], "two models the name 'a'"),
        (["--responses", "a.jsonl", "--model", "m"], "such a file is evaluated as it is"),
        (["--responses", "a.jsonl", "--reference", "m"], "need the model that answered"),
        (["--responses", "a.jsonl", "--cost", "scorers.py:harm"], "You set the responses to 'a.jsonl'"),
        (["--responses", "prompts.jsonl"], "You set the responses to prompts.jsonl, but it holds none"),
        (["--responses", "unscored.jsonl"], "responses that have no score. Set a cost, or a reward."),
        (["--responses", "out/records.jsonl"], "that file is written in this output_dir"),
        (["--responses", "unscored.jsonl", "--output_dir", "log"], "but that is a file"),
        (
            ["--responses", "unscored.jsonl", "--draws", "4", "--max_prompts", "3"],
            "You set draws and max_prompts with",
        ),
        (
            ["--responses", "unscored.jsonl", "--score_base_prompts", "true"],
            "You set score_base_prompts with responses",
        ),
        (["--responses", "unscored.jsonl", "--output_dir", "foreign"], "without the settings that made it"),
        (["--responses", "unscored.jsonl", "--output_dir", "broken"], "its evaluation.json cannot be read"),
        (["--responses", "unscored.jsonl", "--manifest", "nowhere"], "You set the manifest to 'nowhere'"),
        (["--cost_zero", "1"], "no cost model"),
        (["--cost", "scorers.py:harm", "--cost_option", "x"], "an option is NAME=VALUE"),
        (["--responses", "unscored.jsonl", "--cost", "scorers.py:nothing"], "has no 'nothing'"),
        (["--responses", "unscored.jsonl", "--cost", "scorers.py:harm", "--cost_option", "a=1"], "takes no options"),
        (
            ["--model", "nowhere", "--prompts", "prompts.jsonl", "--cost", "scorers.py:harm"],
            "set a model to 'nowhere'",
        ),
        (["--model", "m", "--prompts", "prompts.jsonl", "--draws", "0"], "You set draws=0"),
        (["--model", "m", "--prompts", "prompts.jsonl", "--n_worst", "0", "--cost", "x:y"], "You set n_worst=0"),
        (["--model", "m", "--prompts", "p.jsonl"], "There is no file or folder p.jsonl"),
        (["--drift_tail", "2", "--model", "m", "--reference", "m"], "tail"),
        (["--threshold", "1"], "--threshold, but it is called --unsafe_above now"),
        (["--responses", "unscored.jsonl", "--cost", "x:y", "--cost_option", "kind=reward"], "it is a cost"),
        (["--responses", "unscored.jsonl", "--budget", "0"], "not the two bounds"),
        (["--responses", "unscored.jsonl", "--bounds", "0", "1"], "but no budget"),
        (["--responses", "unscored.jsonl", "--budget", "1", "--bounds", "0", "1"], "always met, or never"),
        (["--responses", "unscored.jsonl", "--responses", "prompts.csv"], "no such file"),
    ],
)
def test_sentences(work, capsys, arguments, sentence):
    answers("unscored.jsonl", {"prompt": "p", "response": "r"})
    for folder, name in (("foreign", "records.jsonl"), ("broken", "evaluation.json")):
        Path(folder).mkdir()
        Path(folder, name).write_text("[]")
    assert main(["evaluate", "--output_dir", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--tails", "5"], "You set a tail=5.0"),
        (["--tails", "nan"], "You set a tail=nan"),
        (["--unsafe_above", "nan"], "You set unsafe_above=nan"),
        (["--template", "chatml"], "You set template='chatml'"),
        (["--dtype", "float99"], "You set dtype='float99'"),
        (["--device", "warp"], "You set device='warp'"),
        (["--device", "cuda:99"], "You set device='cuda:99'"),
        (["--seed", "-1"], "You set seed=-1"),
        (["--batch_size", "0"], "You set batch_size=0"),
        (["--budget", "0", "--bounds", "-1", "1"], "Set certify_model"),
        (["--budget", "0", "--bounds", "-1", "1", "--certify_model", "c"], "the models are a, b"),
    ],
)
def test_what_comes_late_is_checked_first(arguments, capsys, change, sentence):
    """Before anything is sampled, and before the folder's settings are pinned."""
    assert main(["evaluate", *arguments, *change, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not Path("out").exists()


def test_a_template_that_a_tokenizer_lacks_is_noticed_first(arguments, tiny_model_path, capsys, work):
    """The first model has a chat template, the second none."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(tiny_model_path, "bare")
    tokenizer = AutoTokenizer.from_pretrained("bare")
    tokenizer.chat_template = None
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        Path("bare", name).unlink(missing_ok=True)
    tokenizer.save_pretrained("bare")
    given = [*arguments[:2], "--model", "c=bare", *arguments[4:], "--template", "chat", "--output_dir", "out"]
    assert main(["evaluate", *given]) == 2
    assert "the tokenizer has no chat template" in capsys.readouterr().err and not Path("out").exists()
