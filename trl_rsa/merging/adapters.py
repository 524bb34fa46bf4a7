"""LoRA adapters by their updates ΔW = s·B·A, through PEFT, on a base model whose weights are never read.

A and B must not be averaged apart: (½B₁ + ½B₂)(½A₁ + ½A₂) is not ½B₁A₁ + ½B₂A₂.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForCausalLM

from trl_rsa.merging.plain_lora import FACTORS, read_plain_lora
from trl_rsa.merging.sources import Source
from trl_rsa.scoring.weights import quiet_loading


MERGED, CHECK = "default", "check"
_FACTOR_B = re.compile(r"lora_(embedding_)?B")
# Of the sum, whatever the adapters have. In 16 bits the rounding of w·A is a small share of the update, but a large
# one of the move between two stages that are close. PEFT reads adapters into float32 on any base, of 16 or 4 bits too.
DTYPE = torch.float32
# Above this share of its parts, the sum in a layer is off by more than rounding in that type.
_ROUNDING = 1e-4


class Adapters:
    """
    Several adapters of one base, in memory together; they are small.

    Args:
        sources (`Sequence[Source]`):
            Adapters, or the base itself, whose update is 0.
        init_kwargs (`Mapping`, *optional*):
            Of `from_pretrained`; only `trust_remote_code` and `revision` are looked at.

    Raises:
        ValueError: if they are adapters of different models, or hold more than the factors of LoRA.
    """

    def __init__(self, sources: Sequence[Source], init_kwargs: Mapping[str, Any] | None = None):
        self.sources = sources
        first = next(source for source in sources if source.base)
        assert first.base is not None
        self.base = first.base
        for source in sources:
            _check_base(source, first)
        self.names = {index: f"m{index}" for index, source in enumerate(sources) if source.base}
        configs = {name: read_plain_lora(sources[index]) for index, name in self.names.items()}
        of_base = {} if first.base_revision is None else {"revision": first.base_revision}
        model: Any = _skeleton(self.base, of_base | dict(init_kwargs or {}))
        for index, name in self.names.items():
            with quiet_loading():
                if isinstance(model, PeftModel):
                    model.load_adapter(str(sources[index].folder), name, peft_config=configs[name])
                else:
                    model = PeftModel.from_pretrained(model, str(sources[index].folder), name, config=configs[name])
        self.model = model

    def updates(self, index: int) -> dict[str, Callable[[], torch.Tensor]]:
        """By the name of the weight: how to make the update ΔW of the model `index`, in float32."""
        name = self.names.get(index)
        if name is None:
            return {}
        return {f"{path}.weight": _maker(layer, name) for path, layer in self._layers() if _has(layer, name)}

    def tied_update(self, index: int) -> str | None:
        """The name of a weight that the model `index` updates, and that its base uses as embedding and as output head.

        In the adapter one of the two uses is updated; in the weights it would be both.
        """
        model = self.model.get_base_model()
        if not getattr(model.config, "tie_word_embeddings", False) or index not in self.names:
            return None
        twice = (model.get_input_embeddings(), model.get_output_embeddings())
        layers = [(path, layer) for path, layer in self._layers() if _has(layer, self.names[index])]
        return next((f"{path}.weight" for path, layer in layers if any(layer is one for one in twice)), None)

    def save(self, weights: Sequence[float], combination: str, rank: int | None, folder: Path) -> float:
        """Saves Σ wᵢΔWᵢ as one adapter, and reads it again to see what was lost.

        Args:
            weights (`Sequence[float]`):
                One for each source.
            combination (`str`):
                `"cat"`: the factors side by side, exact, with the ranks added up. `"svd"`: the nearest update of one
                rank.
            rank (`int`, *optional*):
                Of `"svd"`; by default the largest rank of the adapters. More than a layer can have is not made.
            folder (`Path`):
                Where to.

        Returns:
            `float`: ‖saved − Σ wᵢΔWᵢ‖ relative to ‖Σ wᵢΔWᵢ − ΔW₀‖, in the Frobenius norm over all layers.

        Raises:
            ValueError: if PEFT leaves a layer out, or a sum that should be exact is not.
        """
        if len(self.names) == 1 and combination == "cat":
            self._save_scaled(weights, folder)
        else:
            self._save_sum(weights, combination, rank, folder)
        self.model.load_adapter(str(folder), CHECK)
        return self._error(weights, exact=combination == "cat")

    def _save_scaled(self, weights: Sequence[float], folder: Path) -> None:
        """One adapter beside its base: w·ΔW = (w·B)·A, of the same ranks. PEFT's sum of one knows one rank only."""
        ((index, name),) = self.names.items()
        tensors = load_file(self.sources[index].folder / FACTORS)
        scaled = {key: _times(weights[index] if _FACTOR_B.search(key) else 1.0, t) for key, t in tensors.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(scaled, folder / FACTORS, metadata={"format": "pt"})
        self.model.peft_config[name].save_pretrained(str(folder))

    def _save_sum(self, weights: Sequence[float], combination: str, rank: int | None, folder: Path) -> None:
        names, shares = list(self.names.values()), [weights[index] for index in self.names]
        if len(names) == 1:  # PEFT has no "svd" of one
            names, shares = names * 2, [shares[0], 0.0]
        tuner = self.model.base_model
        for name in names:
            self._spell_out(tuner.peft_config[name], name)
        if combination == "svd":
            rank = self._possible(rank or max(_rank_of(tuner.peft_config[name]) for name in names))
        tuner.add_weighted_adapter(
            names, shares, MERGED, combination_type=combination, svd_rank=rank, svd_full_matrices=False
        )
        self._fill_up(tuner.peft_config[MERGED].r)
        self.model.save_pretrained(str(folder), selected_adapters=[MERGED], save_embedding_layers=False)
        tensors = {name: tensor.to(DTYPE) for name, tensor in load_file(folder / FACTORS).items()}
        save_file(tensors, folder / FACTORS, metadata={"format": "pt"})

    def _spell_out(self, config: Any, name: str) -> None:
        """Says which layers the adapter has, and nothing else. PEFT copies the first configuration to the sum, whose
        layers are those of all.
        """
        config.target_modules = {path for path, layer in self._layers() if _has(layer, name)}
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
        # The sum's factors are scaled already (PEFT 0.21: with the flag it is √r too large).
        config.use_rslora = False
        config.init_lora_weights = True  # "orthogonal" needs an even rank

    def _possible(self, rank: int) -> int:
        return min(rank, max(min(layer.get_base_layer().weight.shape) for _, layer in self._layers()))

    def _fill_up(self, rank: int) -> None:
        """With zeros, the factors of a layer that is too small for the rank: PEFT's `"svd"` leaves them short, and
        then cannot load them.
        """
        for factor_a, factor_b in (_factors(layer, MERGED) for _, layer in self._layers() if _has(layer, MERGED)):
            factor_a.data = pad(factor_a.data, (0, 0, 0, rank - factor_a.shape[0]))
            factor_b.data = pad(factor_b.data, (0, rank - factor_b.shape[1]))

    def _error(self, weights: Sequence[float], exact: bool) -> float:
        lost = moved = 0.0
        for path, layer in self._layers():
            made = {index: _delta(layer, name).double() for index, name in self.names.items() if _has(layer, name)}
            if made and not _has(layer, CHECK):
                raise ValueError(
                    f"You merge {self._named()}, but PEFT's sum of them leaves out {path}. Merge into full weights "
                    "(--combination full)."
                )
            if not made:
                continue
            parts = [weights[index] * part for index, part in made.items()]
            wanted = sum(parts[1:], parts[0])
            off = float((_delta(layer, CHECK).double() - wanted).norm())
            if exact and off > _ROUNDING * sum(float(part.norm()) for part in parts):
                raise ValueError(
                    f"You merge {self._named()}, but PEFT's sum of them is off in {path} by more than rounding. Merge "
                    "into full weights (--combination full)."
                )
            lost += off**2
            moved += float((wanted - made.get(0, torch.zeros(()))).square().sum())
        return math.sqrt(lost / moved) if moved else 0.0

    def _named(self) -> str:
        return " and ".join(source.name for source in self.sources)

    def _layers(self) -> list[tuple[str, Any]]:
        from peft.tuners.lora import LoraLayer

        base = self.model.get_base_model()
        return [(path, module) for path, module in base.named_modules() if isinstance(module, LoraLayer)]


def _times(weight: float, tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.double() * weight).to(DTYPE)


def _rank_of(config: Any) -> int:
    return max(config.r, *config.rank_pattern.values()) if config.rank_pattern else int(config.r)


def _has(layer: Any, adapter: str) -> bool:
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def _factors(layer: Any, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A  # [r, in]  and B  # [out, r]"""
    if adapter in layer.lora_A:
        return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]


@torch.no_grad()
def _delta(layer: Any, adapter: str) -> torch.Tensor:
    delta: torch.Tensor = layer.get_delta_weight(adapter)
    return delta


def _maker(layer: Any, adapter: str) -> Callable[[], torch.Tensor]:
    return lambda: _delta(layer, adapter)


def _check_base(source: Source, first: Source) -> None:
    if source.base is None and not source.is_at(str(first.base)):
        raise ValueError(
            f"You merge {source.name} and the adapter {first.name}, but that was trained on {first.base}. Give that "
            "model, an adapter of it, or merge into full weights (--combination full)."
        )
    if source.base is None:
        return
    bases = [
        base if revision is None else f"{base} at {revision}"
        for base, revision in ((one.base, one.base_revision) for one in (first, source))
    ]
    same_revision = first.base_revision == source.base_revision
    if bases[0] == bases[1] or (same_revision and Source.find(source.base).is_at(str(first.base))):
        return
    raise ValueError(
        f"You merge {first.name} and {source.name}, but they are adapters of different models ({bases[0]} and "
        f"{bases[1]}). Merge into full weights (--combination full)."
    )


def _skeleton(base: str, init_kwargs: Mapping[str, Any]) -> Any:
    """The base model with every weight in place, and none in memory: each is one zero, seen in the right shape."""
    kept = {name: init_kwargs[name] for name in ("trust_remote_code", "revision") if name in init_kwargs}
    config = AutoConfig.from_pretrained(base, **kept)
    config.quantization_config = None
    del config.quantization_config
    kept.pop("revision", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **kept)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            zeros = torch.zeros(1).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(zeros, requires_grad=False))
    model.name_or_path = base
    return model
