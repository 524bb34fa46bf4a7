"""benchmarks/gpu in miniature on a CPU: the same code, tiny shapes; and its command, its files and its end."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import kernels, ladder, roofline, step, versions
from benchmarks.gpu.page import write_page
from benchmarks.gpu.results import Results, read
from benchmarks.gpu.settings import SECONDS, Deadline, Settings
from tests.kernels import test_tiled
from trl_rsa.kernels import block
from trl_rsa.risk import CVaR, Expectation, UpperSemideviation, WorstCase


ROOT = Path(__file__).parents[2]
SMALL = Settings("cpu", small=True)
LONG = Deadline(float("inf"))


def results_in(folder, part, size="small"):
    return Results(folder, part, "2026-01-01T00:00:00+00:00", size)


# Kernels


def test_the_tolerances_and_measures_are_the_tests_own():
    assert all(test_tiled.TOLERANCE[dtype] == pair for dtype, pair in kernels.TOLERANCE.items())
    assert list(map(str, kernels.MEASURES)) == list(map(str, test_tiled.MEASURES))


def test_the_fused_head_passes_against_float64(tmp_path):
    assert kernels.measure_part(SMALL, results_in(tmp_path, "kernels"), LONG)
    rows = read(tmp_path, "kernels")
    assert len(rows) == len(kernels.SMALL_CASES) * len(kernels.MEASURES) * 2
    assert {row["outcome"] for row in rows} == {"passed"} and {row["kernel"] for row in rows} == {"torch"}
    # Something was compared, and float32 is not float64.
    assert all(int(row["tokens"]) > 0 for row in rows) and max(float(row["values"]) for row in rows) > 1e-8


@pytest.mark.parametrize("broken", ["block_statistics", "block_gradient"])
def test_a_wrong_kernel_fails(tmp_path, monkeypatch, broken):
    """Risks a ten-thousandth too large; gradients a hundredth too large."""
    right = getattr(block, broken)

    def wrong(*args):
        made = right(*args)
        if broken == "block_gradient":
            return made.mul_(1.02)
        return made[0]._replace(risk=made[0].risk * 1.0001), made[1]

    monkeypatch.setattr(block, broken, wrong)
    monkeypatch.setattr(kernels, "MEASURES", [CVaR(0.1)])
    assert not kernels.measure_part(SMALL, results_in(tmp_path, "kernels"), LONG)
    assert {row["outcome"] for row in read(tmp_path, "kernels")} == {"failed"}


def test_what_is_not_a_number_fails():
    nan, one = torch.tensor([1.0, torch.nan]), torch.ones(2)
    errors = [kernels.error_of("good", one, one, torch.ones_like), kernels.error_of("bad", nan, one, torch.ones_like)]
    assert kernels.worst(errors).where == "bad" and not kernels.worst(errors).of_tolerance <= 1
    infinite = torch.tensor([1.0, torch.inf])
    assert kernels.error_of("same", infinite, infinite, torch.ones_like).error == 0
    assert not kernels.error_of("other", one, infinite, torch.ones_like).of_tolerance <= 1


def test_tokens_with_a_word_beside_a_threshold_are_left_out():
    """Losses 0, 1, 1 + 1e-5 and 0, 1, 2 with p = ⅓ each: their worst losses are tied but for a rounding, and not."""
    losses = torch.tensor([[0.0, 1.0, 1.0 + 1e-5], [0.0, 1.0, 2.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    heads = kernels.Head(-losses.t()), kernels.Head(torch.zeros(3, 2, dtype=torch.float64))
    problem = kernels.Problem(eye, heads[0], eye, heads[1], torch.zeros(2, dtype=torch.long))
    for measure in (CVaR(0.3), WorstCase()):
        assert kernels.separated(problem, measure).tolist() == [1]
    for measure in (Expectation(), CVaR(1.0), UpperSemideviation()):  # no threshold, or the mean, away from all words
        kept = kernels.separated(problem, measure).tolist()
        assert kept == ([0] if measure == UpperSemideviation() else [0, 1])  # the second's mean is its middle loss


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.slow
def test_one_triton_kernel_in_the_interpreter():
    """Triton reads TRITON_INTERPRET at its import, so this is a process of its own."""
    code = (
        "import torch\n"
        "from benchmarks.gpu import kernels\n"
        "from trl_rsa.kernels import triton_kernels\n"
        "calls = []\n"
        "right = triton_kernels.block_gradient\n"
        "triton_kernels.is_usable = lambda logits: logits.dtype == torch.float32\n"
        "triton_kernels.block_gradient = lambda *args: calls.append(1) or right(*args)\n"
        "case = kernels.Case('', 3, 5, 17, gradients='rsa2')\n"
        "problem = kernels.make_problem(case, torch.float32, 'cpu')\n"
        "tokens, *errors = kernels.compare(case, problem, kernels.exact(problem), kernels.CVaR(0.1))\n"
        "assert calls and tokens and all(e.of_tolerance <= 1 for e in errors), errors\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Steps


def test_flops_by_hand():
    """Layers of 2·4·4 + 2·4·2 + 3·4·8 = 144 weights, two of them; 3 rows of 5 tokens, of which 4 are scored."""
    shape = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    assert roofline.layer_weights(shape) == 288
    body, attention, product = 2 * 288 * 15, 2 * 2 * 4 * 3 * 25, 2 * 12 * 10 * 4
    assert roofline.step_flops(shape, 3, 5, 4, 5.5) == 4 * (body + attention) + 5.5 * product


def test_the_weights_counted_are_those_of_the_models():
    from transformers import AutoConfig, AutoModelForCausalLM

    for case in step.CASES:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.kind, **case.shape))
        of_layers = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2)
        assert roofline.layer_weights(case.shape) == of_layers


def test_bytes_of_the_head_by_hand():
    """One tile and one turn: 128.375 bytes per logit; 5 readings of 2-byte weights, and 4 bytes of their gradient."""
    assert roofline.risk_head_bytes(100, 3, 8) == 8 * 100 * 98.375 + 300 * (5 * 2 + 4)


def test_cards_are_told_apart():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "Some CPU")
    assert [getattr(roofline.card(name), "bytes", None) for name in names] == [3.35e12, 2.0e12, 4.8e12, None]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    case = step.Case("tiny", "qwen2", step.TINY, "float32", pairs=1, tokens=8)
    results = results_in(folder, "step")
    assert step.measure_trainers(case, SMALL, results, LONG) and step.measure_head(case, SMALL, results, LONG)
    return read(folder, "step")


def test_every_method_takes_its_turns(steps):
    turns = [(row["round"], row["method"]) for row in steps if row["benchmark"] == "step"]
    assert turns == [(str(n), method) for n in (1, 2) for method in step.METHODS]
    assert [row["method"] for row in steps if row["benchmark"] == "head"] == [step.BASELINE, "RSA CVaR"]


def test_seconds_ratios_and_flops(steps):
    baseline = {row["round"]: float(row["seconds"]) for row in steps if row["method"] == step.BASELINE}
    for row in steps:
        assert row["outcome"] == "measured" and row["size"] == "small"
        assert float(row["lowest"]) <= float(row["seconds"]) <= float(row["highest"])
        assert float(row["ratio"]) == pytest.approx(float(row["seconds"]) / baseline[row["round"]])
        assert row["of peak flops"] == row["of bandwidth"] == row["peak bytes"] == ""  # of a CPU nothing is known
    first = {row["method"]: row for row in steps if row["round"] == "1"}
    assert {row["repeats"] for row in first.values()} == {str(step.STEPS)}
    more = float(first["RSA CVaR"]["flops"]) - float(first["TRL DPO"]["flops"])
    assert more == 0.5 * 2 * (2 * 7) * step.TINY["vocab_size"] * step.TINY["hidden_size"]


def test_a_method_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    def take_turn(case, method, models, device, deadline):
        if method == "RSA CVaR":
            raise RuntimeError("no such kernel")
        if method == "RSA alpha 0":
            raise torch.cuda.OutOfMemoryError("2 GiB")
        return step.Turn([1.0, 3.0, 2.0])

    monkeypatch.setattr(step, "take_turn", take_turn)
    monkeypatch.setattr(step, "make_models", lambda case, device: (None, None))
    assert not step.measure_trainers(step.SMALL_CASES[0], SMALL, results_in(tmp_path, "step"), LONG)
    outcomes = [(row["method"], row["outcome"]) for row in read(tmp_path, "step")]
    assert outcomes == [
        ("TRL DPO", "measured"),
        ("RSA CVaR", "failed"),
        ("RSA alpha 0", "skipped"),
        ("TRL DPO", "measured"),
    ]


# The ladder


def test_a_ladder_without_a_model_is_skipped_with_a_sentence(tmp_path):
    assert ladder.measure_part(Settings("cpu", small=True, model="m"), results_in(tmp_path, "ladder"), LONG)
    (row,) = read(tmp_path, "ladder")
    assert row["outcome"] == "skipped" and row["note"].endswith("--prompts, --cost not given.")


@pytest.fixture
def of_ladder(tiny_model_path, tmp_path):
    prompts, cost = tmp_path / "prompts.txt", tmp_path / "cost.py"
    animals, verbs = ("the cat", "a dog", "the hill", "a mat"), ("sat", "ran", "was", "is", "on", "at")
    prompts.write_text("\n".join(f"{animal} {verb}" for animal in animals for verb in verbs))
    cost.write_text(
        "def red(prompts, completions, **kwargs):\n"
        "    return [2.0 if 'red' in text.split() else 1.0 for text in completions]\n"
    )
    return {"model": tiny_model_path, "prompts": str(prompts), "cost": f"{cost}:red"}


def test_a_ladder_of_one_rung(of_ladder, tmp_path):
    assert ladder.measure_part(Settings("cpu", small=True, **of_ladder), results_in(tmp_path, "ladder"), LONG)
    rows = read(tmp_path, "ladder")
    numbers = {row["quantity"]: row["value"] for row in rows if row["quantity"] != "line"}
    assert numbers["rungs"] == "1" and numbers["certified"] == "0"  # every answer costs at least 1, and 0 is allowed
    assert 1 <= float(numbers["mean_cost after 0 rungs"]) <= 2 and float(numbers["upper_bound after 1 rungs"]) > 0
    assert any("rung 1" in row["note"] for row in rows)
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert str(tmp_path) not in "".join(row["note"] for row in rows), "a path of the machine"


def test_a_ladder_that_cannot_start_says_so(of_ladder, tmp_path):
    settings = Settings("cpu", small=True, **(of_ladder | {"prompts": str(tmp_path / "none.txt")}))
    assert not ladder.measure_part(settings, results_in(tmp_path, "ladder"), LONG)
    (row,) = read(tmp_path, "ladder")
    assert row["outcome"] == "failed" and "FileNotFoundError" in row["note"]


# Files


def test_rows_are_on_disk_when_they_are_added(tmp_path):
    results = results_in(tmp_path, "ladder")
    results.add("measured", "a\nb, c", quantity="x", value=1.5)
    (row,) = read(tmp_path, "ladder")
    assert (row["quantity"], row["value"], row["note"], row["torch"]) == ("x", "1.5", "a b, c", torch.__version__)


def test_a_line_that_a_kill_has_cut_is_left_out_and_harms_no_other(tmp_path):
    results_in(tmp_path, "ladder").add("measured", quantity="x")
    with (tmp_path / "ladder.csv").open("a") as file:
        file.write("2026,small,measu")
    results_in(tmp_path, "ladder").add("measured", quantity="y")
    assert [row["quantity"] for row in read(tmp_path, "ladder")] == ["x", "y"]


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "ladder.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"You set --out to .*other columns"):
        results_in(tmp_path, "ladder")


def test_versions_in_one_line():
    assert versions.differences(f"torch=={torch.__version__.partition('+')[0]}  # same\nno-such==1\n") == ""
    assert "torch" in versions.differences("torch==0.1\nno-such==1\n")
    assert "\n" not in versions.differences(versions.CONSTRAINTS.read_text())


def test_the_page_has_empty_cells_for_what_no_gpu_has_shown(tmp_path):
    results_in(tmp_path, "kernels").add("passed", measure=str(CVaR(0.1)), dtype="float32")  # a rehearsal
    write_page(tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert page.count("Not measured yet.") == 4 and f"| {CVaR(0.1)} | float32 |  |  |  |" in page
    assert "| Llama-3.2-1B | bfloat16 |" + "  |" * 11 in page
    assert page == (ROOT / "benchmarks" / "gpu" / "results" / "results.md").read_text() or any(
        (ROOT / "benchmarks" / "gpu" / "results").glob("*.csv")
    )


def test_the_page_shows_the_newest_run(tmp_path):
    for run, ratio in (("2026-01-01", 9.0), ("2026-01-02", 1.25)):
        results = Results(tmp_path, "step", run, "full")
        cells = {"benchmark": "step", "model": "Llama-3.2-1B", "weights": "bfloat16"}
        results.add("measured", **cells, method="RSA CVaR", seconds=0.5, ratio=ratio, **{"peak bytes": 2e10})
    write_page(tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "| Llama-3.2-1B | bfloat16 |  |  |  | 500 ms | 1.250 | 20.0 GB |" in page and "9.000" not in page


# The command


def test_eight_minutes_in_all():
    assert sum(SECONDS.values()) <= 480


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_killed_and_the_next_one_runs(tmp_path):
    done = run_command("--small", "--parts", "kernels,ladder", "--kernels_seconds", "0.2", "--out", str(tmp_path))
    assert done.returncode == 1, done.stderr
    (stopped,), (skipped,) = read(tmp_path, "kernels"), read(tmp_path, "ladder")
    assert (stopped["outcome"], stopped["note"]) == ("stopped", "killed after 0.2 seconds")
    assert skipped["outcome"] == "skipped" and skipped["run"] == stopped["run"]
    assert (tmp_path / "results.md").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_gpu_it_says_what_to_do(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path)]) == 1
    assert "Add --small" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--parts", "kernels,steps"])
    assert "there is no part 'steps'" in capsys.readouterr().err


def test_where_time_is_over_the_rest_is_said_to_be_skipped(tmp_path):
    kernels.measure_part(SMALL, results_in(tmp_path, "kernels"), Deadline(0))
    assert {row["outcome"] for row in read(tmp_path, "kernels")} == {"skipped"}


def test_the_packages_to_bring_are_what_is_needed():
    """All that trl-rsa's dependencies need, without torch and what torch brings; each has its version pinned."""
    from importlib import metadata

    from packaging.requirements import Requirement

    def name_of(line):
        return Requirement(line).name.lower().replace("_", "-")

    def lines(path):
        return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]

    of_machine = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.3", "platform_system": "Linux"}
    needed = set()
    wanted = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    while wanted:
        requirement = Requirement(wanted.pop())
        name = name_of(requirement.name)
        if name == "torch" or name in needed or (requirement.marker and not requirement.marker.evaluate(of_machine)):
            continue
        needed.add(name)
        wanted += metadata.requires(name) or []
    packages = {name_of(line) for line in lines(ROOT / "benchmarks" / "gpu" / "packages.txt")}
    assert packages == needed
    assert packages <= {name_of(line) for line in lines(ROOT / "constraints.txt")}
