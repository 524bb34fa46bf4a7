"""(c) One ladder of a real model: observe, sample, label, train one rung, observe again, certify.

The model, the prompts and the cost are given; without them there is nothing to climb. Each line that `align` says
becomes a row when it is said, so that the file tells which phase took how long, however the run ends.
"""

import json
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results
from benchmarks.gpu.settings import Deadline, Settings


# Distinct prompts, of which half are trained on; tokens of a response; responses sampled and scored at a time.
PROMPTS, TOKENS, BATCH = 128, 256, 128
SMALL_PROMPTS, SMALL_TOKENS, SMALL_BATCH = 16, 8, 32


def make_plan(settings: Settings, folder: str) -> Any:
    """One rung of at most one epoch, all weights trained."""
    from trl_rsa import Plan, RiskConstraint, RungSettings
    from trl_rsa.evaluation.prompt_sets import load_prompts

    on_gpu = settings.device == "cuda"
    prompts, tokens, batch = (SMALL_PROMPTS, SMALL_TOKENS, SMALL_BATCH) if settings.small else (PROMPTS, TOKENS, BATCH)
    args = {
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    constraint = RiskConstraint(
        scorer=settings.cost,
        prompts=load_prompts(settings.prompts, limit=prompts).rows,
        budget=settings.cost_budget,
        bounds=settings.cost_bounds,
        scorer_options=settings.cost_options,
    )
    rungs = RungSettings(
        sampling={"max_new_tokens": tokens}, batch_size=batch, args=args, max_rungs=1, max_walk_backs=0
    )
    return Plan([], model=settings.model, output_dir=folder, args=args, constraint=constraint, rungs=rungs)


def measure_part(settings: Settings, results: Results, deadline: Deadline) -> bool:
    """Whether the ladder ran to its end, or was not asked for."""
    given = {"--model": settings.model, "--prompts": settings.prompts, "--cost": settings.cost}
    missing = [name for name, value in given.items() if not value]
    if missing:
        note = f"The ladder needs a model, prompts and a cost: {', '.join(missing)} not given."
        results.add("skipped", note)
        return True
    from trl_rsa import align

    start = time.perf_counter()
    # Names without their folders: a machine's paths are nobody's business.
    cells: dict[str, object] = {"model": Path(settings.model).name, "cost": Path(settings.cost).name}

    def add(quantity: str, value: object = "", note: str = "", outcome: str = "measured") -> None:
        seconds = time.perf_counter() - start
        results.add(outcome, note, **cells, quantity=quantity, value=value, seconds=seconds)

    with tempfile.TemporaryDirectory() as folder:

        def without_paths(text: str) -> str:
            return text.replace(folder, "OUT").replace(settings.model, Path(settings.model).name)

        try:
            plan = make_plan(settings, folder)
            summary = align(plan, log=lambda line: add("line", note=without_paths(line))).manifest["ladder"]
        except Exception as error:
            traceback.print_exc()
            add("error", note=without_paths(f"{type(error).__name__}: {str(error)[:300]}"), outcome="failed")
            return False
    for entry in summary["observations"]:
        for name in ("mean_cost", "unsafe_rate", "estimate", "upper_bound", "cut"):
            add(f"{name} after {entry['rung']} rungs", entry["constraints"]["cost"][name])
    add("rungs", len(summary["rungs"]), json.dumps([rung.get("data", {}).get("pairs") for rung in summary["rungs"]]))
    add("certified", int(summary["certified"]), summary["reason"])
    if not summary["rungs"]:
        add("no rung", note=f"The start meets the budget of {settings.cost_budget:g}: lower --cost_budget.")
    return True
