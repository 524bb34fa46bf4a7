"""A run is stopped between two checkpoints and damaged; started again it ends the same, or says why not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from align_and_die import ARGS
from safetensors.torch import load_file
from transformers import TrainerCallback

from trl_rsa import Plan, Stage, align


class Stopped(Exception):
    pass


class StopAtStep5(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Stopped


def make_plan(model, data, folder, **changes):
    args = ARGS | {"save_total_limit": None} | changes
    stage = Stage("only", data, dataset_options={"template": "none"})
    return Plan([stage], model=model, output_dir=str(folder), args=args)


def quietly(line):
    pass


@pytest.fixture(scope="module")
def stopped(tiny_model_path, make_preference_dataset, tmp_path_factory):
    """The model, the data, a folder with the checkpoints of steps 2 and 4 of 6, and the weights at the end."""
    folder, whole = tmp_path_factory.mktemp("stopped") / "run", tmp_path_factory.mktemp("whole")
    model = shutil.copytree(tiny_model_path, tmp_path_factory.mktemp("model") / "model")
    data = make_preference_dataset(12)
    align(make_plan(str(model), data, whole), log=quietly)
    with pytest.raises(Stopped):
        align(make_plan(str(model), data, folder), callbacks=[StopAtStep5()], log=quietly)
    return str(model), data, folder, load_file(whole / "01-only" / "model.safetensors")


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "no optimizer": ([4], "optimizer.pt", Path.unlink, "optimizer.pt is missing", 2),
    "truncated weights": ([4], "model.safetensors", truncate, "model.safetensors has 100 bytes", 2),
    "a bit of the weights": ([4], "model.safetensors", flip, "model.safetensors has another content", 2),
    "no scheduler": ([4], "scheduler.pt", Path.unlink, "scheduler.pt is missing", 2),
    "both": ([2, 4], "trainer_state.json", truncate, "trainer_state.json has", None),
    "the marker": ([4], "complete.json", truncate, "complete.json does not list", 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_run_ends_the_same(damage, stopped, tmp_path):
    model, data, folder, expected = stopped
    steps, name, hurt, said, resumed_from = DAMAGES[damage]
    shutil.copytree(folder, tmp_path / "run")
    for step in steps:
        hurt(tmp_path / "run" / "01-only" / f"checkpoint-{step}" / name)
    lines = []
    align(make_plan(model, data, tmp_path / "run"), log=lines.append)
    assert any(said in line and "put aside" in line for line in lines)
    assert any(f"resumed from checkpoint-{resumed_from}" in line for line in lines) == (resumed_from is not None)
    weights = load_file(tmp_path / "run" / "01-only" / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


def test_a_checkpoint_of_another_plan_is_refused(stopped, tmp_path):
    """The manifest is gone, and with it what it would have said."""
    model, data, folder, _ = stopped
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4 there belongs to a run with other settings"):
        align(make_plan(model, data, tmp_path / "run", learning_rate=1e-3), log=quietly)


def test_a_model_swapped_under_its_name_is_named(stopped, other_tiny_model_path, tmp_path):
    model, data, folder, _ = stopped
    shutil.copytree(folder, tmp_path / "run")
    kept = Path(model, "model.safetensors").read_bytes()
    try:
        shutil.copy(Path(other_tiny_model_path, "model.safetensors"), model)
        with pytest.raises(ValueError, match="is another model than at the start, under the same name"):
            align(make_plan(model, data, tmp_path / "run"), log=quietly)
        (tmp_path / "run" / "manifest.json").unlink()
        with pytest.raises(ValueError, match="belongs to a run with other settings, data or starting model"):
            align(make_plan(model, data, tmp_path / "run"), log=quietly)
    finally:
        Path(model, "model.safetensors").write_bytes(kept)


def test_a_finished_stage_that_was_damaged_is_named(stopped, tmp_path):
    model, data, folder, _ = stopped
    shutil.copytree(folder, tmp_path / "run")
    plan = make_plan(model, data, tmp_path / "run")
    align(plan, log=quietly)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"][0]["fingerprint"]
    (tmp_path / "run" / "01-only" / "README.md").write_text("read me")
    align(plan, log=quietly)
    truncate(tmp_path / "run" / "01-only" / "model.safetensors")
    with pytest.raises(ValueError, match=r"finished stage 'only' in .* is not as it was saved"):
        align(plan, log=quietly)
