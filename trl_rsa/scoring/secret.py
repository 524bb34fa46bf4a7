"""A key that an answer repeats is cut out of it, in whatever spelling it comes back."""

import base64
import re


_LEAST_BASE64 = 8  # characters; fewer would be found in any text
_BASE64_EDGE = r"[A-Za-z0-9+/_-]?"  # a character that the key shares with its neighbours


class Secret:
    """
    A key, and how to take it out of a text.

    It is found as it is, escaped as JSON or a shell would (`\\/`, `\\u002f`), percent-encoded (once or more often), as
    an HTML entity, in hexadecimal, and in base64 at any place of a longer text (`Basic …` headers). Each character may
    be in a spelling of its own.

    Args:
        value (`str`):
            The key, in ASCII.
    """

    def __init__(self, value: str):
        self.value = value
        parts = [_any_spelling(value), re.escape(value.encode().hex())]
        parts += [_BASE64_EDGE + _any_spelling(core) + _BASE64_EDGE for core in _base64_cores(value.encode())]
        self._pattern = re.compile("|".join(f"(?:{part})" for part in parts), re.IGNORECASE)

    def __repr__(self) -> str:
        return "Secret()"

    def hide(self, text: str) -> str:
        """`text` with `[key]` wherever the key stands in it."""
        return self._pattern.sub("[key]", text)


def _any_spelling(text: str) -> str:
    return "".join(map(_spellings, text))


def _spellings(character: str) -> str:
    code = ord(character)
    # Repetitions are bounded: a hostile answer of 8 MiB must not cost the square of its length.
    forms = (
        rf"\\{{0,8}}{re.escape(character)}",
        rf"%(?:25){{0,4}}{code:02x}",
        rf"\\{{1,8}}(?:u00|x){code:02x}",
        rf"&\#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});",
    )
    return f"(?:{'|'.join(forms)})"


def _base64_cores(key: bytes) -> list[str]:
    """What stands in base64, in both alphabets, for `key` at each of the three places that it can begin at. The
    characters at its edges, which neighbours share, are left out."""
    cores = set()
    for offset in range(3):
        first, end = -(-8 * offset // 6), 8 * (offset + len(key)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(bytes(offset) + key + bytes(2)).decode()[first:end]
            if len(core) >= _LEAST_BASE64:
                cores.add(core)
    return sorted(cores)
