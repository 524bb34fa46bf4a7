"""sweep(): every point aligned once and evaluated once; what fails is written down, and the others go on.

    sweep(plan, axes, evaluation, folder)
    ├── make_points                  points.py: the plan with other values; finished models
    ├── _check                       alignment/preview.py: each plan, before anything is trained
    └── for every point that is not complete:
        ├── copy_finished_stages     shared.py: what another point has trained already
        ├── copy_first_responses     shared.py: what another ladder has drawn from the model that both start from
        ├── align                    alignment/run.py
        └── EvaluationRun            evaluation/run.py, on the same prompts and with the same noise for all

Killed and started again, it goes on: `align` and the evaluation resume by themselves, and sweep.json knows which
points are complete. Points that failed are tried again.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.manifest import describe
from trl_rsa.alignment.plan import Plan
from trl_rsa.alignment.preview import preview
from trl_rsa.alignment.run import align
from trl_rsa.evaluation.request import Evaluation, Progress
from trl_rsa.evaluation.run import EvaluationRun, settings_of
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.sampling.policies import free_memory, load_tokenizer
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.names import RECORDS
from trl_rsa.storage.provenance import differences
from trl_rsa.sweep.axes import Axis
from trl_rsa.sweep.cost import describe_costs
from trl_rsa.sweep.files import EVALUATION, SweepFile, SweepState, evaluated_with
from trl_rsa.sweep.points import POINTS, Point, make_points
from trl_rsa.sweep.shared import copy_finished_stages, copy_first_responses
from trl_rsa.training.launcher import Launcher


@dataclass
class Sweep:
    """
    A plan, what is varied in it, and how every point is evaluated.

    Args:
        plan ([`Plan`]):
            What every point starts from. Its `output_dir` is not used: each point has a folder of its own.
        axes (`Sequence[Axis]`):
            The fields that are varied, and their values; several make a grid.
        evaluation ([`~evaluation.request.Evaluation`]):
            How a point is evaluated, on which prompts, by which reward and cost. Its models and its output_dir are
            replaced for every point.
        output_dir (`str` or `Path`):
            Gets sweep.json and, in `points`, a folder for each.
        name (`str`, *optional*):
            Name of the method on a page; by default the folder's.
        models (`Mapping[str, str]`, *optional*):
            Finished models that are evaluated beside the points, such as the one that the plan starts from.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer; by default the one beside the model.

    Raises:
        ValueError: if nothing is varied, a value cannot be, or the evaluation lacks a reward or a cost.
    """

    plan: Plan
    axes: Sequence[Axis]
    evaluation: Evaluation
    output_dir: str | Path
    name: str | None = None
    models: Mapping[str, str] | None = None
    processing_class: PreTrainedTokenizerBase | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.output_dir)
        if not self.axes and not self.models:
            raise ValueError("You gave a sweep nothing to sweep over, but it needs a field and values. Set over.")
        if self.evaluation.reward is None or self.evaluation.cost is None or not self.evaluation.rows:
            raise ValueError(
                "You evaluate the points of a sweep without a reward, a cost or prompts, but a point is its reward "
                "and its tail of cost on the same prompts. Set all three."
            )
        if self.evaluation.certificate is not None:
            raise ValueError(
                "You set a budget in the evaluation of a sweep, but of several models on the same prompts the best "
                "one would be certified by luck. Certify one model, on prompts of its own."
            )
        self.points = make_points(self.plan, self.axes, self.models or {}, self.folder)

    def describe(self) -> list[str]:
        """What would be run, and what it costs: a line per point, after a check of its plan.

        Raises:
            ValueError: if a point cannot be run; the message says which.
        """
        problems = self._check()
        self._take_up()
        for point in self.points:
            if point.folder in problems:
                raise ValueError(_of(point, problems[point.folder]))
        return list(describe_costs(self.points, self.evaluation, self._tokenizer()))

    def run(
        self,
        log: Callable[[str], None] = print,
        launcher: Launcher | None = None,
        progress: Progress = lambda phase, done, total: None,
    ) -> SweepFile:
        """Runs what is left, and returns what sweep.json holds.

        A point that fails is written down with its problem, and the others are run. Before the first start, a plan
        that cannot be run is an error, and nothing is written.

        Args:
            log (`Callable[[str], None]`, *optional*):
                Where the lines about progress go.
            launcher ([`Launcher`], *optional*):
                As in [`align`].
            progress (`Callable`, *optional*):
                As in [`~evaluation.run.EvaluationRun`].
        """
        lines = ProgressLog(log)
        problems = self._check()
        state = self._take_up()
        for point in self.points if state.is_new else ():
            if point.folder in problems:
                raise ValueError(_of(point, problems[point.folder]))
        with hold_folder(self.folder):
            state.write()  # another name counts even if all points are complete
            for number, point in enumerate(self.points, start=1):
                line = ProgressLog(lines, prefix=f"[{number}/{len(self.points)}] {point.name}: ")
                records = self.folder / point.folder / EVALUATION / RECORDS
                if state.of(point.folder)["status"] == "complete" and records.exists():
                    line("complete already")
                    continue
                self._problem_file(point).unlink(missing_ok=True)  # of an earlier start
                if point.folder in problems:
                    self._fail(state, point, problems[point.folder], line)
                else:
                    self._run_point(state, point, line, launcher, progress)
        return state.content

    def _take_up(self) -> SweepState:
        """sweep.json in memory, with what an earlier start has left. Nothing is written."""
        axes = {axis.path: list(axis.values) for axis in self.axes}
        entries = [point.entry() for point in self.points]
        tails, unsafe_above = self.evaluation.tails, self.evaluation.unsafe_above
        state = SweepState(self.folder, self.name, describe(self.plan), axes, entries, tails, unsafe_above)
        if state.is_new and (self.folder / "evaluation.json").exists():
            raise ValueError(
                f"You set output_dir to {self.folder}, but it holds an evaluation (evaluation.json), and the sweep "
                "would write over its records. Use another output_dir."
            )
        self._compare_evaluations(state)
        return state

    def _compare_evaluations(self, state: SweepState) -> None:
        """Points that were evaluated otherwise would be told apart by that, not by what is swept."""
        now: dict[str, Any] | None = None
        for point in state.content["points"]:
            before = evaluated_with(self.folder / point["folder"] / EVALUATION)
            if before is None:
                continue
            now = _settings_of_every_point(self.evaluation) if now is None else now
            changes = list(differences(before, now))
            if changes:
                raise ValueError(
                    f"You changed the evaluation of the sweep in {self.folder} since {point['name']} was evaluated "
                    f"({'; '.join(changes[:5])}{'; …' if len(changes) > 5 else ''}), but all points must be evaluated "
                    "alike. Set it back, use another output_dir, or remove the evaluation folders in "
                    f"{self.folder / POINTS}: the points are then evaluated again, without being trained again."
                )

    def _run_point(
        self, state: SweepState, point: Point, log: ProgressLog, launcher: Launcher | None, progress: Progress
    ) -> None:
        began = time.monotonic()
        state.update(point.folder, status="running", problem=None)
        try:
            found = {"model": point.model} if point.plan is None else self._align(state, point, log, launcher)
            self._evaluate(point, str(found["model"]), log, progress)
        except Exception as error:  # whatever it is, the other points are not to be lost
            report = self._problem_file(point)
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            self._fail(state, point, error, log)
        else:
            seconds = round(time.monotonic() - began, 1)
            state.update(point.folder, status="complete", seconds=seconds, **found)
            log(f"done in {seconds:.0f} s", style="green")
        finally:
            free_memory()

    def _align(self, state: SweepState, point: Point, log: ProgressLog, launcher: Launcher | None) -> dict[str, Any]:
        assert point.plan is not None
        others = [other.plan for other in self.points if other.plan is not None and other is not point]
        reused = copy_finished_stages(point.plan, others)
        if reused:
            log(f"{', '.join(reused)}: trained already by another point, and copied")
            state.update(point.folder, reused=reused)
        donor = copy_first_responses(point.plan, others)
        if donor is not None:
            log(f"the first responses of its ladder: copied from {donor}")
        alignment = align(point.plan, self.processing_class, log=log, launcher=launcher)
        ladder = alignment.manifest.get("ladder")
        return {"model": alignment.model, **({} if ladder is None else {"met": ladder["met"]})}

    def _evaluate(self, point: Point, model: str, log: ProgressLog, progress: Progress) -> None:
        folder = self.folder / point.folder / EVALUATION
        evaluation = replace(self.evaluation, output_dir=folder, models={point.name: model}, manifest=None)
        EvaluationRun(evaluation, log=log, progress=progress).run()

    def _fail(self, state: SweepState, point: Point, error: Exception, log: ProgressLog) -> None:
        said = " ".join(str(error).split())
        problem = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
        state.update(point.folder, status="failed", problem=problem)
        log(f"FAILED: {problem}", style="red")

    def _problem_file(self, point: Point) -> Path:
        return self.folder / point.folder / "problem.txt"

    def _check(self) -> dict[str, Exception]:
        """What is wrong with the plans of the points, by folder."""
        found: dict[str, Exception] = {}
        tokenizer = self._tokenizer()
        for point in self.points:
            if point.plan is not None:
                try:
                    preview(point.plan, tokenizer, log=lambda line: None, samples=0)
                except (ValueError, OSError) as error:
                    found[point.folder] = error
        return found

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.processing_class is None:
            if not isinstance(self.plan.model, str):
                raise ValueError("You gave a model in memory, but not its tokenizer. Set processing_class.")
            return load_tokenizer(self.plan.model)
        return self.processing_class


def _settings_of_every_point(evaluation: Evaluation) -> dict[str, Any]:
    """What responses and scores are made with, as JSON gives it back."""
    # A name, so that no folder is read for its digest: models differ from point to point.
    settings = settings_of(replace(evaluation, models={"model": "of the point"}))
    return {name: value for name, value in json.loads(json.dumps(settings)).items() if name != "models"}


def _of(point: Point, error: Exception) -> str:
    return f"The point {point.name} cannot be run. {' '.join(str(error).split())}"
