"""The queue of an audit, in a folder: which responses were drawn for a label, and the labels that came."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from trl_rsa.audits.combine import wanted
from trl_rsa.data.harm import HarmScale, HarmScaleJSON
from trl_rsa.storage.files import write_json
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.locks import hold_file
from trl_rsa.storage.provenance import now


AUDIT, LABELS, REQUESTS = "audit.json", "labels.jsonl", "requests"
UNNAMED = "unnamed"


class AuditFile(TypedDict):
    """audit.json: what those who write labels out and in must know of the ladder's settings."""

    constraint: str
    labeller: str
    harm_scale: HarmScaleJSON
    budget: int
    certify_labels: int
    second: str
    combine: str
    seed: int


class Request(TypedDict):
    """A response that was drawn for a label. `id` stands for prompt and response."""

    id: str
    prompt: Any
    response: str
    score: float
    probability: float
    prompt_number: int
    draw: int


class RequestsFile(TypedDict):
    """requests-NN-SPLIT-ROUND.json: a draw among the responses of one policy; `probabilities` are in the order of the
    records."""

    observation: int
    split: str
    round: int
    model: str
    seed: int
    least: float
    probabilities: list[float]
    time: str
    requests: list[Request]


class LabelLine(TypedDict):
    """A line of labels.jsonl: one labeller's grade of one response. Of several by one labeller the last counts."""

    id: str
    grade: int
    labeller: str
    source: str
    time: str


class NewLabel(TypedDict):
    """A label that comes in."""

    id: str
    grade: int
    labeller: str


@dataclass
class Added:
    """What became of labels that came in.

    Args:
        new (`int`), changed (`int`), known (`int`):
            Labels that were not there; that replace another grade by the same labeller; that were there already.
        unknown (`list[int]`):
            Places of labels of responses that were never asked for.
    """

    new: int = 0
    changed: int = 0
    known: int = 0
    unknown: list[int] = field(default_factory=list)


class AuditQueue:
    """
    The folder of one constraint's audit. The ladder writes the draws, whoever labels appends labels.

    Args:
        folder (`Path`):
            Of the constraint's audit: `RUN/ladder/audit-NAME`.
        scale ([`HarmScale`]), second (`float` or `str`), budget (`int`), seed (`int`):
            As in [`AuditSettings`].
    """

    def __init__(self, folder: Path, scale: HarmScale, second: float | str, budget: int, seed: int) -> None:
        self.folder, self.scale, self.second, self.budget, self.seed = folder, scale, second, budget, seed

    @classmethod
    def open(cls, folder: Path) -> "AuditQueue":
        """The queue of a ladder that has begun.

        Raises:
            FileNotFoundError: if there is none.
        """
        path = folder / AUDIT
        if not path.is_file():
            raise FileNotFoundError(
                f"You named the audit in {folder}, but it has no {AUDIT}. Name the output_dir of a run whose "
                "constraint has an audit, once it has observed its first model."
            )
        found = cast(AuditFile, json.loads(path.read_text(encoding="utf-8")))
        scale = HarmScale(found["harm_scale"]["names"], found["harm_scale"]["costs"])
        return cls(folder, scale, _share_or_grade(found["second"]), found["budget"], found["seed"])

    # Draws

    def draw_path(self, observation: int, split: str, round_number: int) -> Path:
        return self.folder / f"{REQUESTS}-{observation:02d}-{split}-{round_number}.json"

    def draw(self, observation: int, split: str, round_number: int) -> RequestsFile | None:
        """A draw of an observation, if it was made."""
        path = self.draw_path(observation, split, round_number)
        return cast(RequestsFile, json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def add_draw(self, content: RequestsFile) -> None:
        write_json(self.draw_path(content["observation"], content["split"], content["round"]), content)

    def draws(self) -> list[RequestsFile]:
        """All draws, in order; certify prompts last."""
        found = [
            cast(RequestsFile, json.loads(path.read_text(encoding="utf-8")))
            for path in sorted(self.folder.glob(f"{REQUESTS}-*.json"))
        ]
        return sorted(found, key=lambda each: (each["split"] == "certify", each["observation"], each["round"]))

    def _wanted_draws(self) -> list[RequestsFile]:
        """All but those for certificates of earlier policies, which will not be made any more."""
        draws = self.draws()
        latest = max((draw["observation"] for draw in draws if draw["split"] == "certify"), default=0)
        return [draw for draw in draws if draw["split"] != "certify" or draw["observation"] == latest]

    # Labels

    def labels(self) -> dict[str, dict[str, int]]:
        """By response: the grade that each labeller gave, in the order in which they came first."""
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for line in read_lines(self.folder / LABELS):
            if isinstance(line.get("id"), str) and isinstance(line.get("grade"), int):
                found[line["id"]][str(line.get("labeller"))] = line["grade"]
        return dict(found)

    def grades(self) -> dict[str, list[int]]:
        """By response: its grades, in the order in which its labellers came first."""
        return {key: list(by_labeller.values()) for key, by_labeller in self.labels().items()}

    def spent(self, split: str | None = None) -> int:
        """Labels that came, all of them or those of responses that were drawn in sets of the name `split`."""
        labels = self.labels()
        if split is None:
            return sum(map(len, labels.values()))
        drawn = {request["id"] for draw in self.draws() if draw["split"] == split for request in draw["requests"]}
        return sum(len(labels.get(key, ())) for key in drawn)

    def add_labels(self, labels: Sequence[NewLabel], source: str) -> Added:
        """Appends labels; those that are there already are passed over, and those of unknown responses refused."""
        added = Added()
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_file(self.folder / LABELS):
            asked = {request["id"] for draw in self.draws() for request in draw["requests"]}
            there = self.labels()
            with LineWriter(self.folder / LABELS) as writer:
                for place, label in enumerate(labels):
                    if label["id"] not in asked:
                        added.unknown.append(place)
                        continue
                    of_response = there.setdefault(label["id"], {})
                    before = of_response.get(label["labeller"])
                    if before == label["grade"]:
                        added.known += 1
                        continue
                    added.new, added.changed = added.new + (before is None), added.changed + (before is not None)
                    of_response[label["labeller"]] = label["grade"]
                    line: LabelLine = {**label, "source": source, "time": now()}
                    writer.write(line)
        return added

    # What is missing

    def missing(self, draws: Iterable[RequestsFile] | None = None) -> list[Request]:
        """Responses that need a label now, each once, first those without any: the most that the budget allows.

        Responses to certify prompts have a budget of their own: first labels as many as were drawn, and second and
        third ones beside them.
        """
        grades, seen = self.grades(), set[str]()
        found: dict[str, list[Request]] = {"decide": [], "certify": []}
        for draw in self._wanted_draws() if draws is None else draws:
            kind = "certify" if draw["split"] == "certify" else "decide"
            for request in draw["requests"]:
                if request["id"] not in seen:
                    seen.add(request["id"])
                    own = grades.get(request["id"], [])
                    if len(own) < wanted(request["id"], own, self.scale, self.second, self.seed):
                        found[kind].append(request)
        left = max(0, self.budget - self.spent() + self.spent("certify"))
        for several in found.values():
            several.sort(key=lambda request: len(grades.get(request["id"], ())))
        return found["decide"][:left] + found["certify"]


def _share_or_grade(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def folders_of(run: Path) -> dict[str, Path]:
    """The audits of a run, by constraint.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = {
        path.parent.name.removeprefix("audit-"): path.parent for path in sorted(run.glob(f"ladder/audit-*/{AUDIT}"))
    }
    if not found:
        raise FileNotFoundError(
            f"You named the run {run}, but it has no audit yet. Name the output_dir of a plan whose constraint has "
            "`audit:`, once it has observed its first model."
        )
    return found
