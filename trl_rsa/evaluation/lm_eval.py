"""Public benchmarks through lm-evaluation-harness, where it is installed."""

import math
from collections.abc import Sequence
from typing import Any

from trl_rsa.sampling.policies import whole_model
from trl_rsa.scoring.batches import pick_device


# A bare name may stand for a group; the harness knows which.
SUGGESTED = ("truthfulqa_mc2", "toxigen", "bbq", "wmdp")


def require_harness() -> Any:
    """The package `lm_eval`.

    Raises:
        ImportError: with how to install it.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise ImportError(
            "You set benchmarks, but lm-evaluation-harness is not installed. Install it: pip install 'trl-rsa[eval]'."
        ) from error
    return lm_eval


def run_benchmarks(
    model: str,
    tasks: Sequence[str],
    *,
    batch_size: int = 8,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Runs tasks of the harness on one model.

    Args:
        model (`str`):
            Folder or repository of a model, or of an adapter, which the harness loads onto its base.
        tasks (`Sequence[str]`):
            Names in the harness, such as [`SUGGESTED`]. What they download is up to the harness.

    Returns:
        `dict`: per task the harness's numbers, by its own names (`"acc,none"`, `"acc_stderr,none"`, …).
    """
    if not tasks:
        raise ValueError(f"You set benchmarks to nothing. Name at least one, such as {', '.join(SUGGESTED)}.")
    harness = require_harness()
    found = harness.simple_evaluate(
        model="hf",
        model_args={**_where(model), "dtype": dtype},
        tasks=list(tasks),
        batch_size=batch_size,
        device=str(pick_device(device)),
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        log_samples=False,
    )
    return {task: {name: _plain(value) for name, value in numbers.items()} for task, numbers in _results(found)}


def _where(model: str) -> dict[str, str]:
    """Under the names of the harness's class for models of transformers, HFLM."""
    whole, options = whole_model(model, {})
    return {"pretrained": whole, **options, **({"peft": model} if whole != model else {})}


def _results(found: dict[str, Any]) -> Any:
    # Groups such as wmdp have their mean under "groups", their parts under "results".
    return ({**found["results"], **(found.get("groups") or {})}).items()


def _plain(value: Any) -> Any:
    """Numbers as JSON knows them; the harness writes "N/A" where there is no standard error."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
