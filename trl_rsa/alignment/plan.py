"""What is aligned, in which order, at which temperature: `Stage` and `Plan`, from Python or from YAML."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trl_rsa.ladder.settings import RungSettings


if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from trl_rsa.ladder.constraint import RiskConstraint
    from trl_rsa.risk import RiskMeasure


# What `align` sets itself for every stage, and where a user says it instead.
_SET_ELSEWHERE = {
    "beta": "the stage's `beta`",
    "constraint_multiplier": "the stage's `constraint_multiplier`",
    "risk_measure": "the stage's `risk_measure`",
    "output_dir": "the plan's `output_dir`",
    "run_name": "the stage's `name`",
    "seed": "the plan's `seed`",
    "model_init_kwargs": "the plan's `model_init_kwargs`",
    "resume_from_checkpoint": "nothing: `align` resumes by itself",
    # TRL keeps such a reference in no checkpoint: a resumed stage would not end as an uninterrupted one.
    "sync_ref_model": "nothing: `align` moves the reference between stages",
}


@dataclass
class Stage:
    """
    One alignment run: one dataset, one temperature, one risk measure. Its reference is the previous stage's policy.

    Args:
        name (`str`):
            Name of the stage ("helpful", "safe", …), unique in its plan. It names the folder and the tracker run.
        dataset (`str` or [`~datasets.Dataset`]):
            Preference pairs: a Hub id, a local file or folder, or a dataset; see [`~trl_rsa.data.load_preferences`].
        eval_dataset (`str` or [`~datasets.Dataset`], *optional*):
            Held-out pairs, read with the same options.
        held_out (`float` or `int`, *optional*, defaults to 0):
            Without `eval_dataset`: fraction (below 1) or number of pairs that are set aside for evaluation. Prompts
            are set aside whole, so that none is on both sides; it may be a few pairs less.
        preferred_by (`str`, *optional*, defaults to `"better"`):
            Which label makes `chosen`: `"better"` (more helpful) or `"safer"`.
        dataset_options (`dict`, *optional*):
            Other arguments of [`~trl_rsa.data.load_preferences`]: `format`, `split`, `template`, `pair_rule`…
        beta (`float`, *optional*, defaults to 0.1):
            Temperature β of the regularisation, in units of reward.
        constraint_multiplier (`float`, *optional*, defaults to 1):
            Lagrange multiplier λ: the stage runs at temperature β/λ.
        risk_measure (`str` or [`~trl_rsa.risk.RiskMeasure`], *optional*, defaults to `"entropic"`):
            Token-level risk measure, by name (its parameters are in `args`) or as an object.
        args (`dict`, *optional*):
            Any other [`RSAConfig`] argument; overrides the plan's.
    """

    name: str
    dataset: "str | Dataset"
    eval_dataset: "str | Dataset | None" = None
    held_out: float = 0
    preferred_by: str = "better"
    dataset_options: dict[str, Any] = field(default_factory=dict)
    beta: float = 0.1
    constraint_multiplier: float = 1.0
    risk_measure: "str | RiskMeasure" = "entropic"
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(self.name)):
            raise ValueError(
                f"You set the name of a stage to {self.name!r}, but it becomes a folder's name. Use letters, digits, "
                "'.', '_' and '-'."
            )
        if self.held_out and self.eval_dataset is not None:
            raise ValueError(
                f"You set both held_out and eval_dataset for the stage {self.name!r}, but pairs can be held out of "
                "only one place. Remove one of them."
            )
        _check_args(f"stage {self.name!r}", self.args)


@dataclass
class Plan:
    """
    Stages in the order in which they run, and what they share.

    Args:
        stages (`list[Stage]`):
            At least one stage.
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Where the first stage starts: a Hub id, a folder, or a model in memory (which is saved first).
        output_dir (`str`):
            Where everything is written: a folder per stage, and `manifest.json`.
        args (`dict`, *optional*):
            [`RSAConfig`] arguments of all stages.
        peft_config ([`~peft.PeftConfig`] or `dict`, *optional*):
            Trains adapters instead of all weights. As a `dict`: the arguments of [`~peft.LoraConfig`].
        model_init_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` for the policy and the reference; `dtype` defaults to `"float32"`.
            `quantization_config` may be a `dict`, the arguments of [`~transformers.BitsAndBytesConfig`].
        seed (`int`, *optional*, defaults to 42):
            Seed of every stage.
        constraint ([`RiskConstraint`] or `list[RiskConstraint]`, *optional*):
            A budget on the tail of harm, or several: after the stages, rungs are added until they are met.
        rungs ([`RungSettings`], *optional*):
            How these rungs are sampled, labelled and trained.
    """

    stages: list[Stage]
    model: "str | PreTrainedModel"
    output_dir: str
    args: dict[str, Any] = field(default_factory=dict)
    peft_config: "PeftConfig | dict[str, Any] | None" = None
    model_init_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 42
    constraint: "RiskConstraint | list[RiskConstraint] | None" = None
    rungs: RungSettings = field(default_factory=RungSettings)

    def __post_init__(self) -> None:
        if not self.stages and not self.constraint:
            raise ValueError("You gave a plan without stages, but there is nothing to align then. Add a stage.")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"You named two stages {name!r}, but each needs a folder of its own. Rename one.")
        self.output_dir = str(self.output_dir)
        _check_args("plan", self.args)
        if self.constraint:
            from trl_rsa.ladder.constraint import check_names

            check_names(self.constraints)
            _check_args("rungs", self.rungs.args)

    @property
    def constraints(self) -> "list[RiskConstraint]":
        """The constraint, or the constraints, as a list."""
        given = self.constraint or []
        return list(given) if isinstance(given, (list, tuple)) else [given]

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "Plan":
        """Reads a plan from a YAML file whose keys are the arguments of [`Plan`] and [`Stage`].

        Paths in the file are taken from where the program runs. `overrides` replace top-level keys.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not YAML, or a key is unknown or missing; the message says which.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"You set the plan to {path}, but there is no such file. Check the path.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"You gave the plan {path}, but it is not valid YAML: {error}. Correct it.") from error
        if not isinstance(content, dict):
            raise ValueError(f"You gave the plan {path}, but it is not a mapping of keys to values. Add `stages:`.")
        content |= {key: value for key, value in overrides.items() if value is not None}
        constraint = content.get("constraint")
        if constraint:
            content["constraint"] = _read_constraint(constraint, path)
        if "rungs" in content:
            content["rungs"] = _read_rungs(content["rungs"], path)
        stages = content.pop("stages", [] if constraint else None)
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise ValueError(f"You gave the plan {path}, but it has no list `stages:` of mappings. Add one.")
        known = [
            _from_mapping(Stage, stage, f"stage {stage.get('name', number)!r} of {path}")
            for number, stage in enumerate(stages, start=1)
        ]
        return _from_mapping(cls, content | {"stages": known}, str(path))


def _read_constraint(content: Any, path: Path) -> "RiskConstraint | list[RiskConstraint]":
    """One mapping, or a list of them."""
    from trl_rsa.ladder.constraint import RiskConstraint

    several = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) for one in several):
        raise ValueError(
            f"You set `constraint:` in {path} to something else than a mapping or a list of mappings. Give the "
            "arguments of RiskConstraint, or a list with those of each."
        )
    for one in several:
        _refuse_former_keys(one, path)
    if len(several) > 1 and not all(one.get("name") for one in several):
        raise ValueError(f"You gave several constraints in {path}, but not each has a name. Add `name:` to each.")
    read = [
        _from_mapping(RiskConstraint, one, f"the constraint {one.get('name', '')!r} of {path}".replace(" ''", ""))
        for one in several
    ]
    return read if isinstance(content, list) else read[0]


def _read_rungs(content: Any, path: Path) -> RungSettings:
    if not isinstance(content, dict):
        raise ValueError(
            f"You set `rungs:` in {path} to {content!r}, but it is a mapping. Give the arguments of RungSettings."
        )
    return _from_mapping(RungSettings, content, f"rungs of {path}")


# Keys of a constraint that have another name or place now.
_RENAMED = {"threshold": "budget", "clip": "bounds"}


def _refuse_former_keys(constraint: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        ValueError: if the constraint is in the form of 0.1.0.dev0, with everything in one mapping.
    """
    for old, new in _RENAMED.items():
        if old in constraint:
            raise ValueError(f"You set {old!r} in a constraint of {path}, but it is called {new!r}. Rename it.")
    moved = [key for key in constraint if key in {f.name for f in dataclasses.fields(RungSettings)}]
    if moved:
        shown = yaml.safe_dump({"rungs": {key: constraint[key] for key in moved}}, default_flow_style=True, width=200)
        raise ValueError(
            f"You set {', '.join(map(repr, moved))} in a constraint of {path}, but a rung has that once, however many "
            f"constraints there are. Write it beside `constraint:`, as `{shown.strip()[1:-1]}`."
        )


def _from_mapping(cls: type, content: Mapping[str, Any], where: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in content:
        if key not in known:
            raise ValueError(f"You set {key!r} in {where}, but there is no such key.{_suggest(key, known)}")
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and content.get(name) is None:
            raise ValueError(f"You left out {name!r} in {where}, but it is needed. Add it.")
    return cls(**content)


def _check_args(where: str, args: Mapping[str, Any]) -> None:
    from trl_rsa.config import RSAConfig

    known = {f.name for f in dataclasses.fields(RSAConfig) if f.init}
    for key in args:
        if key in _SET_ELSEWHERE:
            raise ValueError(f"You set {key!r} in the args of the {where}, but its place is {_SET_ELSEWHERE[key]}.")
        if key not in known:
            raise ValueError(
                f"You set {key!r} in the args of the {where}, but RSAConfig has no such argument."
                f"{_suggest(key, known)}"
            )


def _suggest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else " Remove it."
