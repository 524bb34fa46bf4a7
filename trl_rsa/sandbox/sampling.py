"""Batched sampling from a Hugging Face causal model, reproducible by seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trl_rsa.data.schema import Message, Text


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_rsa.sandbox.prompts import Prompt


MAX_NEW_TOKENS = 48


def as_messages(prompt: "Text | Prompt") -> list[Message]:
    """A string, a [`Prompt`] or messages, in TRL's conversational format."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return list(prompt if isinstance(prompt, list) else prompt.messages)


def sample_responses(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: "Sequence[Text | Prompt]",
    k: int,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 512,
) -> list[list[str]]:
    """`k` responses to each prompt, drawn from the model itself (no top-k, no top-p).

    The draws depend on the seed, the prompts, their order and the batch size, and not on the global random state,
    which is left as it was. A response that does not end within `max_new_tokens` is returned as far as it goes.

    Args:
        model (`PreTrainedModel`):
            The policy.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer, with a chat template and a padding token.
        prompts (`Sequence[str | Prompt | list[dict]]`):
            The prompts, as strings, as prompts of the sandbox, or as messages.
        k (`int`):
            Responses per prompt.
        seed (`int`):
            Seed of the draws.
        temperature (`float`, *optional*, defaults to 1):
            Softmax temperature, above 0.
        max_new_tokens (`int`, *optional*, defaults to 48):
            Longest response, in tokens. The longest of the worlds' grammars has 36 and EOS.
        batch_size (`int`, *optional*, defaults to 512):
            Responses generated at a time.

    Returns:
        `list[list[str]]`: the texts, `k` for each prompt, without special tokens.
    """
    import torch

    texts = [
        tokenizer.apply_chat_template(as_messages(prompt), tokenize=False, add_generation_prompt=True)
        for prompt in prompts
        for _ in range(k)
    ]
    training = model.training
    model.eval()
    flat: list[str] = []
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            for start in range(0, len(texts), batch_size):
                batch = texts[start : start + batch_size]
                flat += _generate(model, tokenizer, batch, temperature, max_new_tokens)
    finally:
        model.train(training)
    return [flat[i * k : (i + 1) * k] for i in range(len(prompts))]


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    temperature: float,
    max_new_tokens: int,
) -> list[str]:
    from transformers import GenerationConfig

    inputs = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        use_cache=True,  # trainers leave `use_cache=False` in a model's config
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    output = model.generate(
        input_ids=inputs["input_ids"].to(model.device),
        attention_mask=inputs["attention_mask"].to(model.device),
        generation_config=config,
    )
    responses = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(responses, skip_special_tokens=True)]
