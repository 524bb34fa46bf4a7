"""Two aligns in one folder: the second one is refused, and the first ends as if it were alone."""

import json
import threading

import pytest
from align_and_die import ARGS
from transformers import TrainerCallback

from trl_rsa import Plan, Stage, align
from trl_rsa.storage.locks import LockedError


def test_a_second_align_is_refused(tiny_model_path, preference_dataset, tmp_path):

    def make_plan(**changes):
        stage = Stage("only", preference_dataset, dataset_options={"template": "none"})
        args = ARGS | {"max_steps": 2, "save_strategy": "no"} | changes
        return Plan([stage], model=tiny_model_path, output_dir=str(tmp_path / "run"), args=args)

    refusals = []

    class Intruder(TrainerCallback):
        """Another start of the same command, in the middle of the first."""

        def on_step_end(self, args, state, control, **kwargs):
            def intrude():
                with pytest.raises(LockedError, match=r"the process \d+ on .* writes there") as refused:
                    align(make_plan(learning_rate=1.0), log=lambda line: None)
                refusals.append(str(refused.value))

            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

    align(make_plan(), callbacks=[Intruder()], log=lambda line: None)
    assert len(refusals) == 2
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["stages"][0]["status"] == "complete" and manifest["plan"]["args"]["learning_rate"] == 1e-2
