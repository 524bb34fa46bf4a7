"""SFT: responses to imitate. It has no reference and no temperature."""

from trl_rsa.training.methods.method import Method, find_in_trl, train_policy


_find = find_in_trl("sft", "SFT")


SFT = Method(
    "sft",
    "responses to imitate; of pairs, the chosen one",
    "demonstrations",
    _find,
    train_policy(_find, with_reference=False),
    frozenset(),
    has_reference=False,
)
