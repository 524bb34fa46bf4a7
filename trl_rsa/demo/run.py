"""The demo from the sandbox to the folder with its results."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_rsa.demo.measure import measure_methods
from trl_rsa.demo.methods import METHODS, TAIL, align_methods, default_budget
from trl_rsa.demo.table import markdown, print_table, sampled_answers
from trl_rsa.report import write_report
from trl_rsa.storage.names import CERTIFICATE, RECORDS


def run_demo(
    sandbox: Any,
    output_dir: Path,
    max_steps: int,
    n_prompts: int,
    draws: int,
    budget: float | None = None,
    log: Callable[[str], None] = print,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Aligns, measures, prints the table, and writes the report, table and answers.

    Args:
        sandbox (`Sandbox`):
            See [`~trl_rsa.sandbox.build_sandbox`].
        output_dir (`Path`):
            Gets `report.html`, its short form `report.md` and its pictures in `plots`, `README.md` (the table),
            `answers.md`, `records.jsonl`, `metrics.json` and a folder per trained method.
        max_steps (`int`), n_prompts (`int`), draws (`int`):
            Optimizer steps per stage (a rung takes half as many), test prompts, answers per prompt.
        budget (`float`, *optional*):
            Largest CVaR of cost of the constrained method; see [`default_budget`].
        log (`Callable[[str], None]`, *optional*):
            Where the lines about progress go.
        training (`dict`, *optional*):
            More [`RSAConfig`] arguments for every stage.

    Returns:
        `dict`: what `metrics.json` holds.
    """
    from trl_rsa.ladder.progress import ProgressLog

    log = ProgressLog(log)
    log(f"World {sandbox.world.name!r}, seed {sandbox.seed}; the model and its pairs are cached in {sandbox.folder}")
    budget = default_budget(sandbox) if budget is None else budget
    log(f"Budget: CVaR({TAIL:g}) of cost at most {budget:g}")
    folders = align_methods(sandbox, output_dir, max_steps, budget, log, training or {})
    for method in METHODS:
        if method.constrained:
            shutil.copyfile(output_dir / method.folder / "certificate-cost.json", output_dir / CERTIFICATE)
    metrics = measure_methods(sandbox, folders, output_dir, n_prompts, draws, budget, log)
    write_report(output_dir, title=f"World “{sandbox.world.name}”: how bad are the worst answers?")
    (output_dir / "README.md").write_text(markdown(metrics), encoding="utf-8")
    (output_dir / "answers.md").write_text(sampled_answers(output_dir / RECORDS), encoding="utf-8")
    print_table(metrics)
    return metrics
