"""LoRA adapters by their updates ΔW = s·B·A, through PEFT, on a base model whose weights are never read.

A and B must not be averaged apart: (½B₁ + ½B₂)(½A₁ + ½A₂) is not ½B₁A₁ + ½B₂A₂.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trl_rsa.merging.sources import Source
from trl_rsa.scoring.weights import quiet_loading


MERGED, CHECK = "default", "check"
FACTORS = "adapter_model.safetensors"
_FACTOR_B = re.compile(r"lora_(embedding_)?B")
# Above this share of the move, a sum that should be exact is not.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


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
        configs = {name: _read_config(sources[index]) for index, name in self.names.items()}
        self.dtype = _dtype_of([sources[index] for index in self.names])
        model: Any = _skeleton(self.base, init_kwargs or {})
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

    def save(self, weights: Sequence[float], combination: str, rank: int | None, folder: Path) -> float:
        """Saves Σ wᵢΔWᵢ as one adapter, and reads it again to see what was lost.

        Args:
            weights (`Sequence[float]`):
                One for each source.
            combination (`str`):
                `"cat"`: the factors side by side, exact, with the ranks added up. `"svd"`: the nearest update of one
                rank.
            rank (`int`, *optional*):
                Of `"svd"`; by default the largest rank of the adapters.
            folder (`Path`):
                Where to.

        Returns:
            `float`: ‖saved − Σ wᵢΔWᵢ‖ relative to ‖Σ wᵢΔWᵢ − ΔW₀‖, in the Frobenius norm over all layers.
        """
        if len(self.names) == 1 and combination == "cat":
            self._save_scaled(weights, folder)
        else:
            self._save_sum(weights, combination, rank, folder)
        self.model.load_adapter(str(folder), CHECK)
        error = self._error(weights)
        if combination == "cat" and error > _ROUNDING.get(self.dtype, 1e-4):
            raise RuntimeError(
                f"PEFT's sum of the adapters is off by {error:.2g} of the move; merge into full weights."
            )
        return error

    def _save_scaled(self, weights: Sequence[float], folder: Path) -> None:
        """One adapter beside its base: w·ΔW = (w·B)·A, of the same ranks. PEFT's sum of one knows one rank only."""
        ((index, name),) = self.names.items()
        tensors = load_file(self.sources[index].folder / FACTORS)
        scaled = {key: _times(weights[index], t) if _FACTOR_B.search(key) else t for key, t in tensors.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(scaled, folder / FACTORS, metadata={"format": "pt"})
        self.model.peft_config[name].save_pretrained(str(folder))

    def _save_sum(self, weights: Sequence[float], combination: str, rank: int | None, folder: Path) -> None:
        names, shares = list(self.names.values()), [weights[index] for index in self.names]
        if len(names) == 1:  # PEFT has no "svd" of one
            names, shares = names * 2, [shares[0], 0.0]
        tuner = self.model.base_model
        for name in names:
            # PEFT copies this flag to the sum, whose factors are scaled already (PEFT 0.21: then it is √r too large).
            tuner.peft_config[name].use_rslora = False
        tuner.add_weighted_adapter(
            names, shares, MERGED, combination_type=combination, svd_rank=rank, svd_full_matrices=False
        )
        self.model.save_pretrained(str(folder), selected_adapters=[MERGED], save_embedding_layers=False)
        tensors = {name: tensor.to(self.dtype) for name, tensor in load_file(folder / FACTORS).items()}
        save_file(tensors, folder / FACTORS, metadata={"format": "pt"})

    def _error(self, weights: Sequence[float]) -> float:
        lost = moved = 0.0
        for path, layer in self._layers():
            key = f"{path}.weight"
            parts = [updates.get(key) for updates in map(self.updates, range(len(self.sources)))]
            zero = torch.zeros(())
            made = [zero if part is None else part().double() for part in parts]
            exact = sum((w * part for w, part in zip(weights, made, strict=True)), zero)
            saved = _delta(layer, CHECK).double() if _has(layer, CHECK) else zero
            lost += float((saved - exact).square().sum())
            moved += float((exact - made[0]).square().sum())
        return math.sqrt(lost / moved) if moved else 0.0

    def _layers(self) -> list[tuple[str, Any]]:
        from peft.tuners.lora import LoraLayer

        base = self.model.get_base_model()
        return [(path, module) for path, module in base.named_modules() if isinstance(module, LoraLayer)]


def _times(weight: float, tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.double() * weight).to(tensor.dtype)


def _has(layer: Any, adapter: str) -> bool:
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


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
    if source.base and source.base != first.base and not Source.find(source.base).is_at(str(first.base)):
        raise ValueError(
            f"You merge {first.name} and {source.name}, but they are adapters of different models ({first.base} and "
            f"{source.base}). Merge into full weights (--combination full)."
        )


def _read_config(source: Source) -> PeftConfig:
    config: Any = PeftConfig.from_pretrained(str(source.folder))
    problem = _problem(config) or _more_than_factors(source.folder)
    if problem:
        raise ValueError(
            f"You merge the adapter {source.name}, but {problem}, so that its update is more than a product of two "
            "factors. Merge it into its base with PEFT's merge_and_unload, save that, and merge the saved models."
        )
    return config


def _problem(config: Any) -> str | None:
    problems = {
        f"it is of the kind {config.peft_type.value}, not LORA": not isinstance(config, LoraConfig),
        "it uses DoRA": getattr(config, "use_dora", False),
        "it trains biases": getattr(config, "bias", "none") != "none" or getattr(config, "lora_bias", False),
        "it has modules_to_save": bool(getattr(config, "modules_to_save", None)),
        "it trains single tokens": bool(getattr(config, "trainable_token_indices", None)),
        "it targets bare parameters": bool(getattr(config, "target_parameters", None)),
        # These change the base model's weights too (PiSSA, OLoRA, CorDA, LoftQ).
        "its initialisation changed the base": str(getattr(config, "init_lora_weights", True)).lower()
        not in ("true", "false", "gaussian", "orthogonal", "eva"),
    }
    return next((problem for problem, is_one in problems.items() if is_one), None)


def _more_than_factors(folder: Path) -> str | None:
    if not (folder / FACTORS).is_file():
        return f"it has no {FACTORS}"
    with safe_open(folder / FACTORS, framework="pt") as file:
        whole = [name for name in file.keys() if "lora_" not in name]  # noqa: SIM118
    return f"it holds {whole[0]} whole" if whole else None


def _dtype_of(sources: Sequence[Source]) -> torch.dtype:
    """The type that loses none of the factors."""
    found: torch.dtype | None = None
    for source in sources:
        with safe_open(source.folder / FACTORS, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                dtype = file.get_slice(name)[:0].dtype
                found = dtype if found is None else torch.promote_types(found, dtype)
    assert found is not None
    return found


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
