"""What a pressure is: something that is done to a model, or to how it is asked, before its responses are drawn."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from trl_rsa.evaluation.columns import Columns
from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.sampling.policies import load_policy
from trl_rsa.sampling.response import Sampling
from trl_rsa.storage.digests import digest


Load = Callable[[], Any]


@dataclass(frozen=True)
class Sources:
    """What some pressures need beside the model.

    Args:
        reference (`str`, *optional*):
            Folder or repository of the model that it was aligned from.
        safer (`str`, *optional*):
            Of a safer policy with its vocabulary.
        helpful (`str`, *optional*):
            A file of helpful responses, or of preference pairs.
        beginnings (`str`, *optional*):
            A file of responses whose beginnings are forced, such as harmful ones.
    """

    reference: str | None = None
    safer: str | None = None
    helpful: str | None = None
    beginnings: str | None = None


@dataclass(frozen=True)
class Work:
    """Where and with what a pressure works.

    Args:
        folder (`Path`):
            Its own.
        sources ([`Sources`]):
            Models and data beside the model that is pushed.
        sampling ([`Sampling`]):
            How responses are drawn without pressure.
        batch_size (`int`), device (`str`, *optional*), dtype (`str`, *optional*):
            As in [`~evaluation.request.Evaluation`].
        log (`Callable`), progress (`Callable`):
            Where the lines about progress go, and what is called with a phase, and how many of how many are done.
    """

    folder: Path
    sources: Sources
    sampling: Sampling
    batch_size: int = 16
    device: str | None = None
    dtype: str | None = None
    log: Callable[[str], None] = print
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None

    def load(self, path: str, **init_kwargs: Any) -> Any:
        """A policy."""
        return load_policy(path, self.device, **{"dtype": self.dtype} | init_kwargs)


class Pressure(ABC):
    """
    One pressure. A new one is a frozen dataclass of this class in [`~evaluation.pressure.names.PRESSURES`]; what it
    does not change it leaves as it is here.

    Attributes:
        kind (`str`): Its name at the command line.
        by_itself (`bool`): Whether the engine "transformers" must draw, since no other can do this to a model.
        shares_draws (`bool`): Whether its first draws are those without pressure.
    """

    kind: ClassVar[str]
    by_itself: ClassVar[bool] = False
    shares_draws: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Kind and strength, such as "heat:1.6"."""

    @property
    @abstractmethod
    def in_words(self) -> str:
        """What stands behind "responses", such as "at temperature 1.6"."""

    @classmethod
    def usual(cls) -> list[Self]:
        """What its kind alone stands for."""
        return [cls()]

    @classmethod
    @abstractmethod
    def read(cls, strength: str) -> Self:
        """From what stands behind the colon of its name; `ValueError` if it cannot be that."""

    def needs(self) -> tuple[str, ...]:
        """Names of [`Sources`], of which one must be there; none needed where it is empty."""
        return ()

    def check(self, models: Sequence[str], work: Work) -> None:  # noqa: B027 - most have nothing to check
        """
        Raises:
            ValueError: if it cannot be done to one of the models. Nothing large is loaded for that.
        """

    def prompts(self, rows: Sequence[PromptRow], work: Work) -> list[PromptRow]:
        """The prompts as they are asked."""
        return list(rows)

    def sampling(self, sampling: Sampling) -> Sampling:
        """How responses are drawn."""
        return sampling

    @contextmanager
    def policy(self, path: str, work: Work) -> Iterator[tuple[str, Load]]:
        """The folder of the model that is drawn from, and how it is loaded. What was made for it goes afterwards."""
        yield path, lambda: work.load(path)

    def beginnings(self, rows: Sequence[PromptRow], tokenizer: Any, work: Work) -> list[list[int]] | None:
        """The tokens that the responses to each prompt are made to begin with, if any."""
        return None

    def counted(self, columns: Columns) -> Columns:
        """The records that count, of all that one model's responses gave."""
        return columns


@contextmanager
def made_model(work: Work, path: str, make: Callable[[Path], None]) -> Iterator[str]:
    """A model that is made from the one in `path`, once, and removed when it has been drawn from.

    After a kill while it was made it is made again; after one while it was drawn from it is still there.
    """
    folder = work.folder / f"model-{digest(path).hex()}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(folder)
    yield str(folder)
    shutil.rmtree(folder)


def read_number(text: str, kind: str, least: float, whole: bool, example: str) -> float:
    """A strength that is a number above `least`, or from it on where it is a whole one.

    Raises:
        ValueError: if it is not.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    good = value >= least and value == int(value) if whole and abs(value) < 1e9 else least < value < float("inf")
    if not good:
        what = f"a whole number from {least:g} on" if whole else f"a number above {least:g}"
        raise ValueError(f"You set the pressure {kind}:{text}, but behind the colon stands {what}. Set {example}.")
    return value
