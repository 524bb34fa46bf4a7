"""Runs a plan and dies by SIGKILL where it is told: `align_and_die.py MODEL DATA FOLDER full-WHEN|peft-WHEN ...`.

Each case writes to a folder of its own name in FOLDER, in a process of its own. All are forks of this process, which
has done nothing but import: that saves the seconds of importing. Prints how each of them ended.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cpu_args import CPU_ARGS
from datasets import load_from_disk
from transformers import Trainer, TrainerCallback

from trl_rsa import Plan, RSATrainer, Stage, align


ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "save_steps": 2,
    "save_total_limit": 1,
    "learning_rate": 1e-2,
    # Not one that ends at 0: a step too many must show in the weights.
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
}


def make_plan(model: str, data: str, output_dir: str, peft: bool) -> Plan:
    dataset = load_from_disk(data)
    options = {"held_out": 4, "dataset_options": {"template": "none"}}
    stages = [Stage("helpful", dataset, **options), Stage("safe", dataset, constraint_multiplier=2.0, **options)]
    peft_config = {"r": 2, "target_modules": ["q_proj", "v_proj"]} if peft else None
    return Plan(stages, model=model, output_dir=output_dir, args=ARGS, peft_config=peft_config)


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieInTraining(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if "02-safe" in args.output_dir and state.global_step == 3:
            die()


def align_until(model: str, data: str, output_dir: str, peft: bool, when: str) -> None:
    if when == "saving":
        # After the weights of checkpoint 4 of stage two, before its optimizer state.
        save = Trainer._save_optimizer_and_scheduler
        Trainer._save_optimizer_and_scheduler = lambda self, folder: (
            die() if "02-safe/checkpoint-4" in folder else save(self, folder)
        )
    elif when == "final":
        # All steps are done, the final folder is being written.
        save_model = RSATrainer.save_model
        RSATrainer.save_model = lambda self, folder=None, _internal_call=False: (
            die() if Path(folder).name == "02-safe" else save_model(self, folder, _internal_call)
        )
    align(make_plan(model, data, output_dir, peft), callbacks=[DieInTraining()] if when == "training" else [])


def fork(run: Callable[[], object]) -> int:
    """The child runs, and dies on the way, or ends. Returns its status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(model: str, data: str, folder: str, *cases: str) -> None:
    gc.freeze()  # the children's collections of garbage pass over the imports
    for case in cases:
        tuning, _, when = case.partition("-")
        output_dir = str(Path(folder, case))
        status = fork(lambda: align_until(model, data, output_dir, tuning == "peft", when))  # noqa: B023
        print(f"ended: {case} {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
