"""Runs cases on one engine, on every rank of a launch: `engine_worker.py FOLDER ENGINE [--kill|--resume] CASE ...`.

FOLDER holds the models and data that conftest.py has made; rank 0 writes FOLDER/ENGINE/CASE: the saved models, and
`result.json` with what was logged. With `--kill` the last rank kills itself in the third step, with `--resume` the
run goes on from its newest complete checkpoint; both in FOLDER/ENGINE/CASE-killed.
"""

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import fsdp_on_cpu
from cpu_args import CPU_ARGS
from engine_cases import CASES, PAIRS_PER_STEP, STEPS, Case, deepspeed_config, processes

from trl_rsa import _process


def arguments(case: Case, engine: str, output_dir: Path, **changes: Any) -> dict[str, Any]:
    given = {
        **CPU_ARGS,
        "logging_steps": 1,
        "max_steps": STEPS,
        "save_strategy": "no",
        "save_steps": 1,
        "learning_rate": 1e-2,
        "beta": 0.3,
        "deepspeed": deepspeed_config(engine),
    }
    given |= case.args | changes
    per_process = PAIRS_PER_STEP // given.get("gradient_accumulation_steps", 1) // processes(engine)
    return {
        **given,
        "output_dir": str(output_dir),
        "per_device_train_batch_size": per_process,
        "per_device_eval_batch_size": per_process,
    }


def make_trainer(folder: Path, case: Case, engine: str, output_dir: Path, start: Path | None = None, **changes: Any):
    """A trainer of `case`, from its model or from the saved policy `start`."""
    import torch
    from accelerate.state import AcceleratorState, GradientState
    from datasets import load_from_disk
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from trl_rsa import ReanchorCallback, RSAConfig, RSATrainer

    # Each trainer gets the engine with its own settings. Users launch one process group per stage.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    args = RSAConfig(**arguments(case, engine, output_dir, **changes))
    quantization = None
    if case.quantised:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    path = start or folder / case.model
    more: dict[str, Any]
    if (path / "adapter_config.json").exists():
        base = folder / ("tied" if case.model == "tied" else "untied")
        dtype = case.args.get("model_init_kwargs", {}).get("dtype", "float32")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, quantization_config=quantization)
        more = {"model": PeftModel.from_pretrained(model, path, is_trainable=True)}
    else:
        lora = LoraConfig(task_type="CAUSAL_LM", **case.lora) if case.lora else None
        more = {"model": str(path), "peft_config": lora, "quantization_config": quantization}
    data = load_from_disk(str(folder / case.data))
    trainer = RSATrainer(
        args=args,
        train_dataset=data,
        # Not a multiple of the global batch: one rank's last batch is filled with pairs that must not count.
        eval_dataset=data.select(range(6)) if args.eval_strategy != "no" else None,
        processing_class=AutoTokenizer.from_pretrained(folder / "untied"),
        **more,
    )
    if case.reanchored_every:
        trainer.add_callback(ReanchorCallback(trainer, case.reanchored_every))
    return trainer


def run(folder: Path, case: Case, engine: str, output_dir: Path) -> dict[str, Any]:
    """Trains, resumes from a checkpoint, and makes one step of a next stage from what was saved."""
    result: dict[str, Any] = {}
    keep = {"save_strategy": "steps"} if case.resumed_from else {}
    trainer = make_trainer(folder, case, engine, output_dir / "run", **keep)
    trainer.train()
    save(trainer, output_dir / "final")
    result["log"] = trainer.state.log_history
    if case.resumed_from:
        trainer = make_trainer(folder, case, engine, output_dir / "again")
        trainer.train(resume_from_checkpoint=str(output_dir / "run" / f"checkpoint-{case.resumed_from}"))
        save(trainer, output_dir / "resumed")
        result["resumed_log"] = trainer.state.log_history
    stage = {"max_steps": 1, "eval_strategy": "no"}
    trainer = make_trainer(folder, case, engine, output_dir / "next", start=output_dir / "final", **stage)
    trainer.train()
    result["next_stage_log"] = trainer.state.log_history
    return result


def save(trainer: Any, folder: Path) -> None:
    """Every rank waits until the folder is whole: the next stage reads it."""
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()


def kill(folder: Path, case: Case, engine: str, output_dir: Path) -> None:
    """The last rank dies in step three, after two checkpoints."""
    from transformers import TrainerCallback

    from trl_rsa.training.checkpoints import CheckpointMarker

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if args.process_index == args.world_size - 1 and state.global_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer = make_trainer(folder, case, engine, output_dir, save_strategy="steps")
    trainer.add_callback(CheckpointMarker(None))
    trainer.add_callback(Die())
    trainer.train()


def resume(folder: Path, case: Case, engine: str, output_dir: Path) -> None:
    from trl_rsa.training.checkpoints import newest_complete_checkpoint

    trainer = make_trainer(folder, case, engine, output_dir)
    checkpoint = newest_complete_checkpoint(output_dir)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    save(trainer, output_dir / "final")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("engine")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.engine == "fsdp2":
        fsdp_on_cpu.enable()
    elif given.engine.startswith("zero"):
        import deepspeed

        # accelerate does this itself, but not on a CPU.
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    from accelerate import PartialState

    from trl_rsa import trainer  # noqa: F401 (with all that it imports, before the collector is asked to pass it over)

    _process.imported()
    for name in given.cases:
        output_dir = given.folder / given.engine / name
        if given.kill or given.resume:
            (kill if given.kill else resume)(
                given.folder, CASES[name], given.engine, output_dir.with_name(f"{name}-killed")
            )
            continue
        result = run(given.folder, CASES[name], given.engine, output_dir)
        if PartialState().is_main_process:
            (output_dir / "result.json").write_text(json.dumps(result))
    # Destroying the process group while another rank still uses it would abort that rank.
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    _process.run(main)
