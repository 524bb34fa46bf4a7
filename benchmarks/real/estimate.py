"""What is to be run and how long it will take on this machine: a few passes through the model, and arithmetic."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.real.arms import Workshop
from benchmarks.real.settings import GRID, SCORE_MODELS, Arm, Sizes


# A training step in forward passes of its tokens without gradients: policy, reference, and a backward pass.
STEP_FORWARDS = 4.0
SCORE_FORWARDS = 3.5  # a score model has no reference
TEMPLATE = 35  # tokens that a chat template adds to a prompt


@dataclass(frozen=True)
class Rates:
    """Seconds of one token through the chat model, of sampling one response of the horizon's length, and of one token
    through the encoder."""

    token: float
    response: float
    encoder: float


@dataclass(frozen=True)
class Work:
    """Optimizer steps, and responses sampled and scored, of one run."""

    steps: int
    responses: int


def work_of(arm: Arm, sizes: Sizes) -> Work:
    """At most; a ladder may stop early. Half of an answer's scores count as a response."""
    judged = sizes.certify + sizes.helpful + sizes.refusal
    rung = sizes.train * sizes.draws
    if arm.search == "helpful":
        return Work(sizes.helpful_steps, judged)
    if arm.search == "sft":  # a step has more answers than a pair stage has, and no reference
        return Work(sizes.sft_steps, judged)
    if arm.search == "grid":
        several = min(len(GRID), sizes.rungs)
        return Work(several * sizes.steps, several * (rung + sizes.decide) + judged)
    if arm.search == "ladder":
        responses = sizes.rungs * rung + (sizes.rungs + 1) * sizes.decide + sizes.certify
        return Work(sizes.rungs * sizes.steps, responses + judged)
    return Work(0, judged)


def seconds_of(work: Work, sizes: Sizes, rates: Rates) -> float:
    length = sizes.longest_prompt // 2 + TEMPLATE + sizes.horizon
    step = STEP_FORWARDS * 2 * sizes.batch_size * length * rates.token
    return work.steps * step + work.responses * (rates.response + length * rates.encoder)


def score_model_seconds(sizes: Sizes, rates: Rates) -> float:
    """Of all, their held-out measures included; half of their rows are pairs."""
    length = sizes.longest_prompt // 2 + TEMPLATE + sizes.horizon
    rows = sizes.scored_steps * sizes.scored_batch * SCORE_FORWARDS + 0.3 * sizes.scored_rows
    return len(SCORE_MODELS) * 1.5 * rows * length * rates.encoder


@torch.no_grad()
def measure(shop: Workshop, encoder: str, tokens: int = 128, responses: int = 16, new_tokens: int = 8) -> Rates:
    """A few passes through the models on this machine as it is now; the quickest of each kind counts."""
    model = shop.settings.load_policy(shop.model)
    width = min(tokens, (model.config.max_position_embeddings or tokens) - new_tokens)
    ids = torch.randint(10, min(1000, model.config.vocab_size), (8, width), device=model.device)
    token = _quickest(lambda: model(ids)) / ids.numel()
    prompts = ids[:1, : width // 2].expand(responses, -1).contiguous()
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    mask = torch.ones_like(prompts)
    seconds = _quickest(lambda: model.generate(prompts, attention_mask=mask, **options))
    steps = max(seconds - prompts.numel() * token, 0.0) / new_tokens
    # The seeded noise takes a quarter more. A larger batch than this one is faster: an estimate from above.
    body = AutoModel.from_pretrained(encoder).to(model.device)
    ids = ids.clamp(max=body.config.vocab_size - 1)
    return Rates(
        token,
        width // 2 * token + 1.25 * steps * shop.sizes.horizon / responses,
        _quickest(lambda: body(ids)) / ids.numel(),
    )


def _quickest(call: Callable[[], Any], times: int = 3) -> float:
    """The first call also allocates, and others may meet a busy machine."""
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        call()
        seconds.append(time.monotonic() - began)
    return min(seconds)


def lines(runs: Sequence[tuple[Arm, int]], sizes: Sizes, rates: Rates, score_models: bool) -> list[str]:
    """Runs × seconds, by arm, and the sum."""
    rows, total = [], 0.0
    if score_models:
        seconds = score_model_seconds(sizes, rates)
        rows.append(f"  {'score models':<28}{len(SCORE_MODELS)} ×{seconds / len(SCORE_MODELS):>7.0f} s")
        total += seconds
    for arm in dict.fromkeys(arm for arm, _ in runs):
        work, count = work_of(arm, sizes), sum(other == arm for other, _ in runs)
        seconds = seconds_of(work, sizes, rates)
        total += count * seconds
        rows.append(
            f"  {arm.name:<28}{count} ×{seconds:>7.0f} s   at most {work.steps} steps, {work.responses:,} responses"
        )
    return [
        f"{len(runs)} runs, about {total / 60:.0f} minutes at this machine's present speed (load "
        f"{os.getloadavg()[0]:.1f}; above {os.cpu_count()} it says little of a quiet machine):",
        *rows,
    ]
