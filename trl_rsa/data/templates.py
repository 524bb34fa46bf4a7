"""How a pair is written down: as messages for a chat template, or with Safe RLHF's template."""

from dataclasses import replace

from trl_rsa.data.schema import Message, Pair, RowError, Text


TEMPLATES = ("chat", "safe-rlhf", "none")

# The template of the Beaver models: their tokens differ when a space follows the last colon.
PROMPT_BEGIN = "BEGINNING OF CONVERSATION: "
PROMPT_TURN = "USER: {} ASSISTANT:"


def render(pair: Pair, template: str | None, eos_token: str | None = None) -> Pair:
    """Returns `pair` as lists of messages ("chat"), as text in Safe RLHF's template, or as it is (`None`, "none").

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


def _only_turn(messages: list[Message]) -> str:
    if len(messages) != 1:
        raise RowError("a response of several messages does not fit Safe RLHF's template")
    return messages[0]["content"]


def check_alternation(messages: list[Message]) -> None:
    """Raises `RowError` unless the turns are user, assistant, …, user: most chat templates take nothing else."""
    roles = [message["role"] for message in messages]
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    if roles != expected or len(roles) % 2 == 0:
        raise RowError("turns do not alternate between user and assistant")
