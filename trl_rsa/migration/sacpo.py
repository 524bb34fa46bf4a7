"""SACPO's `src.train`: helpfulness and safety, by DPO or KTO. Its programs know their dataset and their defaults."""

from trl_rsa.migration.draft import StageDraft
from trl_rsa.migration.flags import Flags
from trl_rsa.migration.policies import answers_in_chat


_DATASET = "PKU-SafeRLHF-30K"
_NOT_HERE = {
    "experiment_name": "a name for MLflow: export MLFLOW_EXPERIMENT_NAME",
    "run_name": "every stage is a run of its own, named after it",
    "report_to": "add args: {report_to: NAME}",
    "save_*": "every stage is saved at its end, and a killed plan resumes; set args: {save_steps: N} for checkpoints",
    "max_prompt_length": "pairs that are too long are left out and counted (drop_truncated)",
    "optimizer_type": "add args: {optim: NAME}; adamw_torch is the same",
    "nan_params_check": "weights that are not numbers are no longer replaced by zeros",
    "sanity_check": "for a trial, take 100 pairs: dataset: NAME:100/-1",
    "ignore_bias_buffers": "current transformers need no such remedy",
    "gradient_checkpointing_use_reentrant": "add args: {gradient_checkpointing_kwargs: {use_reentrant: false}}",
    "resume_from_checkpoint": "a killed plan resumes by itself",
}


def stage(program: str, flags: Flags) -> StageDraft:
    """One of the four programs, whose `--beta` is β/λ where it is about safety."""
    is_safety, is_kto = "safety" in program, program.endswith("kto")
    model = flags.text("model_name_or_path", default="PKU-Alignment/alpaca-7b-reproduced")
    # PROMPT_INPUT of Safe RLHF, whatever the model.
    options: dict[str, str] = {"template": "chat" if answers_in_chat(model) else "safe-rlhf"}
    if is_kto:
        flags.notes.append(
            f"{program} learns from single answers; here the same labels make pairs"
            + (", of which exactly one answer is safe (pair_rule)" if is_safety else "")
        )
        if is_safety:
            options["pair_rule"] = "one-safe"
    drafted = {
        "name": "safe" if is_safety else "helpful",
        "dataset": f"{_DATASET}/train",
        "eval_dataset": f"{_DATASET}/test",
        "preferred_by": "safer" if is_safety else "better",
        "dataset_options": options,
        "beta": flags.number("beta", default=0.1),
    }
    args = {
        "loss_type": ["rsa2"],
        "risk_alpha": 0.0,
        "learning_rate": flags.number("learning_rate", default=1e-6),
        "lr_scheduler_type": flags.text("lr_scheduler_type", default="cosine"),
        "warmup_steps": flags.number("warmup_steps", default=0.0) or flags.number("warmup_ratio", default=0.03),
        "num_train_epochs": flags.number("num_train_epochs", default=2),
        "per_device_train_batch_size": flags.count("per_device_train_batch_size", default=4),
        "per_device_eval_batch_size": flags.count("per_device_eval_batch_size", default=16),
        "gradient_accumulation_steps": flags.count("gradient_accumulation_steps", default=1),
        "gradient_checkpointing": flags.truth("gradient_checkpointing", default=True),
        "max_length": flags.count("max_length", default=512),
        "bf16": True,
    }
    flags.silence("warmup_ratio")
    evaluated = flags.text("eval_strategy", default="epoch")
    if evaluated == "no":
        del drafted["eval_dataset"]
    else:
        args["eval_strategy"] = evaluated
        steps = flags.number("eval_steps", default=1000)
        args |= {"eval_steps": steps} if evaluated == "steps" else {}
    if "logging_steps" in flags:
        args["logging_steps"] = flags.count("logging_steps", default=10)
    dtype = flags.text("model_dtype", default="float")
    output_dir, seed = flags.text("output_dir", default="./results"), flags.count("seed", default=0)
    flags.drop(_NOT_HERE)
    flags.finish(program)
    return StageDraft(
        program,
        model,
        output_dir,
        drafted,
        args,
        seed,
        model_init_kwargs={} if dtype == "float" else {"dtype": dtype},
        engine="fsdp2",
        divides_beta=is_safety,
        comments={
            "stages.dataset": ["The data that this program has written into it."],
            "args": ["rsa2 with risk_alpha 0 is DPO, as before. For RSA: risk_alpha: 0.5, and risk_measure: cvar."],
        },
        without=flags.without,
        notes=flags.notes,
    )
