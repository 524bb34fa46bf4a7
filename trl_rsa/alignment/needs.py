"""What a plan needs of the machine that runs it, looked up without loading a model or asking the network."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trl_rsa.alignment.plan import Plan
from trl_rsa.data.spec import is_dataset_spec, parse_dataset_spec
from trl_rsa.storage.files import standing
from trl_rsa.storage.hub import is_path
from trl_rsa.training.trackers import PACKAGES


@dataclass(frozen=True)
class Need:
    """One thing that a plan needs.

    Args:
        what (`str`):
            Such as "the model" or "the data of stage 'safe'".
        found (`bool`):
            Whether it is here.
        words (`str`):
            Where it is, or what to do to have it.
    """

    what: str
    found: bool
    words: str


def needs(plan: Plan, accelerate_config: str | None = None) -> list[Need]:
    """
    What the plan needs, in the order in which a run comes across it.

    Args:
        plan ([`Plan`]):
            From [`Plan.from_yaml`].
        accelerate_config (`str`, *optional*):
            The engine that it shall run on, as for `trl-rsa align`.
    """
    return [*_sources(plan), *_packages(plan, accelerate_config), *_keys(plan), _room(Path(plan.output_dir))]


def _sources(plan: Plan) -> Iterator[Need]:
    """The model, the data of each stage, and the scorer and the prompts of each constraint."""
    if isinstance(plan.model, str):
        yield _model("the model", plan.model)
    for stage in plan.stages:
        yield _data(f"the data of the stage {stage.name!r}", stage.dataset)
    for where, _, term in plan.scored_by:
        if isinstance(term.scorer, str):
            yield from _scorer(f"the scorer of {where}", term.scorer)
    for constraint in plan.constraints:
        given = constraint.prompts
        for prompts in given.values() if isinstance(given, Mapping) else [given]:
            yield _data(f"the prompts of {constraint.name!r}", prompts)
        if constraint.human_pairs is not None:
            yield _data(f"the human pairs of {constraint.name!r}", constraint.human_pairs)


def _scorer(what: str, spec: str) -> Iterator[Need]:
    prefix, _, rest = spec.partition(":")
    if prefix in ("hf", "beaver", "guard") and rest:
        yield _model(what, rest)
    elif "://" in rest:
        yield Need(what, True, f"asked over the network ({prefix}): doctor does not try it, `--dry_run` does")
    elif rest and not Path(spec).exists():
        yield Need(what, True, f"a function of {prefix}")
    else:
        yield _model(what, spec)


def _model(what: str, name: str) -> Need:
    if Path(name).is_dir():
        return Need(what, True, f"the folder {name}")
    if is_path(name):
        return Need(what, False, f"there is no folder {name}: correct the path")
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return Need(what, False, f"{name} is neither a folder nor the name of a model on the Hub: correct it")
    return _from_the_hub(what, name, isinstance(cached, str))


def _data(what: str, source: Any) -> Need:
    if not isinstance(source, str | Path):
        return Need(what, True, "in memory, or written in the plan")
    name = str(source)
    if Path(name).exists():
        return Need(what, True, name)
    if Path(name).suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".txt") or (
        is_path(name) and not is_dataset_spec(name)
    ):
        return Need(what, False, f"there is no file {name}: correct the path, or start where the plan's paths begin")
    if is_dataset_spec(name):
        name = str(parse_dataset_spec(name).source)
        if Path(name).exists():
            return Need(what, True, name)
    from huggingface_hub import constants

    return _from_the_hub(what, name, Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}").is_dir())


def _from_the_hub(what: str, name: str, cached: bool) -> Need:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if cached:
        return Need(what, True, f"{name}, downloaded before")
    if HF_HUB_OFFLINE:
        return Need(what, False, f"{name} was not downloaded before, and HF_HUB_OFFLINE is set: unset it, or download")
    return Need(what, True, f"{name}, will be downloaded from the Hub")


def _packages(plan: Plan, accelerate_config: str | None) -> Iterator[Need]:
    every = [plan.args, *(stage.args for stage in plan.stages), plan.rungs.args if plan.constraints else {}]
    quantised = plan.model_init_kwargs.get("quantization_config")
    if quantised is not None:
        yield _package("4-bit or 8-bit weights", ("bitsandbytes",), 'pip install "trl-rsa[quantization]"')
    if "zero" in str(accelerate_config) or any(args.get("deepspeed") for args in every):
        yield _package("ZeRO", ("deepspeed",), 'pip install "trl-rsa[deepspeed]"')
    if plan.constraints and plan.rungs.sampling.get("engine") == "vllm":
        yield _package("sampling with vLLM", ("vllm",), "pip install vllm, or leave out `engine`")
    attention = str(plan.model_init_kwargs.get("attn_implementation", ""))
    if attention.startswith("flash_attention_2"):
        yield _package(attention, ("flash_attn",), "pip install flash-attn, or leave out `attn_implementation`")
    named = [args.get("report_to") for args in every]
    for tracker in dict.fromkeys(name for one in named for name in (one if isinstance(one, list) else [one])):
        if tracker in PACKAGES:
            yield _package(f"the tracker {tracker}", PACKAGES[tracker], f"pip install {PACKAGES[tracker][0]}")


def _package(what: str, names: tuple[str, ...], remedy: str) -> Need:
    found = next((name for name in names if find_spec(name)), None)
    return Need(what, True, f"{found} is installed") if found else Need(what, False, remedy)


def _keys(plan: Plan) -> Iterator[Need]:
    """Environment variables that a scorer or a server reads its key from."""
    options = [(f"the key of {where}", one.scorer_options.get("api_key_env")) for where, _, one in plan.scored_by]
    if plan.constraints:
        options.append(("the key of the sampling server", plan.rungs.sampling.get("server_key_env")))
    for what, variable in options:
        if variable:
            found = bool(os.environ.get(variable))
            yield Need(what, found, f"{variable} is set" if found else f"set the environment variable {variable}")


def _room(folder: Path) -> Need:
    """Whether the output can be written. How much it will take depends on the checkpoints that are kept."""
    place = standing(folder)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Need("output_dir", False, f"{place} cannot be written to: set another output_dir")
    return Need("output_dir", True, f"{folder}, {shutil.disk_usage(place).free / 2**30:,.0f} GiB free")
