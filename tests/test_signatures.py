"""A public signature says `Any` only where no type could say more. The places are listed here, with their reasons."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trl_rsa


# The rooms whose `__init__` gives public names.
ROOMS = ("risk", "data", "scoring", "report", "sandbox")
# A place is `name.argument`, `name.method.argument`, or one of these with `->` for what is returned.
ACCEPTED = {
    "keyword arguments that another library names, and that are handed on to it": [
        "Plan.args",
        "Plan.model_init_kwargs",
        "Plan.peft_config",
        "RungSettings.args",
        "Stage.args",
    ],
    "keyword arguments of one of our functions or classes, which checks them when it is called": [
        "AuditSettings.labeller_options",
        "CostTerm.scorer_options",
        "Plan.from_preset.changes",
        "Plan.from_yaml.overrides",
        "RewardTerm.scorer_options",
        "RiskConstraint.human_options",
        "RiskConstraint.scorer_options",
        "RungSettings.sampling",
        "Stage.dataset_options",
        "Stage.eval_options",
        "sandbox.Sandbox.pairs_from.kwargs",
        "sandbox.model_sampler.kwargs",
        "sandbox.sample_preferences.kwargs",
        "scoring.FunctionScorer.from_spec.options",
        "scoring.GuardEndpointScorer.from_spec.options",
        "scoring.JudgeScorer.from_spec.options",
        "scoring.Scorer.from_spec.options",
        "scoring.load_scorer.options",
    ],
    "signatures of Transformers and TRL, which are overridden": [
        "RSAConfig.activation_checkpointing_kwargs",
        "RSAConfig.fsdp_config",
        "RSAConfig.gradient_checkpointing_kwargs",
        "RSAConfig.model_init_kwargs",
        "RSATrainer.compute_loss.->",
        "RSATrainer.compute_loss.inputs",
        "RSATrainer.data_collator",
        "RSATrainer.train.args",
        "RSATrainer.train.kwargs",
        "ReanchorCallback.on_save.kwargs",
        "ReanchorCallback.on_step_begin.kwargs",
        "ReanchorCallback.on_step_end.kwargs",
        "ReanchorCallback.on_train_begin.kwargs",
    ],
    "a function of TRL's shape, whose arguments are the columns of a data set": [
        "AuditSettings.labeller",
    ],
    "read by its shape, with a sentence for every shape that does not do": [
        "RiskConstraint.human_pairs",
        "RiskConstraint.prompts",
        "RiskConstraint.under",
        "RungSettings.reward",
    ],
    "JSON whose keys are the fields of a class, or whose type is in a room that may not be imported": [
        "RiskConstraint.to_dict.->",
        "report.front_markdown.front",
        "report.headline_markdown.metrics",
        "report.update_model_card.metrics",
    ],
}


def public_names() -> Iterator[tuple[str, Any]]:
    seen = set()
    for module, prefix in [(trl_rsa, ""), *((importlib.import_module(f"trl_rsa.{r}"), f"{r}.") for r in ROOMS)]:
        for name in module.__all__:
            value = getattr(module, name)
            if getattr(value, "__module__", "").startswith("trl_rsa") and id(value) not in seen:
                seen.add(id(value))
                yield prefix + name, value


def functions_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The thing itself, and its public methods and properties."""
    yield name, value
    for part, member in vars(value).items() if inspect.isclass(value) else ():
        function = (
            getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
        )
        if not part.startswith("_") and inspect.isfunction(function):
            yield f"{name}.{part}", function


def places_of_any(name: str, function: Any) -> Iterator[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    annotations = {p.name: p.annotation for p in signature.parameters.values()} | {"->": signature.return_annotation}
    for part, annotation in annotations.items():
        if re.search(r"\bAny\b", str(annotation)):
            yield f"{name}.{part}"


def test_any_stands_only_where_nothing_else_could():
    found = {
        place
        for name, value in public_names()
        for path, function in functions_of(name, value)
        for place in places_of_any(path, function)
    }
    accepted = [place for places in ACCEPTED.values() for place in places]
    assert len(accepted) == len(set(accepted))
    assert found - set(accepted) == set(), "name the type, or add the place with its reason"
    assert set(accepted) - found == set(), "these say Any no longer: take them off the list"


def test_every_room_with_public_names_is_looked_at():
    rooms = [path.parent.name for path in Path(trl_rsa.__file__).parent.glob("*/__init__.py")]
    assert {room for room in rooms if hasattr(importlib.import_module(f"trl_rsa.{room}"), "__all__")} == set(ROOMS)


def test_any_is_found_wherever_it_stands():
    class Sample:
        def method(self, one: Any, two: dict[str, Any], three: "list[Any]", *, four: int) -> Any: ...

        @property
        def five(self) -> Any: ...

        def _private(self, six: Any): ...

    found = [place for path, function in functions_of("Sample", Sample) for place in places_of_any(path, function)]
    assert found == [
        "Sample.method.one",
        "Sample.method.two",
        "Sample.method.three",
        "Sample.method.->",
        "Sample.five.->",
    ]
