"""What is to be run and how long it will take on this machine: a few passes through the model, and arithmetic."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.real.arms import Workshop
from benchmarks.real.settings import GRID, SCORE_MODELS, Arm, Sizes


# A training step in forward passes of its tokens without gradients: policy, reference, and a backward pass.
STEP_FORWARDS = 5.0
# A score model is trained in float32 with autocast, and has no reference.
SCORE_FORWARDS = 5.0
TEMPLATE = 35  # tokens that a chat template adds to a prompt


@dataclass(frozen=True)
class Rates:
    """Seconds of one token through the model, and of sampling one response of the horizon's length; and which share of
    them the processor worked for this process."""

    token: float
    response: float
    busy: float = 1.0


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
    return work.steps * step + work.responses * (rates.response + length * rates.token)


def score_model_seconds(sizes: Sizes, rates: Rates) -> float:
    """Of all three, their held-out measures included; half of their rows are pairs."""
    length = sizes.longest_prompt // 2 + TEMPLATE + sizes.horizon
    rows = sizes.scored_steps * sizes.scored_batch * SCORE_FORWARDS + 0.3 * sizes.scored_rows
    return len(SCORE_MODELS) * 1.5 * rows * length * rates.token


@torch.no_grad()
def measure(shop: Workshop, tokens: int = 128, responses: int = 16, new_tokens: int = 8) -> Rates:
    """A few passes through the instruct model on this machine as it is now."""
    model = shop.settings.load_policy(shop.model)
    width = min(tokens, (model.config.max_position_embeddings or tokens) - new_tokens)
    ids = torch.randint(10, min(1000, model.config.vocab_size), (8, width), device=model.device)
    model(ids)  # the first pass also allocates
    began, worked = time.monotonic(), time.process_time()
    model(ids)
    token = (time.monotonic() - began) / ids.numel()
    ids = ids[:1, : width // 2].expand(responses, -1).contiguous()
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    began = time.monotonic()
    model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    seconds = time.monotonic() - began
    steps = max(seconds - ids.numel() * token, 0.0) / new_tokens
    prefill = width // 2 * token
    elapsed = seconds + 8 * width * token
    busy = 1.0
    if model.device.type == "cpu":
        busy = min(1.0, (time.process_time() - worked) / torch.get_num_threads() / elapsed)
    # The seeded noise takes a quarter more. A larger batch than this one is faster: an estimate from above.
    return Rates(token, prefill + 1.25 * steps * shop.sizes.horizon / responses, busy)


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
    alone = f"; {rates.busy * total / 60:.0f} if it had nothing else to do" if rates.busy < 0.9 else ""
    return [f"{len(runs)} runs, about {total / 60:.0f} minutes at this machine's present speed{alone}:", *rows]
