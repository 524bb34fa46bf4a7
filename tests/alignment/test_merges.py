"""`merge:` of a plan: the averages lie beside the stages, and a run that goes on makes those that are missing."""

import shutil
from dataclasses import replace

import torch
from cpu_args import CPU_ARGS
from safetensors.torch import load_file

from trl_rsa import Plan, Stage, align
from trl_rsa.alignment.merges import MergeSettings


def test_a_plan_with_merges(tiny_model_path, make_preference_dataset, tmp_path):
    args = {**CPU_ARGS, "max_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    stages = [
        Stage(name, make_preference_dataset(8, seed), method="dpo", dataset_options={"template": "none"})
        for seed, name in enumerate(("helpful", "safe"))
    ]
    plan = Plan(stages, tiny_model_path, str(tmp_path), args=args, merge=MergeSettings(["helpful", "safe"], [0.25]))
    lines = []
    alignment = align(plan, log=lines.append)
    assert alignment.model == str(tmp_path / "02-safe"), "a merge stands beside the result"
    w0, w1, w = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("01-helpful", "02-safe", "merged/0.25")
    )
    assert any(not torch.equal(w0[name], w1[name]) for name in w0)
    for name in w:
        torch.testing.assert_close(w[name], 0.75 * w0[name] + 0.25 * w1[name])
    (entry,) = alignment.manifest["merges"]
    assert (entry["folder"], entry["weight"]) == ("merged/0.25", 0.25) and 0 < entry["error"] < 1e-4

    shutil.rmtree(tmp_path / "merged")  # as after a kill; and another weight may be added
    again = align(replace(plan, merge=MergeSettings(["helpful", "safe"], [0.25, 0.5])), log=lines.append)
    assert [entry["folder"] for entry in again.manifest["merges"]] == ["merged/0.25", "merged/0.5"]
    assert (tmp_path / "merged" / "0.5" / "model.safetensors").exists()
    assert sum("complete already" in line for line in lines) == 2, "the stages are not trained again"
