"""preview(): what a labelling would ask, found before anybody is asked."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl_rsa.rlaif.labelling import Labelling
from trl_rsa.rlaif.pairs import Unlabelled
from trl_rsa.rlaif.result import check_output
from trl_rsa.scoring.budget import Budget


def preview(labelling: Labelling, log: Callable[[str], None] = print) -> None:
    """Reads the rows, draws the principles, and says how many requests there are and what they cost at most.

    Args:
        labelling ([`~rlaif.labelling.Labelling`]):
            What would be done.
        log (`Callable[[str], None]`, *optional*):
            Where the lines go.

    Raises:
        ValueError: as [`~rlaif.label.label`].
    """
    check_output(labelling.output)
    source = labelling.read()
    log(f"{len(source.rows)} rows of {source.name}")
    for reason, count in source.skipped.most_common():
        log(f"{count} rows left out: {reason}")
    drawn = Counter(labelling.principle(row).name for row in source.rows)
    log("principles: " + ", ".join(f"{name} {count}" for name, count in drawn.most_common()))
    requests, tokens, longest = _requests(labelling, source.rows)
    log(f"{requests} requests at most, each with a reply of at most {longest} tokens")
    limits: dict[str, Any] = {name: labelling.options.get(name) for name in ("max_requests", "max_cost")}
    prices: dict[str, Any] = {
        name: labelling.options.get(name) or 0.0 for name in ("prompt_price", "completion_price")
    }
    budget = Budget(**limits, **prices)
    if any(prices.values()):
        # No token is shorter than a byte.
        log(f"they cost at most {budget.price(tokens, requests * longest):.2f}")
    if budget.max_requests is not None and budget.max_requests < requests:
        log(f"max_requests={budget.max_requests} may stop it before the end")
    log(f"would write {labelling.output}; nothing was asked")


def _requests(labelling: Labelling, rows: Sequence[Unlabelled]) -> tuple[int, int, int]:
    """Requests, bytes of all prompts, and tokens of a reply, each at most."""
    longest = _longest_reply(labelling.options)
    if labelling.method == "compare":
        each = 2 * int(labelling.options.get("repeats") or 1)
        size = sum(_bytes(row.prompt, row.first, row.second, labelling.principle(row).compare) + 2000 for row in rows)
        return each * len(rows), each * size, longest
    each = 2 * labelling.rounds
    drawn = sum(row.first is None for row in rows)
    size = sum(_bytes(row.prompt, row.first) + 2000 + 8 * longest for row in rows)
    # Both requests of a round hold at most what its principle says.
    drawn_principles = (labelling.principle(row, turn) for row in rows for turn in range(labelling.rounds))
    said = sum(_bytes(principle.critique, principle.revise) for principle in drawn_principles)
    return each * len(rows) + drawn, (each + 1) * size + 2 * said, longest


def _bytes(*texts: Any) -> int:
    return len(str(texts).encode(errors="replace"))


def _longest_reply(options: Mapping[str, Any]) -> int:
    """As [`PairwiseJudge`] asks for it."""
    asked = {"max_tokens": options.get("max_tokens"), **(options.get("extra_body") or {})}
    return int(asked.get("max_completion_tokens") or asked["max_tokens"] or 512)
