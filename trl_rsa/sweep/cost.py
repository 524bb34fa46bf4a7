"""What each point of a sweep costs, before it is run: steps, rungs, responses."""

import math
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.prepare import prepare_stage
from trl_rsa.evaluation.request import Evaluation
from trl_rsa.sweep.points import Point
from trl_rsa.sweep.shared import common_stages
from trl_rsa.training.stage import ReadyStage


def steps_of(ready: ReadyStage, processes: int = 1) -> int:
    """Optimizer steps of a stage, as the trainer counts them."""
    config = ready.config
    if config.max_steps > 0:
        return config.max_steps
    batches = math.ceil(len(ready.train_dataset) / (config.per_device_train_batch_size * processes))
    each_epoch = max(math.ceil(batches / config.gradient_accumulation_steps), 1)
    return math.ceil(config.num_train_epochs * each_epoch)


def describe_costs(
    points: Sequence[Point], evaluation: Evaluation, processing_class: PreTrainedTokenizerBase, processes: int = 1
) -> Iterator[str]:
    """A line per point, and one for all. Stages that an earlier point has trained are said to come from it."""
    total, responses = 0, len(evaluation.rows) * evaluation.sampling.draws
    for number, point in enumerate(points, start=1):
        parts, steps = _training(point, points[: number - 1], processing_class, processes)
        total += steps
        yield f"[{number}/{len(points)}] {point.name}: {'; '.join([*parts, f'evaluates {responses:,} responses'])}"
    ladders = sum(point.plan is not None and bool(point.plan.constraints) for point in points)
    yield (
        f"In all: {total:,} optimizer steps in stages"
        + (f", {ladders} ladder{'s' if ladders > 1 else ''} whose rungs come on top" if ladders else "")
        + f", {responses * len(points):,} responses evaluated."
    )


def _training(
    point: Point, before: Sequence[Point], processing_class: PreTrainedTokenizerBase, processes: int
) -> tuple[list[str], int]:
    if point.plan is None:
        return [f"{point.model}, as it is"], 0
    earlier = [other for other in before if other.plan is not None]
    donor = max(earlier, key=lambda other: common_stages(point.plan, other.plan), default=None)  # type: ignore[arg-type]
    shared = common_stages(point.plan, donor.plan) if donor is not None else 0  # type: ignore[arg-type]
    parts, total = [], 0
    for index, stage in enumerate(point.plan.stages):
        if index < shared and donor is not None:
            parts.append(f"{stage.name} from {donor.name}")
            continue
        ready = prepare_stage(point.plan, index, processing_class)
        steps = steps_of(ready, processes)
        parts.append(f"{stage.name} {len(ready.train_dataset):,} pairs, {steps:,} steps")
        total += steps
    for constraint in point.plan.constraints:
        rungs = point.plan.rungs
        parts.append(
            f"up to {rungs.max_rungs} rungs and {rungs.max_walk_backs} walk-backs for {constraint.name} at most "
            f"{constraint.budget:g}"
        )
    return parts, total
