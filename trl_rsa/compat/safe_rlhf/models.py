"""`safe_rlhf.models`: score models, and a model together with its tokenizer."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trl_rsa.compat.safe_rlhf.configs.constants import DEFAULT_EOS_TOKEN, DEFAULT_PAD_TOKEN
from trl_rsa.scoring.score_model import AutoModelForScore, ScoreModelOutput


__all__ = ["AutoModelForScore", "ScoreModelOutput", "load_pretrained_models"]


def load_pretrained_models(
    model_name_or_path: str | Path,
    /,
    model_max_length: int = 512,
    padding_side: Literal["left", "right"] = "right",
    auto_device_mapping: bool = False,
    dtype: torch.dtype | str | None = "auto",
    *,
    cache_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    auto_model_type: Any = AutoModelForCausalLM,
    auto_model_args: tuple[Any, ...] = (),
    auto_model_kwargs: dict[str, Any] | None = None,
    auto_tokenizer_args: tuple[Any, ...] = (),
    auto_tokenizer_kwargs: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads a model and its tokenizer.

    A tokenizer without a padding or an end-of-sequence token gets `<pad>` or `</s>`, and the embeddings a row for it,
    the mean of the others. Two things that Safe RLHF did are left out: it also added `<s>` and `<unk>`, which no code
    of it needs, and it cut embeddings off that have more rows than the tokenizer has tokens.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder, or repository on the Hub.
        model_max_length (`int`, *optional*, defaults to 512), padding_side (`str`, *optional*, defaults to `"right"`):
            Of the tokenizer.
        auto_device_mapping (`bool`, *optional*, defaults to `False`):
            Whether to spread the model over the devices (`device_map="auto"`).
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`):
            Of the weights; `"auto"` is the type that they were saved in.
        auto_model_type (*optional*, defaults to `AutoModelForCausalLM`):
            `AutoModelForScore` for a score model.
        auto_model_kwargs, auto_tokenizer_kwargs (`dict`, *optional*):
            Further arguments of their `from_pretrained`, such as `{"score_type": "cost", "do_normalize": False}`.
        auto_model_args, auto_tokenizer_args, cache_dir, trust_remote_code (*optional*):
            As in `from_pretrained`.
    """
    path = os.path.expanduser(model_name_or_path)
    cache_dir = os.path.expanduser(cache_dir) if cache_dir is not None else None
    shared = {"cache_dir": cache_dir, "trust_remote_code": trust_remote_code}
    device_map = {"device_map": "auto"} if auto_device_mapping else {}
    model = auto_model_type.from_pretrained(
        path, *auto_model_args, dtype=dtype, **device_map, **shared, **(auto_model_kwargs or {})
    )
    tokenizer = AutoTokenizer.from_pretrained(
        path,
        *auto_tokenizer_args,
        model_max_length=model_max_length,
        padding_side=padding_side,
        **shared,
        **(auto_tokenizer_kwargs or {}),
    )
    _add_missing_tokens(tokenizer, model)
    return model, tokenizer


def _add_missing_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    missing = {"pad_token": DEFAULT_PAD_TOKEN, "eos_token": DEFAULT_EOS_TOKEN}
    missing = {name: token for name, token in missing.items() if getattr(tokenizer, name) is None}
    tokenizer.add_special_tokens(missing)
    old = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                with torch.no_grad():
                    layer.weight[old:] = layer.weight[:old].mean(0)
    for name in ("pad_token_id", "eos_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
    if tokenizer.bos_token_id is not None:
        model.config.bos_token_id = tokenizer.bos_token_id
