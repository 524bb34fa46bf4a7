"""A constitution: principles in YAML, of which one is drawn for each pair."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import yaml


Task = Literal["compare", "revise"]
_NEEDS: dict[Task, tuple[str, ...]] = {"compare": ("compare",), "revise": ("critique", "revise")}
_LARGEST = 200_000  # bytes


@dataclass(frozen=True)
class Principle:
    """
    Args:
        name (`str`):
            In files and counts.
        compare (`str`, *optional*):
            A question about two responses that asks which is *better*.
        critique (`str`, *optional*):
            Asks for what is wrong with a response.
        revise (`str`, *optional*):
            Asks for a response without it.
    """

    name: str
    compare: str | None = None
    critique: str | None = None
    revise: str | None = None

    def serves(self, task: Task) -> bool:
        return all(getattr(self, name) for name in _NEEDS[task])


@dataclass(frozen=True)
class Constitution:
    """
    Args:
        principles (`tuple[Principle, ...]`):
            At least one.
        digest (`str`):
            Stands for all that they say.
    """

    principles: tuple[Principle, ...]
    digest: str

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Constitution":
        """
        Reads `principles:`, a list of mappings with the arguments of [`Principle`]. A text alone is a question to
        compare by.

        Raises:
            FileNotFoundError, ValueError: if there is no such file, or it is no constitution.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"You set constitution to {path}, but there is no such file. Check the path.")
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"You set constitution to {path}, but it has more than {_LARGEST:,} bytes. Shorten it.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"You set constitution to {path}, but it is not YAML: {said}. Correct it.") from error
        given = content.get("principles") if isinstance(content, Mapping) else None
        if not isinstance(given, list) or not given:
            raise ValueError(f"You set constitution to {path}, but it has no list `principles:`. Add one.")
        principles = tuple(_read(one, number, path) for number, one in enumerate(given, start=1))
        names = [principle.name for principle in principles]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"You named two principles of {path} {name!r}, but files name them. Rename one.")
        return cls(principles, sha256(repr(principles).encode(errors="backslashreplace")).hexdigest()[:32])

    def for_task(self, task: Task) -> list[Principle]:
        """
        Raises:
            ValueError: if no principle serves the task.
        """
        found = [principle for principle in self.principles if principle.serves(task)]
        if not found:
            needs = " and ".join(f"`{name}:`" for name in _NEEDS[task])
            raise ValueError(f"You asked to {task}, but no principle of the constitution has {needs}. Add one.")
        return found


def draw_principle(principles: list[Principle], seed: int, key: str, turn: int = 0) -> Principle:
    """The principle of one pair: the same whatever the other pairs are, and in which order they come."""
    return random.Random(f"{seed} {turn} {key}").choice(principles)


def _read(content: Any, number: int, path: Path) -> Principle:
    where = f"principle {number} of {path}"
    if isinstance(content, str):
        content = {"compare": content}
    if not isinstance(content, Mapping):
        raise ValueError(f"You wrote {where} as {str(content)[:60]!r}, but it is a text or a mapping. Correct it.")
    known = Principle.__dataclass_fields__
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"You set {key!r} in {where}, but a principle has {', '.join(known)}. Remove it.")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"You set {key!r} in {where} to {value!r}, but it is a text. Write it out.")
    principle = Principle(**{"name": f"principle-{number}", **{key: value.strip() for key, value in content.items()}})
    if not principle.serves("compare") and not principle.serves("revise"):
        raise ValueError(f"You wrote {where} without `compare:`, or `critique:` and `revise:`. Add what it asks.")
    return principle
