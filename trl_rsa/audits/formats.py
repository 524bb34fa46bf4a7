"""Responses out to those who label, and labels in: JSON lines, CSV, and the forms of Label Studio and Argilla.

Whatever the form, a label has the `id` of its response, a grade, by name or by number from 0, and who gave it.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from trl_rsa.audits.queue import UNNAMED, LabelLine, NewLabel, Request
from trl_rsa.data.harm import HarmScale
from trl_rsa.data.schema import RowError, readable
from trl_rsa.storage.files import replacing
from trl_rsa.storage.tables import TableReader


FORMATS = ("jsonl", "csv", "label-studio", "argilla")
GRADE = "grade"
QUESTION = "How harmful is the response?"
# A spreadsheet would take a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass
class ReadLabels:
    """What a file of labels holds.

    Args:
        labels (`list[NewLabel]`), places (`list[str]`):
            The labels, and where each stands.
        empty (`int`):
            Responses without a grade yet.
        wrong (`dict[str, list[str]]`):
            By reason: the places of rows that cannot be used.
    """

    labels: list[NewLabel] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    empty: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, reason: str, place: str) -> None:
        self.wrong.setdefault(reason, []).append(place)


def format_of(path: Path, given: str | None) -> str:
    """The form of a file: as it is named, or by its ending.

    Raises:
        ValueError: if it is neither.
    """
    if given is not None:
        return given
    if path.suffix in (".jsonl", ".csv"):
        return path.suffix[1:]
    raise ValueError(
        f"You named the file {path}, but its form does not show from that. Set --format to one of "
        f"{', '.join(FORMATS)}, or end the name in .jsonl or .csv."
    )


def form_of_labels(path: Path, given: str | None) -> str:
    """The form of a file that is to be read: as it is named, by its ending, and of a .json by what it holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its form does not show.
    """
    if given is None and path.suffix == ".json":
        if not _text_of(path).lstrip().startswith("["):
            return "jsonl"
        first = next(iter(_list_of(path, _text_of(path), "labelled responses")), None)
        has_responses = isinstance(first, dict) and isinstance(first.get("responses"), dict)
        return "argilla" if has_responses else "label-studio"
    return format_of(path, given)


# Out


def write_tasks(path: Path, form: str, requests: Sequence[Request], labeller: str | None) -> None:
    """Writes responses to label. Neither the learned cost nor who made a response is in the file: labels must not
    follow them."""
    texts = [
        {"id": request["id"], "prompt": readable(request["prompt"]), "response": request["response"]}
        for request in requests
    ]
    name = labeller or ""
    with replacing(path) as partial:
        if form == "csv":
            # With a mark that tells spreadsheets that it is UTF-8.
            partial.write_bytes(_csv(texts, name).encode("utf-8-sig", errors="backslashreplace"))
            return
        if form == "jsonl":
            rows = [json.dumps({**row, GRADE: None, "labeller": name}, ensure_ascii=False) for row in texts]
            content = "".join(f"{row}\n" for row in rows)
        elif form == "label-studio":
            # Label Studio numbers its tasks itself and calls that `id`.
            tasks = [
                {"data": {"response_id": row["id"], **{k: row[k] for k in ("prompt", "response")}}} for row in texts
            ]
            content = json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
        else:
            records = [
                {
                    "id": row["id"],
                    "fields": {k: row[k] for k in ("prompt", "response")},
                    "metadata": {},
                    "suggestions": {},
                    "responses": {},
                    "vectors": {},
                }
                for row in texts
            ]
            content = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
        partial.write_bytes(content.encode("utf-8", errors="backslashreplace"))


def _csv(texts: Sequence[dict[str, str]], labeller: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(["id", "prompt", "response", GRADE, "labeller"])
    for row in texts:
        writer.writerow([row["id"], *(_cell(row[name]) for name in ("prompt", "response")), "", labeller])
    return buffer.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def label_studio_config(scale: HarmScale) -> str:
    """The labelling interface of a Label Studio project, in XML."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in scale.names)
    return (
        "<View>\n"
        '  <Header value="Prompt"/>\n  <Text name="prompt" value="$prompt"/>\n'
        '  <Header value="Response"/>\n  <Text name="response" value="$response"/>\n'
        f"  <Header value={quoteattr(QUESTION)}/>\n"
        f'  <Choices name="{GRADE}" toName="response" choice="single-radio" required="true" showInline="true">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )


# In


def read_labels(path: Path, form: str, scale: HarmScale, labeller: str | None) -> ReadLabels:
    """
    Reads labels.

    Args:
        path (`Path`), form (`str`):
            The file, and one of `FORMATS`.
        scale ([`HarmScale`]):
            Of the grades.
        labeller (`str`, *optional*):
            Who gave those that name nobody.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of the form at all; nothing of it is read then.
    """
    found = ReadLabels()
    for place, key, grade, who in _READERS[form](path, _text_of(path), found):
        if grade is None or (isinstance(grade, str) and not grade.strip()):
            found.empty += 1
            continue
        if not isinstance(key, str) or not key.strip():
            found.refuse("no id", place)
            continue
        try:
            number = _grade_at(grade, scale) if isinstance(grade, _Place) else scale.grade_of(grade, GRADE)
        except RowError:
            shown = repr(grade)[:40]
            found.refuse(f"{shown} is no grade of the scale ({', '.join(scale.names)})", place)
            continue
        name = str(who).strip() if who not in (None, "") else labeller or UNNAMED
        found.labels.append({"id": key.strip(), GRADE: number, "labeller": name})  # type: ignore[misc]
        found.places.append(place)
    return found


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"You named the labels {path}, but there is no such file. Correct the path.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"You named the labels {path}, but the file is not UTF-8 ({error.reason}). Save it so."
        ) from error


_Row = tuple[str, Any, Any, Any]  # place, id, grade, labeller


class _Place(int):
    """A grade as the ladder's own labels.jsonl has it: by its place in the scale, also where the names are numbers."""


def _grade_at(place: int, scale: HarmScale) -> int:
    if not 0 <= place < len(scale.names):
        raise RowError("no such place")
    return int(place)


def _read_jsonl(path: Path, text: str, found: ReadLabels) -> Iterator[_Row]:
    rows = labels = 0
    # Not `splitlines`, which also parts at characters that may stand in a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            found.refuse("not JSON", place)
            continue
        if not isinstance(row, dict):
            found.refuse("not a JSON object", place)
            continue
        rows, labels = rows + 1, labels + ("id" in row or GRADE in row)
        grade = row.get(GRADE)
        if row.keys() == LabelLine.__annotations__.keys() and isinstance(grade, int):
            grade = _Place(grade)
        yield place, row.get("id"), grade, row.get("labeller")
    if rows and not labels:
        raise ValueError(
            f"You named the labels {path}, but none of its {rows} lines has an `id` or a `{GRADE}`. Give the file "
            "that `trl-rsa audit next` wrote."
        )


def _read_csv(path: Path, text: str, found: ReadLabels) -> Iterator[_Row]:
    # A spreadsheet of another language separates by semicolons.
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = TableReader(io.StringIO(text, newline=""), delimiter)
    folded = [" ".join(str(name).casefold().split()) for name in reader.fieldnames or ()]
    twice = [name for name in ("id", GRADE, "labeller") if folded.count(name) > 1]
    if twice:
        raise ValueError(
            f"You named the labels {path}, but the file has several columns `{twice[0]}`, and which one counts does "
            "not show. Remove the others."
        )
    names = dict(zip(folded, reader.fieldnames or (), strict=True))
    if "id" not in names or GRADE not in names:
        raise ValueError(
            f"You named the labels {path}, but the file has no columns `id` and `{GRADE}`; it has "
            f"{', '.join(map(str, reader.fieldnames or ['none']))}. Give the file that `trl-rsa audit next` wrote."
        )
    try:
        for row in reader:
            yield f"line {reader.line_num}", row[names["id"]], row[names[GRADE]], row.get(names.get("labeller", ""))
    except csv.Error as error:
        raise ValueError(f"You named the labels {path}, but the file is no CSV: {error}. Save it again.") from error


def _list_of(path: Path, text: str, what: str) -> list[Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"You named the labels {path}, but the file is not JSON ({error}). Export it again."
        ) from error
    if not isinstance(content, list):
        raise ValueError(f"You named the labels {path}, but the file is no list of {what}. Export it as JSON.")
    return content


def _read_label_studio(path: Path, text: str, found: ReadLabels) -> Iterator[_Row]:
    """The export as JSON, or as JSON-MIN. A task has an annotation per annotator; a skipped one is no label."""
    for number, task in enumerate(_list_of(path, text, "tasks"), start=1):
        place = f"task {number}"
        if not isinstance(task, dict):
            found.refuse("not a task", place)
        elif isinstance(task.get("annotations"), list):
            data = task.get("data")
            key = data.get("response_id") if isinstance(data, dict) else None
            labelled = [a for a in task["annotations"] if isinstance(a, dict) and not a.get("was_cancelled")]
            for annotation in labelled:
                yield place, key, _choice(annotation), _annotator(annotation.get("completed_by"))
            if not labelled:
                yield place, key, None, None
        else:
            grade = task.get(GRADE)
            grade = grade.get("choices") if isinstance(grade, dict) else grade
            grade = grade[0] if isinstance(grade, list) and len(grade) == 1 else grade
            yield place, task.get("response_id"), grade, _annotator(task.get("annotator"))


def _choice(annotation: dict[str, Any]) -> Any:
    for result in annotation.get("result") or []:
        if isinstance(result, dict) and result.get("from_name") == GRADE and isinstance(result.get("value"), dict):
            choices = result["value"].get("choices")
            return choices[0] if isinstance(choices, list) and len(choices) == 1 else choices
    return None


def _annotator(who: Any) -> Any:
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return None if who is None else f"label-studio {who}"


def _read_argilla(path: Path, text: str, found: ReadLabels) -> Iterator[_Row]:
    """The records as `dataset.records.to_json` writes them: a response per user to the question `grade`."""
    for number, record in enumerate(_list_of(path, text, "records"), start=1):
        place = f"record {number}"
        if not isinstance(record, dict):
            found.refuse("not a record", place)
            continue
        responses = record.get("responses")
        given = responses.get(GRADE) if isinstance(responses, dict) else None
        several = [each for each in given or [] if isinstance(each, dict)]
        for each in several:
            who = each.get("user_id")
            yield place, record.get("id"), each.get("value"), None if who is None else f"argilla {who}"
        if not several:
            yield place, record.get("id"), None, None


_READERS: dict[str, Callable[[Path, str, ReadLabels], Iterator[_Row]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "label-studio": _read_label_studio,
    "argilla": _read_argilla,
}


def wrong_in_words(path: Path, wrong: dict[str, list[str]], kept: int) -> str:
    """One sentence about what a file holds that cannot be used."""
    total = sum(map(len, wrong.values()))
    return (
        f"Of {path} {total} rows cannot be used ({reasons_in_words(wrong)}); the {kept} others were read. Correct "
        "these rows and import the file again: what was read already is passed over."
    )


def reasons_in_words(wrong: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {_listed(places)}" for reason, places in wrong.items())


def _listed(places: Sequence[str]) -> str:
    counts = Counter(places)
    shown = list(counts)[:10]
    kind = shown[0].partition(" ")[0]
    numbers = ", ".join(place.partition(" ")[2] for place in shown)
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    return f"{kind} {numbers}{more}" if len(shown) == 1 else f"{kind}s {numbers}{more}"
