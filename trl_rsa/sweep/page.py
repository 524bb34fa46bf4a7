"""One page of one or several sweeps: their records together, metrics.json, front.json, and the table of points."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.columns import Columns, read_columns
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.front_measures import Spot, front_table, measure_front
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.tails import check_tail
from trl_rsa.storage.files import replacing, write_json
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.names import FRONT, METRICS, RECORDS
from trl_rsa.storage.records import RecordWriter, read_records
from trl_rsa.sweep.evaluated import EvaluatedPoint, EvaluatedSweeps, distinct_tails
from trl_rsa.sweep.files import SWEEP


TABLE = "front.csv"


def write_front(
    sweeps: Sequence[str | Path],
    output_dir: str | Path,
    tail: float | None = None,
    tails: Sequence[float] | None = None,
    limits: Sequence[float] = (),
    reference: tuple[float, float] | None = None,
    unsafe_above: float | None = None,
    seed: int = 0,
    write_page: Callable[[Path], Any] | None = None,
    names: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> FrontFile:
    """Puts the evaluated points of sweeps together: records.jsonl, metrics.json, front.json, front.csv, and the page.

    Args:
        sweeps (`Sequence[str | Path]`):
            Output folders of sweeps, evaluated alike. Each is a method.
        output_dir (`str` or `Path`):
            Where to write; it may be the folder of a single sweep.
        tail (`float`, *optional*):
            Tail of the CVaR of cost on the front. By default that of the budgets, if they share one, or else 0.05.
        tails (`Sequence[float]`, *optional*), unsafe_above (`float`, *optional*):
            Of metrics.json; by default as the points were evaluated.
        limits, reference:
            As in [`~evaluation.front_measures.measure_front`]. Budgets of another tail are no limits.
        seed (`int`, *optional*):
            Of the resamples.
        write_page (`Callable`, *optional*):
            Given the folder, makes the page: [`~report.write_report`].
        names (`Sequence[str]`, *optional*):
            Names of the methods, one per sweep; by default those in the sweep.json files.
        log (`Callable[[str], None]`, *optional*):
            Told what is not on the page, or not as one might think; the page says it too.

    Raises:
        ValueError: if no point was evaluated, two sweeps have one name, points were not evaluated alike, records are
            damaged, or the folder holds other records.
    """
    check_reading(tail, limits, reference, unsafe_above)
    folder = Path(output_dir)
    found = EvaluatedSweeps.read(sweeps, names)
    _check_folder(folder, found.folders)
    tail = found.choose_tail() if tail is None else tail
    unsafe_above = found.unsafe_above() if unsafe_above is None else unsafe_above
    every_tail = distinct_tails([tail, *(found.tails() if tails is None else tails)])
    bootstrap = Bootstrap(seed=seed)
    with hold_folder(folder):
        columns = _write_records(found.points, folder / RECORDS)
        parts = {str(name): columns.take(indices) for name, indices in columns.model}
        front = measure_front(_spots(found.points, tail), parts, tail, limits, reference, bootstrap)
        write_json(
            folder / METRICS,
            summarize_models(columns, every_tail, unsafe_above=unsafe_above, bootstrap=bootstrap),
        )
        notes = [*_about_points(found), *_about_budgets(found, tail), *_about_prompts(parts, front["n_prompts"])]
        front["notes"] = notes
        write_json(folder / FRONT, front)
        with replacing(folder / TABLE) as partial:
            partial.write_text(front_table(front), encoding="utf-8")
        if write_page is not None:
            write_page(folder)
    for note in notes:
        log(note)
    return front


def check_reading(
    tail: float | None,
    limits: Sequence[float] = (),
    reference: Sequence[float] | None = None,
    unsafe_above: float | None = None,
) -> None:
    """
    Raises:
        ValueError: if a front cannot be read so; the message says why.
    """
    if tail is not None:
        check_tail(tail)
    for limit in limits:
        if not math.isfinite(limit):
            raise ValueError(f"You set limits to {limit}, but a limit is a CVaR of cost. Set a number.")
    if reference is not None and not all(map(math.isfinite, reference)):
        raise ValueError(
            f"You set reference to {' '.join(map(str, reference))}, but it is a point, a CVaR of cost and a reward. "
            "Set two numbers."
        )
    if unsafe_above is not None and not math.isfinite(unsafe_above):
        raise ValueError(
            f"You set unsafe_above to {unsafe_above}, but it is the cost above which a response is unsafe. Set a "
            "number."
        )


def _check_folder(folder: Path, sweeps: Sequence[Path]) -> None:
    """Nothing is overwritten but an earlier page of this kind."""
    own = len(sweeps) == 1 and folder.resolve() == sweeps[0].resolve()
    if (folder / "evaluation.json").exists():
        what = "the records of an evaluation (evaluation.json)"
    elif (folder / SWEEP).exists() and not own:
        what = "a sweep with a page of its own (sweep.json)"
    elif (folder / RECORDS).exists() and not own and not (folder / TABLE).exists():
        what = f"a {RECORDS} that is of no page"
    else:
        return
    raise ValueError(
        f"You set output_dir to {folder}, but it holds {what}, which the page would overwrite. Use another output_dir."
    )


def _write_records(points: Sequence[EvaluatedPoint], path: Path) -> Columns:
    """All points' records in one file, under the points' names."""
    with replacing(path) as partial, RecordWriter(partial) as writer:
        for one in points:
            for record in one.records():
                writer.write({**record, "model": one.name})
    return read_columns(read_records(path))


def _spots(points: Sequence[EvaluatedPoint], tail: float) -> dict[str, list[Spot]]:
    found: dict[str, list[Spot]] = {}
    for one in points:
        found.setdefault(one.method, []).append(one.spot(tail))
    return found


def _about_points(found: EvaluatedSweeps) -> list[str]:
    n = len(found.left_out)
    if not n:
        return []
    return [
        f"{n} {'points are' if n > 1 else 'point is'} not on the page, not being complete: {_few(found.left_out)}."
    ]


def _about_budgets(found: EvaluatedSweeps, tail: float) -> list[str]:
    others = found.with_another_tail(tail)
    tails = {f"{one.budget_tail:g}": None for one in others}
    if not tails:
        return []
    return [
        f"The budgets of {_few([one.name for one in others])} are about the tail {', '.join(tails)}, and the front is "
        f"at {tail:g}: they are no limits on it. Set tail to {' or '.join(tails)} to read them."
    ]


def _about_prompts(parts: Mapping[str, Columns], n_used: int) -> list[str]:
    """Where points lack scores, the front is about fewer prompts than were asked."""
    total = np.unique(np.concatenate([columns.group for columns in parts.values()])).size
    if n_used == total:
        return []
    scored = {
        name: np.unique(columns.group[np.isfinite(columns.cost) & np.isfinite(columns.reward)]).size
        for name, columns in parts.items()
    }
    lacking = [f"{name} lacks {total - n}" for name, n in scored.items() if n < total]
    return [
        f"The front uses {n_used} of {total} prompts, those of which every point has an answer with both scores: "
        f"{_few(lacking)}."
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")
