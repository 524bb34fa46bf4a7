"""What is varied: fields of a plan by a dotted path, and the plan with another value there."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.alignment.typed import hints_of, read_value, shown, suggest
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.settings import RungSettings


# The field's signs, for pictures and tables.
_SIGNS = {"constraint_multiplier": "λ", "beta": "β"}
# Parts of a plan that have fields of their own, and what every point has for itself.
_NOT_SWEPT = ("stages", "constraint", "rungs", "output_dir")


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes.

    Args:
        path (`str`):
            `stages.NAME.field`, `constraints.NAME.field`, `rungs.field`, or a field of the plan; further names lead
            into a mapping, as in `stages.safe.args.learning_rate`.
        values (`tuple`):
            At least one.
    """

    path: str
    values: tuple[Any, ...]

    @classmethod
    def read(cls, text: str, plan: Plan) -> "Axis":
        """From `PATH=VALUE,VALUE,…`; the values as in YAML.

        Raises:
            ValueError: if it is not of this form, or the plan has no such field.
        """
        path, equals, values = text.partition("=")
        try:
            read = yaml.safe_load(f"[{values}]") if equals else None
        except yaml.YAMLError:
            read = None
        if not path or not read or None in read:
            raise ValueError(
                f"You set over to {text!r}, but it is PATH=VALUE,VALUE,… Write, say, constraint_multiplier=0.5,1,2,4."
            )
        for value in read:
            if read.count(value) > 1:
                raise ValueError(f"You set over to {text!r}, but {value!r} stands twice in it. Remove one.")
        return cls(resolve(plan, path.strip()), tuple(read))


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every combination of the axes' values, by path; the last axis changes fastest.

    Raises:
        ValueError: if a path stands twice.
    """
    paths = [axis.path for axis in axes]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"You sweep twice over {path!r}, but a field has one value. Give all values at once.")
    return [dict(zip(paths, values, strict=True)) for values in product(*(axis.values for axis in axes))]


def label(settings: Mapping[str, Any]) -> str:
    """A short name of a point: `λ=0.5, budget=1`. Paths that end alike keep what tells them apart."""
    ends = [path.rpartition(".")[2] for path in settings]
    names = [
        path.removeprefix("stages.").removeprefix("constraints.") if ends.count(end) > 1 else _SIGNS.get(end, end)
        for path, end in zip(settings, ends, strict=True)
    ]
    return ", ".join(f"{name}={_short(value)}" for name, value in zip(names, settings.values(), strict=True))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def resolve(plan: Plan, path: str) -> str:
    """The whole path of a field. A bare name means the only place that has it, or else the only one that sets it.

    Raises:
        ValueError: if no place has it, or several.
    """
    if "." in path:
        where, name, keys = _locate(plan, path)
        return ".".join([_join(where, name), *keys])
    places = _places(plan)
    found = [where for where, part in places.items() if path in _fields(part) and not _is_closed(where, path)]
    if not found:
        known = {name for part in places.values() for name in _fields(part)}
        raise ValueError(f"You sweep over {path!r}, but a plan has no such field.{suggest(path, known)}")
    setting = [where for where in found if getattr(places[where], path) != _default(places[where], path)]
    chosen = found if len(found) == 1 else setting
    if len(chosen) != 1:
        several = ", ".join(_join(where, path) for where in found)
        raise ValueError(
            f"You sweep over {path!r}, but the plan has it in several places: {several}. Write one of these."
        )
    return _join(chosen[0], path)


def _places(plan: Plan) -> dict[str, Any]:
    """Every part of a plan that has fields, by its path."""
    return {
        "": plan,
        **{f"stages.{stage.name}": stage for stage in plan.stages},
        **{f"constraints.{constraint.name}": constraint for constraint in plan.constraints},
        **({"rungs": plan.rungs} if plan.constraints else {}),
    }


def _fields(part: Any) -> dict[str, Any]:
    """The types of a part's fields, by name."""
    cls: Any = type(part)
    return hints_of(cls)


def _is_closed(where: str, name: str) -> bool:
    """What cannot be swept: parts of the plan, its folder, and the names that paths are made of."""
    return name in _NOT_SWEPT if not where else name == "name"


def _default(part: Any, name: str) -> Any:
    (field,) = (f for f in dataclasses.fields(part) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def set_field(plan: Plan, path: str, value: Any) -> Plan:
    """The plan with another value in one field; the given plan stays as it is.

    Raises:
        ValueError: if there is no such field, or it cannot have this value.
    """
    where, name, keys = _locate(plan, path)
    part = _places(plan)[where]
    try:
        if keys:
            new = dataclasses.replace(part, **{name: _with_key(getattr(part, name), keys, value, path)})
        else:
            plain = isinstance(value, (str, bool, int, float, list, dict))  # from Python it may be an object
            read = read_value(_fields(part)[name], value, name, path) if plain else value
            new = dataclasses.replace(part, **{name: read})
        return _with_part(plan, where, new)
    except TypeError as error:  # an argument that a class further down does not have
        raise ValueError(f"You set {path} to {shown(value)}, but {error}. Correct the path.") from error


def _locate(plan: Plan, path: str) -> tuple[str, str, list[str]]:
    """The part of the plan, the field, and the keys below it."""
    if path.startswith("constraint.") and len(plan.constraints) == 1:
        path = f"constraints.{plan.constraints[0].name}.{path.removeprefix('constraint.')}"
    places = _places(plan)
    # The longest name first: a stage may be called "safe" and another "safe.late".
    named = [place for place in sorted(places, key=len, reverse=True) if place and path.startswith(f"{place}.")]
    where = named[0] if named else ""
    name, *keys = path.removeprefix(where).removeprefix(".").split(".")
    hints = _fields(places[where])
    if name not in hints or _is_closed(where, name):
        known = [_join(place, field) for place, part in places.items() for field in _fields(part)]
        open_ones = [one for one in known if one.rpartition(".")[2] not in (*_NOT_SWEPT, "name")]
        raise ValueError(f"You sweep over {path!r}, but the plan has no such field.{suggest(path, open_ones)}")
    return where, name, keys


def _with_key(mapping: Any, keys: Sequence[str], value: Any, path: str) -> dict[str, Any]:
    if not isinstance(mapping, Mapping) and mapping is not None:
        raise ValueError(
            f"You sweep over {path!r}, but {path.removesuffix('.' + '.'.join(keys))} is {shown(mapping)}, which has "
            "no parts. Correct the path."
        )
    first, *rest = keys
    inner = (mapping or {}).get(first)
    return {**(mapping or {}), first: _with_key(inner, rest, value, path) if rest else value}


def _with_part(plan: Plan, where: str, part: Any) -> Plan:
    if isinstance(part, Stage):
        stages = [part if stage.name == part.name else stage for stage in plan.stages]
        return dataclasses.replace(plan, stages=stages)
    if isinstance(part, RiskConstraint):
        constraints = [part if one.name == part.name else one for one in plan.constraints]
        several = isinstance(plan.constraint, (list, tuple))
        return dataclasses.replace(plan, constraint=constraints if several else constraints[0])
    if isinstance(part, RungSettings):
        return dataclasses.replace(plan, rungs=part)
    assert not where
    return part
