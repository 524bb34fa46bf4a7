"""PKU-SafeRLHF, all versions: two responses to one prompt, judged once for helpfulness and once for safety."""

from trl_rsa.data.pair_rules import apply_rule
from trl_rsa.data.preference import read_response
from trl_rsa.data.schema import Pair, Row, RowError, read_flag, read_pair_columns, read_text
from trl_rsa.data.templates import check_alternation
from trl_rsa.storage.tables import truth_of


ID_SUFFIX = "_response_id"


def adapt(row: Row, preferred_by: str = "better", rule: str | None = None) -> Pair:
    """Reads the response that `{preferred_by}_response_id` points at as chosen, the other one as rejected.

    The prompt is text, or the messages of a conversation that the user ends. The published columns are
    `better_response_id` (helpfulness) and `safer_response_id`; a further judgement in the same form, such as
    `honest_response_id`, works with `preferred_by="honest"`. With a `rule` of
    [`~trl_rsa.data.pair_rules.PAIR_RULES`] the safety labels have the last word.
    """
    responses = [read_text(row, "response_0"), read_text(row, "response_1")]
    chosen = read_choice(row, preferred_by + ID_SUFFIX)
    if preferred_by == "safer":
        _check_safer(row, chosen)
    columns = read_pair_columns(row)
    judged, chosen = chosen, chosen if rule is None else apply_rule(rule, row, chosen)
    if chosen != judged:
        columns["label"] = None  # the probability of the judgement, which does not decide here
    prompt = read_response(row, "prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    check_alternation(prompt)
    return Pair(
        prompt=prompt,
        chosen=[{"role": "assistant", "content": responses[chosen]}],
        rejected=[{"role": "assistant", "content": responses[1 - chosen]}],
        swapped=chosen != judged,
        **columns,
    )


def read_choice(row: Row, field: str) -> int:
    """Which of the two responses `field` names, 0 or 1."""
    if row.get(field) is None:
        raise RowError(f"missing field `{field}`")
    choice = truth_of(row[field])
    if choice is None:
        raise RowError(f"field `{field}` is not 0 or 1")
    return int(choice)


def _check_safer(row: Row, chosen: int) -> None:
    fields = [f"is_response_{i}_safe" for i in (0, 1)]
    if not any(field in row for field in fields):  # a file of the same form without safety labels
        return
    is_safe = [read_flag(row, field) for field in fields]
    if is_safe[1 - chosen] and not is_safe[chosen]:
        raise RowError("the safer response is labelled unsafe while the other is safe")
