"""How a pair is written down: as messages for a chat template, or with Safe RLHF's template."""

from dataclasses import replace
from typing import Any

from trl_rsa.data.schema import Message, Pair, RowError, Text
from trl_rsa.storage.digests import digest, folded_turns, prompt_key


TEMPLATES = ("chat", "safe-rlhf", "none")

# The template of the Beaver models: their tokens differ when a space follows the last colon.
PROMPT_BEGIN = "BEGINNING OF CONVERSATION: "
PROMPT_TURN = "USER: {} ASSISTANT:"


def render(pair: Pair, template: str | None, eos_token: str | None = None) -> Pair:
    """Returns `pair` as lists of messages ("chat"), as text in Safe RLHF's template, or as its adapter made it
    (`None`, "none"): messages where the format has turns.

    The text responses carry no end-of-sequence token: TRL's trainer appends it. Only the earlier turns of a longer
    conversation do.
    """
    if template in (None, "none"):
        return pair
    prompt, chosen, rejected = (
        _messages(pair.prompt, "user"),
        _messages(pair.chosen, "assistant"),
        _messages(pair.rejected, "assistant"),
    )
    if template == "chat":
        return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)
    return replace(
        pair,
        prompt=safe_rlhf_prompt(pair.prompt, eos_token or ""),
        chosen=_only_turn(chosen),
        rejected=_only_turn(rejected),
    )


def _messages(text: Text, role: str) -> list[Message]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def safe_rlhf_prompt(prompt: Text, eos_token: str) -> str:
    """A prompt in the template of the Beaver models, up to where the response begins.

    Args:
        prompt (`str` or `list[dict]`):
            Text is one turn of the user; text in that template already is taken as it is.
        eos_token (`str`):
            Ends the earlier turns of the assistant.

    Raises:
        RowError: if the turns do not alternate between user and assistant.
    """
    if isinstance(prompt, str) and prompt.startswith(PROMPT_BEGIN.strip()):
        return prompt
    messages = _messages(prompt, "user")
    check_alternation(messages)
    turns = [
        PROMPT_TURN.format(message["content"]) if message["role"] == "user" else message["content"] + eos_token
        for message in messages
    ]
    return PROMPT_BEGIN + "".join(turns)


def untemplated_key(prompt: Any, eos_token: str | None = None) -> str:
    """Tells prompts apart as [`~storage.digests.prompt_key`] does, and is the same in Safe RLHF's template as without.

    It answers whether a prompt is also trained on. What is drawn or ordered by prompts goes by `prompt_key`.

    Args:
        prompt (`str` or `list[dict]`):
            Text, in the template or not, or messages.
        eos_token (`str`, *optional*):
            What ends the earlier turns of the assistant in the template.
    """
    turns = folded_turns(prompt)
    text = turns[0][1] if len(turns) == 1 else ""
    if not text.startswith(PROMPT_BEGIN.strip().lower()):
        if [role for role, _ in turns] != _alternating(len(turns)):
            return prompt_key(prompt)  # the template has no place for it
        # A text that is written down can be compared; one that is taken apart could hold "USER:" in its middle.
        text = PROMPT_BEGIN + "".join(
            PROMPT_TURN.format(content) if role == "user" else content for role, content in turns
        )
    end = "" if eos_token is None else folded_turns(eos_token)[0][1]
    text = text.lower()
    for mark in ("user:", "assistant:"):
        text = text.replace(f" {mark}", mark).replace(f"{end}{mark}", mark)
        text = text.replace(f" {mark}", mark).replace(f"{mark} ", mark)
    return digest(text).hex()


def _only_turn(messages: list[Message]) -> str:
    if len(messages) != 1:
        raise RowError("a response of several messages does not fit Safe RLHF's template")
    return messages[0]["content"]


def check_alternation(messages: list[Message]) -> None:
    """Raises `RowError` unless the turns are user, assistant, …, user: most chat templates take nothing else."""
    if [message["role"] for message in messages] != _alternating(len(messages)):
        raise RowError("turns do not alternate between user and assistant")


def _alternating(turns: int) -> list[str] | None:
    """The roles of so many turns that begin and end with the user; None if they cannot."""
    return None if turns % 2 == 0 else ["user", "assistant"] * (turns // 2) + ["user"]
