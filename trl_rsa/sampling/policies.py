"""The one place that loads a policy to sample from or to measure, with its tokenizer, and that lets go of it."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl_rsa.scoring.batches import pick_device, pick_dtype
from trl_rsa.scoring.weights import quiet_loading, read_config
from trl_rsa.storage.hub import why_not_loaded


def load_policy(name: str, device: str | None = None, **init_kwargs: Any) -> Any:
    """
    A causal language model, or an adapter on its base model, ready to answer.

    Args:
        name (`str`):
            Folder or Hub id.
        device (`str`, *optional*):
            By default this process's accelerator, or the CPU.
        init_kwargs:
            Arguments of `from_pretrained`. `dtype` may be a name; by default the weights are as saved.

    Raises:
        ValueError: if it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    refuse_score_model(name)
    where = pick_device(device)  # first: quantised models are loaded onto the current device
    init_kwargs["dtype"] = pick_dtype(init_kwargs.get("dtype"))
    with _named(name), quiet_loading():
        adapter = is_adapter(name)
        whole, init_kwargs = whole_model(name, init_kwargs)
        model = AutoModelForCausalLM.from_pretrained(whole, **init_kwargs)
        if not hasattr(model, "hf_device_map"):  # quantised models are where they were loaded
            model = model.to(where)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, name)
    return model.eval()


def load_tokenizer(name: str) -> Any:
    """The tokenizer that lies beside the model `name`, or beside the base model of an adapter."""
    from transformers import AutoTokenizer

    with _named(name):
        try:
            return AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError):
            if is_adapter(name):
                whole, options = whole_model(name, {})
                return AutoTokenizer.from_pretrained(whole, **options)
            raise


def is_adapter(name: str) -> bool:
    """Whether the folder or Hub id holds a PEFT adapter."""
    from transformers.utils import find_adapter_config_file

    with _named(name):  # a path to nothing is no id of the Hub, and says so
        return find_adapter_config_file(name) is not None


def base_of(adapter: str) -> str:
    """
    Folder or Hub id of the model that an adapter belongs to.

    Raises:
        ValueError: if it does not say.
    """
    base = _adapter_config(adapter).base_model_name_or_path
    if not base:
        raise ValueError(
            f"the adapter {adapter} has no base_model_name_or_path in its adapter_config.json; write there which "
            "model it belongs to"
        )
    return base


def whole_model(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What is loaded first of a policy: it, or the base model of an adapter, which may name a revision of that.
    `options` are arguments of `from_pretrained`."""
    if not is_adapter(name):
        return name, dict(options)
    revision = options.get("revision") or _adapter_config(name).revision
    return base_of(name), {**options, **({"revision": revision} if revision else {})}


def _adapter_config(adapter: str) -> Any:
    from peft import PeftConfig

    return PeftConfig.from_pretrained(adapter)


def config_of(name: str, **options: Any) -> Any:
    """The configuration of a policy, or of the base model of an adapter; `options` are those of `from_pretrained`."""
    from transformers import AutoConfig

    with _named(name):
        whole, options = whole_model(name, options)
        return AutoConfig.from_pretrained(whole, **options)


def refuse_score_model(name: str) -> None:
    """
    Raises:
        ValueError: if the model is made to score, not to speak: its language head would be random.
    """
    if not Path(name).is_dir():
        return  # on the Hub, or what the loader says more of
    try:
        made_as = read_config(Path(base_of(name) if is_adapter(name) else name)).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return
    scores = [one for one in made_as if str(one).endswith(("Classification", "ForScore", "RewardModel"))]
    if scores:
        raise ValueError(
            f"You set a model to {name!r}, but it is a {scores[0]}: it scores texts and cannot write any. Give a "
            "causal language model."
        )


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"You set a model to {path!r}, but {why_not_loaded(path, error)}. Give the folder or the Hub id of a "
            "causal language model."
        ) from error


def free_memory() -> None:
    """Frees the memory of models that nobody holds any more, before the next ones are loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
