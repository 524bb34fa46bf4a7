"""One page of one or several sweeps: their records together, metrics.json, front.json, and the table of points."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.columns import Columns, read_columns
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.front_measures import Spot, front_table, measure_front
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.storage.files import replacing, write_json
from trl_rsa.storage.locks import hold_folder
from trl_rsa.storage.names import FRONT, METRICS, RECORDS
from trl_rsa.storage.provenance import differences
from trl_rsa.storage.records import RecordWriter, read_records
from trl_rsa.sweep.files import SweepPoint, read_sweep


TABLE = "front.csv"


@dataclass(frozen=True)
class _Measured:
    """A point that was evaluated: its method, what sweep.json says of it, its name on the page, its evaluation."""

    method: str
    point: SweepPoint
    name: str
    evaluation: Path


def write_front(
    sweeps: Sequence[str | Path],
    output_dir: str | Path,
    tail: float = 0.05,
    tails: Sequence[float] = (0.05, 0.01),
    limits: Sequence[float] = (),
    reference: tuple[float, float] | None = None,
    unsafe_above: float = 0.0,
    seed: int = 0,
    write_page: Callable[[Path], Any] | None = None,
) -> FrontFile:
    """Puts the evaluated points of sweeps together: records.jsonl, metrics.json, front.json, front.csv, and the page.

    Args:
        sweeps (`Sequence[str | Path]`):
            Output folders of sweeps, evaluated alike. Each is a method, by the name in its sweep.json.
        output_dir (`str` or `Path`):
            Where to write; it may be the folder of a single sweep.
        tail (`float`, *optional*, defaults to 0.05):
            Tail of the CVaR of cost on the front.
        tails (`Sequence[float]`, *optional*), unsafe_above (`float`, *optional*):
            Of metrics.json.
        limits, reference:
            As in [`~evaluation.front_measures.measure_front`].
        seed (`int`, *optional*):
            Of the resamples.
        write_page (`Callable`, *optional*):
            Given the folder, makes the page: [`~report.write_report`].

    Raises:
        ValueError: if no point was evaluated, two sweeps have one name, or points were not evaluated alike.
    """
    folder = Path(output_dir)
    measured = _measured([Path(sweep) for sweep in sweeps])
    _check_alike(measured)
    bootstrap = Bootstrap(seed=seed)
    with hold_folder(folder):
        columns = _write_records(measured, folder / RECORDS)
        parts = {str(name): columns.take(indices) for name, indices in columns.model}
        front = measure_front(_spots(measured), parts, tail, limits, reference, bootstrap)
        every_tail = list(dict.fromkeys([tail, *tails]))
        write_json(
            folder / METRICS,
            summarize_models(columns, every_tail, unsafe_above=unsafe_above, bootstrap=bootstrap),
        )
        write_json(folder / FRONT, front)
        with replacing(folder / TABLE) as partial:
            partial.write_text(front_table(front), encoding="utf-8")
        if write_page is not None:
            write_page(folder)
    return front


def _measured(folders: Sequence[Path]) -> list[_Measured]:
    sweeps = [read_sweep(folder) for folder in folders]
    names = [sweep["name"] for sweep in sweeps]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"You put two sweeps with the name {name!r} on one page, but it tells methods apart. Set --name."
            )
    found = [
        _Measured(
            sweep["name"],
            point,
            point["name"] if len(sweeps) == 1 else f"{sweep['name']} {point['name']}",
            folder / point["folder"] / "evaluation",
        )
        for folder, sweep in zip(folders, sweeps, strict=True)
        for point in sweep["points"]
        if point["status"] == "complete"
    ]
    if not found:
        raise ValueError("You ask for a page, but no point has been evaluated. Run the sweep first.")
    return found


def _check_alike(measured: Sequence[_Measured]) -> None:
    """The same prompts, sampling and scorers: whatever is not the model."""
    first: dict[str, Any] | None = None
    for one in measured:
        content = json.loads((one.evaluation / "evaluation.json").read_text(encoding="utf-8"))
        settings = {name: value for name, value in content["settings"].items() if name != "models"}
        first = settings if first is None else first
        changes = list(differences(first, settings))
        if changes:
            raise ValueError(
                f"You put {measured[0].name} and {one.name} on one page, but they were not evaluated alike "
                f"({'; '.join(changes[:3])}). Evaluate them with the same prompts, sampling and scorers."
            )


def _write_records(measured: Sequence[_Measured], path: Path) -> Columns:
    """All points' records in one file, under the points' names."""
    with replacing(path) as partial, RecordWriter(partial) as writer:
        for one in measured:
            for record in read_records(one.evaluation / RECORDS):
                writer.write({**record, "model": one.name})
    return read_columns(read_records(path))


def _spots(measured: Sequence[_Measured]) -> dict[str, list[Spot]]:
    found: dict[str, list[Spot]] = {}
    for one in measured:
        spot = Spot(one.name, one.point["settings"], one.point.get("budget"), one.point.get("met"))
        found.setdefault(one.method, []).append(spot)
    return found
