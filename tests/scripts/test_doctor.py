"""`trl-rsa doctor`: versions for a bug report, and the exit status for a plan."""

import os
import subprocess
import sys

import pytest

import trl_rsa
from trl_rsa.cli import main


def test_versions_and_what_is_available(capsys):
    assert main(["doctor"]) == 0
    lines = dict(line[2:].split(": ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("- "))
    assert lines["trl-rsa"] == trl_rsa.__version__
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"trl", "transformers", "torch", "peft", "accelerate", "datasets", "deepspeed", "bitsandbytes"} <= {*lines}
    assert lines["bfloat16"].startswith(("yes", "slow", "unknown"))
    assert lines["TRL supported"].startswith(("yes", "not tested"))


def test_it_says_when_trl_is_not_supported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trl_rsa._trl", None)  # importing it fails
    assert main(["doctor"]) == 0
    assert "- TRL supported: no. " in capsys.readouterr().out


def test_what_is_not_installed_comes_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setattr("trl_rsa.scripts.doctor.find_spec", lambda name: None)
    assert main(["doctor"]) == 0
    assert '- 4-bit weights: no. pip install "trl-rsa[quantization]"\n' in capsys.readouterr().out


@pytest.fixture
def plan(tiny_model_path, tmp_path):
    def write(data: str, model: str = tiny_model_path):
        (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
        path = tmp_path / "plan.yaml"
        stage = f"{{name: helpful, dataset: {tmp_path / data}}}"
        path.write_text(f"model: {model}\noutput_dir: {tmp_path / 'out'}\nstages: [{stage}]\n")
        return str(path)

    return write


def test_a_plan_that_lacks_nothing(plan, capsys):
    assert main(["doctor", plan("pairs.jsonl")]) == 0
    assert capsys.readouterr().out.endswith("\n\nNothing is missing.\n")


def test_a_plan_may_be_given_as_align_takes_it(plan, capsys):
    assert main(["doctor", "--config", plan("pairs.jsonl")]) == 0
    assert capsys.readouterr().out.endswith("\n\nNothing is missing.\n")


@pytest.mark.parametrize("model", ["outputs/run/model", "./model"])
def test_a_path_to_no_model_is_named_by_doctor_and_align(model, plan, capsys):
    path = plan("pairs.jsonl", model)
    assert main(["doctor", path]) == 3
    assert f"MISSING. there is no folder {model}: correct the path" in capsys.readouterr().out
    for more in ([], ["--dry_run"]):
        assert main(["align", "--config", path, *more]) == 2
        assert f"You set a model to {model!r}, but there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["align", "plan.yaml"], "required: --config. Give the file as --config plan.yaml."),
        (["evaluate", "evaluate.yaml"], "unrecognized arguments: evaluate.yaml. Give the file as --config evaluate"),
    ],
)
def test_a_plan_without_its_flag(argv, sentence, capsys):
    assert main(argv) == 2
    assert sentence in capsys.readouterr().err


def test_a_plan_that_lacks_its_data(plan, capsys):
    assert main(["doctor", plan("other.jsonl")]) == 3
    out = capsys.readouterr().out
    assert "- the data of the stage 'helpful': MISSING. there is no file " in out
    assert out.endswith("\n\n1 of 3 are missing.\n")


def test_a_plan_that_cannot_be_read(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


FAKE = """
import importlib.metadata
right = importlib.metadata.version
importlib.metadata.version = lambda name: "{version}" if name == "trl" else right(name)
import trl_rsa._trl as seam
print(seam.IS_TESTED)
"""


def start(version, **variables):
    import os

    environment = {name: value for name, value in os.environ.items() if name != "TRL_RSA_ALLOW_UNTESTED_TRL"}
    code = FAKE.format(version=version)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", ["1.17.0", "1.17.0.dev0", "1.12.9"])
def test_another_trl_is_refused_and_the_sentence_names_the_ways_out(version):
    refused = start(version)
    assert refused.returncode == 1
    assert f"You have TRL {version}, but" in refused.stderr
    assert "TRL_RSA_ALLOW_UNTESTED_TRL=1" in refused.stderr and "pip install 'trl>=" in refused.stderr


@pytest.mark.slow
def test_another_trl_is_tried_with_a_warning_where_that_is_allowed():
    tried = start("1.17.0", TRL_RSA_ALLOW_UNTESTED_TRL="1")
    assert (tried.returncode, tried.stdout) == (0, "False\n"), tried.stderr
    assert "You have TRL 1.17.0, with which this trl-rsa is not tested" in tried.stderr


def test_the_lock_of_a_killed_build_is_named(tmp_path, monkeypatch, capsys):
    """DeepSpeed would wait for it without a word."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert main(["doctor"]) == 0
    assert "was killed" not in capsys.readouterr().out  # it may be going on
    os.utime(lock, (0, 0))
    assert main(["doctor"]) == 0
    assert f"runs would wait for it. Delete {lock}" in capsys.readouterr().out
