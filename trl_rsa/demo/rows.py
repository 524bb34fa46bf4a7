"""Every row of the demo, trained and asked: one that others start from first, the others side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.alignment.plan import Plan
from trl_rsa.demo.measure import Exam
from trl_rsa.demo.methods import Method, plan_of
from trl_rsa.demo.phases import Phase, phase
from trl_rsa.demo.processes import side_by_side
from trl_rsa.demo.quiet import quiet
from trl_rsa.evaluation.intervals import EstimateJSON


if TYPE_CHECKING:
    from trl_rsa.ladder.progress import ProgressLog


@dataclass(frozen=True)
class Task:
    """What is to be done for a row.

    Args:
        method ([`Method`]):
            The row.
        start (`str`):
            Folder of the model that it starts from, or is.
        plan ([`Plan`], *optional*):
            How it is trained, if that is not done.
        donor ([`Plan`], *optional*):
            That of a ladder which begins earlier, from the same model.
    """

    method: Method
    start: str
    plan: Plan | None = None
    donor: Plan | None = None


@dataclass(frozen=True)
class Made:
    """A finished row: its model's folder, how its search ended, and the estimate of its KL from the SFT policy."""

    folder: str
    ended: str
    kl: EstimateJSON


def make_rows(
    methods: Sequence[Method],
    sandbox: Any,
    exam: Exam,
    max_steps: int,
    log: "ProgressLog",
    training: dict[str, Any],
) -> dict[str, Made]:
    """Trains each row and lets it answer, and says so in a line when it is done: a row that others start from first,
    and the others side by side, in a process each on as many cores as there are. One row leaves most of a second core
    idle.

    Args:
        methods (`Sequence[Method]`):
            The rows.
        sandbox (`Sandbox`):
            The world's model and preference sets.
        exam ([`Exam`]):
            What each is asked. Its folder gets one per row with its whole log, `log.txt`; finished models are not
            trained again.
        max_steps (`int`):
            Optimizer steps per stage.
        log ([`ProgressLog`]):
            Where the lines about progress go.
        training (`dict`):
            More [`RSAConfig`] arguments for every stage.

    Returns:
        `dict[str, Made]`: by the row's name.
    """
    models: dict[str, str] = {}
    tasks: list[Task] = []
    for method in methods:
        start = models[method.start] if method.start else str(sandbox.sft_path)
        plan = None
        if method.stages or method.budget is not None:
            plan = plan_of(method, sandbox, start, exam.output_dir, max_steps, len(exam.prompts), training)
        if plan is not None and method.start is None:
            with phase(log, method.name) as running:
                start, running.result = align_row(plan, running)
            plan = None
        models[method.name] = start
        tasks.append(Task(method, start, plan))
    done = side_by_side(make_row, [(task, exam) for task in in_order(tasks)], log)
    made: dict[str, Made] = {}
    for task, row, seconds in done:
        made[task.method.name] = row
        if task.plan is not None:
            log(f"{task.method.name}: {seconds:.0f} s{f'; {row.ended}' if row.ended else ''}")
    return made


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """The ladder that takes longest first, as nobody is to wait for it at the end; then what trains little; then the
    other ladders, which find the responses of the model that all start from when they begin."""
    ladders = sorted((t for t in tasks if t.method.budget is not None), key=lambda task: task.method.budget or 0.0)
    others = sorted((t for t in tasks if t.method.budget is None), key=lambda task: task.plan is None)
    if not ladders:
        return others
    first, *rest = ladders
    return [first, *others, *(Task(task.method, task.start, task.plan, donor=first.plan) for task in rest)]


def make_row(task: Task, exam: Exam) -> Made:
    """Trains the row, if that is not done, and lets it answer."""
    running, folder, ended = Phase(task.method.name), task.start, ""
    if task.plan is not None:
        if task.donor is not None:
            # Imported here, as below.
            from trl_rsa.sweep.shared import copy_first_responses

            copy_first_responses(task.plan, [task.donor])
        folder, ended = align_row(task.plan, running)
    return Made(folder, ended, exam.answer(task.method, folder, running))


def align_row(plan: Plan, running: Phase) -> tuple[str, str]:
    """The folder of a row's model, and in words how its search ended."""
    # Imported here: it loads TRL, and the rows are also read by what does not train.
    from trl_rsa.alignment.run import align

    with quiet():
        alignment = align(plan, log=running.keep(Path(plan.output_dir) / "log.txt"))
    return alignment.model, _in_words(alignment.manifest.get("ladder"))


def count_scored(method: Method, output_dir: Path) -> int:
    """How many answers of its own a row's search has asked the cost of."""
    files = (output_dir / method.folder / "ladder").glob("*.jsonl")
    return sum(1 for path in files for line in path.open("rb") if line.strip())


def _in_words(ladder: Any) -> str:
    """How a search ended."""
    if ladder is None:
        return ""
    rungs, last = len(ladder["rungs"]), ladder["observations"]
    bound = next(o for o in last if o["model"] == ladder["model"])["constraints"]["cost"]["upper_bound"]
    met = "met" if ladder["met"] else "NOT met"
    certified = "certified" if ladder["certified"] else "not certified"
    return f"{rungs} rung{'s' if rungs != 1 else ''}, bound {bound:.2f}: {met}, {certified}"
