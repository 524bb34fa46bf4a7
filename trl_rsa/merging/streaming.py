"""The average of full weights, read tensor by tensor and written a shard at a time."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file

from trl_rsa.merging.sources import Weights
from trl_rsa.storage.files import write_json


NAME, INDEX = "model{suffix}.safetensors", "model.safetensors.index.json"


def average_weights(
    models: Sequence[Weights], weights: Sequence[float], folder: Path, dtype: str | None, max_shard_size: str
) -> tuple[float, str]:
    """
    Args:
        models (`Sequence[Weights]`):
            With the same names and shapes.
        weights (`Sequence[float]`):
            One for each.
        folder (`Path`):
            Where to write.
        dtype (`str`, *optional*):
            Of the result; by default the one that loses nothing.
        max_shard_size (`str`):
            Such as `"5GB"`.

    Returns:
        `tuple[float, str]`: `error` and `dtype`, as in [`~merging.card.MergeFile`].
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _floating(dtype)
    types = {name: _type_of(models, name, wanted) for name in models[0]}
    sizes = {name: math.prod(models[0].shape(name)) * types[name].itemsize for name in models[0]}
    plan = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern=NAME,
        max_shard_size=max_shard_size,
    )
    lost = moved = 0.0
    for file, names in plan.filename_to_tensors.items():
        shard = {}
        for name in names:
            shard[name], parts = _average(models, weights, name, types[name])
            lost, moved = lost + parts[0], moved + parts[1]
        save_file(shard, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        write_json(folder / INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
    shown = sorted({str(one).removeprefix("torch.") for one in types.values() if one.is_floating_point})
    _copy_beside(models[0], folder, shown)
    return math.sqrt(lost / moved) if moved else 0.0, ", ".join(shown)


def _average(
    models: Sequence[Weights], weights: Sequence[float], name: str, dtype: torch.dtype
) -> tuple[torch.Tensor, tuple[float, float]]:
    """The tensor as it is saved, and two squares: of what rounding loses, and of the move from the first model."""
    first = models[0][name]
    if not dtype.is_floating_point:
        if any(not torch.equal(first, model[name]) for model in models[1:]):
            raise ValueError(
                f"You merge models whose {name} differs, but whole numbers have no average. Leave one out."
            )
        return first.clone(), (0.0, 0.0)
    exact = torch.zeros(first.shape, dtype=torch.float64)
    for model, weight in zip(models, weights, strict=True):
        if weight:  # 0·∞ is no number
            exact += weight * model[name].double()
    if not bool(exact.isfinite().all()):
        raise ValueError(
            f"You merge models, but in one of them {name} holds weights that are not numbers. Leave out the one "
            "that is damaged."
        )
    saved = exact.to(dtype)
    return saved, (
        float((saved.double() - exact).square().sum()),
        float((exact - first.double()).square().sum()),
    )


def _type_of(models: Sequence[Weights], name: str, wanted: torch.dtype | None) -> torch.dtype:
    found = models[0].dtype(name)
    for model in models[1:]:
        found = torch.promote_types(found, model.dtype(name))
    return wanted if wanted is not None and found.is_floating_point else found


def _floating(dtype: str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"You set dtype={dtype!r}, but weights are float32, bfloat16, float16 … Set one of torch's.")
    return found


def _copy_beside(model: Weights, folder: Path, dtypes: Sequence[str]) -> None:
    """Configuration, generation settings and code of the first model."""
    config = dict(model.config)
    if len(dtypes) == 1:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtypes[0]
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in [model.source.folder / "generation_config.json", *model.source.folder.glob("*.py")]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
