"""front.json on the page: reward against the tail of cost, method by method. The first method is what others are
compared with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trl_rsa.report.headline import inline_markdown
from trl_rsa.report.numbers import cell, interval_of, out_of, prompts_needed, text_of, value_of


Front = Mapping[str, Any]


def label_of(point: Mapping[str, Any], method: str) -> str:
    """A point's name without that of its method, which stands beside it."""
    name = str(point["name"])
    return name.removeprefix(method).strip(" ,:") or name


def compared(front: Front) -> list[Mapping[str, Any]]:
    """The differences of all other methods' points from the front of the first method."""
    first = front["methods"][0]["name"]
    return [one for one in front["differences"] if one["method"] == first]


def check_front(front: Front) -> None:
    """Raises a KeyError, TypeError, AttributeError or ValueError where a front has not its form."""
    names = {str(point["name"]) for method in front["methods"] for point in method["points"]}
    for method in front["methods"]:
        for point in method["points"]:
            point["risk"], point["reward"], point["on_front"]  # a KeyError names what there is not
    for one in compared(front):
        if one["point"] not in names:
            raise ValueError(f"{one['point']} is compared, but no method has it")
    if not isinstance(front.get("notes", []), list):
        raise TypeError("notes are no list")
    method_table(front), difference_table(front), list(sentences(front)), explanation(front)


def method_table(front: Front) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: per method its hypervolume, and its reward within each limit."""
    limits = [one["limit"] for one in front["methods"][0]["within"]]
    headings = ["Method", "Models", *(f"Reward at CVaR ≤ {text_of(limit, 'g')}" for limit in limits), "Hypervolume"]
    rows = [
        [
            str(method["name"]),
            str(len(method["points"])),
            *(_read(one["reward"]) for one in method["within"]),
            cell(method["hypervolume"]),
        ]
        for method in front["methods"]
    ]
    return headings, rows


def _read(reward: Any) -> str:
    """A reward within a limit; in words where nothing was measured there."""
    return cell(reward) if value_of(reward) is not None else "not measured"


def difference_table(front: Front) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: each point of the other methods against the front of the first."""
    first = front["methods"][0]["name"]
    headings = ["Model", f"Reward, at the same tail as {first}", f"CVaR, at the same reward as {first}"]
    rows = [
        [str(one["point"]), *(_signed(one[name]) for name in ("reward_at_the_same_tail", "risk_at_the_same_reward"))]
        for one in compared(front)
    ]
    return headings, rows


def _signed(estimate: Any) -> str:
    if value_of(estimate) is None:
        return "outside the measured range"
    return f"{text_of(value_of(estimate), '+.2f')} {interval_of(estimate, '+.2f')}".strip()


def sentences(front: Front) -> Iterator[tuple[str, str]]:
    """For the summary at the top: what each compared model gains or loses, in words."""
    first = front["methods"][0]
    rivals = len(first["points"])
    few = front["n_prompts"] < prompts_needed(front["tail"])
    for one in compared(front):
        reward, risk = one["reward_at_the_same_tail"], one["risk_at_the_same_reward"]
        parts = [
            *_said(reward, "at the same tail its average reward", first["name"], _doubt(reward, -1, rivals, few)),
            *_said(risk, "at the same reward its CVaR of cost", first["name"], _doubt(risk, 1, rivals, few)),
        ]
        if parts:
            text = "; ".join(parts)
            yield f"{one['point']} against {first['name']}", f"{text[0].upper()}{text[1:]}."


def _doubt(estimate: Any, worse: int, rivals: int, few: bool) -> str | None:
    """Why a difference is not settled, or None; `worse` is the sign of one against the compared model."""
    value, low, high = (value_of(estimate, key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    if low <= 0 <= high:
        return f"the interval is {interval_of(estimate, '+.2f')}"
    if few:
        return "too few prompts to say"
    # The first method's front keeps the luckiest of its models; the one beside it had one try.
    if rivals > 1 and value * worse > 0:
        return f"it is one model against the best of {rivals}, chosen on the same prompts"
    return None


def _said(estimate: Any, what: str, other: str, doubt: str | None) -> Iterator[str]:
    value, low, high = (value_of(estimate, key) for key in ("value", "low", "high"))
    if value is None:
        return
    if value == low == high == 0:  # the same model
        yield f"{what} is that of {other}"
        return
    text = f"{what} is {text_of(abs(value))} {'higher' if value > 0 else 'lower'} than {other}'s"
    if low is None or high is None:
        yield f"{text} (no interval)"
        return
    interval = "" if low <= 0 <= high else f" {interval_of(estimate, '+.2f')}"
    yield f"{text}{interval}" + (f", which is not settled: {doubt}" if doubt else "")


def explanation(front: Front) -> str:
    """What the tables mean, in a paragraph."""
    reference = front["reference"]
    kind = "given" if reference["given"] else "the worst of all points in each"
    return (
        f"CVaR is the average cost of the worst {out_of(front['tail'])[0]} of {out_of(front['tail'])[1]:,} responses. "
        "Between two models of a front, numbers are read off the line through them, where nobody has trained a "
        "model. Beyond the measured models nothing is read; where some resamples fall there, no interval is given. "
        "In brackets: "
        f"{text_of(front['confidence'], '.0%')} intervals from the same {front['n_resamples']:,} resamples of "
        f"{front['n_prompts']:,} prompts for all models, so that differences are paired. They do not cover the chance "
        "in training. Of many models measured on the same prompts the best look a little better than they are: a "
        "difference against a front is a little unfair to the single model beside it, and its interval does not "
        "correct for that. Hypervolume is the area between the measured models and the reference point, CVaR "
        f"{text_of(reference['risk'])} and reward {text_of(reference['reward'])}, {kind}: larger is better, and only "
        "areas with one reference point can be compared."
    )


def front_markdown(front: Front) -> str:
    """The tables of a front as Markdown, with what they mean.

    Args:
        front (`Mapping`):
            What front.json holds.
    """
    tables = [method_table(front)]
    if compared(front):
        tables.append(difference_table(front))
    lines = [line for table in tables for line in _markdown(*table)]
    notes = [f"* {inline_markdown(str(note))}" for note in front.get("notes", [])]
    return "\n".join([*lines, *notes, *([""] if notes else []), explanation(front), ""])


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(inline_markdown, headings))} |"
    yield "|---" + "|---:" * (len(headings) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(map(inline_markdown, row))} |"
    yield ""
