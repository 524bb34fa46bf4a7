"""Launches each engine once for the whole test run, whichever worker of pytest-xdist asks first."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_cases import LORA, cases_of
from filelock import FileLock
from launching import launch, why_not


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "engines"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def one_at_a_time(shared_folder) -> Callable[[], FileLock]:
    """A lock for launches: two of them would fight for two cores."""
    return lambda: FileLock(shared_folder / "launch.lock")


@pytest.fixture(scope="session")
def folder(shared_folder, tiny_model_path, tiny_tied_model_path, tiny_tokenizer, make_preference_dataset) -> Path:
    """The models, the adapter and the pairs that all engines train with."""
    with FileLock(shared_folder / "make.lock"):
        if not (shared_folder / "uneven").exists():
            shutil.copytree(tiny_model_path, shared_folder / "untied")
            shutil.copytree(tiny_tied_model_path, shared_folder / "tied")
            make_adapter(shared_folder)
            make_preference_dataset(16).save_to_disk(str(shared_folder / "pairs"))
            make_uneven_pairs(tiny_tokenizer).save_to_disk(str(shared_folder / "uneven"))
    return shared_folder


def make_adapter(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder / "untied")
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **LORA)
    get_peft_model(base, config).save_pretrained(folder / "adapter")


def make_uneven_pairs(tokenizer: Any) -> Any:
    """In the order of the data, of each 4 pairs 2 are long and 2 are short: one rank's, and the other's."""
    from datasets import Dataset

    rng = random.Random(0)
    vocabulary = sorted(word for word in tokenizer.get_vocab() if not word.startswith("<"))

    def words(n: int) -> str:
        return " ".join(rng.choice(vocabulary) for _ in range(n))

    lengths = [40, 40, 1, 1] * 4
    return Dataset.from_list(
        [{"prompt": words(3), "chosen": f" {words(n)} ", "rejected": f" {words(n)} "} for n in lengths]
    )


@pytest.fixture(scope="session")
def launched(folder, one_at_a_time) -> Callable[[str], Path]:
    """`launched(engine)` is the folder with the results of the engine's cases."""

    def results(engine: str) -> Path:
        if reason := why_not(engine):
            pytest.skip(reason)
        ended = folder / f"{engine}.txt"
        with one_at_a_time():
            if not ended.exists():
                run = launch(engine, str(folder), engine, *cases_of(engine))
                ended.write_text(f"{run.returncode}\n{run.output}")
        returncode, _, output = ended.read_text().partition("\n")
        if returncode != "0":
            pytest.fail(f"{engine} ended with {returncode}:\n{output[-6000:]}", pytrace=False)
        return folder / engine

    return results
