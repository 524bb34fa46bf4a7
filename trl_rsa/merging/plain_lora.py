"""Is an adapter plain LoRA: its update the product of two factors in each layer, and nothing beside."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors import safe_open

from trl_rsa.merging.sources import Source


FACTORS = "adapter_model.safetensors"


def read_plain_lora(source: Source) -> PeftConfig:
    """The configuration of an adapter whose update is s·B·A.

    Raises:
        ValueError: if it has more than the two factors; with what can be done.
    """
    config: Any = PeftConfig.from_pretrained(str(source.folder))
    problem = _problem(config) or _more_than_factors(source.folder)
    if problem is None:
        return config
    way_out = (
        "merge it into its base with PEFT's merge_and_unload, save that, and merge the saved models; not so if it "
        "updates an embedding or an output head that the base ties to each other, since both would change."
    )
    if "base_layer" in problem:  # PEFT saves it beside the factors of an embedding or an output head
        way_out = f"If its base holds the same, save it again with save_embedding_layers=False. If not, {way_out}"
    raise ValueError(
        f"You merge the adapter {source.name}, but {problem}, so that its update is more than a product of two "
        f"factors. {way_out[0].upper()}{way_out[1:]}"
    )


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
