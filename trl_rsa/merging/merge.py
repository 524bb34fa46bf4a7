"""merge_models(): the weighted average of models, as P-SACPO and RSA(P) take it of their last two stages.

merge_models
├── Source.find, check_models          sources.py, checks.py    do they belong together
├── Adapters.save                      adapters.py              adapters stay an adapter, through PEFT
├── average_weights                    streaming.py             full weights, a shard at a time
└── write_merge                        card.py                  merge.json and the card
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from trl_rsa.merging.adapters import DTYPE, Adapters
from trl_rsa.merging.card import MergeFile, describe_merge, read_merge, same_merge, write_merge
from trl_rsa.merging.checks import check_models, common_tokenizer
from trl_rsa.merging.sources import AdaptedWeights, Source, Weights
from trl_rsa.merging.streaming import average_weights
from trl_rsa.sampling.policies import is_adapter
from trl_rsa.storage.folders import sync_folder
from trl_rsa.storage.locks import hold_folder


Combination = Literal["cat", "svd", "full"]
COMBINATIONS: dict[str, str] = {
    "cat": "the factors of the adapters side by side: exact, the ranks add up",
    "svd": "the nearest adapter of --rank (by default the largest rank of the adapters)",
    "full": "full weights, with the adapters' updates added to their bases",
}


@dataclass(frozen=True)
class Merge:
    """
    What [`merge_models`] has made.

    Args:
        folder (`Path`):
            The merged model.
        content ([`~merging.card.MergeFile`]):
            What `merge.json` in it says.
        made (`bool`):
            False if the same merge lay there already.
    """

    folder: Path
    content: MergeFile
    made: bool


def merge_models(
    models: Sequence[str],
    weights: Sequence[float],
    output_dir: str | Path,
    *,
    combination: Combination = "cat",
    rank: int | None = None,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    init_kwargs: Mapping[str, Any] | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
) -> Merge:
    """
    Saves the model with the weights Σᵢ wᵢWᵢ.

    Full models are read tensor by tensor and written a shard at a time: memory holds one shard of the result and no
    model. Adapters stay an adapter: Σᵢ wᵢΔWᵢ of their updates, by PEFT; their base's weights are not read. A base
    beside adapters of it counts as the update 0. The folder appears when it is complete.

    Args:
        models (`Sequence[str]`):
            Folders or Hub ids of at least two models of one architecture, or of adapters of one base.
        weights (`Sequence[float]`):
            One for each model; they sum to 1.
        output_dir (`str` or `Path`):
            The folder to write. A folder with the same merge is left as it is.
        combination (`str`, *optional*, defaults to `"cat"`):
            For adapters, one of [`COMBINATIONS`]. `"full"` also averages adapters of different bases.
        rank (`int`, *optional*):
            Of the result, for `"svd"`.
        dtype (`str`, *optional*):
            Of full weights; by default the models' own, or of several the one that loses nothing. Adapters are saved
            in float32.
        max_shard_size (`str`, *optional*, defaults to `"5GB"`):
            Of a file of full weights.
        init_kwargs (`Mapping`, *optional*):
            Of `from_pretrained` of the adapters' base: `trust_remote_code`, `revision`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer to save; by default the models' own, which must agree.
        revision (`str`, *optional*):
            Of those models that are named by a Hub id.

    Returns:
        [`Merge`]: with `content["error"]`, how far the saved weights are from the exact sum, relative to how far that
        is from the first model.

    Raises:
        ValueError: if the models do not belong together, or a weight cannot be.
    """
    models, folder = list(map(str, models)), Path(output_dir)
    _check_weights(models, weights)
    _check_combination(combination, rank)
    sources = [Source.find(name, None if revision is None or is_adapter(name) else revision) for name in models]
    adapters = any(source.base for source in sources)
    how = combination if adapters else "weights"
    if adapters and how != "full" and dtype is not None:
        raise ValueError("You set a dtype for a merge of adapters, but that is saved in float32. Remove it.")
    content = describe_merge(sources, weights, how, rank, dtype)
    if (done := read_merge(folder)) and same_merge(done, content):
        return Merge(folder, done, False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"You set output_dir to {folder}, but something else lies there. Use another folder.")
    tokenizer = processing_class if processing_class is not None else common_tokenizer(sources)
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder.with_name(f".{folder.name}.merging")):
        shutil.rmtree(partial, ignore_errors=True)  # what a kill has left
        try:
            made = _make(sources, weights, how, rank, dtype, max_shard_size, init_kwargs, partial)
            content["error"], content["dtype"] = made
            if tokenizer is not None:
                tokenizer.save_pretrained(str(partial))
            write_merge(partial, content)
            sync_folder(partial)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Merge(folder, content, True)


def _make(
    sources: Sequence[Source],
    weights: Sequence[float],
    how: str,
    rank: int | None,
    dtype: str | None,
    max_shard_size: str,
    init_kwargs: Mapping[str, Any] | None,
    folder: Path,
) -> tuple[float, str]:
    """Writes the model. Returns its error and its dtype."""
    if how in ("cat", "svd"):
        error = Adapters(sources, init_kwargs).save(weights, how, rank, folder)
        return error, str(DTYPE).removeprefix("torch.")
    opened = [_open(source, init_kwargs) for source in sources]
    check_models(opened)
    return average_weights(opened, weights, folder, dtype, max_shard_size)


def _open(source: Source, init_kwargs: Mapping[str, Any] | None) -> Weights:
    if source.base is None:
        return Weights(source)
    adapters = Adapters([source], init_kwargs)
    if tied := adapters.tied_update(0):
        raise ValueError(
            f"You merge the adapter {source.name} into full weights, but it updates {tied}, which {source.base} uses "
            "as its embedding and as its output head: both would change. Merge the adapters as adapters "
            "(--combination cat)."
        )
    return AdaptedWeights(source, adapters.updates(0))


def _check_combination(combination: str, rank: int | None) -> None:
    if rank is not None and combination != "svd":
        raise ValueError(f"You set rank={rank}, but only combination='svd' has one. Remove it, or set that.")
    if rank is not None and rank < 1:
        raise ValueError(f"You set rank={rank}, but an adapter has at least rank 1. Set it so.")
    if combination not in COMBINATIONS:
        raise ValueError(f"You set combination={combination!r}, but there are {', '.join(COMBINATIONS)}. Take one.")


def _check_weights(models: Sequence[str], weights: Sequence[float]) -> None:
    if len(models) < 2:
        raise ValueError(f"You merge {len(models)} model, but an average needs two. Give another one.")
    if len(weights) != len(models):
        raise ValueError(f"You set {len(weights)} weights for {len(models)} models. Set one for each.")
    shown = " ".join(f"{weight:g}" for weight in weights)
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"You set the weights {shown}, but they are finite numbers. Correct them.")
    if abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            f"You set the weights {shown}, which sum to {sum(weights):g}, but an average's sum to 1. Correct them."
        )
