"""Text from data as a terminal and a page may have it: what would move a cursor or hide a word is shown instead."""

import re


# Control characters but tab and line feed, those that turn the direction of writing, and halves of surrogate pairs.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with each such character as its escape, such as `\\x1b`. Letters of every language stay as they are."""
    return _HIDDEN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def whole_characters(text: str) -> str:
    """`text` with each half of a surrogate pair, which has no UTF-8, as its escape."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
