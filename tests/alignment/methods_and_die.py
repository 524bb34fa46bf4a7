"""Runs a plan with one stage of a method and dies by SIGKILL in it: `methods_and_die.py MODEL DATA FOLDER METHOD ...`.

Each method writes to a folder of its own name in FOLDER, in a process forked from this one. Prints how each ended.
"""

import gc
import sys
from pathlib import Path

from align_and_die import ARGS, die, fork
from datasets import load_from_disk
from transformers import TrainerCallback

from trl_rsa import Plan, Stage, align
from trl_rsa.training.methods.terms import CostTerm, RewardTerm


OWN = {"kto": {}, "rloo": {"num_generations": 2, "max_completion_length": 6}}


LENGTH = f"{__file__}:length"  # by name: this file is the main program where it is killed


def length(prompts, completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def make_plan(model: str, data: str, output_dir: str, method: str) -> Plan:
    more = {}
    if method == "rloo":
        costs = [CostTerm(LENGTH, budget=2.0, rate=0.3, window=16), CostTerm(LENGTH, 2.0, tail=0.5, name="tail")]
        more = {"rewards": [RewardTerm(LENGTH)], "costs": costs}
    stage = Stage(
        "one", load_from_disk(data), dataset_options={"template": "none"}, method=method, args=OWN[method], **more
    )
    return Plan([stage], model=model, output_dir=output_dir, args=ARGS)


class DieInTraining(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            die()


def main(model: str, data: str, folder: str, *methods: str) -> None:
    gc.freeze()
    for method in methods:
        plan = make_plan(model, data, str(Path(folder, method)), method)
        status = fork(lambda plan=plan: align(plan, callbacks=[DieInTraining()]))
        print(f"ended: {method} {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
