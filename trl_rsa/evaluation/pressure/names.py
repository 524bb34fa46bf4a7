"""The pressures by name."""

from collections.abc import Sequence

from trl_rsa.evaluation.pressure.anti_safe import AntiSafe
from trl_rsa.evaluation.pressure.attack import Attack
from trl_rsa.evaluation.pressure.base import Pressure
from trl_rsa.evaluation.pressure.benign import Benign
from trl_rsa.evaluation.pressure.half_way import HalfWay
from trl_rsa.evaluation.pressure.heat import Heat
from trl_rsa.evaluation.pressure.prefill import Prefill
from trl_rsa.evaluation.pressure.quantised import Quantised
from trl_rsa.evaluation.pressure.worst_of import WorstOf


_CLASSES: tuple[type[Pressure], ...] = (Heat, WorstOf, Prefill, Attack, HalfWay, Benign, Quantised, AntiSafe)
PRESSURES: dict[str, type[Pressure]] = {cls.kind: cls for cls in _CLASSES}
ALL = "all"


def find_pressures(given: Sequence[str | Pressure]) -> list[Pressure]:
    """Pressures from their names.

    Args:
        given (`Sequence[str | Pressure]`):
            A kind of [`PRESSURES`], a kind with a strength such as `"heat:1.6"`, `"all"`, or a pressure.

    Raises:
        ValueError: if there is no such pressure, or one comes twice.
    """
    found: list[Pressure] = []
    for one in given:
        found += [one] if isinstance(one, Pressure) else _find(one)
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"You set the pressure {twice} twice, but once is enough. Remove one.")
    return found


def _find(name: str) -> list[Pressure]:
    if name == ALL:
        return [one for cls in PRESSURES.values() for one in cls.usual()]
    kind, colon, strength = name.partition(":")
    if kind not in PRESSURES:
        raise ValueError(
            f"You set the pressure to {name!r}, but the pressures are {', '.join(PRESSURES)}, and {ALL}. Set some of "
            "these."
        )
    return [PRESSURES[kind].read(strength)] if colon else list(PRESSURES[kind].usual())
