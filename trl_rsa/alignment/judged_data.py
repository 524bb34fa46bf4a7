"""The rows of a cost stage: judged responses as tokens, as the finished scorer will write them down."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.manifest import StageData
from trl_rsa.alignment.plan import Plan, Stage, args_of
from trl_rsa.alignment.stage_rows import StageRows, check_eval_data, eval_options
from trl_rsa.data import DataReport, fingerprint
from trl_rsa.data.judged import JudgedData, JudgedRow, count_judgements, load_judged
from trl_rsa.data.split import split_by_prompt
from trl_rsa.data.templates import untemplated_key
from trl_rsa.score_models.encoding import Encoder, encode
from trl_rsa.score_models.rows import hold_out, prompts_of
from trl_rsa.storage.digests import prompt_key


def cost_template(processing_class: PreTrainedTokenizerBase) -> str:
    """How prompt and response are written down: in the chat template if there is one, else in Safe RLHF's."""
    return "chat" if processing_class.chat_template else "safe-rlhf"


def load_judged_data(plan: Plan, stage: Stage, processing_class: PreTrainedTokenizerBase) -> StageRows:
    """As [`~alignment.stage_data.load_stage_data`], of a stage that learns from judged responses."""
    config_class: Any = stage.does.config_class
    longest = args_of(plan, stage).get("max_length", config_class.max_length)
    encoder = Encoder(processing_class, cost_template(processing_class), longest)
    # A cost is compared by which response is safer.
    preferred_by = "safer" if stage.preferred_by == "better" else stage.preferred_by

    def read(source: Any, options: Mapping[str, Any]) -> JudgedData:
        return load_judged(source, preferred_by=preferred_by, seed=plan.seed, **options)

    loaded = read(stage.dataset, stage.dataset_options)
    rows, held_out = loaded.rows, None
    if not count_judgements(rows)["labels"]:
        raise ValueError(
            f"You gave the cost stage {stage.name!r} data without safe/unsafe labels, but these say where a cost is "
            "0. Give rows with them, or use the method 'reward' for a score without a zero."
        )
    if stage.held_out:
        rows, held_out = _split(rows, stage, plan.seed)
    train, report = _encoded(rows, loaded, encoder, plan.seed, preferred_by)
    data: StageData = {"train": report.to_dict()}
    trained, warnings, held = _keys(rows, processing_class), list[str](), None
    if stage.eval_dataset is not None:
        other = read(stage.eval_dataset, eval_options(stage))
        held, report = _encoded(other.rows, other, encoder, plan.seed, preferred_by)
        data["eval"] = report.to_dict()
        warnings = check_eval_data(stage, data, trained, _keys(other.rows, processing_class))
    elif held_out is not None:
        held, _ = _encoded(held_out, loaded, encoder, plan.seed, preferred_by)
        data["held_out_pairs"] = len(held)
    return StageRows(train, held, data, trained, warnings)


def _split(rows: list[JudgedRow], stage: Stage, seed: int) -> tuple[list[JudgedRow], list[JudgedRow]]:
    """Train and held out, whole prompts at a time: a share of the prompts, or at most a number of the rows."""
    train, held_out = rows, list[JudgedRow]()
    if stage.held_out < 1:
        train, held_out = hold_out(rows, stage.held_out, seed)
    elif stage.held_out < len(rows):
        places = Dataset.from_dict({"prompt": [prompt_key(row.prompt) for row in rows], "place": range(len(rows))})
        kept, taken = split_by_prompt(places, stage.held_out, seed)
        train, held_out = [rows[i] for i in kept["place"]], [rows[i] for i in taken["place"]]
    if not train or not held_out:
        raise ValueError(
            f"You set held_out={stage.held_out} for the cost stage {stage.name!r}, but of its {len(rows)} rows with "
            f"{len(prompts_of(rows))} different prompts this cannot leave some to train on and some held out. Set "
            "another size, or give more prompts."
        )
    return train, held_out


def _keys(rows: Iterable[JudgedRow], processing_class: PreTrainedTokenizerBase) -> frozenset[str]:
    return frozenset(untemplated_key(row.prompt, processing_class.eos_token) for row in rows)


def _encoded(
    rows: list[JudgedRow], loaded: JudgedData, encoder: Encoder, seed: int, preferred_by: str
) -> tuple[Dataset, DataReport]:
    dataset, left_out = encode(rows, encoder, 1, seed, ("pairs", "labels"))
    if not len(dataset):
        raise ValueError(
            f"You gave {loaded.source}, but no row of it is left ({'; '.join(left_out)}). Give more data."
        )
    skipped = Counter(loaded.skipped) + Counter(left_out)
    report = DataReport(
        source=loaded.source,
        format=loaded.format,
        preferred_by=preferred_by,
        template=encoder.template,
        rows_read=loaded.rows_read,
        rows_used=loaded.rows_read - sum(skipped.values()),
        pairs_built=len(dataset),
        pairs_kept=len(dataset),
        fingerprint=fingerprint(dataset),
        skipped=dict(skipped.most_common()),
    )
    return dataset, report
