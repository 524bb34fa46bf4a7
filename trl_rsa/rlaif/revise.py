"""Critique and revision (Bai et al. 2022, Constitutional AI, arXiv 2212.08073, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.rlaif.constitution import Principle
from trl_rsa.rlaif.pairs import Unlabelled
from trl_rsa.scoring.endpoint import EndpointError
from trl_rsa.scoring.text import messages


ONLY = "Write only the new response, with no word about it."


@dataclass(frozen=True)
class Revision:
    """
    Args:
        original (`str` or `list[dict]`):
            The response before.
        revised (`str`):
            The response after the last round.
        critiques (`list[str]`):
            One for each round.
    """

    original: Text
    revised: str
    critiques: list[str]


@dataclass(frozen=True)
class NoReply:
    """No answer came, for a `reason`."""

    reason: str


def revise(
    chat: Any, rows: Sequence[Unlabelled], principles: Sequence[Sequence[Principle]], settings: Mapping[str, Any]
) -> list[Revision | NoReply]:
    """
    Has a model criticise and rewrite responses, all rows at a time.

    Args:
        chat ([`~scoring.endpoint.ChatEndpoint`] or [`~rlaif.chat.LocalChat`]):
            Who does. Without a response in a row it draws that first, by the prompt alone.
        rows (`Sequence[Unlabelled]`):
            Prompts and responses.
        principles (`Sequence[Sequence[Principle]]`):
            For each row, one for each round.
        settings (`Mapping`):
            Further fields of the requests.
    """
    talks = [_Talk(row) for row in rows]
    missing = [talk for talk in talks if talk.row.first is None]
    _say(chat, missing, [messages(talk.row.prompt, "")[:-1] for talk in missing], settings, "response")
    for turn in range(max(map(len, principles), default=0)):
        of = [principle[turn] for principle in principles]
        _say(chat, talks, [_critique(t, p) for t, p in zip(talks, of, strict=True)], settings, "critique")
        _say(chat, talks, [_revision(t, p) for t, p in zip(talks, of, strict=True)], settings, "response")
    return [talk.outcome() for talk in talks]


class _Talk:
    def __init__(self, row: Unlabelled):
        self.row, self.response, self.critiques = row, row.first, list[str]()
        self.original: Text | None = row.first
        self.failed: str | None = None

    def outcome(self) -> Revision | NoReply:
        if self.failed is not None or self.original is None:
            return NoReply(self.failed or "there is no response")
        return Revision(self.original, str(self.response), self.critiques)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _critique(talk: _Talk, principle: Principle) -> list[dict[str, Any]]:
    return [*map(dict, messages(talk.row.prompt, talk.response or "")), _turn("user", str(principle.critique))]


def _revision(talk: _Talk, principle: Principle) -> list[dict[str, Any]]:
    said = talk.critiques[-1] if talk.critiques else ""
    request = f"{principle.revise}\n\n{ONLY}"
    return [*_critique(talk, principle), _turn("assistant", said), _turn("user", request)]


def _say(chat: Any, talks: Sequence[_Talk], asked: Sequence[Any], settings: Mapping[str, Any], what: str) -> None:
    """Puts a reply into every talk that has not failed: a response, or a critique."""
    open_ = [(talk, turns) for talk, turns in zip(talks, asked, strict=True) if talk.failed is None]
    replies = chat.complete([{**settings, "messages": turns} for _, turns in open_])
    for (talk, _), reply in zip(open_, replies, strict=True):
        if isinstance(reply, EndpointError):
            talk.failed = str(reply)
        elif what == "response":
            talk.response = reply.strip()
            talk.original = talk.original if talk.original is not None else talk.response
        else:
            talk.critiques.append(reply.strip())
