"""Safe RLHF's `*ForScore` models (Beaver's reward and cost models), on current transformers.

Their folder holds a backbone, a linear `score_head` with a bias, and possibly a `normalizer`. Safe RLHF itself no
longer imports on current transformers.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.scoring.batches import (
    Truncation,
    check_batching,
    check_batching_of,
    longest,
    pick_device,
    pick_dtype,
    score_batches,
    tokenize,
)
from trl_rsa.scoring.graded import CONFIG_FIELD, Readout
from trl_rsa.scoring.scorer import Direction, Kind, NotScored, Scorer
from trl_rsa.scoring.text import safe_rlhf_text
from trl_rsa.scoring.weights import (
    folder_digest,
    model_folder,
    quiet_loading,
    read_config,
    read_tensors,
    short_name,
    weight_names,
    weights_folder,
)


EPSILON = 1e-8  # Safe RLHF's, added to the standard deviation
_HEAD = ("score_head.", "normalizer.")


class BeaverScorer(Scorer):
    """
    A `*ForScore` model from its folder: the score head at the last attended token of
    `BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{completion}{eos}`.

    If the configuration says `do_normalize`, a reward is (score − mean)/std, and a cost score/std, whose zero stays
    where it is: Safe RLHF's own rule, but by `kind` and not by the configuration's `score_type`, which is wrong in
    published cost models. A folder of `trl-rsa score-model` says in `score_model` what it was trained to give, and is
    refused as anything else.

    Args:
        path (`str`):
            Folder, or repository on the Hub.
        kind, higher_is, zero, name:
            As [`Scorer`]. Beaver's cost models are `kind="cost"`; a published reward model is `kind="reward"`.
        batch_size (`int`, *optional*, defaults to 16):
            Texts per forward pass, of similar length.
        max_length (`int`, *optional*):
            Most tokens; by default what the folder says that it was trained with, else what the model takes. Longer
            texts are not scored, or with `truncation="left"`, which the folder may say too, cut at their beginning.
        device (`str`, *optional*), dtype (`str`, *optional*):
            By default CUDA if there is any, and the type that the model was saved in. The head is always float32.
        revision (`str`, *optional*):
            Of a repository on the Hub.
    """

    def __init__(
        self,
        path: str,
        kind: Kind,
        higher_is: Direction | None = None,
        zero: float = 0.0,
        name: str | None = None,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
        truncation: Truncation = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ):
        super().__init__(kind, higher_is, zero, name or f"beaver:{short_name(path)}")
        check_batching(batch_size, max_length, truncation)
        from transformers import AutoTokenizer

        self.folder = model_folder(path, revision)
        self.batch_size, self.device = batch_size, pick_device(device)
        config = read_config(self.folder)
        trained = config.get(CONFIG_FIELD) or {}
        if trained:  # a folder of `trl-rsa score-model`; those of others do not say it
            Readout.from_config(trained).check_kind(path, kind, higher_is)
        self.truncation = truncation or trained.get("truncation")
        self._weight, self._bias = _read_head(self.folder, config)  # [H], a float
        self._center, self._scale = _normalizer(self.folder, config, kind)
        self.model = _load_backbone(self.folder, pick_dtype(dtype)).to(self.device).eval()
        self._weight = self._weight.to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.max_length = max_length or trained.get("max_length") or longest(self.tokenizer, self.model.config)
        if self.tokenizer.eos_token is None:
            raise ValueError(
                f"You set the scorer to {path!r}, but its tokenizer has no end-of-sequence token, at which the score "
                "is read. Add the tokenizer that the model was trained with."
            )
        # What stands in the padding is masked and never read; any id of the vocabulary does.
        self._pad_token_id = self.tokenizer.pad_token_id or 0

    @classmethod
    def check(cls, rest: str, options: Mapping[str, object], kind: Kind) -> None:
        super().check(rest, options, kind)
        check_batching_of(options)

    def identity(self) -> dict[str, object]:
        settings = {"max_length": self.max_length, "truncation": self.truncation, "dtype": str(self.model.dtype)}
        return {"format": "beaver", "model": folder_digest(self.folder), **settings}

    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | NotScored]:
        eos = self.tokenizer.eos_token
        pairs = zip(prompts, completions, strict=True)
        texts = [safe_rlhf_text(prompt, completion, eos) for prompt, completion in pairs]
        rows = tokenize(self.tokenizer, texts, [True] * len(texts), self.max_length, self.truncation)
        return score_batches(rows, self._forward, self._pad_token_id, self.batch_size, self.device)

    def _forward(self, input_ids: Any, attention_mask: Any) -> Any:  # [B, T], [B, T] -> [B]
        import torch

        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]  # [B, T, H]
        last = attention_mask.sum(-1) - 1
        at_end = hidden[torch.arange(len(last), device=last.device), last].float()  # [B, H]
        return (at_end @ self._weight + self._bias - self._center) / self._scale


def _read_head(folder: Path, config: dict[str, Any]) -> tuple[Any, float]:
    """The head's weight [H] and its bias, 0 where the weights have none."""
    head = read_tensors(folder, ("score_head.",))
    weight, bias = head.get("score_head.weight"), head.get("score_head.bias")
    if weight is None:
        raise ValueError(
            f"You set the scorer beaver:{folder}, but its weights have no score_head.weight. Use hf:{folder} for a "
            "sequence classifier, or give a *ForScore model of Safe RLHF."
        )
    if weight.ndim != 2 or weight.shape[0] != 1:
        raise ValueError(
            f"You set the scorer beaver:{folder}, but its score head has the shape {list(weight.shape)} and not "
            "[1, hidden size]: it gives several scores. Give a model with one."
        )
    check_bias(folder, config.get("score_bias"), bias is not None)
    return weight[0].float(), 0.0 if bias is None else float(bias.float().item())


def check_bias(folder: Path, declared: bool | None, found: bool) -> None:
    """Raises `ValueError` if the weights have a bias (`found`) against what is `declared` of them."""
    if declared is not None and bool(declared) != found:
        raise ValueError(
            f"You set the scorer beaver:{folder}, but its config.json says score_bias={declared} and its weights have "
            f"{'one' if found else 'none'}. A wrong bias would move the zero of a cost: restore the file that is "
            "wrong."
        )


def _normalizer(folder: Path, config: dict[str, Any], kind: Kind) -> tuple[float, float]:
    """What is subtracted from the head's output, and what it is divided by."""
    if not config.get("do_normalize"):
        return 0.0, 1.0
    tensors = read_tensors(folder, ("normalizer.",))
    if "normalizer.var" not in tensors or "normalizer.mean" not in tensors:
        raise ValueError(
            f"You set the scorer beaver:{folder}, but its config.json says do_normalize and its weights have no "
            "normalizer.mean and normalizer.var. Restore the weights, or set do_normalize to false."
        )
    mean, var = (float(tensors[f"normalizer.{name}"].double().item()) for name in ("mean", "var"))
    return (mean if kind == "reward" else 0.0), var**0.5 + EPSILON


def _load_backbone(folder: Path, dtype: Any) -> Any:
    """The model without its head. Whatever prefix its weights stand under (`model.`, `gpt_neox.`) is taken off."""
    from transformers import AutoConfig, AutoModel

    prefix = backbone_prefix(weight_names(folder))
    with quiet_loading():
        model, report = AutoModel.from_pretrained(
            weights_folder(folder),
            config=AutoConfig.from_pretrained(folder, local_files_only=True),
            dtype=dtype,
            key_mapping=None if prefix is None else {rf"^{prefix}\.": ""},
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            local_files_only=True,
        )
    check_complete(folder, type(model).__name__, report)
    return model


def backbone_prefix(names: Collection[str]) -> str | None:
    """The one word that the names of all weights but the head's begin with; None if there are several."""
    prefixes = {name.split(".")[0] for name in names if not name.startswith((*_HEAD, "lm_head."))}
    return prefixes.pop() if len(prefixes) == 1 else None


def check_complete(folder: Path, model: str, report: Mapping[str, Any]) -> None:
    """Raises `ValueError` if weights of the backbone have not been found: they would be random."""
    missing = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    missing = sorted(name for name in missing if not name.startswith(_HEAD))
    if missing:
        raise ValueError(
            f"You set the scorer beaver:{folder}, but {len(missing)} weights of its {model} are missing or of another "
            f"shape (such as {missing[0]}). Download or save the model again."
        )
