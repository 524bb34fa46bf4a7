"""Judged rows as tokens: the same text that the scorers score, one row with one or two responses."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, Features, List, Value

from trl_rsa.data.judged import JudgedRow
from trl_rsa.scoring.batches import Truncation, tokenize
from trl_rsa.scoring.scorer import NotScored
from trl_rsa.scoring.text import chat_text, end_of_reply, safe_rlhf_text
from trl_rsa.storage.digests import prompt_key


NONE = -1  # stands for a grade or a label that a row does not have

_FEATURES = {
    # TRL's names: RewardTrainer takes a dataset with these two columns as tokenized already.
    "chosen_ids": List(Value("int64")),
    "rejected_ids": List(Value("int64")),  # empty in a row with one response
    "starts": List(Value("int64")),
    "grades": List(Value("int64")),
    "unsafe": List(Value("int64")),
    "head_weights": List(Value("float64")),
}


@dataclass(frozen=True)
class Encoder:
    """
    Writes prompt and response down as the scorer of the finished folder will.

    Args:
        tokenizer: The model's.
        template (`str`): `"chat"` or `"safe-rlhf"`.
        max_length (`int`, *optional*): Most tokens of a text.
        truncation (`str`, *optional*): `"left"` cuts the beginning off a longer text; without it the text is left out.
    """

    tokenizer: Any
    template: str
    max_length: int | None = None
    truncation: Truncation = None

    def __call__(self, prompt: Any, response: Any) -> list[int] | NotScored:
        text = self._text(prompt, response)
        special = [self.template == "safe-rlhf"]  # a chat template brings its own
        return tokenize(self.tokenizer, [text], special, self.max_length, self.truncation)[0]

    def _text(self, prompt: Any, response: Any) -> str | NotScored:
        if self.template == "chat":
            return chat_text(self.tokenizer, prompt, response)
        return safe_rlhf_text(prompt, response, end_of_reply(self.tokenizer))


def encode(
    rows: Sequence[JudgedRow],
    encoder: Encoder,
    heads: int,
    seed: int,
    judgements: Sequence[str],
    with_starts: bool = False,
) -> tuple[Dataset, dict[str, int]]:
    """
    Tokenizes the rows.

    Args:
        rows: What is trained on.
        encoder ([`Encoder`]): How it is written down.
        heads (`int`): Heads of the model. Each of several is trained on its own half of the prompts, at double weight
            (Owen and Eckles, 2012), so that they differ where the data leave it open.
        seed (`int`): Of these halves.
        judgements (`Sequence[str]`): What is learned from: some of "pairs", "labels" and "grades".
        with_starts (`bool`, *optional*, defaults to `False`): Whether to look for the first token that a score depends
            on, which a token-wise loss needs; 0 otherwise.

    Returns:
        The dataset, and how many rows were left out, by reason.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _FEATURES}
    left_out: dict[str, int] = {}
    for row in rows:
        for verdicts in _parts(row, judgements):
            ids = [encoder(row.prompt, verdict.response) for verdict in verdicts]
            failed = next((found for found in ids if isinstance(found, NotScored)), None)
            if failed is not None:
                reason = "longer than max_length" if failed.reason.startswith("the text has") else failed.reason
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            grades = [verdict.grade if "grades" in judgements else None for verdict in verdicts]
            labels = [verdict.unsafe if "labels" in judgements else None for verdict in verdicts]
            # A grade says all that a label does.
            unsafe = [None if grade is not None else label for grade, label in zip(grades, labels, strict=True)]
            columns["chosen_ids"].append(ids[0])
            columns["rejected_ids"].append(ids[1] if len(ids) == 2 else [])
            columns["starts"].append(_starts(ids, encoder, row) if with_starts else [0] * len(ids))
            columns["grades"].append([NONE if grade is None else grade for grade in grades])
            columns["unsafe"].append([NONE if label is None else int(label) for label in unsafe])
            columns["head_weights"].append(_head_weights(row, heads, seed))
    return Dataset.from_dict(columns, features=Features(_FEATURES)), left_out


def learned_from(dataset: Dataset) -> dict[str, int]:
    """Pairs, labels and grades in an encoded dataset. A response with a grade has no label beside it."""
    return {
        "pairs": sum(len(ids) > 0 for ids in dataset["rejected_ids"]),
        "labels": sum(label != NONE for labels in dataset["unsafe"] for label in labels),
        "grades": sum(grade != NONE for grades in dataset["grades"] for grade in grades),
    }


def _parts(row: JudgedRow, judgements: Sequence[str]) -> list[Any]:
    """The row as it is learned from: together as a pair, or each response for itself, or nothing."""
    if len(row.verdicts) == 2 and "pairs" in judgements:
        return [row.verdicts]
    said = [
        verdict
        for verdict in row.verdicts
        if ("grades" in judgements and verdict.grade is not None)
        or ("labels" in judgements and verdict.unsafe is not None)
    ]
    return [(verdict,) for verdict in said]


def _starts(ids: Sequence[Any], encoder: Encoder, row: JudgedRow) -> list[int]:
    """The first token that the score depends on: of a pair, where its responses part; of one response, its own."""
    if len(ids) == 2:
        return [_common_prefix(ids[0], ids[1], ids)] * 2
    empty = encoder(row.prompt, [{"role": "assistant", "content": ""}])
    return [0 if isinstance(empty, NotScored) else _common_prefix(ids[0], empty, ids)]


def _common_prefix(first: list[int], second: list[int], within: Sequence[list[int]]) -> int:
    differ = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return min([next(differ, min(len(first), len(second))), *(len(ids) - 1 for ids in within)])


def _head_weights(row: JudgedRow, heads: int, seed: int) -> list[float]:
    if heads == 1:
        return [1.0]
    draws = random.Random(f"{seed}:{prompt_key(row.prompt)}")
    return [2.0 * draws.randrange(2) for _ in range(heads)]


@dataclass(frozen=True)
class Collator:
    """Rows to one right-padded batch of responses, with the places of the pairs among them."""

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sequences: list[list[int]] = []
        pairs, of_row = [], []
        for index, row in enumerate(rows):
            both = [ids for ids in (row["chosen_ids"], row["rejected_ids"]) if len(ids)]
            if len(both) == 2:
                pairs.append([len(sequences), len(sequences) + 1])
            sequences += both
            of_row += [index] * len(both)
        longest = max(map(len, sequences))
        multiple = self.pad_to_multiple_of or 1
        longest = -(-longest // multiple) * multiple
        input_ids = torch.full((len(sequences), longest), self.pad_token_id)
        for place, ids in zip(input_ids, sequences, strict=True):
            place[: len(ids)] = torch.as_tensor(ids)
        lengths = torch.tensor([len(ids) for ids in sequences])
        flat = {name: [value for row in rows for value in row[name]] for name in ("starts", "grades", "unsafe")}
        return {
            "input_ids": input_ids,  # [N, T]
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),  # [N, T]
            "pairs": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),  # [P, 2]: preferred, other
            "head_weights": torch.tensor([rows[index]["head_weights"] for index in of_row]).float(),  # [N, heads]
            "rows": torch.tensor(len(rows)),
            **{name: torch.tensor(values, dtype=torch.long) for name, values in flat.items()},  # [N]
        }
