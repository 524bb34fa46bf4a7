"""`trl-rsa presets`: a list, one preset as a plan that `align` takes, and a sentence for a wrong name."""

from trl_rsa import Plan
from trl_rsa.alignment.presets import PRESETS
from trl_rsa.cli import main


def test_the_list_has_every_preset(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(PRESETS)]] == list(PRESETS)


def test_one_is_a_plan(tmp_path, capsys):
    assert main(["presets", "p-sacpo"]) == 0
    path = tmp_path / "plan.yaml"
    path.write_text(capsys.readouterr().out)
    assert Plan.from_yaml(path) == Plan.from_preset("p-sacpo")
    assert "# Differs:" in path.read_text()


def test_a_wrong_name(capsys):
    assert main(["presets", "sapco"]) == 2
    assert "Did you mean 'sacpo'" in capsys.readouterr().err


def test_a_plan_of_a_preset_dry_runs(tiny_model_path, tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "the cat", "chosen": "ran", "rejected": "sat"}\n' * 4)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"preset: p-sacpo\nmodel: {tiny_model_path}\noutput_dir: {tmp_path / 'out'}\ndataset: {data}\n"
        "dataset_options: {template: chat}\nargs: {bf16: false, use_cpu: true}\nstages: {safe: {preferred_by: null}}\n"
    )
    assert main(["align", "--config", str(plan), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "at temperature 0.01" in out and "[merge] helpful and safe, with 0.25, 0.5, 0.75 of the second" in out
    plan.write_text("preset: p-sacpo\nstage: []\n")
    assert main(["align", "--config", str(plan)]) == 2
    assert "'stage' in" in capsys.readouterr().err
