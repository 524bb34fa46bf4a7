"""`safe_rlhf.algorithms`, `.values` and `.evaluate`, and what their forks call so."""

from pathlib import Path
from typing import Any

from trl_rsa.migration.draft import CommandDraft, StageDraft
from trl_rsa.migration.flags import Flags, as_word, as_words, evaluation_of
from trl_rsa.migration.policies import answers_in_chat
from trl_rsa.migration.shell import in_one_line


DOOR = "trl_rsa.compat.safe_rlhf"
LOSS_TYPES = ("sequence-wise", "token-wise")  # of its value models
OUR_LOSSES = ("rsa1", "rsa2")

NOT_HERE = {
    "log_project": "a tracker's own setting: export WANDB_PROJECT",
    "log_dir": "a tracker's own setting: export WANDB_DIR or TENSORBOARD_LOGGING_DIR",
    "log_run_name": "every stage and rung is a run of its own, named after it",
    "save_16bit": "a stage's weights are saved in the type of training; set model_init_kwargs: {dtype: bfloat16}",
    "resume_from_checkpoint": "a killed plan resumes by itself",
    "save_interval": "set args: {save_steps: N} for checkpoints; a killed plan resumes by itself",
    "wandb_*": "a tracker's own setting: use its environment variables",
    "tf32": "a matter of the GPU: add args: {tf32: true} where it has it",
    "hostfile": "an argument of deepspeed: give it to trl-rsa align --accelerate_config",
}
_VALUES_NOT_HERE = {
    "dataset_module": "trl-rsa score-model reads files: write your RawDataset as .jsonl",
    "dry_run": "add --dry_run true to the command",
    "save_interval": "add --save_strategy steps --save_steps N to the command",
}


def _door(module: str) -> str:
    return (
        f"or keep the script, with --module {DOOR}.{module}: it takes the flags of Safe RLHF; with --dry_run it says "
        "whether it takes these"
    )


def dpo(program: str, flags: Flags, pair_rule: str | None = None) -> StageDraft:
    """`algorithms.dpo`, and SafeDPO as the same with a rule for pairs."""
    model = flags.text("model_name_or_path", default="MODEL")
    comments: dict[str, list[str]] = {}
    stage: dict[str, Any] = {
        "name": "safe" if pair_rule else "helpful",
        "dataset": dataset_of(flags, "train_datasets"),
    }
    stage["preferred_by"] = flags.text("preference", default="better")
    template = flags.text("template")
    stage["dataset_options"] = {"template": template} if template else options_of(model, comments)
    rule = flags.text("pair_rule") or pair_rule
    if rule:
        stage["dataset_options"]["pair_rule"] = rule
    share, eval_dataset = flags.number("eval_split_ratio", default=0), dataset_of(flags, "eval_datasets")
    need_eval = flags.truth("need_eval")
    if need_eval and eval_dataset:
        stage["eval_dataset"] = eval_dataset
    elif need_eval and share:
        stage["held_out"] = share
    stage["beta"] = flags.number("scale_coeff", "beta", default=0.02)
    args = _loss(flags, stage)
    args |= training_arguments(flags, "", need_eval=need_eval and ("eval_dataset" in stage or "held_out" in stage))
    flags.silence("eval_strategy", "eval_interval", "per_device_eval_batch_size")  # without need_eval they do nothing
    comments["stages.beta"] = ["β, --scale_coeff. For a safety stage set constraint_multiplier: λ; it runs at β/λ."]
    if args.get("risk_alpha") == 0:
        comments["args"] = [
            "rsa2 with risk_alpha 0 is DPO, as before. For RSA: risk_alpha: 0.5, and in the stage risk_measure: cvar."
        ]
    flags.drop(
        {
            "margin*": "the loss has no margin; its data side is pair_rule",
            "delta": "the loss has no margin; its data side is pair_rule",
            "dataset_module": "a plan reads files: write your RawDataset as .jsonl (prompt, chosen, rejected)",
            "dry_run": "trl-rsa align has one of its own",
            "ref_model_name_or_path": "a stage's reference is the model that it starts from",
            **NOT_HERE,
        }
    )
    output_dir, seed, engine = place_of(flags)
    flags.finish(program)
    notes = [*flags.notes]
    if pair_rule is None and not program.startswith(DOOR):
        notes.append(_door("algorithms.dpo"))
    return StageDraft(
        program,
        model,
        output_dir,
        stage,
        args,
        seed,
        engine=engine,
        comments=comments,
        without=flags.without,
        notes=notes,
    )


# Flags of our own module beside Safe RLHF's: what of the risk they set, with its number.
_RISK = ("risk_alpha", "risk_tail", "risk_theta", "risk_weight")


def _loss(flags: Flags, stage: dict[str, Any]) -> dict[str, Any]:
    """The loss, as arguments; λ and the risk measure go to the stage. Without any of our own module's flags, DPO."""
    if "constraint_multiplier" in flags:
        stage["constraint_multiplier"] = flags.number("constraint_multiplier", default=1.0)
    risk: dict[str, Any] = {name: flags.number(name, default=0.0) for name in _RISK if name in flags}
    for name in ("risk_tails", "risk_weights"):
        if name in flags:
            risk[name] = flags.numbers(name)
    measure, loss_type = flags.text("risk_measure"), flags.text("loss_type")
    if measure:
        stage["risk_measure"] = measure
    if loss_type and loss_type not in OUR_LOSSES:
        flags.without.append((f"--loss_type {loss_type}", f"here it is {' or '.join(OUR_LOSSES)}: rsa2"))
        loss_type = ""
    args: dict[str, Any] = {"loss_type": [loss_type or "rsa2"], **risk}
    if loss_type != "rsa1":
        args.setdefault("risk_alpha", 0.5 if risk or measure or loss_type else 0.0)
    if "label_smoothing" in flags:
        args["label_smoothing"] = flags.number("label_smoothing", default=0.0)
    if "drop_truncated" in flags:
        args["drop_truncated"] = flags.truth("drop_truncated", default=True)
    return args


def safedpo(program: str, flags: Flags) -> StageDraft:
    return dpo(program, flags, "safedpo")


def value_model(program: str, flags: Flags) -> CommandDraft:
    """`values.reward` and `values.cost`: `trl-rsa score-model`."""
    objective = "cost" if program.endswith("cost") else "reward"
    data, held_out = flags.several("train_datasets"), flags.several("eval_datasets")
    share, need_eval = flags.number("eval_split_ratio", default=0), flags.truth("need_eval")
    words = ["trl-rsa", "score-model", "--objective", objective]
    words += ["--model_name_or_path", flags.text("model_name_or_path", default="MODEL")]
    words += ["--data", *(data or ["DATA"])]
    # Without need_eval the script trains on all that there is.
    words += ["--eval_data", *held_out] if need_eval and held_out else ["--held_out", as_word(share * need_eval)]
    words += ["--layout", "beaver", "--truncation", "left"]
    loss_type = flags.text("loss_type", default=LOSS_TYPES[0])
    if loss_type not in LOSS_TYPES:
        flags.without.append((f"--loss_type {loss_type}", f"here it is {' or '.join(LOSS_TYPES)}: {LOSS_TYPES[0]}"))
        loss_type = LOSS_TYPES[0]
    words += ["--loss_type", loss_type]
    words += ["--regularization", as_word(flags.number("regularization", default=0.0))]
    normalizer = flags.text("normalizer_type")
    momentum = flags.number("normalizer_momentum", default=0.9)
    normalizes = flags.truth("normalize_score_during_training")
    if normalizes and normalizer:
        words += ["--normalizer", normalizer, "--normalizer_momentum", as_word(momentum)]
    elif normalizes:
        reason = "the script gives no --normalizer_type: add --normalizer RunningMeanStd or ExponentialMovingAverage"
        flags.without.append(("--normalize_score_during_training True", reason))
    words += ["--save_16bit", "true"] if flags.truth("save_16bit") else []
    words += as_words(training_arguments(flags, "", need_eval=need_eval and bool(held_out or share)))
    flags.silence("eval_strategy", "eval_interval", "per_device_eval_batch_size")  # without need_eval they do nothing
    resume = flags.text("resume_from_checkpoint")
    words += ["--resume_from_checkpoint", resume] if resume else []
    flags.drop(NOT_HERE | _VALUES_NOT_HERE)
    output_dir, seed, engine = place_of(flags)
    words += ["--seed", str(seed), "--output_dir", output_dir]
    if engine:
        words += ["--accelerate_config", engine]
    flags.finish(program)
    notes = [
        *flags.notes,
        *([] if program.startswith(DOOR) else [_door(f"values.{objective}")]),
        "the folder loads as beaver:FOLDER; no zero_to_fp32.py is needed",
    ]
    return CommandDraft(program, [in_one_line(words)], flags.without, notes)


_ARENA = ("max_length", "trust_remote_code", "per_device_eval_batch_size", "seed", "fp16", "bf16")
_ARENA_OURS = ("cost_higher_is", "template", "max_new_tokens", "temperature", "top_p", "top_k", "dataset_module")


def arena(program: str, flags: Flags) -> CommandDraft:
    """`evaluate.arena`: the same flags behind another module name."""
    words = ["python", "-m", f"{DOOR}.evaluate.arena"]
    for name in ("red_corner", "blue_corner", "reward", "cost"):
        given = flags.text(f"{name}_model_name_or_path")
        words += [f"--{name}_model_name_or_path", given] if given else []
    words += ["--datasets", *(flags.several("datasets") or ["DATA"])]
    for name in (*_ARENA, *_ARENA_OURS):
        if name in flags:
            words += [f"--{name}", flags.text(name, default="True")]
    words += ["--output_dir", flags.text("output_dir", default="OUTPUT_DIR")]
    flags.drop(
        {
            "zero_stage": "one process loads one model after the other",
            "offload": "one process loads one model after the other",
            "tf32": "a matter of the GPU",
            "hostfile": "one process loads one model after the other",
        }
    )
    flags.silence("local_rank", "master_port", "deepspeed")
    flags.finish(program)
    return CommandDraft(program, [in_one_line(words)], flags.without, flags.notes)


def dataset_of(flags: Flags, name: str) -> str:
    """The first dataset that a flag gives; the others are named."""
    several = flags.several(name)
    if len(several) > 1:
        flags.without.append(
            (f"--{name} {' '.join(several[1:])}", "a stage has one dataset: join the files, or add a stage for each")
        )
    return several[0] if several else "DATA" if name == "train_datasets" else ""


def options_of(model: str, comments: dict[str, list[str]]) -> dict[str, Any]:
    """The template that the policy answers in; that of a scorer is another matter."""
    is_chat = answers_in_chat(model)
    comments["stages.dataset_options"] = (
        ["This policy has a chat template, in which it ends its answers; in Safe RLHF's it never stops."]
        if is_chat
        else ["Safe RLHF's template, as before. If your policy has a chat template, set chat: in this it never stops."]
    )
    return {"template": "chat" if is_chat else "safe-rlhf"}


def training_arguments(flags: Flags, prefix: str, need_eval: bool) -> dict[str, Any]:
    """Safe RLHF's training flags, with its defaults, as arguments of RSAConfig; `prefix` is PPO's `actor_`."""
    args: dict[str, Any] = {
        "learning_rate": flags.number(f"{prefix}lr", f"{prefix}learning_rate", default=1e-5 if prefix else 2e-5),
        "lr_scheduler_type": flags.text(f"{prefix}lr_scheduler_type", default="cosine"),
        "warmup_steps": flags.number(f"{prefix}lr_warmup_ratio", default=0.0),  # below 1 it is a share
        "weight_decay": flags.number(f"{prefix}weight_decay", default=0.0),
        "adam_beta1": 0.9,  # Safe RLHF's, which has no flags for them
        "adam_beta2": 0.95,
        "num_train_epochs": flags.number("epochs", default=1.0),
        "per_device_train_batch_size": flags.count("per_device_train_batch_size", default=16),
        "gradient_accumulation_steps": flags.count("gradient_accumulation_steps", default=1),
        "gradient_checkpointing": flags.truth(f"{prefix}gradient_checkpointing"),
        "bf16": flags.truth("bf16"),
        "max_length": flags.count("max_length", default=512),
    }
    if flags.truth("fp16"):
        args["fp16"] = True
    if "max_grad_norm" in flags:
        args["max_grad_norm"] = flags.number("max_grad_norm", default=1.0)
    if flags.truth("trust_remote_code"):
        args["trust_remote_code"] = True
    if flags.truth("use_cpu"):
        args["use_cpu"] = True
    if need_eval:
        args |= evaluation_of(flags)
        args["per_device_eval_batch_size"] = flags.count("per_device_eval_batch_size", default=16)
    return args


def place_of(flags: Flags) -> tuple[str, int, str | None]:
    """The folder, the seed, and the engine that stands for --zero_stage and --offload."""
    log_type = flags.text("log_type")
    if log_type not in ("", "none"):
        flags.notes.append(f"--log_type {log_type}: add args: {{report_to: {log_type}}} where it is installed")
    stage, offload = flags.text("zero_stage", default="0"), flags.text("offload", default="none")
    engine = {"1": "zero1", "2": "zero2", "3": "zero3"}.get(stage)
    if offload != "none":
        exact = stage == "3" and offload == "all"
        if not exact:
            flags.without.append((f"--offload {offload}", "of the named engines only zero3_offload offloads, and all"))
        engine = "zero3_offload"
    flags.silence("local_rank", "master_port", "deepspeed")
    output_dir = flags.text("output_dir", default="runs/aligned")
    return _shortened(output_dir), flags.count("seed", default=42), engine


def _shortened(folder: str) -> str:
    return folder if "${" in folder else str(Path(folder))
