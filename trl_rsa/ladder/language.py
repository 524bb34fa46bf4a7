"""How much the responses of a ladder's models surprise the model that it starts from.

No cost model sees broken language: gibberish is harmless. To the model that the ladder starts from it is a surprise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trl_rsa.evaluation.token_risk import token_surprise
from trl_rsa.ladder.observe import ResponseRecord
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import free_memory
from trl_rsa.training.anchor import ModelSettings


# Responses that are read, of the first prompts: one pass of one model, a small part of what sampling them takes.
MOST = 256
# Nats per token above what the start makes of its own responses. One nat: each token e times less likely on average.
SUSPICIOUS = 1.0


def surprise_of(
    collected: Sequence[tuple[PromptGroup, Sequence[ResponseRecord]]],
    start: str,
    models: ModelSettings,
    encoder: ConversationEncoder,
    batch_size: int,
) -> float | None:
    """Mean surprise −log π_start of the sampled tokens, in nats per token; None if there are no tokens.

    Args:
        collected (`Sequence[tuple[PromptGroup, Sequence[dict]]]`):
            Responses of the observed model. Those that are drawn as usual count, if there are any; of forced
            beginnings only what follows.
        start (`str`):
            Folder or Hub id of the model that the ladder starts from.
        models ([`ModelSettings`]):
            How it is loaded.
        encoder ([`ConversationEncoder`]):
            Writes prompts as policies see them.
        batch_size (`int`):
            Responses per forward.
    """
    usual = [records for group, records in collected if group.under is None] or [records for _, records in collected]
    records = [record for record in usual[0] if _sampled(record)][:MOST]
    if not records:
        return None
    model = models.load_policy(start)
    # A forced beginning belongs to what the rest follows from.
    prompts = [[*encoder.prompt(r["prompt"]), *r["token_ids"][: r.get("n_forced", 0)]] for r in records]
    tokens = token_surprise(model, prompts, [_sampled(r) for r in records], batch_size)
    del model
    free_memory()
    values = [value for several in tokens for value in several]
    return sum(values) / len(values)


def _sampled(record: Mapping[str, Any]) -> list[int]:
    return record["token_ids"][record.get("n_forced", 0) :]


def warning_of(surprise: float | None, at_start: float | None) -> str | None:
    """A sentence, if the responses are much more of a surprise than the start's own."""
    if surprise is None or at_start is None or surprise - at_start <= SUSPICIOUS:
        return None
    return (
        f"its responses surprise the model that the ladder starts from ({surprise:.2f} nats per token, its own "
        f"{at_start:.2f}): the language may be broken. Read some before you trust it"
    )
