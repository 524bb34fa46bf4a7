"""`align_anything.trainers.text_to_text`: DPO and reward models, from a command line or from a configuration file."""

from collections.abc import Mapping
from typing import Any

from trl_rsa.migration.draft import CommandDraft, StageDraft
from trl_rsa.migration.flags import Flags, as_word, as_words, evaluation_of
from trl_rsa.migration.shell import in_one_line


_PAIRS = ("PKUSafeRLHF", "PKUSafeRLHF_Cost")
_SECTIONS = ("train_cfgs", "data_cfgs", "logger_cfgs", "model_cfgs", "lora_cfgs", "bnb_cfgs")
_OTHERS = {"kto", "orpo", "simpo", "sft", "ppo", "grpo", "score"}  # its other trainers
_NOT_HERE = {
    "log_project": "a tracker's own setting: export WANDB_PROJECT",
    "log_run_name": "every stage is a run of its own, named after it",
    "log_dir": "a tracker's own setting: export WANDB_DIR or TENSORBOARD_LOGGING_DIR",
    "cache_dir": "export HF_HOME",
    "save_*": "every stage is saved at its end, as a folder without slice_end; set args: {save_steps: N} for "
    "checkpoints",
    "ds_cfgs": "name an engine: trl-rsa align --accelerate_config zero3",
    "adam_epsilon": "1e-8 is the default here too; else add args: {adam_epsilon: X}",
    "regularization": "there is none in this loss",
    "eval_template": "the pairs to evaluate on are read as those to train on",
    "eval_size": "write the size behind the name of a known dataset: NAME:N/-1",
    "*_name": "add dataset_options: {name: NAME}",
    "*_data_files": "give the file as the dataset",
    "*_optional_args": "give its columns as files that trl-rsa data can read",
    "freeze_*": "a matter of vision and audio models",
    "load_multi_datasets": "a stage has one dataset",
    "task_type": "a policy is a causal language model",
    "bnb_4bit_*": "add it to quantization_config",
    "load_checkpoint": "a killed plan resumes by itself",
    "config_name": "give that configuration file to trl-rsa migrate",
    "tf32": "a matter of the GPU: add args: {tf32: true} where it has it",
    "gradient_checkpointing_kwargs": "add it to args",
}


def is_configuration(content: Any) -> bool:
    return isinstance(content, Mapping) and "train_cfgs" in content and "model_cfgs" in content


def kind_of_configuration(name: str, flags: Flags) -> str | None:
    """`"dpo"` or `"rm"`, by the file's name as align-anything gives it, else by what only these have."""
    words = name.lower().split("_")
    if _OTHERS & set(words) or "actor_lr" in flags:
        return None
    if "dpo" in words or "rm" in words:
        return "dpo" if "dpo" in words else "rm"
    return "dpo" if "scale_coeff" in flags else "rm" if "regularization" in flags else None


def flags_of_configuration(content: Mapping[str, Any]) -> Flags:
    """The sections' keys as the command line takes them."""
    values: dict[str, list[str]] = {}
    for section in _SECTIONS:
        for name, value in (content.get(section) or {}).items():
            if value is None or value == {}:
                continue
            values[name] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return Flags(values)


def dpo(program: str, flags: Flags) -> StageDraft:
    model = flags.text("model_name_or_path", default="MODEL")
    dataset, split = flags.text("train_datasets", default="DATA"), flags.text("train_split")
    template = flags.text("train_template")
    stage: dict[str, Any] = {"name": "helpful", "dataset": dataset}
    options: dict[str, Any] = {"template": "chat"}
    if template in _PAIRS:
        options = {"format": "pku-safe-rlhf"} | options
        stage["preferred_by"] = _judgement(dataset, template)
    elif template:
        flags.without.append(
            (f"--train_template {template}", "columns are seen by themselves: check with trl-rsa data FILE")
        )
    if split:
        options["split"] = split
    size = flags.text("train_size")
    if size:
        options["limit"] = int(size) if size.isdigit() else size
    stage["dataset_options"] = options
    evaluated = flags.text("eval_datasets")
    args: dict[str, Any] = {"loss_type": ["rsa2"], "risk_alpha": 0.0, **_training(flags)}
    evaluation = evaluation_of(flags)
    eval_split = flags.text("eval_split")
    if evaluated:
        stage["eval_dataset"] = evaluated
        if eval_split and eval_split != split:
            stage["eval_options"] = {"split": eval_split}
        args |= evaluation
    stage["beta"] = flags.number("scale_coeff", default=0.1)
    peft, init = _adapter(flags)
    output_dir, seed = _place(flags, program)
    return StageDraft(
        program,
        model,
        output_dir,
        stage,
        args,
        seed,
        peft_config=peft,
        model_init_kwargs=init,
        engine="zero3",
        comments={
            "args": ["rsa2 with risk_alpha 0 is DPO, as before. For RSA: risk_alpha: 0.5, and risk_measure: cvar."],
            "stages.dataset_options": ["The policy's own chat template, as align-anything applies it."],
        },
        without=flags.without,
        notes=flags.notes,
    )


def reward_model(program: str, flags: Flags) -> CommandDraft:
    """`text_to_text.rm`: `trl-rsa score-model`, with the sign said aloud."""
    template = flags.text("train_template")
    objective = "cost" if template == "PKUSafeRLHF_Cost" else "reward"
    dataset, split = flags.text("train_datasets", default="DATA"), flags.text("train_split")
    if template and template not in _PAIRS:
        flags.without.append(
            (f"--train_template {template}", "columns are seen by themselves: check with trl-rsa data FILE")
        )
    judgement = _judgement(dataset, template) if template in _PAIRS else ""
    words = ["trl-rsa", "score-model", "--objective", objective]
    words += ["--model_name_or_path", flags.text("model_name_or_path", default="MODEL"), "--data", dataset]
    words += ["--split", split] if split else []
    words += ["--preferred_by", judgement] if judgement else []
    evaluated, eval_split = flags.text("eval_datasets"), flags.text("eval_split")
    words += ["--eval_data", evaluated] if evaluated else []
    words += ["--eval_split", eval_split] if evaluated and eval_split else []
    words += ["--regularization", as_word(flags.number("regularization", default=0.001))]
    evaluation = evaluation_of(flags)
    words += as_words(_training(flags) | (evaluation if evaluated else {}))
    flags.silence("eval_split", "scale_coeff")
    peft, init = _adapter(flags)
    if peft is not None:
        words += ["--use_peft", "--lora_r", str(peft["r"]), "--lora_alpha", str(peft["lora_alpha"])]
    if init:
        flags.without.append(
            ("bnb_cfgs", "an adapter is merged into its score model at the end, which needs whole weights")
        )
    output_dir, seed = _place(flags, program)
    words += ["--seed", str(seed), "--output_dir", output_dir, "--accelerate_config", "zero3"]
    notes = [*flags.notes, "the folder loads as it is: no slice_end, no zero_to_fp32.py"]
    if objective == "cost":
        notes.append(
            "SIGN: PKUSafeRLHF_Cost puts the safer answer first, so that a model trained with it scores safer answers "
            "HIGHER. A cost of trl-rsa is higher for worse ones, and above 0 is unsafe, as this command trains it. "
            "For the old folder say higher_is: better (scorer_options) or --cost_higher_is better"
        )
    return CommandDraft(program, [in_one_line(words)], flags.without, notes)


def _judgement(dataset: str, template: str) -> str:
    """
    Raises:
        ValueError: if the data has no judgement of safety, and one is asked for.
    """
    if template != "PKUSafeRLHF_Cost":
        return "better"
    if "single-dimension" in dataset:
        raise ValueError(
            f"You train with --train_template {template} on {dataset}, but that data has one judgement only, "
            "better_response_id, and none of safety. Take PKU-Alignment/PKU-SafeRLHF, or the template PKUSafeRLHF."
        )
    return "safer"


def _training(flags: Flags) -> dict[str, Any]:
    """With the defaults of its configuration files."""
    betas = flags.several("adam_betas")
    numbers = [float(text.strip("[],")) for text in betas if text.strip("[], ")]
    fp16 = flags.truth("fp16")
    args: dict[str, Any] = {
        "learning_rate": flags.number("learning_rate", "lr", default=1e-6),
        "lr_scheduler_type": flags.text("lr_scheduler_type", default="cosine"),
        "warmup_steps": flags.number("lr_warmup_ratio", default=0.03),
        "weight_decay": flags.number("weight_decay", default=0.05),
        "adam_beta1": numbers[0] if len(numbers) == 2 else 0.9,
        "adam_beta2": numbers[1] if len(numbers) == 2 else 0.95,
        "num_train_epochs": flags.number("epochs", default=3),
        "per_device_train_batch_size": flags.count("per_device_train_batch_size", default=1),
        "per_device_eval_batch_size": flags.count("per_device_eval_batch_size", default=1),
        "gradient_accumulation_steps": flags.count("gradient_accumulation_steps", default=1),
        "gradient_checkpointing": flags.truth("gradient_checkpointing", default=True),
        "max_length": flags.count("model_max_length", default=2048),
        "bf16": flags.truth("bf16", default=not fp16),
    }
    if fp16 and args["bf16"]:
        flags.without.append(("--fp16 True", "a model is trained in one type, and --bf16 is True too"))
    elif fp16:
        args["fp16"] = True
    if flags.truth("trust_remote_code"):
        args["trust_remote_code"] = True
    return args


def _adapter(flags: Flags) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What `use_lora` and `use_bnb` switch on; without them the sections say nothing."""
    peft: dict[str, Any] | None = {
        "r": flags.count("r", default=16),
        "lora_alpha": flags.count("lora_alpha", default=16),
        "lora_dropout": flags.number("lora_dropout", default=0.1),
        "target_modules": flags.several("target_modules") or ["q_proj", "v_proj"],
    }
    if not flags.truth("use_lora"):
        peft = None
        flags.silence("inference_mode")
    four, eight = flags.truth("load_in_4bit", default=True), flags.truth("load_in_8bit")
    init: dict[str, Any] = {}
    if flags.truth("use_bnb"):
        kind = "load_in_8bit" if eight and not four else "load_in_4bit"
        init["quantization_config"] = {kind: True}
        if kind == "load_in_4bit":
            init["quantization_config"] |= {"bnb_4bit_quant_type": flags.text("bnb_4bit_quant_type", default="nf4")}
    else:
        flags.silence("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")
    flags.silence("task_type", "save_full_model", "inference_mode")
    return peft, init


def _place(flags: Flags, program: str) -> tuple[str, int]:
    log_type = flags.text("log_type")
    if log_type:
        flags.notes.append(f"--log_type {log_type}: add args: {{report_to: {log_type}}} where it is installed")
    output_dir, seed = flags.text("output_dir", default="runs/aligned"), flags.count("seed", default=42)
    flags.drop(_NOT_HERE)
    flags.finish(program)
    return output_dir, seed
