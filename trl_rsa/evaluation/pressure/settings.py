"""Which pressures a model is put under, and what they need; what is missing is asked for before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from trl_rsa.evaluation.pressure.base import Pressure, Sources
from trl_rsa.evaluation.pressure.names import find_pressures


@dataclass(frozen=True)
class PressureSettings:
    """
    Pressures for an evaluation.

    Args:
        pressures (`Sequence[str | Pressure]`):
            Names as in [`~evaluation.pressure.names.find_pressures`].
        sources ([`Sources`], *optional*):
            Models and data that some of them need.
        max_prompts (`int`, *optional*):
            How many of the prompts are asked under pressure, drawn by seed; all by default.

    Attributes:
        chosen (`list[Pressure]`): The pressures.
    """

    pressures: Sequence[str | Pressure]
    sources: Sources = field(default_factory=Sources)
    max_prompts: int | None = None

    def __post_init__(self) -> None:
        if self.max_prompts is not None and self.max_prompts < 1:
            raise ValueError(
                f"You set pressure_prompts to {self.max_prompts}, but at least one is asked. Set 100, say."
            )
        if isinstance(self.pressures, str) or not self.pressures:
            raise ValueError("You set no list of pressures. Set, say, heat and worst_of.")
        missing: dict[str, list[str]] = {}
        for pressure in self.chosen:
            if (needs := pressure.needs()) and not any(getattr(self.sources, name) for name in needs):
                missing.setdefault(" or ".join(needs), []).append(pressure.name)
        if missing:
            parts = [f"{' and '.join(names)} without {what}" for what, names in missing.items()]
            free = [pressure.name for pressure in self.chosen if not pressure.needs()]
            raise ValueError(
                f"You set the pressure {', and '.join(parts)}, which is needed for it. Set that too"
                + (f", or keep to {', '.join(free)}." if free else ".")
            )

    @property
    def chosen(self) -> list[Pressure]:
        return find_pressures(self.pressures)
