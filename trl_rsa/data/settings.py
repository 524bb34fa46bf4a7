"""Settings of `load_preferences` that cannot work are refused before the rows are gone through."""

from trl_rsa.data.formats import FORMATS
from trl_rsa.data.pair_rules import PAIR_RULES
from trl_rsa.data.pku import ID_SUFFIX
from trl_rsa.data.templates import TEMPLATES


def check_settings(
    format: str,
    preferred_by: str,
    template: str | None,
    eos_token: str | None,
    max_pairs_per_prompt: int | None,
    limit: int | None,
    pair_rule: str | None,
    columns: list[str],
) -> None:
    if format not in FORMATS:
        raise ValueError(f"You set format to {format!r}, but the known formats are {', '.join(FORMATS)}. Set one.")
    if template is not None and template not in TEMPLATES:
        raise ValueError(f"You set template to {template!r}, but it is one of {', '.join(TEMPLATES)}. Set one.")
    if template == "safe-rlhf" and not eos_token:
        raise ValueError(
            'You set template="safe-rlhf" without eos_token, but in this template it ends every earlier reply. Set '
            "eos_token to your tokenizer's eos_token."
        )
    check_count("limit", limit)
    check_count("max_pairs_per_prompt", max_pairs_per_prompt)
    if max_pairs_per_prompt is not None and format != "beavertails":
        raise ValueError(
            f"You set max_pairs_per_prompt to {max_pairs_per_prompt}, but only single answers (beavertails) are "
            f"paired here, and the rows are of format {format}. Remove it."
        )
    if pair_rule is not None:
        _check_rule(pair_rule, format, columns)
    judgements = [column.removesuffix(ID_SUFFIX) for column in columns if column.endswith(ID_SUFFIX)]
    if format == "pku-safe-rlhf" and judgements and preferred_by not in judgements:
        raise ValueError(
            f"You set preferred_by to {preferred_by!r}, but the rows have no column {preferred_by}{ID_SUFFIX}. "
            f"Set it to one of {', '.join(judgements)}."
        )


def check_count(setting: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"You set {setting} to {value!r}, but it is a whole number of at least 1. Set it so.")


def _check_rule(pair_rule: str, format: str, columns: list[str]) -> None:
    if pair_rule not in PAIR_RULES:
        raise ValueError(
            f"You set pair_rule to {pair_rule!r}, but the known rules are {', '.join(PAIR_RULES)}. Set one."
        )
    missing = [f for f in ("is_response_0_safe", "is_response_1_safe") if f not in columns]
    if format != "pku-safe-rlhf" or missing:
        lack = f"have no column {missing[0]}" if format == "pku-safe-rlhf" else f"are of format {format}"
        raise ValueError(
            f"You set pair_rule to {pair_rule!r}, but it needs a safety label of each answer, as PKU-SafeRLHF has "
            f"them, and the rows {lack}. Remove it, or give rows with is_response_0_safe and is_response_1_safe."
        )
