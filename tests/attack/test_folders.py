"""A stopped run with any of its files damaged: started again it ends with the same weights, or says one sentence."""

import pytest
import torch
from align_and_die import ARGS
from attacking import TIMES, Attack, copy_folder
from safetensors.torch import load_file
from transformers import TrainerCallback

from trl_rsa import Plan, Stage, align
from trl_rsa.scripts._command import explain


class Stopped(Exception):
    pass


class Stop(TrainerCallback):
    """In the second stage, between two checkpoints."""

    def on_step_end(self, args, state, control, **kwargs):
        if "02-safe" in args.output_dir and state.global_step == 3:
            raise Stopped


def make_plan(model, data, folder):
    args = ARGS | {"max_steps": 4, "save_steps": 1, "save_total_limit": None}
    stages = [Stage(name, data, dataset_options={"template": "none"}) for name in ("helpful", "safe")]
    return Plan(stages, model=model, output_dir=str(folder), args=args)


def quietly(line):
    pass


@pytest.fixture(scope="module")
def stopped(save_tiny_llama, make_preference_dataset, tmp_path_factory):
    model, data = save_tiny_llama(tie_word_embeddings=False), make_preference_dataset(8)
    folder, whole = tmp_path_factory.mktemp("stopped"), tmp_path_factory.mktemp("whole")
    align(make_plan(model, data, whole), log=quietly)
    with pytest.raises(Stopped):
        align(make_plan(model, data, folder), callbacks=[Stop()], log=quietly)
    return model, data, folder, load_file(whole / "02-safe" / "model.safetensors")


@pytest.mark.parametrize("seed", range(10 * TIMES))
def test_damage(seed, stopped, tmp_path):
    model, data, folder, expected = stopped
    run, attack = copy_folder(folder, tmp_path / "run"), Attack(seed)
    hurt = [attack.folder(run) for _ in range(attack.random.randint(1, 2))]
    try:
        align(make_plan(model, data, run), log=quietly)
    except Exception as error:
        assert explain(error), f"no sentence after {hurt}: {error!r}"
        return
    weights = load_file(run / "02-safe" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items()), f"other weights after {hurt}"
