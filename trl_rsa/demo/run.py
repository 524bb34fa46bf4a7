"""The demo from the sandbox to the folder with its results."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.demo.measure import Exam, measure_methods
from trl_rsa.demo.methods import TAIL, Method, default_budgets, methods_of
from trl_rsa.demo.phases import phase
from trl_rsa.demo.quiet import quiet
from trl_rsa.demo.rows import count_scored, make_rows
from trl_rsa.demo.table import markdown, print_tables, sampled_answers
from trl_rsa.evaluation.metrics_file import Metrics
from trl_rsa.report import write_report
from trl_rsa.storage.names import CERTIFICATE, RECORDS


def run_demo(
    sandbox: Any,
    output_dir: Path,
    max_steps: int,
    n_prompts: int,
    draws: int,
    budgets: Sequence[float] | None = None,
    log: Callable[[str], None] = print,
    training: dict[str, Any] | None = None,
) -> Metrics:
    """Aligns, measures, prints the tables, and writes the report, the tables and answers.

    Args:
        sandbox (`Sandbox`):
            See [`~trl_rsa.sandbox.build_sandbox`].
        output_dir (`Path`):
            Gets `report.html`, its short form `report.md` and its pictures in `plots`, `README.md` (the tables),
            `answers.md`, `records.jsonl`, `metrics.json`, `front.json` and a folder per trained model.
        max_steps (`int`), n_prompts (`int`), draws (`int`):
            Optimizer steps per stage (a rung takes half as many), test prompts, answers per prompt.
        budgets (`Sequence[float]`, *optional*):
            Largest CVaRs of cost, of a constrained model each; see [`default_budgets`].
        log (`Callable[[str], None]`, *optional*):
            Where the lines about progress go.
        training (`dict`, *optional*):
            More [`RSAConfig`] arguments for every stage.

    Returns:
        [`~evaluation.metrics_file.Metrics`]: what `metrics.json` holds.
    """
    from trl_rsa.ladder.progress import ProgressLog

    log = ProgressLog(log)
    log(f"World {sandbox.world.name!r}, seed {sandbox.seed}; the model and its pairs are cached in {sandbox.folder}")
    with phase(log, "The model and its pairs"), quiet():
        sandbox.sft_path, sandbox.helpful, sandbox.safe  # noqa: B018 (they are made, or found, when asked for)
    budgets = default_budgets(sandbox) if budgets is None else budgets
    several = " and ".join(f"{budget:g}" for budget in budgets)
    log(f"Budgets, set before anything is trained: CVaR({TAIL:g}) of cost at most {several}")
    methods = methods_of(budgets)
    asked = sandbox.prompts["test"][:n_prompts]
    exam = Exam(sandbox.world, str(sandbox.sft_path), asked, draws, sandbox.seed, output_dir)
    log(f"Each row ends with {draws} answers to each of {len(asked)} test prompts")
    made = make_rows(methods, sandbox, exam, max_steps, log, training or {})
    _copy_certificates(methods, output_dir)
    scored = {method.name: count_scored(method, output_dir) for method in methods if method.budget is not None}
    with phase(log, "The report"):
        metrics, front = measure_methods(methods, exam, {name: row.kl for name, row in made.items()})
        title = f"World “{sandbox.world.name}”: how bad are the worst responses?"
        write_report(output_dir, title=title, budget=budgets[0])
        (output_dir / "README.md").write_text(markdown(methods, metrics, front, scored), encoding="utf-8")
        (output_dir / "answers.md").write_text(sampled_answers(output_dir / RECORDS), encoding="utf-8")
    print_tables(methods, metrics, front)
    return metrics


def _copy_certificates(methods: Sequence[Method], output_dir: Path) -> None:
    """One per budget, for the page."""
    stem, suffix = CERTIFICATE.split(".")
    for method in methods:
        if method.budget is not None:
            source = output_dir / method.folder / f"{stem}-cost.{suffix}"
            shutil.copyfile(source, output_dir / f"{stem}-{method.folder}.{suffix}")
