"""Half-way: the weights part of the way back to the reference, as an average of models or a weaker adapter is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trl_rsa.evaluation.pressure.base import Load, Pressure, Work, made_model, read_number
from trl_rsa.sampling.policies import base_of, is_adapter, load_tokenizer
from trl_rsa.scoring.batches import pick_dtype


_SHAPES = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class HalfWay(Pressure):
    """Weights W_reference + kept·(W − W_reference); of an adapter its update, scaled."""

    kept: float = 0.5
    kind = "half_way"

    def __post_init__(self) -> None:
        if not 0.0 < self.kept < 1.0:
            raise ValueError(
                f"You set the pressure half_way to keep {self.kept:g} of the way, but that is a share between 0 and "
                "1. Set 0.5, say."
            )

    @property
    def name(self) -> str:
        return "half_way" if self.kept == 0.5 else f"half_way:{self.kept:g}"

    @property
    def in_words(self) -> str:
        how = "half-way" if self.kept == 0.5 else f"{1 - self.kept:.0%} of the way"
        return f"with weights {how} back to the reference"

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(read_number(strength, cls.kind, 0.0, False, "half_way:0.5"))

    def needs(self) -> tuple[str, ...]:
        return ("reference",)

    def check(self, models: Sequence[str], work: Work) -> None:
        reference = work.sources.reference
        assert reference is not None
        for path in models:
            if not _is_of_one_kind(path, reference):
                raise ValueError(
                    f"You set the pressure half_way for {path} with the reference {reference}, but between their "
                    "weights there is no way: they need one architecture and size, and an adapter needs the model "
                    "that it belongs to, or another adapter of it. Set reference to the model that it was trained "
                    "from."
                )

    @contextmanager
    def policy(self, path: str, work: Work) -> Iterator[tuple[str, Load]]:
        reference = work.sources.reference
        assert reference is not None

        def make(folder: Path) -> None:
            from trl_rsa.merging.interpolation import interpolate

            work.log(f"{self.name}: weights between {reference} and {path}")
            interpolate(reference, path, self.kept, folder, {"dtype": pick_dtype(work.dtype)}, load_tokenizer(path))

        with made_model(work, path, make) as folder:
            yield folder, lambda: work.load(folder)


def _is_of_one_kind(path: str, reference: str) -> bool:
    from transformers import AutoConfig

    if is_adapter(path):
        from trl_rsa.merging.sources import same_folder

        base, other = base_of(path), base_of(reference) if is_adapter(reference) else reference
        return other == base or same_folder(other, base)
    if is_adapter(reference):
        return False
    several = [AutoConfig.from_pretrained(name).get_text_config() for name in (path, reference)]
    shapes = [[getattr(config, name, None) for name in _SHAPES] for config in several]
    return shapes[0] == shapes[1]
