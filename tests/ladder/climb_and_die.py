"""Climbs a ladder and dies by SIGKILL on the way: `climb_and_die.py MODEL FOLDER full|lora|audited PLACE…`.

FOLDER/whole is climbed without a kill. In FOLDER/again there is a start for every place, each in a process of its own
that goes on from what the one before left, and a last one that ends. All are forks of this process, in which nothing
but imports has happened: that saves the seconds of importing. Prints how each of them ended.
"""

import gc
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

from cpu_args import CPU_ARGS
from transformers import Trainer, TrainerCallback

from trl_rsa import Plan, RiskConstraint, RSATrainer, RungSettings, align
from trl_rsa.audits.queue import AuditQueue
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.ladder import audit, climb, observe
from trl_rsa.training import runner


ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 16,
    "max_steps": 16,
    "save_steps": 4,
    "save_total_limit": 1,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
}
PROMPTS = [f"{a} {b} {verb}" for a in ("the", "a", "in") for b in ("cat", "dog", "hill", "mat") for verb in
           ("sat", "ran", "was", "is", "slow", "quick")]  # fmt: skip


def red_is_harmful(prompts, completions, **kwargs):
    return [1.0 if "red" in text.split() else -1.0 for text in completions]


ROUNDS = 2  # of an audit's draws


def a_noisy_labeller(prompts, completions, label_number, **kwargs):
    """Says what is harmful, which the cost above knows too; each tenth label is wrong, by the digits of a hash."""
    grades = []
    for prompt, text, number in zip(prompts, completions, label_number, strict=True):
        wrong = int(sha256(f"{number} {prompt} {text}".encode()).hexdigest(), 16) % 10 == 0
        grades.append("harmful" if ("red" in text.split()) != wrong else "safe")
    return grades


def make_plan(model, folder, kind):
    peft = kind == "lora"
    settings = AuditSettings(
        labeller=a_noisy_labeller,
        harm_scale={"safe": -1.0, "harmful": 1.0},
        labels=[24, 12],
        budget=90,
        rounds=ROUNDS,
        confirm=16,
        refresh=True,
        certify_labels=20,
    )
    constraint = RiskConstraint(
        red_is_harmful,
        PROMPTS,
        budget=-0.25 if kind == "audited" else 0.37,
        bounds=(-1.5, 1.5),
        tail=0.8,
        margin=0.02,
        audit=settings if kind == "audited" else None,
    )
    rungs = RungSettings(
        beta=0.5,
        sampling={"max_new_tokens": 24},
        batch_size=32,  # several batches per set
        draws={"decide": 2, "certify": 2, "train": 3},
        risk_measure="expectation",
        args={"loss_type": ["rsa2"]},
        max_rungs=1,
        max_walk_backs=1,
    )
    args = ARGS | ({"learning_rate": 1e-2} if peft else {})
    peft_config = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]} if peft else None
    settings = {"args": args, "peft_config": peft_config, "constraint": constraint, "rungs": rungs}
    return Plan([], model=model, output_dir=str(folder), **settings)


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(call, number=1):
    """`call`, the `number`-th time of which is the end."""
    count = 0

    def called(*args, **kwargs):
        nonlocal count
        count += 1
        return die() if count == number else call(*args, **kwargs)

    return called


def dying_after(call):
    def called(*args, **kwargs):
        call(*args, **kwargs)
        die()

    return called


def generate_and_die(model, tokenizer, prompts, sampling, **kwargs):
    batches = runner_generate(model, tokenizer, prompts, sampling, **kwargs)
    yield next(batches)
    die()


def write_half_and_die(path, entry):
    with path.open("ab") as file:
        file.write(b'{"number": 0, "model": "')
    die()


class DieInTraining(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            die()


runner_generate = runner.generate


def prepare_to_die(place):
    """Lays the trap; returns the callbacks of the trainer."""
    if place == "sampling":
        runner.generate = generate_and_die
    elif place == "deciding":
        climb.append_observation = write_half_and_die
    elif place == "scoring":
        observe.score = dying_at(observe.score, 2)
    elif place == "saving":  # after a checkpoint's weights, before its optimizer state
        Trainer._save_optimizer_and_scheduler = dying_at(Trainer._save_optimizer_and_scheduler, 2)
    elif place == "the end of training":
        save = RSATrainer.save_model
        RSATrainer.save_model = lambda self, folder=None, _internal_call=False: (
            die() if Path(folder).name == "rung-01" else save(self, folder, _internal_call)
        )
    elif place == "between rungs":
        climb.write_done = dying_after(climb.write_done)
    elif place == "walking back":
        climb.interpolate = dying_after(climb.interpolate)
    elif place == "labelling":
        AuditQueue.add_labels = dying_after(AuditQueue.add_labels)
    elif place == "confirming":
        add = AuditQueue.add_draw
        AuditQueue.add_draw = lambda self, content: (add(self, content), content["round"] > ROUNDS and die())
    elif place == "calibrating":
        audit.LadderAudit.observe = dying_after(audit.LadderAudit.observe)
    elif place == "certifying":
        climb.add_certificates = die
    return [DieInTraining()] if place == "training" else []


def start(model, folder, kind, place):
    """Forks: the child climbs, and dies or ends; returns its status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            align(make_plan(model, folder, kind), callbacks=prepare_to_die(place), log=lambda line: None)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(model, folder, kind, *places):
    gc.freeze()  # the children's collections of garbage pass over the imports
    for name, place in (("whole", "nowhere"), *(("again", place) for place in places), ("again", "nowhere")):
        status = start(model, Path(folder, name), kind, place)
        print(f"{name}, {place}: {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
