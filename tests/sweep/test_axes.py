"""What is varied: fields by name and by path, in plans of every shape."""

import pytest

from trl_rsa import Plan, RiskConstraint, RungSettings, Stage
from trl_rsa.sweep.axes import Axis, grid, label, resolve, set_field


def make_plan(**changes):
    stages = [
        Stage("helpful", "pairs.jsonl"),
        Stage("safe", "pairs.jsonl", constraint_multiplier=2.0, args={"learning_rate": 1e-5}),
    ]
    settings = {"stages": stages, "model": "my-org/model", "output_dir": "runs/plan", "args": {"max_steps": 3}}
    return Plan(**(settings | changes))


def make_constraint(name="cost", budget=0.5):
    return RiskConstraint(lambda prompts, completions: [], ["a"], budget=budget, bounds=(-1.0, 1.0), name=name)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("constraint_multiplier", "stages.safe.constraint_multiplier"),  # the only stage that sets it
        ("seed", "seed"),
        ("stages.helpful.beta", "stages.helpful.beta"),
        ("args.learning_rate", "args.learning_rate"),
    ],
)
def test_a_name_means_the_only_place_that_sets_it(path, found):
    assert resolve(make_plan(), path) == found


def test_names_of_a_ladder():
    plan = make_plan(constraint=make_constraint(), rungs=RungSettings(max_rungs=3))
    assert resolve(plan, "budget") == resolve(plan, "constraint.budget") == "constraints.cost.budget"
    assert resolve(plan, "max_rungs") == "rungs.max_rungs"
    two = make_plan(constraint=[make_constraint("harm"), make_constraint("spend")])
    with pytest.raises(ValueError, match=r"several places: constraints\.harm\.budget, constraints\.spend\.budget\."):
        resolve(two, "budget")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("beta", r"in several places: stages\.helpful\.beta, stages\.safe\.beta\. Write one"),
        ("bata", r"no such field\. Did you mean 'beta'\?"),
        ("stages.safe.bata", r"no such field\. Did you mean 'stages\.safe\.beta'\?"),
        ("stages.save.beta", r"no such field\. Did you mean 'stages\.safe\.beta'\?"),
        ("budget", r"no such field"),
        ("output_dir", r"no such field"),
        ("stages.safe.name", r"no such field"),
    ],
)
def test_what_the_plan_does_not_have(path, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve(make_plan(), path)


def test_a_value_goes_to_its_place_and_nowhere_else():
    plan = make_plan(constraint=make_constraint())
    changed = set_field(plan, "stages.safe.constraint_multiplier", 4)
    assert [stage.constraint_multiplier for stage in changed.stages] == [1.0, 4]
    assert changed.stages[0] == plan.stages[0] and plan.stages[1].constraint_multiplier == 2.0
    assert set_field(plan, "constraints.cost.budget", "0.25").constraints[0].budget == 0.25
    assert set_field(plan, "rungs.max_rungs", 2).rungs.max_rungs == 2 and plan.rungs.max_rungs == 6
    assert set_field(plan, "rungs.sampling.max_new_tokens", 8).rungs.sampling == {"max_new_tokens": 8}
    assert set_field(plan, "seed", 7).seed == 7
    inner = set_field(plan, "stages.safe.args.learning_rate", 2e-5)
    assert inner.stages[1].args == {"learning_rate": 2e-5} and inner.args == {"max_steps": 3}
    assert set_field(plan, "args.learning_rate", "1e-3").args == {"max_steps": 3, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("stages.safe.beta", "much", "'beta' to 'much' in stages.safe.beta, but it is a number"),
        ("stages.safe.beta", -1, "it is above 0 and finite"),
        ("args.learning_rat", 1.0, "RSAConfig has no such argument. Did you mean 'learning_rate'"),
        ("args.beta", 1.0, "its place is the stage's `beta`"),
        ("constraints.cost.budget", 3.0, "Set low < budget < high"),
        ("rungs.sampling.max_new_token", 3, "unexpected keyword"),
        ("seed.deeper", 3, "seed is 42, which has no parts"),
    ],
)
def test_a_value_that_cannot_be_is_refused(path, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        set_field(make_plan(constraint=make_constraint()), path, value)


def test_values_are_read_as_in_yaml():
    plan = make_plan()
    axis = Axis.read("constraint_multiplier=0.5,1,2", plan)
    assert axis == Axis("stages.safe.constraint_multiplier", (0.5, 1, 2))
    assert Axis.read("args.loss_type=[sigmoid],[ipo, sft]", plan).values == (["sigmoid"], ["ipo", "sft"])


@pytest.mark.parametrize("text", ["seed", "seed=", "=1", "seed=1,,2", "seed=[1", "seed=1,1"])
def test_what_is_no_axis_is_refused(text):
    with pytest.raises(ValueError, match="You set over to "):
        Axis.read(text, make_plan())


def test_several_axes_make_a_grid():
    axes = [Axis("seed", (1, 2)), Axis("stages.safe.beta", (0.1, 0.2))]
    assert grid(axes) == [
        {"seed": seed, "stages.safe.beta": beta} for seed, beta in [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    ]
    with pytest.raises(ValueError, match="twice over 'seed'"):
        grid([Axis("seed", (1,)), Axis("seed", (2,))])


def test_labels_are_short_and_different():
    assert label({"stages.safe.constraint_multiplier": 0.5, "constraints.cost.budget": 1}) == "λ=0.5, budget=1"
    assert label({"stages.a.beta": 1, "stages.b.beta": 2}) == "a.beta=1, b.beta=2"
