"""How long pairs are in tokens, before a trainer tokenizes them."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.sampling.encoding import ConversationEncoder


def pair_lengths(rows: Dataset, processing_class: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of the longer conversation of each pair, end of turn included."""
    encoder = ConversationEncoder(processing_class)
    lengths = []
    for row in rows:
        if isinstance(row["prompt"], str):
            prompt = len(processing_class(row["prompt"])["input_ids"])
        else:
            prompt = len(encoder.prompt(row["prompt"]))
        responses = [
            text if isinstance(text, str) else text[-1]["content"] for text in (row["chosen"], row["rejected"])
        ]
        lengths.append(prompt + max(len(encoder.completion(response)) for response in responses))
    return lengths
