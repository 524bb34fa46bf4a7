"""A prompt as a model's token ids: the chat template, Safe RLHF's template, or the text as it is."""

from collections.abc import Sequence
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.data.templates import PROMPT_BEGIN, PROMPT_TURN


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
        return tokenizer(_safe_rlhf_text(prompt, tokenizer.eos_token or ""))["input_ids"]
    if template == "chat":
        if not tokenizer.chat_template:
            raise ValueError(
                "You set template='chat', but the tokenizer has no chat template. Set template to safe-rlhf or none."
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    if not isinstance(prompt, str):
        raise ValueError(
            "You gave a prompt of several messages, but the tokenizer has no chat template to write them down with. "
            "Add one to the tokenizer, or set template='safe-rlhf'."
        )
    return tokenizer(prompt)["input_ids"]


def encode_prompts(tokenizer: Any, prompts: Sequence[Text], template: str, longest: int | None) -> list[list[int]]:
    """[`encode_prompt`] of each, refused where one has no token or more than `longest`."""
    rows = [encode_prompt(tokenizer, prompt, template) for prompt in prompts]
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


def _safe_rlhf_text(prompt: Text, eos_token: str) -> str:
    if isinstance(prompt, str):
        # Text in that template already is taken as it is.
        return prompt if prompt.startswith(PROMPT_BEGIN.strip()) else PROMPT_BEGIN + PROMPT_TURN.format(prompt)
    turns = [
        PROMPT_TURN.format(turn["content"]) if turn["role"] == "user" else turn["content"] + eos_token
        for turn in prompt
    ]
    return PROMPT_BEGIN + "".join(turns)
