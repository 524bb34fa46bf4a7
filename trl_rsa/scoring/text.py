"""How a prompt and its completion are written down for a model that scores them."""

from typing import Any

from trl_rsa.data.schema import Message, Text
from trl_rsa.data.templates import PROMPT_BEGIN, PROMPT_TURN
from trl_rsa.scoring.scorer import NotScored


def messages(prompt: Text, completion: Text) -> list[Message]:
    """The conversation. A string is a message of the user, or of the assistant if it is the completion."""
    opening = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
    return opening + reply


def chat_text(tokenizer: Any, prompt: Text, completion: Text) -> str | NotScored:
    """The conversation in the tokenizer's chat template, which brings its own special tokens."""
    try:
        return tokenizer.apply_chat_template(messages(prompt, completion), tokenize=False)
    except Exception as error:  # jinja2's own, and whatever a template raises about roles
        return NotScored(f"the chat template does not take this conversation ({error})")


def end_of_reply(tokenizer: Any) -> str | None:
    """What ends a reply in Safe RLHF's template: the end-of-sequence token, or an encoder's separator (BERT's, for
    example, which has no other)."""
    return tokenizer.eos_token or tokenizer.sep_token


def plain_text(prompt: str, completion: str, eos_token: str | None) -> str:
    """Prompt, completion and the end-of-sequence token, once: the text that TRL's RewardTrainer trains on."""
    text = prompt + completion
    return text if eos_token is None or completion.endswith(eos_token) else text + eos_token


def safe_rlhf_text(prompt: Text, completion: Text, eos_token: str | None) -> str | NotScored:
    """`BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{reply}{eos}`, the template of the Beaver models.

    A prompt that is text in that template already is taken as it is.
    """
    if isinstance(prompt, str) and isinstance(completion, str) and prompt.startswith(PROMPT_BEGIN.strip()):
        return plain_text(prompt, completion, eos_token)
    turns = messages(prompt, completion)
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        return NotScored(
            f"Safe RLHF's template has turns of user and assistant in alternation, this conversation has {roles}"
        )
    text = PROMPT_BEGIN
    for turn in turns:
        content = turn["content"]
        text += PROMPT_TURN.format(content) if turn["role"] == "user" else plain_text("", content, eos_token)
    return text
