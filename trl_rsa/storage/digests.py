"""Short names for content, the same on every machine: of a prompt, of a JSON value."""

import json
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any


class PromptKey(str):
    """What [`prompt_key`] returns: 16 hex digits. A type of its own, so that a key is not taken for a prompt."""

    __slots__ = ()


def prompt_key(prompt: Any) -> PromptKey:
    """The one key that tells prompts apart, in splits, bounds, certificates and comparisons.

    Spellings of one prompt have one key: it depends neither on letter case, nor on spaces at the ends or on how many
    there are between words, nor on invisible characters or Unicode's other ways to write the same. A text and a single
    user message of it are the same prompt. Roles, a system message and earlier turns count.

    The order of the keys decides the shuffle of a bound: another key would move the numbers.

    Args:
        prompt (`str` or `list`):
            Text, or chat messages. A key stays as it is.
    """
    return prompt if isinstance(prompt, PromptKey) else PromptKey(digest(folded_turns(prompt)).hex())


def folded_turns(prompt: Any) -> list[tuple[str, str]]:
    """The turns that [`prompt_key`] is made of: role and text, alike for all spellings of a prompt."""
    return [("user", _folded(prompt))] if isinstance(prompt, str) else [_turn(message) for message in prompt]


def response_key(prompt: Any, response: Any) -> str:
    """What a person's label belongs to: the key of the prompt, and a digest of the response's text."""
    last = response if isinstance(response, str) else response[-1] if response else ""
    text = str(last.get("content", "")) if isinstance(last, Mapping) else str(last)
    return f"{prompt_key(prompt)}-{digest(text).hex()}"


def _turn(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        return "", _folded(message)
    # Tool calls and the like count as well.
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    return str(message.get("role")), _folded(message.get("content")) + (_json(more) if more else "")


def _folded(content: Any) -> str:
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    text = content if isinstance(content, str) else _json(content)
    if text.isascii():  # as below, many times faster
        return " ".join(text.lower().split())
    # Unicode's NFKC_Casefold in words of the standard library; "Cf" are format characters, which are not seen.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def digest(value: Any) -> bytes:
    """8 bytes that stand for a JSON value as it is written. For a prompt's identity take [`prompt_key`]."""
    text = value if isinstance(value, str) else _json(value)
    return blake2b(text.encode("utf-8", errors="backslashreplace"), digest_size=8).digest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
