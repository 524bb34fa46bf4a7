"""Plans: from Python, from YAML, and the sentences for what cannot work."""

import pytest

from trl_rsa import Plan, Stage


YAML = """\
model: some/model
output_dir: runs/here
args: {learning_rate: 1.0e-4}
stages:
  - {name: helpful, dataset: a.jsonl, held_out: 0.1}
  - {name: safe, dataset: b.jsonl, preferred_by: safer, constraint_multiplier: 4, risk_measure: cvar}
"""


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(YAML)
    return path


def test_yaml_keys_are_the_arguments_of_plan_and_stage(plan_file):
    plan = Plan.from_yaml(plan_file)
    assert plan.model == "some/model"
    assert plan.args == {"learning_rate": 1e-4}
    assert [stage.name for stage in plan.stages] == ["helpful", "safe"]
    assert plan.stages[0] == Stage("helpful", "a.jsonl", held_out=0.1)
    assert plan.stages[1].preferred_by == "safer" and plan.stages[1].constraint_multiplier == 4


def test_overrides_replace_top_level_keys(plan_file):
    plan = Plan.from_yaml(plan_file, model="other", output_dir=None, seed=7)
    assert (plan.model, plan.output_dir, plan.seed) == ("other", "runs/here", 7)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("held_out: 0.1", "heldout: 0.1"), "'heldout' in stage 'helpful' .*Did you mean 'held_out'"),
        (("output_dir: runs/here", "outputdir: x"), "'outputdir' .*Did you mean 'output_dir'"),
        (("model: some/model\n", ""), "left out 'model'"),
        (("dataset: b.jsonl, ", ""), "left out 'dataset' in stage 'safe'"),
        (("stages:", "steps:"), "no list `stages:`"),
        (("args: {", "args: [{"), "not valid YAML"),
        (("learning_rate", "learningrate"), "no such argument. Did you mean 'learning_rate'"),
        (
            ("learning_rate: 1.0e-4", "sync_ref_model: true"),
            "its place is nothing: `align` moves the reference",
        ),
        (("learning_rate: 1.0e-4", "beta: 0.1"), "'beta' in the args of the plan, but its place is the stage's"),
        (("name: safe", "name: helpful"), "two stages 'helpful'"),
        (("name: safe", "name: a/b"), "becomes a folder's name"),
    ],
)
def test_a_mistake_in_the_yaml_is_named(plan_file, change, sentence):
    plan_file.write_text(YAML.replace(*change))
    with pytest.raises(ValueError, match=sentence):
        Plan.from_yaml(plan_file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        Plan.from_yaml(tmp_path / "none.yaml")


def test_an_empty_plan_is_refused():
    with pytest.raises(ValueError, match="without stages"):
        Plan([], model="m", output_dir="o")


def test_held_out_and_eval_dataset_exclude_each_other():
    with pytest.raises(ValueError, match="only one place"):
        Stage("s", "a.jsonl", eval_dataset="b.jsonl", held_out=0.1)


CONSTRAINT = """
constraint: {scorer: "hf:my/cost", prompts: prompts.jsonl, budget: 0.5, bounds: [-5, 15]}
rungs: {draws: {train: 8}, max_rungs: 3}
"""


def test_a_constraint_and_its_rungs(plan_file):
    plan_file.write_text(YAML + CONSTRAINT)
    plan = Plan.from_yaml(plan_file)
    (constraint,) = plan.constraints
    assert (constraint.name, constraint.budget, constraint.bounds) == ("cost", 0.5, [-5, 15])
    assert plan.rungs.max_rungs == 3 and plan.rungs.sampling_of("train", 0).draws == 8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("budget: 0.5", "threshold: 0.5"), "'threshold' in a constraint .* is called 'budget'"),
        (("bounds:", "clip:"), "'clip' in a constraint .* is called 'bounds'"),
        (
            ("bounds: [-5, 15]", "bounds: [-5, 15], draws: {train: 8}, beta: 2"),
            r"'draws', 'beta' in a constraint .* as `rungs: \{beta: 2, draws: \{train: 8\}\}`",
        ),
        (("max_rungs", "max_rung"), "'max_rung' in rungs .*Did you mean 'max_rungs'"),
        (("{draws: {train: 8}, max_rungs: 3}", "3"), "`rungs:` .* to 3, but it is a mapping"),
    ],
)
def test_the_former_form_of_a_constraint_is_told_the_new_one(plan_file, change, sentence):
    plan_file.write_text(YAML + CONSTRAINT.replace(*change))
    with pytest.raises(ValueError, match=sentence):
        Plan.from_yaml(plan_file)
