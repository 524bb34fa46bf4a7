"""Safe RLHF's `*ForScore` models as models of transformers: any backbone, a linear score head at every token.

[`BeaverScorer`] reads such a folder for scores alone; this is for those who want the model itself: its hidden states,
several scores per token, gradients, `save_pretrained`.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from trl_rsa.scoring.beaver import EPSILON, backbone_prefix, check_bias, check_complete
from trl_rsa.scoring.weights import model_folder, quiet_loading, weight_names, weights_folder


logger = logging.get_logger(__name__)

_SCORE_TYPES = ("reward", "cost", "critic")
_NORMALIZER_TYPES = (None, "RunningMeanStd", "ExponentialMovingAverage")


@dataclass
class ScoreModelOutput(ModelOutput):
    """
    Args:
        scores (`Tensor` of shape `[B, L, D]`):
            Scores at every token, float32.
        end_scores (`Tensor` of shape `[B, D]`):
            Scores at the last attended token.
        last_hidden_state (`Tensor` of shape `[B, L, H]`), end_last_hidden_state (`Tensor` of shape `[B, H]`):
            The backbone's last hidden states, and those of the last attended token.
        end_index (`Tensor` of shape `[B]`):
            Its place in the row, whichever side the padding is on.
    """

    scores: Tensor | None = None
    end_scores: Tensor | None = None
    last_hidden_state: Tensor | None = None
    end_last_hidden_state: Tensor | None = None
    end_index: Tensor | None = None


class ScoreNormalizer(nn.Module):
    """Mean, variance and number of the scores seen in training, as Safe RLHF keeps them beside the head.

    A folder without them is saved without them (`kept=False`).
    """

    def __init__(self, score_dim: int, kept: bool):
        super().__init__()
        self.register_buffer("mean", torch.zeros(score_dim), persistent=kept)
        self.register_buffer("var", torch.ones(score_dim), persistent=kept)
        self.register_buffer("count", torch.zeros(1, dtype=torch.long), persistent=kept)

    def reset(self, mean: Any = None, var: Any = None) -> None:
        """To the values that a configuration may hold, else to those of no scores at all."""
        for buffer, value in ((self.mean, 0.0 if mean is None else mean), (self.var, 1.0 if var is None else var)):
            buffer.copy_(torch.as_tensor(value, dtype=buffer.dtype).expand_as(buffer))
        self.count.zero_()

    def forward(self, scores: Tensor, score_type: str) -> Tensor:  # [..., D] -> [..., D]
        """A reward is centred and scaled; a cost is only scaled, so that its zero stays; a critic's value is kept."""
        if score_type == "critic":
            return scores
        mean, var = self.mean.to(scores), self.var.to(scores)
        return (scores - mean if score_type == "reward" else scores) / (var.sqrt() + EPSILON)


class _ForScore(PreTrainedModel):
    """What every `*ForScore` class adds to the family of its backbone. See [`AutoModelForScore`]."""

    _backbone_class: type[PreTrainedModel]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        if config.score_type not in _SCORE_TYPES:
            raise ValueError(f"You set score_type={config.score_type!r}, but it is one of {', '.join(_SCORE_TYPES)}.")
        if config.normalizer_type not in _NORMALIZER_TYPES:
            raise ValueError(
                f"You set normalizer_type={config.normalizer_type!r}, but it is RunningMeanStd, "
                "ExponentialMovingAverage or nothing."
            )
        setattr(self, self.base_model_prefix, self._backbone_class(config))
        self.score_head = nn.Linear(_hidden_size(config), config.score_dim, bias=config.score_bias)
        self.normalizer = ScoreNormalizer(config.score_dim, kept=config.normalizer_type is not None)
        self._takes = set(inspect.signature(self._backbone_class.forward).parameters)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScoreNormalizer):
            module.reset(getattr(self.config, "mean", None), getattr(self.config, "var", None))
        else:
            super()._init_weights(module)

    @property
    def do_normalize(self) -> bool:
        return bool(self.config.do_normalize)

    def set_normalize(self, mode: bool = True) -> None:
        """Turns the normalisation of scores on or off."""
        self.config.do_normalize = mode

    def forward(
        self,
        input_ids: Tensor | None = None,  # [B, L]
        attention_mask: Tensor | None = None,  # [B, L]
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> ScoreModelOutput | tuple[Tensor, Tensor]:
        """Scores at every token and at the last attended one; without `return_dict`, as Safe RLHF, these two alone."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("You gave neither input_ids nor inputs_embeds. Give one of them.")
        if attention_mask is None:
            if len(given) > 1:
                raise ValueError(
                    "You gave a batch of several rows without attention_mask, but a score is read at a row's last "
                    "attended token. Give the mask that the tokenizer returned."
                )
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        if position_ids is None and past_key_values is None and "position_ids" in self._takes:
            # Rows that are padded on the left begin where their tokens begin, also in models that count positions.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        arguments = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "token_type_ids": token_type_ids if "token_type_ids" in self._takes else None,
        }
        backbone = getattr(self, self.base_model_prefix)
        hidden = backbone(**{name: value for name, value in arguments.items() if value is not None})[0]  # [B, L, H]
        scores = self.score_head(hidden.to(self.score_head.weight.dtype)).float()  # [B, L, D]
        if self.config.do_normalize:
            scores = self.normalizer(scores, self.config.score_type)
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        end_index = (places * (attention_mask != 0)).amax(-1)  # [B]
        rows = torch.arange(len(end_index))
        end_scores = scores[rows.to(scores.device), end_index.to(scores.device)]
        if return_dict is False:
            return scores, end_scores
        return ScoreModelOutput(
            scores=scores,
            end_scores=end_scores,
            last_hidden_state=hidden,
            end_last_hidden_state=hidden[rows.to(hidden.device), end_index.to(hidden.device)],
            end_index=end_index,
        )


class AutoModelForScore:
    """
    A score model on whatever backbone `AutoModel` knows: Safe RLHF's class of that name on current transformers.

    It is read and written in Safe RLHF's layout: the backbone under the prefix of its family (`model.`, `gpt_neox.`),
    `score_head.weight [D, H]`, perhaps `score_head.bias [D]` and `normalizer.{mean,var,count}`. The score is that at
    the last attended token. A folder without a score head, such as a language model's, gets a new one, to be trained.

    ```python
    >>> model = AutoModelForScore.from_pretrained("PKU-Alignment/beaver-7b-v1.0-cost", dtype=torch.bfloat16)
    >>> model(**tokenizer(text, return_tensors="pt")).end_scores
    ```
    """

    def __init__(self) -> None:
        raise OSError(
            "You called AutoModelForScore(), but it makes models from folders and configurations. Call "
            "AutoModelForScore.from_pretrained(path) or AutoModelForScore.from_config(config)."
        )

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **score_options: Any) -> PreTrainedModel:
        """A model with random weights. `score_options` as in [`from_pretrained`]."""
        unknown = set(score_options) - set(_DEFAULTS)
        if unknown:
            raise TypeError(
                f"AutoModelForScore.from_config() got the unexpected arguments {', '.join(sorted(unknown))}; it takes "
                f"{', '.join(_DEFAULTS)}."
            )
        _set_options(config, score_options)
        return _score_class(config.__class__)(config)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        max_memory: dict[Any, Any] | None = None,
        offload_folder: str | None = None,
        low_cpu_mem_usage: bool | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        use_cache: bool | None = None,
        score_dim: int | None = None,
        score_bias: bool | None = None,
        score_type: str | None = None,
        do_normalize: bool | None = None,
        normalizer_type: str | None = None,
        momentum: float | None = None,
    ) -> PreTrainedModel:
        """
        Args:
            pretrained_model_name_or_path (`str` or `Path`):
                Folder, or repository on the Hub.
            dtype (`torch.dtype` or `str`, *optional*):
                Of the weights, by default float32, as it was in Safe RLHF; `"auto"` is the type that they were saved
                in. `torch_dtype` is its old name.
            low_cpu_mem_usage (`bool`, *optional*):
                Accepted and without effect: transformers always loads so.
            use_cache (`bool`, *optional*):
                Of the configuration.
            score_dim, score_bias, score_type, do_normalize, normalizer_type, momentum (*optional*):
                Of the configuration: scores per token (1), whether the head has a bias (as in the weights; true in a
                new head), `"reward"`, `"cost"` or `"critic"` (which decides how scores are normalised), whether they
                are (false), and how a trainer keeps their mean and variance.
            device_map, max_memory, offload_folder, trust_remote_code, revision, cache_dir, token, local_files_only, \
force_download, attn_implementation, quantization_config:
                As in [`~transformers.PreTrainedModel`].

        Raises:
            FileNotFoundError: if there is no such model.
            ValueError: if its weights do not fit, or the settings contradict them or each other.
        """
        if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
            raise ValueError(f"You set dtype={dtype} and torch_dtype={torch_dtype}, but they are one. Remove one.")
        download = {
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        folder = model_folder(str(pretrained_model_name_or_path), revision, **download)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        names = weight_names(folder)
        given = {
            "score_dim": score_dim,
            "score_bias": score_bias,
            "score_type": score_type,
            "do_normalize": do_normalize,
            "normalizer_type": normalizer_type,
            "momentum": momentum,
        }
        has_head = "score_head.weight" in names
        if has_head:
            declared = score_bias if score_bias is not None else getattr(config, "score_bias", None)
            check_bias(folder, declared, "score_head.bias" in names)
            given["score_bias"] = "score_head.bias" in names
        _set_options(config, given)
        if "normalizer.var" in names and config.normalizer_type is None:
            config.normalizer_type = "RunningMeanStd"  # what made them is not known, but they are kept
        if use_cache is not None:
            config.use_cache = use_cache
        _check_normalizer(folder, config, names, has_head)
        score_class = _score_class(config.__class__)
        prefix = backbone_prefix(names)
        own = score_class.base_model_prefix
        options = {
            "device_map": device_map,
            "max_memory": max_memory,
            "offload_folder": offload_folder,
            "attn_implementation": attn_implementation,
            "quantization_config": quantization_config,
        }
        with quiet_loading():
            model, report = score_class.from_pretrained(
                weights_folder(folder),
                config=config,
                dtype=dtype or torch_dtype or torch.float32,
                key_mapping=None if prefix in (None, own) else {rf"^{prefix}\.": f"{own}."},
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
                local_files_only=True,
                **{name: value for name, value in options.items() if value is not None},
            )
        check_complete(folder, score_class.__name__, report)
        wrong_head = sorted(key for key, *_ in report["mismatched_keys"])
        if wrong_head:
            raise ValueError(
                f"You set score_dim={config.score_dim} for {pretrained_model_name_or_path}, but its {wrong_head[0]} "
                "has another shape. Leave score_dim out."
            )
        if not has_head:
            logger.warning(f"{pretrained_model_name_or_path} has no score head: a new one is to be trained.")
        model.config.name_or_path = str(pretrained_model_name_or_path)
        return model


_DEFAULTS: dict[str, Any] = {
    "score_dim": 1,
    "score_bias": True,
    "score_type": "reward",
    "do_normalize": False,
    "normalizer_type": None,
    "momentum": None,
}


def _set_options(config: PreTrainedConfig, given: dict[str, Any]) -> None:
    """Writes the score options into the configuration: those given, else those that it has, else the defaults."""
    for name, default in _DEFAULTS.items():
        value = given.get(name)
        if value is None:
            value = getattr(config, name, None)
        setattr(config, name, default if value is None else value)


def _check_normalizer(folder: Path, config: PreTrainedConfig, names: set[str], has_head: bool) -> None:
    known = {"normalizer.mean", "normalizer.var"} <= names or getattr(config, "var", None) is not None
    if config.do_normalize and has_head and not known:
        raise ValueError(
            f"You set do_normalize for {folder}, in its config.json or as an argument, but its weights have no "
            "normalizer.mean and normalizer.var. Restore the weights, or set do_normalize=False."
        )


def _hidden_size(config: PreTrainedConfig) -> int:
    text_config = config.get_text_config()
    return getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size  # OPT projects at its end


@cache
def _score_class(config_class: Any) -> type[PreTrainedModel]:
    """`LlamaConfig` → `LlamaForScore`: a sibling of `LlamaModel` in its family of `PreTrainedModel`."""
    try:
        backbone: Any = AutoModel._model_mapping[config_class]
    except KeyError:
        raise ValueError(
            f"You set a model with the configuration {config_class.__name__}, but AutoModel knows no model of it. Use "
            "a model whose type transformers has."
        ) from None
    backbone = backbone[0] if isinstance(backbone, tuple) else backbone
    family = next(base for base in backbone.__mro__[1:] if issubclass(base, PreTrainedModel))
    name = f"{backbone.__name__.removesuffix('Model')}ForScore"
    members = {"_backbone_class": backbone, "__module__": __name__, "__doc__": f"{name}. See [`AutoModelForScore`]."}
    if not family.base_model_prefix:
        members["base_model_prefix"] = "model"
    return type(name, (_ForScore, family), members)
