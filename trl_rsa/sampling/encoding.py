"""A conversation as a model's token ids: the chat template, Safe RLHF's template, or the text as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trl_rsa.data.schema import RowError, Text
from trl_rsa.data.templates import safe_rlhf_prompt
from trl_rsa.storage.records import text_of


TEMPLATES = ("auto", "chat", "safe-rlhf", "none")


def encode_prompt(tokenizer: Any, prompt: Text, template: str = "auto") -> list[int]:
    """Token ids of a prompt, up to where the response begins.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Of the model that answers.
        prompt (`str` or `list[dict]`):
            Text, or messages that end with the user's turn.
        template (`str`, *optional*, defaults to `"auto"`):
            `"chat"`: the tokenizer's chat template, in which text becomes the user's turn; `"safe-rlhf"`: the
            template of the Beaver models; `"none"`: text as it is; `"auto"`: chat if there is a chat template.
    """
    if template not in TEMPLATES:
        raise ValueError(f"You set template={template!r}, but the templates are {', '.join(TEMPLATES)}. Set one.")
    if template == "auto":
        template = "chat" if tokenizer.chat_template else "none"
    if template == "safe-rlhf":
        try:
            return _open_ended(tokenizer, safe_rlhf_prompt(prompt, tokenizer.eos_token or ""))
        except RowError as error:
            raise ValueError(
                f"You set template='safe-rlhf', but in a prompt {error}, as they do in that template. Remove the "
                "prompt, or set template='chat'."
            ) from error
    if template == "chat":
        if not tokenizer.chat_template:
            raise ValueError(
                "You set template='chat', but the tokenizer has no chat template. Set template to safe-rlhf or none."
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # jinja2's own, and whatever a template raises about roles
            raise ValueError(
                f"You gave a prompt of the turns {', '.join(str(turn['role']) for turn in messages)}, but the "
                f"tokenizer's chat template does not take them ({error}). Remove the prompt, or write what its other "
                "turns say into the user's."
            ) from error
    if not isinstance(prompt, str):
        raise ValueError(
            "You gave a prompt of several messages, but the tokenizer has no chat template to write them down with. "
            "Add one to the tokenizer, or set template='safe-rlhf'."
        )
    return _open_ended(tokenizer, prompt)


def _open_ended(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that goes on: without the end-of-sequence token that some tokenizers put behind every one.
    One that is written in the text itself stays."""
    ids = list(tokenizer(text)["input_ids"])
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None or ids[-1:] != [end]:
        return ids
    return ids[:-1] if tokenizer("a")["input_ids"][-1:] == [end] else ids


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[Text],
    template: str,
    longest: int | None,
    beginnings: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """[`encode_prompt`] of each, followed by the beginning of its response if there are any, refused where one has no
    token or more than `longest`."""
    rows = [encode_prompt(tokenizer, prompt, template) for prompt in prompts]
    if beginnings is not None:
        rows = [[*row, *beginning] for row, beginning in zip(rows, beginnings, strict=True)]
    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise ValueError(f"You gave prompt {empty[0]}, but it has no tokens. Remove it, or write something.")
    long = [i for i, row in enumerate(rows) if longest is not None and len(row) > longest]
    if long:
        raise ValueError(
            f"You gave prompts that leave too little room for an answer: this model takes {longest} tokens beside "
            f"max_new_tokens, prompt {long[0]} has {len(rows[long[0]])} ({len(long)} of {len(rows)} are too long). "
            "Remove them, or lower max_new_tokens."
        )
    return rows


@dataclass(frozen=True)
class ConversationEncoder:
    """
    Prompts and responses as the tokens that a policy sees and writes. Sampling, the pairs of a rung, drift and the
    view of single tokens all use it, so that they are about one and the same conversation.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Of the policy.
        template (`str`, *optional*, defaults to `"auto"`):
            As in [`encode_prompt`].
    """

    tokenizer: Any
    template: str = "auto"

    def prompt(self, prompt: Text) -> list[int]:
        """Token ids up to where the response begins."""
        return encode_prompt(self.tokenizer, prompt, self.template)

    def completion(self, response: str, finished: bool = True) -> list[int]:
        """Token ids of a response, with the token that ends a turn if it is finished.

        The text is tokenized afresh. Where the sampled tokens are known, use those: now and then a model writes the
        same text in other tokens.
        """
        ids = list(self.tokenizer(response, add_special_tokens=False)["input_ids"])
        return [*ids, self.end] if finished and self.end is not None else ids

    def recorded(self, record: Mapping[str, Any]) -> list[int] | None:
        """The tokens that were sampled, if the record has them and they are this tokenizer's: then they are its text.

        Args:
            record (`Mapping`):
                With `response` and, perhaps, `token_ids`.
        """
        ids = record.get("token_ids")
        if not isinstance(ids, list) or not all(isinstance(i, int) and 0 <= i < len(self.tokenizer) for i in ids):
            return None
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return list(ids) if text == text_of(record["response"]) else None

    @cached_property
    def end(self) -> int | None:
        """The token that ends a response: what the chat template writes after it, or the end-of-sequence token."""
        tokenizer = self.tokenizer
        if self.template not in ("auto", "chat") or not tokenizer.chat_template:
            return tokenizer.eos_token_id
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        prompt = tokenizer.apply_chat_template(turns[:1], tokenize=True, add_generation_prompt=True, return_dict=False)
        # A template may write a line break after the last turn, or nothing at all.
        return next((token for token in reversed(ids[len(prompt) :]) if token in special), tokenizer.eos_token_id)
