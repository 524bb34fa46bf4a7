"""The folder of an adapter, as far as an engine must know it that loads the adapter by itself."""

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any


CONFIG = "adapter_config.json"


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
    """

    path: str
    base: str
    rank: int
    name: str


def read_adapter(model: Any, engine: str) -> AdapterFolder | None:
    """
    The adapter in the folder `model`; None if there is none.

    Raises:
        ValueError: if it holds something that vLLM does not load, which would be left out without a word.
    """
    if not isinstance(model, str) or not (Path(model) / CONFIG).is_file():
        return None
    folder = Path(model).resolve()
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    problems = {
        f"it is of the kind {config.get('peft_type')}, not LORA": config.get("peft_type") != "LORA",
        "it has use_dora": config.get("use_dora"),
        "it has modules_to_save": config.get("modules_to_save"),
        "it trains the tokens of trainable_token_indices": config.get("trainable_token_indices"),
        "it trains biases": config.get("bias", "none") != "none",
    }
    for problem, is_one in problems.items():
        if is_one:
            raise ValueError(
                f"You set engine={engine!r} for the adapter in {model}, but {problem}, and vLLM does not load that. "
                "Leave the engine out to draw with transformers, or merge the adapter and give the merged model."
            )
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    return AdapterFolder(str(folder), config["base_model_name_or_path"], rank, f"trl-rsa-{_digest(folder)}")


def _digest(folder: Path) -> str:
    digest = blake2b(digest_size=8)
    for path in sorted(folder.glob("adapter_*")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
