"""Which PKU-SafeRLHF pairs are kept, and which answer is chosen, by the safety labels of both answers."""

from trl_rsa.data.schema import Row, RowError, read_flag


PAIR_RULES = {
    "one-safe": "keep the pairs of which exactly one answer is safe",
    "safe-better": "keep the pairs of which the preferred answer is safe (the baseline DPO-SafeBetter)",
    "safedpo": "drop the pairs of two unsafe answers, and prefer the safe answer where only one is (SafeDPO)",
}


class LeftOut(RowError):
    """A sound row that the pair rule leaves out. Its text is the reason under which the row is counted."""


def apply_rule(rule: str, row: Row, chosen: int) -> int:
    """
    Args:
        rule (`str`):
            One of [`PAIR_RULES`].
        row (`Row`):
            With `is_response_0_safe` and `is_response_1_safe`.
        chosen (`int`):
            The answer that the judgement prefers, 0 or 1.

    Returns:
        `int`: the answer that is chosen under the rule. It is another one only under "safedpo", where an unsafe
        answer is never preferred to a safe one.

    Raises:
        [`LeftOut`]: if the rule leaves the pair out.
    """
    safe = [read_flag(row, f"is_response_{i}_safe") for i in (0, 1)]
    if rule == "one-safe" and safe[0] == safe[1]:
        raise LeftOut("both answers are safe" if safe[0] else "both answers are unsafe")
    if rule == "safe-better" and not safe[chosen]:
        raise LeftOut("the preferred answer is unsafe")
    if rule == "safedpo" and not any(safe):
        raise LeftOut("both answers are unsafe")
    return 1 - chosen if rule == "safedpo" and not safe[chosen] else chosen
