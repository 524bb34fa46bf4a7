"""Learned reward and cost models: TRL's RewardTrainer on preference pairs, the cost model centred afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trl_rsa.data.schema import Message, Text
from trl_rsa.sandbox.sampling import as_messages
from trl_rsa.sandbox.streams import integer
from trl_rsa.sandbox.training import train, trainer_arguments


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# What every response is compared with when the cost model learns where its zero is.
ZERO = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]


@dataclass(frozen=True)
class ScorerSettings:
    """Training of the reward and cost models, which start from the SFT policy's body.

    Args:
        batch_size (`int`, *optional*, defaults to 32), steps (`int`, *optional*, defaults to 300):
            Pairs per optimizer step, and steps.
        learning_rate (`float`, *optional*, defaults to 1e-3):
            Peak of a cosine schedule with 5 % warm-up.
    """

    batch_size: int = 32
    steps: int = 300
    learning_rate: float = 1e-3


def train_reward_model(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: "Dataset",
    settings: ScorerSettings,
    seed: int,
    progress: bool = False,
) -> "PreTrainedModel":
    """A `LlamaForSequenceClassification` that scores `chosen` above `rejected`: higher is better.

    Args:
        policy (`LlamaForCausalLM`):
            Its body is where the scorer starts; it is not changed.
        pairs (`datasets.Dataset`):
            Columns `prompt`, `chosen`, `rejected`, with sampled labels: RewardTrainer has no soft ones.

    Raises:
        `ValueError`: if the pairs have soft labels.
    """
    _refuse_soft_labels(pairs)
    return _train(policy, tokenizer, pairs.select_columns(["prompt", "chosen", "rejected"]), settings, seed, progress)


def _refuse_soft_labels(pairs: "Dataset") -> None:
    if "pair_label" in pairs.column_names:
        raise ValueError(
            "You set pairs with soft labels (`pair_label`), but TRL's RewardTrainer would ignore them. Set "
            "`soft=False` for the pairs that a scorer is trained on."
        )


def _train(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    settings: ScorerSettings,
    seed: int,
    progress: bool,
) -> "PreTrainedModel":
    from trl import RewardConfig, RewardTrainer

    shape = (settings.batch_size, settings.steps, settings.learning_rate)
    with trainer_arguments(*shape, seed=integer(seed, "scorer training"), progress=progress) as arguments:
        model = _new_scorer(policy, integer(seed, "scorer initialisation"))
        args = RewardConfig(**arguments)
        return train(RewardTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer))


def _new_scorer(policy: "PreTrainedModel", seed: int) -> "PreTrainedModel":
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    # A config carries two labels by default, and its own class's name.
    kept = {k: v for k, v in policy.config.to_dict().items() if k not in ("architectures", "id2label", "label2id")}
    config = LlamaConfig(**kept, num_labels=1)
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def train_cost_model(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: "Dataset",
    settings: ScorerSettings,
    seed: int,
    progress: bool = False,
) -> "PreTrainedModel":
    """A `LlamaForSequenceClassification` of cost: higher is more costly, above 0 unsafe.

    Pairs within a prompt leave a cost's zero open, and the zero of each prompt separately. So, in the spirit of Safe
    RLHF's sign terms (Dai et al., 2023, arXiv 2310.12773), the safe/unsafe labels of the same responses,
    `chosen_cost > 0` and `rejected_cost > 0`, take part: besides each pair, its more costly side ranked first, every
    response is paired with the empty conversation `ZERO`, which ranks above the safe and below the unsafe ones. At
    the end [`centre`] moves the zero to where it separates best.

    Raises:
        `ValueError`: if the pairs have soft labels, or the responses are all safe or all unsafe.
    """
    from datasets import Dataset

    _refuse_soft_labels(pairs)
    prompts = [*pairs["prompt"], *pairs["prompt"]]
    completions = [*pairs["chosen"], *pairs["rejected"]]
    unsafe = np.array([*pairs["chosen_cost"], *pairs["rejected_cost"]]) > 0
    talks = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    n = len(pairs)
    rows = [(costly, safer) for safer, costly in zip(talks[:n], talks[n:], strict=True)]
    rows += [(talk, ZERO) if bad else (ZERO, talk) for talk, bad in zip(talks, unsafe, strict=True)]
    dataset = Dataset.from_dict({"chosen": [row[0] for row in rows], "rejected": [row[1] for row in rows]})
    model = _train(policy, tokenizer, dataset, settings, seed, progress)
    centre(model, tokenizer, prompts, completions, unsafe)
    return model


def centre(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Text],
    completions: Sequence[Text],
    unsafe: np.ndarray,
) -> float:
    """Shifts a scorer, in place, so that its sign separates unsafe (above 0) from safe as well as a shift can.

    The shift is the threshold with the fewest errors, safe and unsafe weighing the same. The head of a
    `LlamaForSequenceClassification` has no bias to put it into, and an ordinary checkpoint has no place for one. So it
    goes into the head's weight, along the direction u with u·h ≈ 1 for the last hidden states h (least squares, with a
    small ridge). What the approximation leaves is part of the scorer's error.

    Returns:
        `float`: the shift that was subtracted.
    """
    import torch

    hidden = torch.tensor(_features(model, tokenizer, prompts, completions), dtype=torch.float64)  # [N, H]
    weight = model.score.weight.detach().double()[0]
    gram = hidden.T @ hidden / len(hidden)
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    direction = torch.linalg.solve(gram + ridge, hidden.mean(0))
    shift = _threshold((hidden @ weight).numpy() / (hidden @ direction).numpy().clip(0.1), unsafe)
    with torch.no_grad():
        model.score.weight.copy_((weight - shift * direction)[None])
    return shift


def _threshold(scores: np.ndarray, unsafe: np.ndarray) -> float:
    """The threshold with the fewest errors at equal weight of the classes, midway between two scores."""
    if unsafe.all() or not unsafe.any():
        raise ValueError(
            f"You set {len(unsafe)} labels that are all {'unsafe' if unsafe.all() else 'safe'}, but zero can only be "
            "placed between safe and unsafe responses. Give responses of both kinds."
        )
    order = np.argsort(scores, kind="stable")
    ranked, labels = scores[order], unsafe[order]
    # A threshold after place i misses the unsafe up to i and flags the safe beyond it.
    missed = np.cumsum(labels) / labels.sum()
    flagged = 1 - np.cumsum(~labels) / (~labels).sum()
    place = int(np.argmin((missed + flagged)[:-1]))
    return float((ranked[place] + ranked[place + 1]) / 2)


def scorer_function(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int = 256, name: str = "score"
) -> Callable[..., list[float]]:
    """A learned scorer as a TRL reward function, `(prompts, completions, **kwargs) -> list[float]`."""
    import torch

    def score(prompts: Sequence[Text], completions: Sequence[Text], **kwargs: object) -> list[float]:
        features = _features(model, tokenizer, prompts, completions, batch_size)
        weight = model.score.weight.detach().cpu().double()[0]
        return (torch.tensor(features, dtype=torch.float64) @ weight).tolist()

    score.__name__ = name
    return score


def _features(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Text],
    completions: Sequence[Text],
    batch_size: int = 256,
) -> np.ndarray:  # [N, H]
    """The hidden state at each answer's last token, EOS, which the head reads."""
    import torch

    texts = [
        tokenizer.apply_chat_template([*as_messages(prompt), *_answer(completion)], tokenize=False)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    features = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                texts[start : start + batch_size],
                padding=True,
                padding_side="right",
                add_special_tokens=False,
                return_tensors="pt",
            ).to(model.device)
            hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
            last = batch["attention_mask"].sum(-1) - 1
            features.append(hidden[torch.arange(len(last), device=last.device), last].float().cpu().numpy())
    return np.concatenate(features)


def _answer(completion: Text) -> list[Message]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
