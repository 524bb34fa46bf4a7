"""Where a response ends: the tokens that end one, and what of the tokens that were drawn is the response."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from trl_rsa.sampling.response import Response


def end_tokens(model: Any, tokenizer: Any, options: Mapping[str, Any] | None = None) -> set[int]:
    """
    The tokens that end a response: the tokenizer's, and those in the model's generation config (chat models).

    Args:
        model ([`~transformers.PreTrainedModel`] or `str`):
            The policy, or its folder or repository.
        options (`Mapping`, *optional*):
            Arguments of `from_pretrained`, for a folder or repository.
    """
    config = _saved_generation_config(model, options or {}) if isinstance(model, str) else None
    own = getattr(config or getattr(model, "generation_config", None), "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return {token for token in [*own, tokenizer.eos_token_id] if token is not None}


def _saved_generation_config(name: str, options: Mapping[str, Any]) -> Any:
    """As a model has it that is loaded from there: without a file of its own it is made from the configuration."""
    from transformers import GenerationConfig

    from trl_rsa.sampling.policies import config_of, whole_model

    try:
        whole, options = whole_model(name, options)
        revision = {"revision": options["revision"]} if options.get("revision") else {}
        return GenerationConfig.from_pretrained(whole, **revision)
    except (OSError, ValueError):
        pass
    try:
        return GenerationConfig.from_model_config(config_of(name, **options))
    except ValueError:
        return None  # whoever loads the model says more


def ended(
    tokenizer: Any, prompt: int, draw: int, drawn: Sequence[int], ends: Container[int], stopped: bool = False
) -> Response:
    """
    The response in the tokens that were drawn: up to the first that ends one.

    Args:
        stopped (`bool`, *optional*, defaults to `False`):
            Whether it ended by itself although none of `ends` is in it: an engine may know further ones.
    """
    end = next((place for place, token in enumerate(drawn) if token in ends), None)
    ids = list(drawn) if end is None else list(drawn[: end + 1])
    text = tokenizer.decode(ids if end is None else ids[:-1], skip_special_tokens=True)
    return Response(prompt, draw, text, ids, end is not None or stopped)


def check_cut(drawn: int, max_new_tokens: int, what: str, remedy: str) -> None:
    """
    Args:
        drawn (`int`), max_new_tokens (`int`):
            Tokens of a response that was cut, and how long it may become.
        what (`str`), remedy (`str`):
            Who cut it, and what helps.

    Raises:
        ValueError: if it was cut before. It would count as a response that is as long as it may be.
    """
    if drawn < max_new_tokens:
        raise ValueError(
            f"You set max_new_tokens={max_new_tokens}, but {what} cut a response after {drawn} tokens: prompt and "
            f"response do not fit into its window. Lower max_new_tokens, or {remedy}."
        )
