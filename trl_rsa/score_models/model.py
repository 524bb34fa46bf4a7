"""The model that learns to score: loaded from a language model, a classifier or a `*ForScore` folder, and saved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trl_rsa.score_models.normalizer import ScoreNormalizer
from trl_rsa.scoring.graded import CONFIG_FIELD, Readout
from trl_rsa.scoring.weights import model_folder, quiet_loading, read_config, read_tensors, weight_files, weight_names


# "hf": a sequence classifier, for `hf:`; "beaver": Safe RLHF's `*ForScore`, for `beaver:`.
Layout = Literal["hf", "beaver"]


# Safe RLHF's, those of decoders, and those of encoders such as BERT and RoBERTa.
_HEADS = ("score_head.weight", "score.weight", "classifier.weight", "classifier.out_proj.weight")


@dataclass(frozen=True)
class Start:
    """The folder that a score model starts from, and what its head has."""

    folder: Path
    for_score: bool  # Safe RLHF's layout
    bias: torch.Tensor | None  # [1]


def find_start(path: str, layout: Layout, readout: Readout, revision: str | None = None) -> Start:
    """Looks at a model without loading it.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it cannot become such a score model.
    """
    folder = _find(path, revision)
    for_score = "score_head.weight" in weight_names(folder)
    head = read_tensors(folder, ("score_head.", "score.", "classifier."))
    weight = next((head[name] for name in _HEADS if name in head), None)
    if weight is not None and weight.shape[0] != readout.logits:
        raise ValueError(
            f"You set model_name_or_path={path!r}, but its head has {weight.shape[0]} outputs and this score model "
            f"has {readout.logits}. Start from the language model, or with the same harm scale and heads."
        )
    config = read_config(folder)
    if config.get(CONFIG_FIELD) is not None:
        _refuse_another(Readout.from_config(config[CONFIG_FIELD]), readout, path)
    bias = head.get("score_head.bias")
    if bias is not None and layout == "hf":
        raise ValueError(
            f"You set model_name_or_path={path!r} and layout=hf, but its head has a bias, which a sequence classifier "
            "has not: its zero would move. Set layout=beaver."
        )
    if config.get("do_normalize"):
        raise ValueError(
            f"You set model_name_or_path={path!r}, but its config.json says do_normalize: its head was trained on "
            "normalized scores. Start from a model without it."
        )
    return Start(folder, for_score, bias)


def _refuse_another(found: Readout, wanted: Readout, path: str) -> None:
    """Its head says something else than is learned: a reward turned round is the worst start for a cost."""
    if (found.objective, found.heads, found.scale) != (wanted.objective, wanted.heads, wanted.scale):
        raise ValueError(
            f"You set model_name_or_path={path!r}, but that is {_in_words(found)}, and this is to be "
            f"{_in_words(wanted)}. Start from the language model, or set the same objective, heads and harm_scale."
        )


def _in_words(readout: Readout) -> str:
    scale = ""
    if readout.scale is not None:
        grades = zip(readout.scale.names, readout.scale.costs, strict=True)
        scale = " on " + ",".join(f"{name}={cost:g}" for name, cost in grades)
    return f"a {readout.objective} model with {readout.heads} head{'s' * (readout.heads > 1)}{scale}"


def load_model(path: str, layout: Layout, readout: Readout, seed: int = 42, **init_kwargs: Any) -> Any:
    """
    A sequence classifier with the logits of `readout`, in float32 unless `dtype` says otherwise.

    A language model gets a random head (by `seed`). The head of a classifier or of a `*ForScore` model goes on being
    trained, if it has the right number of outputs. In the layout "beaver" the head has a bias, as Safe RLHF's has.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    start = find_start(path, layout, readout, init_kwargs.pop("revision", None))
    set_seed(seed)  # the new head
    init_kwargs = {"dtype": torch.float32} | {name: value for name, value in init_kwargs.items() if value is not None}
    mapping = {r"^score_head\.": "score."} if start.for_score else None
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(
            start.folder, num_labels=readout.logits, key_mapping=mapping, local_files_only=True, **init_kwargs
        )
    if layout == "beaver":
        _add_bias(model, start.bias, path)
    return model


def _find(path: str, revision: str | None) -> Path:
    try:
        folder = model_folder(path, revision)
        weight_files(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"You set model_name_or_path={path!r}, but there is no such folder with a model, and none could be "
            "fetched. Correct the path, or download the model first."
        ) from error
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"You set model_name_or_path={path!r}, but that is an adapter. Merge it into its base model first."
        )
    return folder


def _add_bias(model: Any, bias: Any, path: str) -> None:
    old = getattr(model, "score", None)
    if not isinstance(old, torch.nn.Linear):
        raise ValueError(
            f"You set layout=beaver, but the {type(model).__name__} of {path!r} has no head called `score`, as "
            "decoders have it. Set layout=hf."
        )
    # The weight is left alone: ZeRO-3 has taken it apart already.
    start = torch.zeros(old.out_features) if bias is None else bias
    old.bias = torch.nn.Parameter(start.to(old.weight.device, old.weight.dtype))


def as_reward_model(model: Any) -> None:
    """RewardTrainer takes a model with one label only, by its configuration; ours may have more, and says so again
    afterwards ([`describe`])."""
    model.config.num_labels = 1


def describe(config: Any, readout: Readout, settings: Mapping[str, Any]) -> None:
    """Writes what the logits are into the configuration: names for transformers, the way to a score for `hf:`."""
    if readout.scale is None:
        names = [readout.objective]
    else:
        names = [f"worse than {name}" for name in readout.scale.names[:-1]]
    if readout.heads > 1:
        names = [f"{name} (head {head})" for head in range(readout.heads) for name in names]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    setattr(config, CONFIG_FIELD, {**readout.to_config(), **settings})


def round_weights(folder: Path, dtype: torch.dtype) -> None:
    """Stores the floating-point weights of a saved model in `dtype`, in place."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        rounded = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        save_file(rounded, file, metadata={"format": "pt"})
    write_dtype(folder, dtype)


def write_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Says in config.json which type the weights of a saved model have: it is loaded in that one."""
    config = read_config(folder) | {"dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def to_for_score(folder: Path, objective: str, normalizer: ScoreNormalizer | None) -> None:
    """Turns a saved sequence classifier with a bias into Safe RLHF's `*ForScore` layout, in place."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            tensors = {_renamed(name): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if normalizer is not None and "score_head.weight" in tensors:
            tensors |= normalizer.tensors()
        save_file(tensors, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        places = {_renamed(name): place for name, place in content["weight_map"].items()}
        if normalizer is not None:
            places |= dict.fromkeys(normalizer.tensors(), places["score_head.weight"])
        index.write_text(json.dumps(content | {"weight_map": places}, indent=2), encoding="utf-8")
    config = read_config(folder)
    for name in ("id2label", "label2id", "problem_type"):
        config.pop(name, None)
    config["architectures"] = [
        name.removesuffix("ForSequenceClassification") + "ForScore" for name in config["architectures"]
    ]
    config |= {"score_type": objective, "score_dim": 1, "score_bias": True, "do_normalize": normalizer is not None}
    if normalizer is not None:
        config |= {"normalizer_type": normalizer.type, "momentum": normalizer.momentum}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _renamed(name: str) -> str:
    return "score_head." + name.removeprefix("score.") if name.startswith("score.") else name
