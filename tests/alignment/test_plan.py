"""Plans: from Python, from YAML, and the sentences for what cannot work."""

import pytest
from trl import TrlParser

from trl_rsa import Plan, RewardTerm, RSAConfig, Stage
from trl_rsa.alignment.typed import hints_of


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
    ("reward", "sentence"),
    [
        ("hf:some/model", "'reward' of rungs of .* but it is a mapping. Give it as `reward: {scorer: …}`"),
        ("{weight: 2}", "left out 'scorer' in reward of rungs"),
        ("{scorer: 'm:f', weights: 2}", "'weights' in reward of rungs .*Did you mean 'weight'"),
        ("{scorer: 'm:f', weight: much}", "'weight'"),
    ],
)
def test_a_reward_of_the_rungs_is_read_from_the_file(plan_file, reward, sentence):
    right = "rungs: {reward: {scorer: 'm:f', weight: 2}}\n"
    plan_file.write_text(YAML + right)
    assert Plan.from_yaml(plan_file).rungs.reward == RewardTerm("m:f", 2)
    plan_file.write_text(f"{YAML}rungs: {{reward: {reward}}}\n")
    with pytest.raises(ValueError, match=sentence):
        Plan.from_yaml(plan_file)


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


def test_options_of_the_eval_data_need_some_and_are_checked():
    with pytest.raises(ValueError, match="You set eval_options for the stage 's', but they say how its"):
        Stage("s", "a.jsonl", eval_options={"split": "test"})
    with pytest.raises(ValueError, match=r"'splitt'.*eval_options of stage 's'"):
        Stage("s", "a.jsonl", eval_dataset="b.jsonl", eval_options={"splitt": "test"})


CONSTRAINT = """
constraint: {scorer: "hf:my/cost", prompts: prompts.jsonl, budget: 0.5, bounds: [-5, 15]}
rungs: {draws: {train: 8}, max_rungs: 3}
"""


def test_a_constraint_and_its_rungs(plan_file):
    plan_file.write_text(YAML + CONSTRAINT)
    plan = Plan.from_yaml(plan_file)
    (constraint,) = plan.constraints
    assert (constraint.name, constraint.budget, constraint.bounds) == ("cost", 0.5, (-5, 15))
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


def read(path, text):
    path.write_text(text)
    return Plan.from_yaml(path)


FULL = YAML.replace("  - {name: helpful,", "  - {name: helpful, beta: 0.1, dataset_options: {limit: 5},") + CONSTRAINT
FULL += "seed: 3\npeft_config: {r: 4}\nmodel_init_kwargs: {dtype: float32}\n"
FULL = FULL.replace("draws: {train: 8}", "draws: {train: 8}, soft: true, sampling: {top_p: 0.9}")


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    text = FULL.replace("beta: 0.1", "beta: 1e-1").replace("1.0e-4", "2e-5").replace("limit: 5", "limit: 1e1")
    plan = read(tmp_path / "plan.yaml", text)
    assert plan.stages[0].beta == 0.1 and plan.args == {"learning_rate": 2e-5}
    assert plan.stages[0].dataset_options == {"limit": 10}
    arguments = read(tmp_path / "plan.yaml", FULL.replace("1.0e-4", "1e-4, lr_scheduler_kwargs: {min_lr: 1e-6}")).args
    assert arguments["lr_scheduler_kwargs"] == {"min_lr": 1e-6}


def test_what_is_meant_as_true_or_false_is_read_as_that(tmp_path):
    assert read(tmp_path / "plan.yaml", FULL.replace("soft: true", 'soft: "false"')).rungs.soft is False


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("bounds: [-5, 15]", "bounds: [1, 2, 3]"),
            r"'bounds' to \[1, 2, 3\] .* a list of 2: a number, a number",
        ),
        (("bounds: [-5, 15]", "bounds: [true, 15]"), r"'bounds' to \[True, 15\]"),
        (("soft: true", "soft: maybe"), "'soft' to 'maybe' .* true or false"),
        (("beta: 0.1", "beta: much"), "'beta' to 'much' in stage 'helpful' .* a number"),
        (("beta: 0.1", "beta: true"), "'beta' to True in stage 'helpful'"),
        (("beta: 0.1", "beta: -1"), "'beta' to -1.*above 0"),
        (("beta: 0.1", "beta: .nan"), "'beta' to nan .* no finite number"),
        (("top_p: 0.9", "topp: 0.9"), "'topp' in sampling of rungs .*Did you mean 'top_p'"),
        (("top_p: 0.9", "template: chta"), "'template' to 'chta' .*Did you mean 'chat'"),
        (("limit: 5", "limits: 5"), "'limits' in dataset_options of stage 'helpful'.*Did you mean 'limit'"),
        (("limit: 5", "limit: few"), "'limit' to 'few' in dataset_options"),
        (("{r: 4}", "{rank: 4}"), "'rank' in peft_config, but LoraConfig"),
        (("{r: 4}", "{r: 4, lora_alhpa: 4}"), "Did you mean 'lora_alpha'"),
        (("{r: 4}", "{r: 0}"), "'r' to 0 in peft_config"),
        (("{r: 4}", "{bias: some}"), "'bias' to 'some' .* one of 'none', 'all', 'lora_only'"),
        (("dtype: float32", "dtype: flaot32"), "'dtype' to 'flaot32' .*Did you mean 'float32'"),
        (("dtype: float32", "dtpye: float32"), "'dtpye' in model_init_kwargs.*Did you mean 'dtype'"),
        (("seed: 3", "seed: -1"), "seed=-1"),
        (("learning_rate: 1.0e-4", "learning_rate: fast"), "'learning_rate' to 'fast' in the args of the plan"),
        (("learning_rate: 1.0e-4", "lr_scheduler_type: cosin"), "one of .*Did you mean 'cosine'"),
        (("learning_rate: 1.0e-4", "eval_strategy: no"), "'eval_strategy' to False .* in quotes"),
        (("output_dir: runs/here", 'output_dir: "a\\0b"'), "NUL"),
        (("seed: 3", "seed: 3\nseed: 4"), "'seed' stands twice"),
        (("seed: 3", "args: &a [*a]"), "not valid YAML|stands twice|alias"),
        (("hf:my/cost", "hff:my/cost"), "'hff'.*Did you mean 'hf"),
        (("bounds: [-5, 15]", "bounds: [-5, 15], scorer_options: {batchsize: 3}"), "batchsize"),
        (("bounds: [-5, 15]", "bounds: [-5, 15], human_options: {limits: 3}"), "'limits'.*Did you mean 'limit'"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, change, sentence):
    assert change[0] in FULL
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / "plan.yaml", FULL.replace(*change))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 3000, b"[]", b"3", b"a: &a [*a]", b"x: " + b"9" * 9000])
def test_a_file_that_is_no_plan_is_named(tmp_path, content):
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"plan\.yaml"):
        Plan.from_yaml(path)


def test_an_empty_constraint_is_not_passed_over(tmp_path):
    for empty in ("{}", "[]"):
        with pytest.raises(ValueError, match="constraint"):
            read(tmp_path / "plan.yaml", YAML + f"constraint: {empty}\n")


def test_types_are_those_that_are_written_whatever_a_parser_has_made_of_them():
    """transformers' parser leaves `str` in the field of an argument that may be a mapping or a text."""
    hints_of.cache_clear()
    TrlParser((RSAConfig,))
    assert hints_of(RSAConfig)["lr_scheduler_kwargs"] == dict | str | None


def test_a_model_is_not_written_into_its_own_folder(tmp_path):
    with pytest.raises(ValueError, match=r"You set model and output_dir to .*Set another output_dir"):
        Plan([Stage("s", "a.jsonl")], model=str(tmp_path), output_dir=f"{tmp_path}/x/..")
