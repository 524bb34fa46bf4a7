"""Rows that are in TRL's preference format already, with an explicit or an implicit prompt."""

from typing import Any

from trl_rsa.data.schema import Message, Pair, Row, RowError, Text, check_unicode, read_pair_columns, read_text


def adapt(row: Row, template: str | None, implicit: bool) -> Pair:
    """Reads `prompt`, `chosen`, `rejected` as text or as messages; where no row has a prompt (`implicit`), the shared
    beginning of the responses is it.

    A prompt that is implicit in plain text has no turns that we could know: it is only accepted where no template is
    to be applied.
    """
    chosen, rejected = read_response(row, "chosen"), read_response(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("one response is text and the other is messages")
    if chosen == rejected:
        raise RowError("identical responses")
    if not implicit:
        prompt = read_response(row, "prompt")
    elif template in (None, "none") or not isinstance(chosen, str):
        prompt, chosen, rejected = _split_prompt(chosen, rejected)
    else:
        raise RowError("the prompt is implicit in plain text, so a template cannot be applied")
    if isinstance(prompt, str) != isinstance(chosen, str):
        raise RowError("the prompt is text and the responses are messages, or the reverse")
    _check_roles(prompt, chosen, rejected)
    return Pair(prompt, chosen, rejected, **read_pair_columns(row))


def read_response(row: Row, field: str) -> Text:
    """The text or the messages in `field`; raises `RowError` where there are none."""
    if isinstance(row.get(field), list):
        return [_read_message(message, field) for message in row[field]]
    return read_text(row, field)


def _read_message(message: Any, field: str) -> Message:
    """A message of role and content. Anything more (tool calls, images) would be lost, so it is not accepted."""
    if not isinstance(message, dict):
        raise RowError(f"field `{field}` is neither text nor messages")
    present = {key: value for key, value in message.items() if value is not None}
    if present.keys() != {"role", "content"} or not all(isinstance(value, str) for value in present.values()):
        raise RowError(f"a message in `{field}` has more or less than a role and a text content")
    check_unicode(present["content"])
    return {"role": present["role"], "content": present["content"]}


def _split_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Cuts off the longest shared beginning, as TRL does: whole messages, or text up to the space before a word."""
    unequal = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    length = next(unequal, min(len(chosen), len(rejected)))
    if isinstance(chosen, str) and length and chosen[length - 1] == " ":
        length -= 1
    return chosen[:length], chosen[length:], rejected[length:]


def _check_roles(prompt: Text, chosen: Text, rejected: Text) -> None:
    """In a conversation the prompt ends with the user and a response begins with the assistant."""
    if isinstance(prompt, str) or not prompt or not chosen or not rejected:
        return  # an empty side is counted under its own reason
    first_roles = {response[0]["role"] for response in (chosen, rejected) if not isinstance(response, str)}
    if prompt[-1]["role"] != "user" or first_roles != {"assistant"}:
        raise RowError("the prompt does not end with the user, or a response does not begin with the assistant")
