"""One score model from its arguments to its folder: rows, tokens, training, the folder, its measures, its card."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import RewardConfig

from trl_rsa._finite import check_finite
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.card import write_card
from trl_rsa.score_models.encoding import Encoder, encode, learned_from
from trl_rsa.score_models.evaluate import evaluate_scorer, sign_warning
from trl_rsa.score_models.measures import Measures
from trl_rsa.score_models.model import as_reward_model, describe, find_start, load_model, round_weights, to_for_score
from trl_rsa.score_models.normalizer import ScoreNormalizer
from trl_rsa.score_models.rows import Rows, read_rows
from trl_rsa.score_models.trainer import ScoreModelTrainer
from trl_rsa.score_models.whole import save_whole
from trl_rsa.scoring.batches import longest
from trl_rsa.scoring.graded import Readout
from trl_rsa.scoring.load import load_scorer
from trl_rsa.scoring.text import end_of_reply


# RewardConfig's options that our losses or our reading of the data would pass over.
_NOT_HONOURED = {
    "center_rewards_coefficient": "Set regularization, which draws the scores to 0",
    "chat_template_path": "Save the tokenizer with its template in the model's folder",
    "eos_token": "Save the tokenizer with its special tokens in the model's folder",
    "pad_token": "Save the tokenizer with its special tokens in the model's folder",
    "model_init_kwargs": "Set the options of ModelConfig (dtype, attn_implementation, model_revision)",
}


@dataclass(frozen=True)
class Trained:
    """What came of a training: the measures on held-out prompts (None without any), and sentences of warning."""

    measures: Measures | None
    warnings: list[str]


def train_score_model(
    arguments: ScoreModelArguments,
    training_args: RewardConfig,
    model: str,
    peft_config: Any = None,
    log: Any = print,
    **init_kwargs: Any,
) -> Trained:
    """
    Trains a score model and writes its folder.

    Args:
        arguments ([`ScoreModelArguments`]): What it is and what it learns from.
        training_args ([`~trl.RewardConfig`]): How it is trained, and where the folder is.
        model (`str`): Folder or Hub id of a language model, a classifier or a `*ForScore` model.
        peft_config ([`~peft.PeftConfig`], *optional*): Adapters, which are merged into the folder at the end.
        log (`Callable`): Told of the data and the results.
        init_kwargs: Of `from_pretrained`.

    Raises:
        ValueError, FileNotFoundError: with one sentence for the user.
    """
    check_training(arguments, training_args, peft_config)
    rows = read_rows(arguments, training_args.seed)
    log(str(rows))
    readout, judgements = decide(arguments, rows)
    layout: Any = arguments.layout
    start = find_start(model, layout, readout, init_kwargs.get("revision"))
    tokenizer = AutoTokenizer.from_pretrained(
        model, revision=init_kwargs.get("revision"), trust_remote_code=training_args.trust_remote_code
    )
    most = longest(tokenizer, AutoConfig.from_pretrained(start.folder))
    if most is not None and (training_args.max_length is None or training_args.max_length > most):
        training_args.max_length = most
        log(f"max_length is {most}: the model takes no more tokens")
    encoder = make_encoder(arguments, training_args, tokenizer, model)
    token_wise = arguments.loss_type == "token-wise"
    dataset, left_out = encode(rows.train, encoder, readout.heads, training_args.seed, judgements, token_wise)
    for reason, count in left_out.items():
        log(f"{count:>9,}  rows left out: {reason}")
    if not len(dataset):
        raise ValueError(f"No row is left to train on: {'; '.join(left_out) or 'none has what `use` asks for'}.")
    if arguments.dry_run:
        log(f"Dry run: {len(dataset):,} rows would be trained on, and nothing was written.")
        return Trained(None, [])
    trainer = _make_trainer(arguments, training_args, model, peft_config, readout, tokenizer, dataset, init_kwargs)
    settings = {"template": encoder.template, "max_length": training_args.max_length}
    if encoder.truncation is not None:
        settings["truncation"] = encoder.truncation
    describe(trainer.model.config, readout, settings)
    if training_args.eval_strategy != "no":
        held_out, _ = encode(rows.held_out, encoder, readout.heads, training_args.seed, judgements, token_wise)
        if not len(held_out):
            raise ValueError("You set eval_strategy, but no row is held out. Set held_out or eval_data.")
        trainer.eval_dataset = held_out
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    check_finite(trainer.model, "this training")
    folder = Path(str(training_args.output_dir))
    _save(trainer, arguments, folder)
    trained = {
        "learned": learned_from(dataset),
        "rows": len(dataset),
        "template": encoder.template,
        "max_length": training_args.max_length,
        "steps": trainer.state.global_step,
        "left_out": left_out,
    }
    result = Trained(None, [])
    # ZeRO-3 would take the scorer's model apart too, and wait for processes that do not load it.
    unset_hf_deepspeed_config()
    if trainer.accelerator.is_main_process:
        result = _measure(arguments, training_args, readout, rows, folder)
        write_card(folder, arguments, readout, rows, model, trained, result.measures, result.warnings)
    trainer.accelerator.wait_for_everyone()
    trainer.end()  # the trackers and the process group
    return result


def check_training(arguments: ScoreModelArguments, training_args: RewardConfig, peft_config: Any) -> None:
    for name, instead in _NOT_HONOURED.items():
        if getattr(training_args, name, None) is not None:
            raise ValueError(f"You set {name}, but a score model does not honour it. {instead}.")
    if arguments.normalizer is not None and training_args.resume_from_checkpoint:
        raise ValueError(
            "You set resume_from_checkpoint with a normalizer, but its statistics are not in a checkpoint. Start anew."
        )
    if training_args.push_to_hub and getattr(training_args, "deepspeed_plugin", None) is not None:
        raise ValueError(
            "You set push_to_hub with DeepSpeed, but the trainer would push its weights in 16 bits over those that "
            "are saved. Remove it, and upload the folder afterwards (`hf upload`)."
        )
    if peft_config is not None and arguments.freeze_backbone:
        raise ValueError("You set freeze_backbone and use_peft, but adapters would not be trained. Set one of them.")
    # The dataset is tokenized already, and has columns that the model does not take.
    training_args.remove_unused_columns = False
    if arguments.freeze_backbone:
        training_args.gradient_checkpointing = False


def decide(arguments: ScoreModelArguments, rows: Rows) -> tuple[Readout, tuple[str, ...]]:
    """Whether the model is graded, and what it learns from: of what is asked for, that which the rows have."""
    verdicts = [verdict for row in rows.train for verdict in row.verdicts]
    there = {
        "pairs": any(len(row.verdicts) == 2 for row in rows.train),
        "labels": any(verdict.unsafe is not None for verdict in verdicts),
        "grades": any(verdict.grade is not None for verdict in verdicts),
    }
    missing = [name for name in arguments.use or () if not there[name]]
    judgements = tuple(name for name in arguments.judgements if there[name])
    if missing or not judgements:
        raise ValueError(
            f"You ask to learn from {', '.join(missing or arguments.judgements)}, but the data have none of them; "
            f"they have {', '.join(name for name, found in there.items() if found) or 'nothing to learn from'}. "
            "Correct `use` or `objective`, or give other data."
        )
    graded = arguments.harm_scale is not None or "grades" in judgements
    scale = arguments.scale if graded else None
    return Readout(str(arguments.objective), scale, arguments.heads, arguments.pessimism), judgements


def make_encoder(arguments: ScoreModelArguments, training_args: RewardConfig, tokenizer: Any, model: str) -> Encoder:
    template = arguments.template
    if arguments.layout == "beaver" or (template is None and not tokenizer.chat_template):
        template = "safe-rlhf"
    template = template or "chat"
    if template == "chat" and not tokenizer.chat_template:
        raise ValueError(
            f"You set template=chat, but the tokenizer of {model!r} has no chat template. Set template=safe-rlhf."
        )
    if template == "safe-rlhf" and end_of_reply(tokenizer) is None:
        raise ValueError(
            f"The tokenizer of {model!r} has no end-of-sequence token, at which Safe RLHF's template ends. Add one, "
            "or set template=chat."
        )
    return Encoder(tokenizer, template, training_args.max_length, arguments.truncation)  # type: ignore[arg-type]


def _make_trainer(
    arguments: ScoreModelArguments,
    training_args: RewardConfig,
    path: str,
    peft_config: Any,
    readout: Readout,
    tokenizer: Any,
    dataset: Any,
    init_kwargs: dict[str, Any],
) -> ScoreModelTrainer:
    layout: Any = arguments.layout
    model = load_model(
        path,
        layout,
        readout,
        training_args.seed,
        trust_remote_code=training_args.trust_remote_code or None,
        **init_kwargs,
    )
    needs_head = arguments.layout == "beaver" or arguments.loss_type == "token-wise"
    if needs_head and not hasattr(model, "score"):
        raise ValueError(
            f"You set loss_type=token-wise, but the {type(model).__name__} of {path!r} has no head called `score`, as "
            "decoders have it. Set loss_type=sequence-wise."
        )
    if arguments.freeze_backbone:
        for parameter in model.base_model.parameters():
            parameter.requires_grad = False
    if peft_config is not None:
        heads = [name for name in ("score", "classifier", "classification_head") if hasattr(model, name)]
        peft_config = replace(
            peft_config, task_type="SEQ_CLS", modules_to_save=[*(peft_config.modules_to_save or []), *heads]
        )
    as_reward_model(model)
    normalizer = None
    if arguments.normalizer is not None:
        normalizer = ScoreNormalizer(
            arguments.normalizer,  # type: ignore[arg-type]
            arguments.normalizer_momentum,
            center=arguments.objective == "reward",
        )
    return ScoreModelTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        # RewardTrainer wants one where it is to evaluate; the held-out rows take its place.
        eval_dataset=dataset if training_args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        readout=readout,
        token_wise=arguments.loss_type == "token-wise",
        regularization=arguments.regularization,
        last_token=arguments.layout == "beaver",
        normalizer=normalizer,
    )


def _save(trainer: ScoreModelTrainer, arguments: ScoreModelArguments, folder: Path) -> None:
    """The whole model, with adapters merged, in the layout that was asked for."""
    save_whole(trainer, folder)
    trainer.accelerator.wait_for_everyone()
    if not trainer.accelerator.is_main_process:
        return
    if arguments.save_16bit:
        round_weights(folder, torch.float16 if trainer.args.fp16 else torch.bfloat16)
    if arguments.layout == "beaver":
        to_for_score(folder, str(arguments.objective), trainer.normalizer)


def _measure(
    arguments: ScoreModelArguments, training_args: RewardConfig, readout: Readout, rows: Rows, folder: Path
) -> Trained:
    objective = str(arguments.objective)
    options: dict[str, Any] = {"batch_size": training_args.per_device_eval_batch_size}
    if training_args.use_cpu:
        options["device"] = "cpu"
    if arguments.truncation is not None and arguments.layout == "beaver":
        options |= {"truncation": arguments.truncation, "max_length": training_args.max_length}
    kind: Any = objective
    scorer = load_scorer(f"{arguments.layout}:{folder}", kind=kind, **options)
    measures = None
    where, measured_on = "on held-out prompts", rows.held_out
    if rows.held_out:
        measures = evaluate_scorer(scorer, rows.held_out, objective, readout.scale)
        (folder / "eval_results.json").write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")
    else:
        where, measured_on = "in training", rows.train[:200]
    seen = measures or evaluate_scorer(scorer, measured_on, objective, readout.scale)
    warning = sign_warning(seen, objective, where)
    return Trained(measures, [] if warning is None else [warning])
