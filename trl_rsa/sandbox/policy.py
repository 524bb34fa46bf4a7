"""The SFT policy: a small Llama that TRL's SFTTrainer teaches to speak as the grammar does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trl_rsa.sandbox.prompts import Prompt
from trl_rsa.sandbox.sampling import as_messages
from trl_rsa.sandbox.streams import generator, integer
from trl_rsa.sandbox.training import train, trainer_arguments
from trl_rsa.sandbox.worlds import World


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PolicySettings:
    """Shape and training of the SFT policy. The defaults have about a million parameters.

    Args:
        hidden_size, intermediate_size, layers, heads (`int`):
            Shape of the Llama.
        batch_size (`int`, *optional*, defaults to 32), steps (`int`, *optional*, defaults to 900):
            Optimizer steps and samples per step; each sample is drawn from the grammar once and seen once.
        learning_rate (`float`, *optional*, defaults to 4e-3):
            Peak of a cosine schedule with 5 % warm-up.
    """

    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 2
    heads: int = 4
    batch_size: int = 32
    steps: int = 900
    learning_rate: float = 4e-3


def new_policy(tokenizer: "PreTrainedTokenizerBase", settings: PolicySettings, seed: int) -> "PreTrainedModel":
    """An untrained `LlamaForCausalLM`, initialised by seed without touching the global random state."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=256,
        initializer_range=settings.hidden_size**-0.5 / 2,
        # Answers repeat words of the prompt: one embedding for reading and writing makes copying easy to learn.
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def sft_dataset(world: World, prompts: Sequence[Prompt], n: int, seed: int) -> "Dataset":
    """`n` answers of the grammar to the prompts, in TRL's conversational prompt–completion format.

    Every prompt is used equally often, up to one, in random order.
    """
    from datasets import Dataset

    rng = generator(seed, "sft data")
    order = [i for _ in range(-(-n // len(prompts))) for i in rng.permutation(len(prompts))][:n]
    rows = []
    for i in order:
        prompt = prompts[i]
        answer = world.grammar.sample(f"start:{prompt.kind}", prompt.slots, rng)
        rows.append({"prompt": as_messages(prompt), "completion": [{"role": "assistant", "content": answer}]})
    return Dataset.from_list(rows)


def train_policy(
    world: World,
    prompts: Sequence[Prompt],
    tokenizer: "PreTrainedTokenizerBase",
    settings: PolicySettings,
    seed: int,
    progress: bool = False,
) -> "PreTrainedModel":
    """The SFT policy of a world: trained on grammar samples for the prompts, on the answer's tokens alone.

    Returns:
        `LlamaForCausalLM`, in float32 on the CPU.
    """
    from trl import SFTConfig, SFTTrainer

    dataset = sft_dataset(world, prompts, settings.batch_size * settings.steps, seed)
    model = new_policy(tokenizer, settings, integer(seed, "sft initialisation"))
    shape = (settings.batch_size, settings.steps, settings.learning_rate)
    with trainer_arguments(*shape, seed=integer(seed, "sft training"), progress=progress) as arguments:
        args = SFTConfig(**arguments)
        return train(SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer))
