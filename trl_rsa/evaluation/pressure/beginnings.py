"""Beginnings that are forced upon a model's responses: from whose responses they are, and which tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from trl_rsa.evaluation.tables import read_responses
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.digests import PromptKey, prompt_key
from trl_rsa.storage.records import ReadReport, text_of


def read_beginnings(path: str) -> dict[PromptKey, str]:
    """The response to each prompt in a file of responses; of several to one prompt the first.

    Raises:
        ValueError, FileNotFoundError: if the file cannot be read, or holds no response.
    """
    found: dict[PromptKey, str] = {}
    report = ReadReport()
    for record in read_responses(path, report, (), ("response",)):
        if text := text_of(record["response"]).strip():
            found.setdefault(prompt_key(record["prompt"]), text)
    if not found:
        raise ValueError(
            f"You set beginnings to {path!r}, but it holds no response. {report} Give a file with prompt and response."
        )
    return found


def texts_of(prompts: Sequence[Any], known: Mapping[PromptKey, str], path: str) -> list[str]:
    """The response to each of `prompts`.

    Raises:
        ValueError: if a prompt has none.
    """
    missing = sum(prompt_key(prompt) not in known for prompt in prompts)
    if missing:
        raise ValueError(
            f"You set beginnings to {path!r}, but {missing} of {len(prompts)} prompts have no response there. Add "
            "them, or leave beginnings out to force those of the reference."
        )
    return [known[prompt_key(prompt)] for prompt in prompts]


def first_tokens(encoder: ConversationEncoder, text: str, n: int, sampled: Sequence[int] | None = None) -> list[int]:
    """The first `n` tokens of a response, or all that it has, without the one that ends it.

    Args:
        encoder ([`ConversationEncoder`]):
            Of the policy that is made to begin so.
        text (`str`):
            The response.
        n (`int`):
            How many tokens.
        sampled (`Sequence[int]`, *optional*):
            The tokens that were sampled; used if they are this tokenizer's for the text.
    """
    ids = encoder.recorded({"response": text, "token_ids": None if sampled is None else list(sampled)})
    if ids is None:
        ids = encoder.completion(text, finished=False)
    ends = {encoder.tokenizer.eos_token_id, encoder.end}
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: min(n, end)]
