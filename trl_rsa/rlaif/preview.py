"""preview(): what a labelling would ask, found before anybody is asked."""

from collections import Counter
from collections.abc import Callable, Sequence
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
    longest = int(labelling.options.get("max_tokens") or 512)
    if labelling.method == "compare":
        each = 2 * int(labelling.options.get("repeats") or 1)
        size = sum(len(str([row.prompt, row.first, row.second]).encode(errors="replace")) + 2000 for row in rows)
        return each * len(rows), each * size, longest
    each = 2 * labelling.rounds
    drawn = sum(row.first is None for row in rows)
    size = sum(len(str([row.prompt, row.first]).encode(errors="replace")) + 2000 + 8 * longest for row in rows)
    return each * len(rows) + drawn, (each + 1) * size, longest
