"""How long rows are in tokens, before a trainer tokenizes them."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.sampling.encoding import ConversationEncoder


# Where a response stands in a row.
RESPONSES = ("chosen", "rejected", "completion")


def row_lengths(rows: Dataset, processing_class: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of the longest conversation of each row, end of turn included; of a prompt alone, its own."""
    encoder = ConversationEncoder(processing_class)

    def length(row: dict[str, Any]) -> int:
        if isinstance(row["prompt"], str):
            prompt = len(processing_class(row["prompt"])["input_ids"])
        else:
            prompt = len(encoder.prompt(row["prompt"]))
        given = [row[name] for name in RESPONSES if name in row]
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in given]
        return prompt + max((len(encoder.completion(text)) for text in texts), default=0)

    return [length(row) for row in rows]
