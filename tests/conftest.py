"""Models, a tokenizer and preference pairs, made on the spot: the tests need no network and no GPU."""

import gc
import os
import sys
from pathlib import Path


# Before anything imports torch or a Hugging Face library.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# DeepSpeed compiles an operator with the first ninja it finds, and again when it finds another: let it be pip's.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
# Scripts that tests start share modules with them.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).with_name("support"))]
)

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from cpu_args import CPU_ARGS


# CI asks whether this commit is right, so it tries the same examples every time; at a desk new ones are looked for.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


# The libraries are imported inside the fixtures: tests of rooms without torch stay quick.
if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "hill", "red", "blue", "big", "small", "quick", "slow"]
WORDS += ["is", "was", "in", "at", "user", "assistant"]
SPECIAL = ["<pad>", "<eos>", "<unk>"]

# "user the cat sat <eos> assistant the dog ran <eos>": the prompt with generation prompt is a prefix of the whole.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per word, 24 in all, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def save_tiny_llama(tiny_tokenizer, tmp_path_factory) -> Iterator[Callable[..., str]]:
    """`save_tiny_llama(seed=0, **config)` saves a Llama of two layers with its tokenizer and returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # The package collects garbage whenever it lets go of a model. Each time that would look through all that has been
    # imported by now, for most of a second: half the time of the tests of `evaluate`. Frozen, it is passed over.
    gc.collect()
    gc.freeze()

    def save(seed: int = 0, **changes: Any) -> str:
        config = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            # Ten times the usual: next-token laws that are far from uniform.
            "initializer_range": 0.2,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tiny_tokenizer.eos_token_id,
        }
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(config | changes)))
        folder = str(tmp_path_factory.mktemp("tiny_llama"))
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    yield save
    gc.unfreeze()  # or nanobind takes what is frozen for leaks


@pytest.fixture(scope="session")
def tiny_model_path(save_tiny_llama) -> str:
    return save_tiny_llama(tie_word_embeddings=False)


@pytest.fixture(scope="session")
def tiny_tied_model_path(save_tiny_llama) -> str:
    return save_tiny_llama(tie_word_embeddings=True)


@pytest.fixture(scope="session")
def other_tiny_model_path(save_tiny_llama) -> str:
    """Other weights than `tiny_model_path`, same vocabulary: a policy that has left its reference."""
    return save_tiny_llama(seed=1, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def make_preference_dataset() -> "Callable[..., Dataset]":
    """`make_preference_dataset(n, seed=0, **columns)`: pairs of random words; answers of 2–8 tokens, EOS included."""
    from datasets import Dataset

    def make(n: int, seed: int = 0, **columns: list) -> "Dataset":
        rng = random.Random(seed)

        def words(low: int, high: int) -> str:
            return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

        rows = [
            {"prompt": words(2, 5), "chosen": f" {words(1, 7)} ", "rejected": f" {words(1, 7)} "} for _ in range(n)
        ]
        return Dataset.from_list([{**row, **{k: v[i] for k, v in columns.items()}} for i, row in enumerate(rows)])

    return make


@pytest.fixture(scope="session")
def preference_dataset(make_preference_dataset) -> "Dataset":
    return make_preference_dataset(16)


@pytest.fixture(scope="session")
def conversational_preference_dataset(preference_dataset) -> "Dataset":
    def messages(row: dict) -> dict:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {name: [{"role": role, "content": row[name].strip()}] for name, role in roles.items()}

    return preference_dataset.map(messages)


@pytest.fixture(scope="session")
def implicit_prompt_dataset(preference_dataset) -> "Dataset":
    """The prompt is part of both answers, as in HH-RLHF."""
    return preference_dataset.map(
        lambda row: {name: row["prompt"] + row[name] for name in ("chosen", "rejected")}, remove_columns="prompt"
    )


@pytest.fixture
def tiny_args(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`tiny_args(**changes)`: keyword arguments for RSAConfig and DPOConfig, for a few quiet steps on the CPU."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            **CPU_ARGS,
            "output_dir": str(tmp_path / "out"),
            "save_strategy": "no",
            "learning_rate": 1e-2,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
        } | changes

    return make


@pytest.fixture
def working_dpo_trainer() -> None:
    """For tests that run TRL's own trainer beside ours."""
    import importlib.util

    import torch
    import trl

    if trl.__version__.startswith("1.15.") and importlib.util.find_spec("triton") and not torch.cuda.is_available():
        pytest.skip("the DPOTrainer of TRL 1.15 starts Triton where it is installed, even on a CPU")
