"""HH-RLHF: two transcripts that share everything up to the assistant's last turn."""

import re

from trl_rsa.data.schema import Message, Pair, Row, RowError, check_unicode, read_pair_columns, read_text
from trl_rsa.data.templates import check_alternation


LAST_TURN = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant", "human": "user", "assistant": "assistant"}


def adapt(row: Row) -> Pair:
    """Reads Anthropic's transcripts (`chosen`, `rejected`), or PKU's processed ones (`context`, `chosen`, `rejected`).

    Only a whole turn that differs counts as a pair: where the conversations part earlier, the responses answer
    different questions.
    """
    if row.get("context") is not None:
        if not isinstance(row["context"], list):
            raise RowError("field `context` is not a list of turns")
        prompt = [_read_turn(turn) for turn in row["context"]]
        chosen, rejected = (_read_turn(row.get(side))["content"] for side in ("chosen", "rejected"))
    else:
        beginning, chosen = _split_last_turn(read_text(row, "chosen"))
        other_beginning, rejected = _split_last_turn(read_text(row, "rejected"))
        if beginning != other_beginning:
            raise RowError("the transcripts differ before the last turn")
        prompt = parse_transcript(beginning)
    check_alternation(prompt)
    return Pair(
        prompt=prompt,
        chosen=[{"role": "assistant", "content": chosen}],
        rejected=[{"role": "assistant", "content": rejected}],
        **read_pair_columns(row),
    )


def _split_last_turn(transcript: str) -> tuple[str, str]:
    beginning, found, reply = transcript.rpartition(LAST_TURN)
    if not found or TURN.search(reply):
        raise RowError("the transcript does not end with a turn of the assistant")
    return beginning, reply.strip()


def parse_transcript(transcript: str) -> list[Message]:
    """Turns `\\n\\nHuman: …\\n\\nAssistant: …` into messages."""
    opening, *parts = TURN.split("\n\n" + transcript.lstrip())
    if opening.strip():
        raise RowError("the transcript does not begin with a turn")
    return [
        {"role": ROLES[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _read_turn(turn: object) -> Message:
    role, text = (turn.get("role"), turn.get("text")) if isinstance(turn, dict) else (None, None)
    if not isinstance(role, str) or not isinstance(text, str) or role not in ROLES:
        raise RowError("a turn is not of the form role and text")
    check_unicode(text)
    return {"role": ROLES[role], "content": text.strip()}
