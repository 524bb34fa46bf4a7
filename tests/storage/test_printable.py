"""What data may do to a terminal: nothing."""

import pytest

from trl_rsa.storage.printable import printable, whole_characters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\rb"),
        ("\x9b31m", "\\x9b31m"),
        ("safe \u202eelbisrever", "safe \\u202eelbisrever"),
        ("half \ud83d", "half \\ud83d"),
        ("Grüße, 你好 😀\n\tיש", "Grüße, 你好 😀\n\tיש"),
    ],
)
def test_what_would_act_is_shown(text, shown):
    assert printable(text) == shown


def test_halves_of_characters_are_escaped_and_whole_ones_stay():
    assert whole_characters("a\ud83d b 😀") == "a\\ud83d b 😀"
