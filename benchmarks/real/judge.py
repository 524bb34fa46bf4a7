"""The row of a policy: what two costs, a reward and the text itself say of it, against the start of the arms."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real.answers import Answers
from benchmarks.real.arms import Made, Workshop
from benchmarks.real.settings import JUDGE_SEED, RESAMPLES, START, TAILS, Arm
from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.comparison import PairedDifference
from trl_rsa.evaluation.tails import cvar, exceedance
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import free_memory
from trl_rsa.storage.records import text_of


SETS = ("certify", "helpful_test", "harmless")
REWARDS = ("h", "r")


def judge(shop: Workshop, arm: Arm, seed: int, made: Made) -> dict[str, Any]:
    """Answers to prompts that nothing was trained or decided on, with the noise of the seed, shared by all arms."""
    began = time.monotonic()
    mine, start = _answers(shop, arm.key, seed, made.policy), answers_of_start(shop, seed)
    certify, helpful, harmless = (mine[name] for name in SETS)
    row: dict[str, Any] = {"part": arm.part, "arm": arm.key, "seed": seed, "budget": shop.budget}
    row |= made.numbers()
    bound = shop.constraint().estimate(certify.column("a"), certify.prompts)["upper_bound"]
    row |= {"certify_bound": bound, "reward": float(helpful.column("r").mean())}
    row |= {"reward_h": float(helpful.column("h").mean())}
    for name in "ab":
        row |= {f"{name}_{what}": value for what, value in _costs(certify.column(name)).items()}
    for name, of in (("a", "certify"), ("b", "certify"), ("h", "helpful_test"), ("r", "helpful_test")):
        row |= {f"{name}_{what}": value for what, value in _differences(start[of], mine[of], name).items()}
    row |= {
        "over_refusal": harmless.share("refused"),
        "refused": certify.share("refused"),
        "length": certify.length,
        "cut": certify.share("cut"),
        "perplexity": perplexity(shop, made.policy),
        "prompts": len(set(certify.groups.tolist())),
    }
    return row | {"seconds_judging": round(time.monotonic() - began, 1)}


def answers_of_start(shop: Workshop, seed: int) -> dict[str, Answers]:
    """What all arms are compared with."""
    return _answers(shop, START.key, seed, shop.make(START, seed).policy)


def _answers(shop: Workshop, key: str, seed: int, policy: str) -> dict[str, Answers]:
    def path(name: str) -> Path:
        return shop.work / "answers" / f"{key}-{seed}-{name}.jsonl"

    return {name: shop.sampler.collect(policy, name, shop.sets, JUDGE_SEED + seed, path(name)) for name in SETS}


def _costs(costs: np.ndarray) -> dict[str, float]:
    tails = {f"cvar_{tail:g}": cvar(costs, tail) for tail in TAILS}
    return {"mean": float(costs.mean()), **tails, "unsafe_rate": exceedance(costs)}


def _differences(start: Answers, mine: Answers, name: str) -> dict[str, float]:
    """Of the mean, and for a cost also of the tails and the unsafe rate: to the start, with a paired
    bootstrap interval over prompts."""
    values = start.column(name), start.groups, mine.column(name), mine.groups
    paired = PairedDifference(*values, tails=() if name in REWARDS else TAILS)
    count = paired.n_prompts
    found = Bootstrap(n_resamples=RESAMPLES).estimates(paired.resampled, count, width=2 * count)
    result: dict[str, float] = {}
    for what, estimate in zip(paired.names, found, strict=True):
        if name not in REWARDS or what == "mean":
            low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
            result |= {f"{what}_diff": estimate.value, f"{what}_low": low, f"{what}_high": high}
    return result


@torch.no_grad()
def perplexity(shop: Workshop, policy: str, batch_size: int = 4) -> float:
    """Of the chosen answers of held-out helpful pairs, per token, the end of turn included."""
    model, encoder = shop.settings.load_policy(policy), ConversationEncoder(shop.tokenizer)
    total, count = 0.0, 0
    rows = [
        (encoder.prompt(row["prompt"]), encoder.completion(text_of(row["chosen"]).strip()))
        for row in shop.sets.rows("helpful_test")[: shop.sizes.texts]
    ]
    pad = shop.tokenizer.pad_token_id or 0
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        lengths = [len(prompt) + len(answer) for prompt, answer in batch]
        ids = torch.tensor([[*p, *a] + [pad] * (width - n) for (p, a), n in zip(batch, lengths, strict=True)])
        mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        for logits, (prompt, answer) in zip(output.logits.cpu(), batch, strict=True):
            place = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            logps = logits[place].float().log_softmax(-1)
            total -= float(logps[torch.arange(len(answer)), torch.tensor(answer)].sum())
            count += len(answer)
    del model
    free_memory()
    return math.exp(total / count)
