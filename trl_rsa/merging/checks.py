"""Do models belong together: one architecture, the same tensors, the same tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trl_rsa.merging.sources import Source, Weights, comparable
from trl_rsa.storage.provenance import differences


def check_models(models: Sequence[Weights]) -> None:
    """
    Leaves out what is tied to another tensor in one folder and written out in another.

    Raises:
        ValueError: if the models differ in configuration, or in the names or shapes of their tensors.
    """
    first = models[0]
    for other in models[1:]:
        pair = f"You merge {first.source.name} and {other.source.name}"
        different = list(differences(_meaning(first), _meaning(other)))
        if different:
            raise ValueError(
                f"{pair}, but their configurations differ ({different[0].split(':')[0]}). Merge models of one "
                "architecture."
            )
        _forget_tied(first, other)
        missing = sorted(set(first) ^ set(other))
        if missing:
            where = first if missing[0] in first else other
            raise ValueError(
                f"{pair}, but their weights differ in name or shape: only {where.source.name} has {missing[0]}. Merge "
                "models of one architecture."
            )
        for name in first:
            if first.shape(name) != other.shape(name):
                raise ValueError(
                    f"{pair}, but their weights differ in name or shape: {name} is {list(first.shape(name))} and "
                    f"{list(other.shape(name))}. Merge models of one architecture."
                )


def common_tokenizer(sources: Sequence[Source]) -> Any:
    """The tokenizer of all of them; None if none has one.

    Raises:
        ValueError: if two of them read a text differently: a token's number would mean two things.
    """
    known = [source for source in sources if source.tokenizer is not None]
    for other in known[1:]:
        first, second = known[0].tokenizer, other.tokenizer
        parts = {
            "vocabularies": (first.get_vocab(), second.get_vocab()),
            "special tokens": (first.special_tokens_map, second.special_tokens_map),
            "chat templates": (first.chat_template, second.chat_template),
        }
        for name, (one, two) in parts.items():
            if one != two:
                raise ValueError(
                    f"You merge {known[0].name} and {other.name}, but the {name} of their tokenizers differ. Merge "
                    "models that read a text alike."
                )
    return known[0].tokenizer if known else None


def _meaning(model: Weights) -> object:
    """The configuration with its defaults filled in: two versions of transformers write it differently."""
    try:
        return comparable(AutoConfig.from_pretrained(str(model.source.folder)).to_dict())
    except Exception:  # code of its own, or an architecture that is not known here: then as it is written
        return comparable(model.config)


def _forget_tied(*models: Weights) -> None:
    """Some folders hold the output head although it is the embedding again."""
    names = set(models[0]) ^ set(models[1])
    if not names:
        return
    for name in names & _tied(models[0]):
        for model in models:
            model.forget(name)


def _tied(model: Weights) -> set[str]:
    config = AutoConfig.from_pretrained(str(model.source.folder))
    if not getattr(config, "tie_word_embeddings", False):
        return set()
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    return set(getattr(made, "_tied_weights_keys", None) or ())
