"""What is aligned, in which order, at which temperature: `Stage` and `Plan`, from Python or from YAML."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from trl_rsa.alignment.merges import MergeSettings, check_stages
from trl_rsa.alignment.models import read_model_init_kwargs, read_peft_config
from trl_rsa.alignment.presets import apply_preset
from trl_rsa.alignment.typed import (
    check_positive,
    hints_of,
    hints_of_arguments,
    load_yaml,
    read_arguments,
    read_dataclass,
    read_value,
    shown,
    suggest,
)
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.data import load_preferences
from trl_rsa.ladder.settings import RungSettings
from trl_rsa.risk import RISK_MEASURES
from trl_rsa.sampling.encoding import TEMPLATES
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring.load import STAGE
from trl_rsa.training.methods.method import Method
from trl_rsa.training.methods.table import METHODS
from trl_rsa.training.methods.terms import CostTerm, RewardTerm


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
    # They change the tokenizer, which all stages share, and a resumed run would begin with the unchanged one.
    "eos_token": "the tokenizer beside the model",
    "chat_template_path": "the tokenizer beside the model",
}


# Arguments of a stage that only some methods have.
_OF_SOME_METHODS = ("beta", "constraint_multiplier", "risk_measure", "rewards", "costs")


@dataclass
class Stage:
    """
    One training run: one method, one dataset, one temperature. Its reference is the previous stage's policy.

    Args:
        name (`str`):
            Name of the stage ("helpful", "safe", …), unique in its plan. It names the folder and the tracker run.
        dataset (`str` or [`~datasets.Dataset`]):
            Preference pairs, or what else the method reads: a Hub id, a local file or folder, or a dataset; see
            [`~trl_rsa.data.load_preferences`].
        method (`str`, *optional*, defaults to `"rsa"`):
            What is trained: `"rsa"`, `"dpo"`, `"kto"`, `"sft"`, `"orpo"`, `"cpo"`, `"rloo"`; or a scorer for later
            stages, `"reward"` or `"cost"`. docs/stages.md has a table.
        eval_dataset (`str` or [`~datasets.Dataset`], *optional*):
            Held-out pairs, read with the same options but for `eval_options`. Those that are trained on are refused.
        held_out (`float` or `int`, *optional*, defaults to 0):
            Without `eval_dataset`: fraction (below 1) or number of pairs that are set aside for evaluation. Prompts
            are set aside whole, so that none is on both sides; it may be a few pairs less.
        preferred_by (`str`, *optional*, defaults to `"better"`):
            Which label makes `chosen`: `"better"` (more helpful) or `"safer"`.
        dataset_options (`dict`, *optional*):
            Other arguments of [`~trl_rsa.data.load_preferences`]: `format`, `split`, `template`, `pair_rule`…
        beta (`float`, *optional*, defaults to 0.1):
            Temperature β of the regularisation, in units of reward. For ORPO and CPO what TRL calls `beta`.
        constraint_multiplier (`float`, *optional*, defaults to 1):
            Lagrange multiplier λ: the stage runs at temperature β/λ.
        risk_measure (`str` or [`~trl_rsa.risk.RiskMeasure`], *optional*):
            Token-level risk measure of "rsa", by name (its parameters are in `args`) or as an object. By default there
            is none, and the stage is DPO (`risk_alpha=0`), unless `args` say something of the risk or set `"rsa1"`:
            then it is `"entropic"`.
        rewards (`list[RewardTerm]`, *optional*):
            What "rloo" maximises.
        costs (`list[CostTerm]`, *optional*):
            What "rloo" keeps within a budget, by a Lagrange multiplier for each.
        args (`dict`, *optional*):
            Any other argument of the method's configuration ([`RSAConfig`] by default); overrides the plan's.
        eval_options (`dict`, *optional*):
            What of `dataset_options` is otherwise for `eval_dataset`, such as `split`. A file has no split of the
            training data.
    """

    name: str
    dataset: "str | Dataset"
    eval_dataset: "str | Dataset | None" = None
    held_out: float = 0
    preferred_by: str = "better"
    dataset_options: dict[str, Any] = field(default_factory=dict)
    beta: float = 0.1
    constraint_multiplier: float = 1.0
    risk_measure: "str | RiskMeasure | None" = None
    args: dict[str, Any] = field(default_factory=dict)
    method: str = "rsa"
    rewards: list[RewardTerm] = field(default_factory=list)
    costs: list[CostTerm] = field(default_factory=list)
    eval_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(self.name)):
            raise ValueError(
                f"You set the name of a stage to {self.name!r}, but it becomes a folder's name. Use letters, digits, "
                "'.', '_' and '-', at most 100 of them."
            )
        if self.held_out and self.eval_dataset is not None:
            raise ValueError(
                f"You set both held_out and eval_dataset for the stage {self.name!r}, but pairs can be held out of "
                "only one place. Remove one of them."
            )
        if self.eval_options and self.eval_dataset is None:
            raise ValueError(
                f"You set eval_options for the stage {self.name!r}, but they say how its eval_dataset is read, and it "
                "has none. Set one, or remove them."
            )
        if isinstance(self.held_out, bool) or not 0 <= self.held_out < float("inf"):
            raise ValueError(
                f"You set held_out={self.held_out!r} for the stage {self.name!r}, but it is a fraction or a number of "
                "prompts. Set 0 or more."
            )
        if isinstance(self.risk_measure, str) and self.risk_measure not in RISK_MEASURES:
            raise ValueError(
                f"You set the risk_measure of the stage {self.name!r} to {self.risk_measure!r}, but the measures are "
                f"{', '.join(RISK_MEASURES)}.{suggest(self.risk_measure, RISK_MEASURES)}"
            )
        for name in ("beta", "constraint_multiplier"):
            check_positive(getattr(self, name), name, f"the stage {self.name!r}")
        where = f"stage {self.name!r}"
        if self.method not in METHODS:
            raise ValueError(
                f"You set the method of the {where} to {self.method!r}, but the methods are {', '.join(METHODS)}."
                f"{suggest(self.method, METHODS)}"
            )
        self._refuse_what_the_method_has_not()
        for name in ("dataset_options", "eval_options"):
            setattr(self, name, _read_dataset_options(getattr(self, name), f"{name} of {where}", self.does.reads))
        self.args = _read_args(where, self.args, self.does.config_class)

    @property
    def does(self) -> Method:
        """The method."""
        return METHODS[self.method]

    @property
    def temperature(self) -> float | None:
        """β/λ, in units of reward; None for a method without a reference."""
        return self.beta / self.constraint_multiplier if self.does.has_reference else None

    def _refuse_what_the_method_has_not(self) -> None:
        for f in dataclasses.fields(self):
            if f.name not in _OF_SOME_METHODS or f.name in self.does.takes:
                continue
            default = f.default if f.default is not dataclasses.MISSING else []
            if getattr(self, f.name) != default:
                others = [name for name, method in METHODS.items() if f.name in method.takes]
                raise ValueError(
                    f"You set {f.name!r} for the stage {self.name!r}, but its method {self.method!r} has none: "
                    f"it is for {', '.join(others)}. Remove it."
                )


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
            [`RSAConfig`] arguments of all stages, and of the rungs. Of a stage with another method those count that
            its configuration has.
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
        merge ([`~alignment.merges.MergeSettings`], *optional*):
            Averages of two stages' models, made after the stages, beside the plan's result.
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
    merge: MergeSettings | None = None

    def __post_init__(self) -> None:
        if not self.stages and not self.constraint:
            raise ValueError("You gave a plan without stages, but there is nothing to align then. Add a stage.")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"You named two stages {name!r}, but each needs a folder of its own. Rename one.")
        self.output_dir = str(self.output_dir)
        if not self.output_dir.strip():
            raise ValueError("You set output_dir to nothing, but models and records are written there. Name a folder.")
        if isinstance(self.model, str) and Path(self.model).resolve() == Path(self.output_dir).resolve():
            raise ValueError(
                f"You set model and output_dir to {self.output_dir}, but what is written there would count as a part "
                "of the model. Set another output_dir."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(
                f"You set seed={self.seed!r}, but random generators take a whole number from 0 to 2³¹ − 1. Set one."
            )
        self._check_scorers()
        # Each stage takes of them what its configuration has.
        classes = dict.fromkeys([*([] if self.stages and not self.constraint else [_rsa_config()]), *self._configs()])
        self.args = _read_args("plan", self.args, *classes)
        self.model_init_kwargs = read_model_init_kwargs(self.model_init_kwargs, self.model)
        self.peft_config = read_peft_config(self.peft_config)
        self.rungs.args = _read_args("rungs", self.rungs.args)
        if self.constraint:
            from trl_rsa.ladder.constraint import check_names

            check_names(self.constraints)
        if self.merge is not None:
            check_stages(self.merge, {stage.name: stage.does.makes for stage in self.stages})

    def _configs(self) -> list[type]:
        return [stage.does.config_class for stage in self.stages]

    def _check_scorers(self) -> None:
        """A scorer that a stage trains must be of an earlier stage, and of the right kind."""
        used: list[tuple[str, str, Any, int]] = [
            (where, kind, one, len(self.stages)) for where, kind, one in self.scored_by
        ]
        for index, stage in enumerate(self.stages):
            used += [(f"a reward of the stage {stage.name!r}", "reward", one, index) for one in stage.rewards]
            used += [(f"a cost of the stage {stage.name!r}", "cost", one, index) for one in stage.costs]
        for where, kind, one, before in used:
            name = stage_of(one.scorer)
            if name is None:
                continue
            made = {stage.name: stage.does.makes for stage in self.stages[:before] if stage.does.makes != "policy"}
            if name not in made:
                have = f"the earlier ones are {', '.join(made)}" if made else "no earlier stage trains one"
                raise ValueError(
                    f"You set the scorer of {where} to {one.scorer!r}, but there is no such scorer: {have}. Name an "
                    "earlier stage with the method 'reward' or 'cost'."
                )
            if made[name] != kind and "higher_is" not in one.scorer_options:
                raise ValueError(
                    f"You set the scorer of {where} to {one.scorer!r}, but that stage trains a {made[name]}. Set "
                    f"scorer_options: {{higher_is: {'better' if kind == 'cost' else 'worse'}}} if you mean it."
                )

    def folder_of(self, index: int) -> Path:
        """Where the stage is written."""
        return Path(self.output_dir) / f"{index + 1:02d}-{self.stages[index].name}"

    @property
    def constraints(self) -> "list[RiskConstraint]":
        """The constraint, or the constraints, as a list."""
        given = self.constraint or []
        return list(given) if isinstance(given, (list, tuple)) else [given]

    @property
    def scored_by(self) -> "list[tuple[str, str, RiskConstraint | RewardTerm]]":
        """What the ladder's responses are scored by: whose it is in words, its kind, and what has `scorer` and
        `scorer_options`: the constraints, and the reward of the rungs."""
        found: list[tuple[str, str, RiskConstraint | RewardTerm]] = [
            (f"the constraint {one.name!r}", "cost", one) for one in self.constraints
        ]
        if found and isinstance(self.rungs.reward, RewardTerm):
            found.append(("the reward of the rungs", "reward", self.rungs.reward))
        return found

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "Plan":
        """Reads a plan from a YAML file whose keys are the arguments of [`Plan`] and [`Stage`].

        A key `preset:` starts from a paper's plan; the other keys change it ([`Plan.from_preset`]). Paths in the file
        are taken from where the program runs. `overrides` replace top-level keys.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not YAML, or a key is unknown or missing; the message says which.
        """
        path = Path(path)
        content = load_yaml(path)
        if not isinstance(content, dict):
            raise ValueError(f"You gave the plan {path}, but it is not a mapping of keys to values. Add `stages:`.")
        if "preset" in content:
            content = apply_preset(content["preset"], {key: content[key] for key in content if key != "preset"})
        content |= {key: value for key, value in overrides.items() if value is not None}
        return cls._from_content(content, path)

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> "Plan":
        """A paper's plan (docs/papers.md), with changes.

        ```python
        Plan.from_preset("sacpo", model="my-org/my-model", output_dir="runs/mine", dataset="pairs.jsonl",
                         stages={"safe": {"constraint_multiplier": 10}}, args={"num_train_epochs": 1})
        ```

        Args:
            name (`str`):
                One of [`~alignment.presets.PRESETS`].
            changes:
                Arguments of [`Plan`]. A mapping changes the preset's key by key, None removes a key, and everything
                else replaces what the preset has. `stages` may be a mapping from the names of the preset's stages to
                what changes in each; `dataset` is the data of all stages, and `dataset_options` is added to how all
                are read.

        Raises:
            ValueError: if there is no such preset, or as [`Plan.from_yaml`].
        """
        where = Path(f"the preset {name}")
        content = apply_preset(name, changes)
        # What a file cannot hold is put in its place afterwards.
        objects = {key: content.pop(key) for key in [*content] if not _is_written(content[key])}
        datasets = {
            stage["name"]: stage.pop("dataset")
            for stage in content.get("stages") or ()
            if not _is_written(stage.get("dataset"))
        }
        for stage in content.get("stages") or ():
            stage.setdefault("dataset", "a dataset in memory")
        plan = cls._from_content(content, where, objects)
        for one in plan.stages:
            one.dataset = datasets.get(one.name, one.dataset)
        return plan

    @classmethod
    def _from_content(cls, content: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> "Plan":
        content = {key: value for key, value in content.items() if value is not None}
        read: dict[str, Any] = dict(objects or {})
        if "constraint" in content:
            read["constraint"] = _read_constraint(content.pop("constraint"), path)
        if "rungs" in content:
            read["rungs"] = _read_rungs(content.pop("rungs"), path)
        if isinstance(content.get("merge"), dict):
            read["merge"] = read_dataclass(MergeSettings, content.pop("merge"), f"merge of {path}")
        if "stages" in read:
            return read_dataclass(cls, content, str(path), read)
        stages = content.pop("stages", [] if "constraint" in read else None)
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise ValueError(f"You gave the plan {path}, but it has no list `stages:` of mappings. Add one.")
        read["stages"] = [
            _read_stage(stage, f"stage {stage.get('name', number)!r} of {path}")
            for number, stage in enumerate(stages, start=1)
        ]
        return read_dataclass(cls, content, str(path), read)


def _is_written(value: Any) -> bool:
    """Whether a file could hold the value."""
    if isinstance(value, Mapping):
        return True
    if isinstance(value, (list, tuple)):
        return all(map(_is_written, value))
    return value is None or isinstance(value, (str, int, float, bool))


def stage_of(scorer: Any) -> str | None:
    """`NAME` of a scorer `stage:NAME`; None of any other."""
    prefix, _, name = scorer.partition(":") if isinstance(scorer, str) else ("", "", "")
    return name if prefix == STAGE else None


def _read_stage(content: Mapping[str, Any], where: str) -> Stage:
    read: dict[str, Any] = {}
    for name, cls in (("rewards", RewardTerm), ("costs", CostTerm)):
        terms = content.get(name)
        if terms is None:
            continue
        if not isinstance(terms, list) or not all(isinstance(term, dict) for term in terms):
            raise ValueError(
                f"You set {name!r} of {where} to {shown(terms)}, but it is a list of mappings. Give each its scorer."
            )
        read[name] = [_read_term(cls, term, f"{name}[{i}] of {where}") for i, term in enumerate(terms)]
    return read_dataclass(Stage, {key: value for key, value in content.items() if key not in read}, where, read)


def _read_term(cls: type, term: Mapping[str, Any], where: str) -> Any:
    if term.get("scorer") is None:
        raise ValueError(f"You left out 'scorer' in {where}, but it is needed. Add it.")
    return read_dataclass(cls, term, where, {"scorer": read_value(str, term["scorer"], "scorer", where)})


def _read_constraint(content: Any, path: Path) -> "RiskConstraint | list[RiskConstraint]":
    """One mapping, or a list of them."""
    from trl_rsa.ladder.constraint import RiskConstraint
    from trl_rsa.ladder.under import Under

    several = content if isinstance(content, list) else [content]
    if not several or not all(isinstance(one, dict) for one in several):
        raise ValueError(
            f"You set `constraint:` in {path} to something else than a mapping or a list of mappings. Give the "
            "arguments of RiskConstraint, or a list with those of each."
        )
    for one in several:
        _refuse_former_keys(one, path)
    if len(several) > 1 and not all(one.get("name") for one in several):
        raise ValueError(f"You gave several constraints in {path}, but not each has a name. Add `name:` to each.")
    read = []
    for one in several:
        where = f"the constraint {one['name']!r} of {path}" if one.get("name") else f"the constraint of {path}"
        options = {name: read_value(hint, one[name], name, where) for name, hint in _SOURCES.items() if name in one}
        _check_prompts(options.get("prompts"), where)
        if isinstance(one.get("human_options"), dict):
            options["human_options"] = _read_dataset_options(one["human_options"], f"human_options of {where}")
        if isinstance(one.get("under"), dict):
            options["under"] = read_dataclass(Under, one["under"], f"under of {where}")
        audit = {} if one.get("audit") is None else {"audit": _read_audit(one["audit"], where)}
        kept = {name: value for name, value in one.items() if name != "audit"}
        read.append(read_dataclass(RiskConstraint, {**kept, **options}, where, audit))
    return read if isinstance(content, list) else read[0]


def _read_audit(content: Any, where: str) -> AuditSettings:
    if not isinstance(content, dict):
        raise ValueError(
            f"You set 'audit' in {where} to {shown(content)}, but it is a mapping. Give the arguments of "
            "AuditSettings."
        )
    where = f"the audit of {where}"
    labeller = {"labeller": read_value(str, content["labeller"], "labeller", where)} if "labeller" in content else {}
    return read_dataclass(AuditSettings, {**content, **labeller}, where)


_Prompt = str | list[dict[str, Any]] | dict[str, Any]
# What a constraint takes as an object in Python, in a file.
_SOURCES = {
    "scorer": str,
    "prompts": str | list[_Prompt] | dict[Literal["train", "decide", "certify"], str | list[_Prompt]],
    "human_pairs": str | list[dict[str, Any]] | None,
}


def _check_prompts(prompts: Any, where: str) -> None:
    """Prompts that are written into the plan itself."""
    for part in prompts.values() if isinstance(prompts, dict) else [prompts]:
        for row in part if isinstance(part, list) else ():
            if isinstance(row, dict) and not isinstance(row.get("prompt"), (str, list)):
                raise ValueError(
                    f"You set 'prompts' to a list with {shown(row)} in {where}, but it has no prompt. Write a text, "
                    "a list of messages, or a mapping with `prompt`."
                )


def _read_rungs(content: Any, path: Path) -> RungSettings:
    if not isinstance(content, dict):
        raise ValueError(
            f"You set `rungs:` in {path} to {shown(content)}, but it is a mapping. Give the arguments of RungSettings."
        )
    where = f"rungs of {path}"
    options: dict[str, Any] = {}
    if isinstance(content.get("sampling"), dict):
        hints = {name: hint for name, hint in hints_of(Sampling).items() if name not in ("draws", "seed")}
        hints["template"] = Literal[TEMPLATES]
        options["sampling"] = read_arguments(hints, content["sampling"], f"sampling of {where}")
    if content.get("risk_measure") is not None:
        options["risk_measure"] = read_value(
            Literal[tuple(RISK_MEASURES)], content["risk_measure"], "risk_measure", where
        )
    reward = content.get("reward")
    if reward is not None:
        if not isinstance(reward, dict):
            raise ValueError(
                f"You set 'reward' of {where} to {shown(reward)}, but it is a mapping. Give it as "
                "`reward: {scorer: …}`."
            )
        options["reward"] = _read_term(RewardTerm, reward, f"reward of {where}")
    given = {key: value for key, value in content.items() if key not in options}
    return read_dataclass(RungSettings, given, where, options)


# Options of rows that are no pairs and are not made of pairs.
_OPTIONS = {"prompts": ("split", "template", "limit"), "judged": ("split", "revision", "name")}


def _read_dataset_options(content: Mapping[str, Any], where: str, reads: str = "pairs") -> dict[str, Any]:
    hints = hints_of_arguments(load_preferences)
    known = _OPTIONS.get(reads, [name for name in hints if name != "source"])
    return read_arguments({name: hints[name] for name in known}, content, where)


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


def _rsa_config() -> type:
    return METHODS["rsa"].config_class


def _read_args(where: str, args: Mapping[str, Any], *classes: type) -> dict[str, Any]:
    """Arguments of a configuration with the types of its fields; of several, of the first that has them.

    Raises:
        ValueError: if one is unknown, set elsewhere, or of another type.
    """
    for key in args:
        if key in _SET_ELSEWHERE:
            raise ValueError(f"You set {key!r} in the args of the {where}, but its place is {_SET_ELSEWHERE[key]}.")
    several = classes or (_rsa_config(),)
    hints = {name: hint for cls in reversed(several) for name, hint in hints_of(cls).items()}
    none_such = (
        f"{' and '.join(cls.__name__ for cls in several)} {'has' if len(several) == 1 else 'have'} no such argument"
    )
    return read_arguments(hints, args, f"the args of the {where}", none_such)


def args_of(plan: Plan, stage: Stage) -> dict[str, Any]:
    """The plan's arguments that the stage's configuration has, and the stage's own."""
    hints = hints_of(stage.does.config_class)
    where = f"the args of the plan, for the stage {stage.name!r}"
    shared = {name: read_value(hints[name], value, name, where) for name, value in plan.args.items() if name in hints}
    return shared | stage.args
