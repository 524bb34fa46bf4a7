"""The folder of an adapter, as far as an engine must know it that loads the adapter by itself."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any


CONFIG = "adapter_config.json"

# Fields of the configuration that may have any value: vLLM reads them, or they are done with once the weights are
# trained. (`target_modules` and its kin chose the modules; the weights in the file name them.)
_READ = {"r", "lora_alpha", "use_rslora", "peft_type", "base_model_name_or_path", "revision"}
_OF_TRAINING = {
    *("auto_mapping", "inference_mode", "lora_dropout", "peft_version", "runtime_config", "task_type"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),  # how weights began
    *("fan_in_fan_out", "megatron_core", "qalora_group_size"),  # how layers are written down, if they are of that kind
}
# Looked at below.
_CHECKED = {"rank_pattern", "alpha_pattern", "init_lora_weights"}
# Ways of beginning that leave the base model as it was. PEFT does the others (pissa, olora, corda, loftq, lora_ga) to
# the weights of the base whenever it loads such an adapter, and vLLM does not.
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter that was saved.

    Args:
        path (`str`):
            The folder, absolute.
        base (`str`):
            Folder or Hub id of the model that it belongs to.
        rank (`int`):
            Its largest rank.
        name (`str`):
            A name that belongs to its content: other weights in the same folder have another name.
        revision (`str`, *optional*):
            Of the base model on the Hub.
    """

    path: str
    base: str
    rank: int
    name: str
    revision: str | None = None


def read_adapter(model: Any, engine: str) -> AdapterFolder | None:
    """
    The adapter in the folder `model`, or in the repository on the Hub, which is fetched; None if there is none.

    Raises:
        ValueError: if it holds something that vLLM does not load, which would be left out without a word.
    """
    folder = _folder_of(model) if isinstance(model, str) else None
    if folder is None:
        return None
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    check_adapter(config, f"the adapter in {model}", engine)
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"You set engine={engine!r} for the adapter in {model}, but it does not say which model it belongs to. "
            f"Set base_model_name_or_path in its {CONFIG}."
        )
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return AdapterFolder(str(folder), base, rank, f"trl-rsa-{_digest(folder)}", config.get("revision"))


def check_adapter(config: Mapping[str, Any], what: str, engine: str) -> None:
    """
    Args:
        config (`Mapping`):
            Of the adapter, as JSON.
        what (`str`), engine (`str`):
            What it is called in a message, and what is to draw with it.

    Raises:
        ValueError: if it holds something that vLLM does not load, which would be left out without a word.
    """
    problem = next(_problems(config), None)
    if problem is not None:
        raise ValueError(
            f"You set engine={engine!r} for {what}, but {problem}, and vLLM does not load that. Leave the engine out "
            "to draw with transformers, or merge the adapter and give the merged model."
        )


def _folder_of(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model).resolve() if (Path(model) / CONFIG).is_file() else None
    from huggingface_hub import snapshot_download
    from transformers.utils import find_adapter_config_file

    try:
        if find_adapter_config_file(model) is None:
            return None
        return Path(snapshot_download(model, allow_patterns=["adapter_*"])).resolve()
    except (OSError, ValueError):
        return None  # no name of the Hub, or it does not answer: whoever loads the model says more


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What vLLM would leave out, as clauses. Fields that are not known here are such, unless they are at rest."""
    if config.get("peft_type") != "LORA":
        yield f"it is of the kind {config.get('peft_type')}, not LORA"
        return
    usual = _usual_values()
    for name, value in config.items():
        if name in _READ | _OF_TRAINING | _CHECKED:
            continue
        if value and value not in ("none", usual.get(name)):
            yield f"it has {name}={json.dumps(value)}"
    beginning = config.get("init_lora_weights", True)
    if beginning not in _BEGINNINGS:
        yield f"its init_lora_weights, {beginning!r}, changes the weights of the base model too"
    if not _scales_alike(config):
        yield "its rank_pattern and alpha_pattern give modules a scaling other than that of r and lora_alpha"


def _usual_values() -> dict[str, Any]:
    from peft import LoraConfig

    return LoraConfig().to_dict()


def _scales_alike(config: Mapping[str, Any]) -> bool:
    """Whether every module has the scaling α/r (or α/√r) of `r` and `lora_alpha`: vLLM takes the ranks of modules from
    their weights, and scales all of them by this one."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if set(ranks.values()) <= {config["r"]} and set(alphas.values()) <= {config["lora_alpha"]}:
        return True
    if list(ranks) != list(alphas):
        return False  # a key may be found by another expression in the one than in the other
    root = math.sqrt if config.get("use_rslora") else float
    usual = config["lora_alpha"] / root(config["r"])
    return all(math.isclose(alphas[key] / root(ranks[key]), usual) for key in ranks)


def _digest(folder: Path) -> str:
    digest = blake2b(digest_size=8)
    for path in sorted(folder.glob("adapter_*")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
