"""Stages of several methods in one plan: anchors, adapters, scorers for later stages, and what is refused."""

import copy
import json
import shutil

import pytest
import torch
from datasets import Dataset
from test_run import ARGS, LORA, TEXT, History, weights
from transformers import TrainerCallback

from trl_rsa import CostTerm, Plan, RewardTerm, RiskConstraint, RungSettings, Stage, align
from trl_rsa.alignment.preview import preview
from trl_rsa.alignment.stage_data import load_stage_data
from trl_rsa.scoring import load_scorer


RLOO = {"num_generations": 2, "max_completion_length": 4, "eval_on_start": False, "eval_strategy": "no"}
QUIET = {name: value for name, value in ARGS.items() if not name.startswith("eval_")}


def length(prompts, completions, **kwargs):
    return [float(len(text)) for text in completions]


def plan_of(stages, model, folder, peft_config=None, args=QUIET, **more):
    return Plan(stages, model=model, output_dir=str(folder), args=args, peft_config=peft_config, **more)


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_a_kto_stage_is_anchored_at_the_dpo_stage_before_it(
    peft_config, tiny_model_path, make_preference_dataset, tmp_path
):
    pairs, history = make_preference_dataset(24), History()
    stages = [
        Stage("helpful", pairs, held_out=4, dataset_options=TEXT, method="dpo", args={"loss_type": ["sigmoid"]}),
        Stage("safe", pairs, held_out=4, dataset_options=TEXT, method="kto", constraint_multiplier=2.0),
    ]
    plan = plan_of(stages, tiny_model_path, tmp_path, peft_config, ARGS)
    align(plan, callbacks=[history], log=lambda line: None)
    for log in history.logs:
        step, metrics = log[0]
        assert step == 0
        for side in ("chosen", "rejected"):
            assert abs(metrics[f"eval_rewards/{side}"]) < 1e-6, side
    assert abs(history.logs[1][0][1]["eval_kl"]) < 1e-6
    assert any(abs(history.logs[i][-1][1]["eval_rewards/chosen"]) > 1e-4 for i in (0, 1))
    first, second = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    assert "01-helpful" in second["reference"] and second["temperature"] == pytest.approx(0.05)
    assert first["temperature"] == pytest.approx(0.1)
    one, two = weights(tmp_path / "01-helpful"), weights(tmp_path / "02-safe")
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert not (tmp_path / "02-safe" / "ref").exists()


@pytest.mark.parametrize("method", ["sft", "orpo", "cpo", "rloo", "reward"])
def test_every_method_takes_the_adapter_on(method, tiny_model_path, make_preference_dataset, tmp_path):
    """After a stage that has trained one. A scorer is saved whole, and the policy goes on without it."""
    pairs = make_preference_dataset(16)
    more = {"rewards": [RewardTerm(length)], "args": RLOO} if method == "rloo" else {}
    stages = [
        Stage("first", pairs, dataset_options=TEXT, method="sft"),
        Stage("second", pairs, dataset_options=TEXT, method=method, **more),
    ]
    alignment = align(plan_of(stages, tiny_model_path, tmp_path, LORA), log=lambda line: None)
    folder = tmp_path / "02-second"
    is_adapter = (folder / "adapter_config.json").exists()
    assert is_adapter == (method != "reward")
    assert alignment.model == str(tmp_path / ("01-first" if method == "reward" else "02-second"))
    if is_adapter:
        one, two = weights(tmp_path / "01-first"), weights(folder)
        assert any(not torch.equal(one[name], two[name]) for name in one)


def test_an_rloo_stage_measures_against_the_stage_before(tiny_model_path, make_preference_dataset, tmp_path):
    pairs = make_preference_dataset(16)
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append(args.output_dir)

        def on_log(self, args, state, control, logs, **kwargs):
            if "rl" in args.output_dir and "kl" in logs:
                seen.append(logs["kl"])

    stages = [
        Stage("first", pairs, dataset_options=TEXT, method="sft"),
        Stage("rl", pairs, dataset_options=TEXT, method="rloo", rewards=[RewardTerm(length)], args=RLOO),
    ]
    align(plan_of(stages, tiny_model_path, tmp_path), callbacks=[Look()], log=lambda line: None)
    assert abs(seen[2]) < 1e-6, "before its first step the policy is its reference"
    assert abs(seen[-1]) > 1e-6


def test_a_cost_moves_its_multiplier(tiny_model_path, make_preference_dataset, tmp_path):
    """Lengths are above 0 always: λ rises by rate·(mean − budget) in each of three steps, and is logged."""
    prompts = make_preference_dataset(16)
    cost = CostTerm(length, budget=0.0, multiplier=0.5, rate=0.01, name="long")
    tail = CostTerm(length, budget=0.0, tail=0.5, rate=0.01, eta=2.0, name="tail")
    stages = [
        Stage(
            "rl",
            prompts,
            dataset_options=TEXT,
            method="rloo",
            rewards=[RewardTerm(length)],
            costs=[cost, tail],
            args=RLOO,
        )
    ]
    alignment = align(plan_of(stages, tiny_model_path, tmp_path), log=lambda line: None)
    metrics = alignment.manifest["stages"][0]["metrics"]
    state = json.loads((tmp_path / "01-rl" / "checkpoint-3" / "multipliers.json").read_text())["multipliers"]
    assert metrics["constraint/long/multiplier"] == state["long"]["multiplier"] > 0.5
    assert metrics["constraint/long/violation"] == pytest.approx(sum(state["long"]["costs"]) / 12)
    assert metrics["constraint/tail/eta"] == state["tail"]["eta"] != 2.0
    assert len(state["long"]["costs"]) == 12 == len(state["tail"]["costs"])
    assert metrics["rewards/-λ·long/mean"] < 0
    assert cost.multiplier == 0.5, "the plan stays as it was"


def test_a_function_in_another_process_is_the_same_function(tiny_model_path, make_preference_dataset, tmp_path):
    """Its address is another there; a run that is started again must not take that for another run."""

    def plan():
        def length(prompts, completions, **kwargs):
            return [float(len(text)) for text in completions]

        terms = {"rewards": [RewardTerm(length)], "costs": [CostTerm(length, budget=0.0)]}
        stage = Stage("rl", pairs, dataset_options=TEXT, method="rloo", args=RLOO, **terms)
        return plan_of([stage], tiny_model_path, tmp_path)

    pairs, lines = make_preference_dataset(16), []
    first, second = plan(), plan()
    align(first, log=lines.append)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["stages"][0]["status"] = "running"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    again = align(second, log=lines.append).manifest["stages"][0]
    assert any("resumed from checkpoint-3" in line for line in lines)
    before = manifest["stages"][0]["metrics"]
    assert again["metrics"]["constraint/cost/multiplier"] == before["constraint/cost/multiplier"] > 1.0


def test_a_scorer_of_an_earlier_stage(tiny_model_path, make_preference_dataset, tmp_path):
    pairs = make_preference_dataset(16)
    stages = [
        Stage("liked", pairs, dataset_options=TEXT, method="reward"),
        Stage("rl", pairs, dataset_options=TEXT, method="rloo", rewards=[RewardTerm("stage:liked")], args=RLOO),
    ]
    plan, lines = plan_of(stages, tiny_model_path, tmp_path), []
    preview(plan, log=lines.append)
    assert "16 pairs, 0 held out; reward, a scorer: stage:liked; planned" in lines[0]
    assert "16 prompts, 0 held out; rloo at temperature 0.1; planned" in lines[1] and not list(tmp_path.iterdir())
    alignment = align(plan, log=lines.append)
    scorer, policy = alignment.manifest["stages"]
    assert "reference" not in scorer and policy["reference"].startswith(tiny_model_path)
    assert alignment.model.endswith("02-rl") and "rewards/stage:liked/mean" in policy["metrics"]


def test_a_reward_in_safe_rlhfs_template_scores_in_it(tiny_model_path, tiny_tokenizer, tmp_path):
    """Raw prompts, as a ladder gives them, and those that RLOO has put into the template are one text: the trained."""
    model, tokenizer = tmp_path / "model", copy.deepcopy(tiny_tokenizer)
    shutil.copytree(tiny_model_path, model)
    tokenizer.chat_template = None
    (model / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(model)
    pairs = Dataset.from_list([{"prompt": f"the cat {n}", "chosen": "sat on", "rejected": "ran"} for n in range(8)])
    stages = [Stage("liked", pairs, dataset_options={"template": "safe-rlhf"}, method="reward")]
    plan = plan_of(stages, str(model), tmp_path / "plan")
    align(plan, log=lambda line: None)
    folder = tmp_path / "plan" / "01-liked"
    assert json.loads((folder / "config.json").read_text())["score_model"]["template"] == "safe-rlhf"
    row = load_stage_data(plan, plan.stages[0], tokenizer).train[0]
    trained = row["prompt"] + row["chosen"] + "<eos>"
    assert trained == "BEGINNING OF CONVERSATION: USER: the cat 0 ASSISTANT:sat on<eos>"
    scorer = load_scorer(f"hf:{folder}", kind="reward")
    for prompt in ("the cat 0", row["prompt"]):
        assert scorer._text(prompt, "sat on") == (trained, True)


def test_what_max_length_does_is_said(tiny_model_path, make_preference_dataset, tmp_path):
    pairs, lines = make_preference_dataset(16), []
    args = {"max_length": 6}
    stages = [
        Stage(name, pairs, dataset_options=TEXT, method=name, args=args) for name in ("dpo", "kto", "sft", "reward")
    ]
    preview(plan_of(stages, tiny_model_path, tmp_path), log=lines.append)
    said = [line.split(": ")[1] for line in lines if "longer than" in line]
    assert [line.split()[-1] for line in said] == ["cut", "cut", "cut", "dropped"]
    assert "of 32 rows" in said[1] and "of 16 pairs" in said[0]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"method": "ppo"}, "the methods are rsa, dpo"),
        ({"method": "kt0"}, "Did you mean 'kto'"),
        ({"method": "sft", "beta": 0.2}, "You set 'beta' for the stage 'one', but its method 'sft' has none"),
        ({"method": "dpo", "risk_measure": "cvar"}, "You set 'risk_measure' .* it is for rsa"),
        ({"method": "kto", "args": {"loss_typ": "kto"}}, "KTOConfig has no such argument. Did you mean 'loss_type'"),
        ({"method": "sft", "args": {"packing": "much"}}, "You set 'packing' to 'much' .* but it is true or false"),
        ({"method": "sft", "args": {"eos_token": "<e>"}}, "its place is the tokenizer beside the model"),
        ({"method": "dpo", "args": {"beta": 0.2}}, "its place is the stage's `beta`"),
        ({"method": "dpo", "rewards": [RewardTerm(length)]}, "You set 'rewards' .* it is for rloo"),
    ],
    ids=[
        "unknown",
        "misspelt",
        "no beta",
        "no measure",
        "no argument",
        "no type",
        "tokenizer",
        "set elsewhere",
        "no rewards",
    ],
)
def test_what_the_method_has_not_is_named(stage, message):
    with pytest.raises(ValueError, match=message):
        Stage("one", "pairs.jsonl", **stage)


def test_a_method_that_trl_has_not_is_one_sentence(monkeypatch):
    monkeypatch.setattr("trl_rsa._trl.find_trainer", lambda name: None)
    with pytest.raises(ValueError, match=r"You set the method of a stage to 'orpo', but TRL 1.* has no ORPOTrainer"):
        Stage("one", "pairs.jsonl", method="orpo")


@pytest.mark.parametrize(
    ("stages", "constraint", "message"),
    [
        ([("a", "dpo")], "stage:a", "no earlier stage trains one"),
        ([("a", "reward")], "stage:b", "the earlier ones are a"),
        ([("a", "reward")], "stage:a", "that stage trains a reward. Set scorer_options: {higher_is: better}"),
    ],
)
def test_a_scorer_that_no_stage_trains(stages, constraint, message, tmp_path):
    constraint = RiskConstraint(constraint, ["p", "q", "r", "s"], budget=0.0, bounds=(-1, 1))
    with pytest.raises(ValueError, match=message):
        Plan(
            [Stage(n, "x.jsonl", method=m) for n, m in stages],
            model="m",
            output_dir=str(tmp_path),
            constraint=constraint,
        )


def test_a_reward_of_the_rungs_may_be_a_stage_s(tmp_path):
    constraint = RiskConstraint(len, ["p", "q", "r", "s"], budget=0.0, bounds=(-1, 1))
    given = {"model": "m", "output_dir": str(tmp_path), "constraint": constraint}
    rungs = RungSettings(reward=RewardTerm("stage:liked"))
    stages = [Stage("liked", "x.jsonl", method="reward")]
    assert Plan(stages, **given, rungs=rungs).scored_by[1] == ("the reward of the rungs", "reward", rungs.reward)
    with pytest.raises(ValueError, match="the scorer of the reward of the rungs to 'stage:liked', but there is no"):
        Plan([], **given, rungs=rungs)
    # Without a constraint there is no rung.
    assert Plan(stages, model="m", output_dir=str(tmp_path), rungs=rungs).scored_by == []


def test_plan_args_reach_the_stages_that_have_them(tmp_path):
    from trl_rsa.alignment.plan import args_of

    stages = [Stage("a", "x.jsonl", method="sft"), Stage("b", "x.jsonl")]
    plan = Plan(stages, model="m", output_dir=str(tmp_path), args={"risk_theta": 2, "packing": True, "max_steps": 3})
    assert args_of(plan, stages[0]) == {"packing": True, "max_steps": 3}
    assert args_of(plan, stages[1]) == {"risk_theta": 2, "max_steps": 3}
    with pytest.raises(ValueError, match="SFTConfig and RSAConfig have no such argument"):
        Plan(stages, model="m", output_dir=str(tmp_path), args={"paking": True})


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        ("kto", {"per_device_train_batch_size": 1}, "KTO estimates its KL term"),
        ("rloo", {"num_generations": 2, "steps_per_generation": 2, "save_steps": 3}, "responses serve 2 steps"),
        ("rloo", {"num_generations": 2, "reward_weights": [1.0]}, "each of its `rewards` has a `weight`"),
        ("rloo", {"num_generations": 3}, "divisible"),
        ("rloo", {**RLOO, "max_completion_length": 64}, "max_completion_length=64, but this model takes 64 tokens"),
    ],
)
def test_what_fails_in_training_fails_before(
    method, args, message, tiny_model_path, make_preference_dataset, tmp_path
):
    rewards = [RewardTerm(length)] if method == "rloo" else []
    stage = Stage("one", make_preference_dataset(8), dataset_options=TEXT, method=method, rewards=rewards, args=args)
    with pytest.raises(ValueError, match=message):
        align(plan_of([stage], tiny_model_path, tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (None, [{"role": "user", "content": "the cat"}]),
        ("none", "the cat"),
        ("safe-rlhf", "BEGINNING OF CONVERSATION: USER: the cat ASSISTANT:"),
    ],
)
def test_prompts_for_rl_are_written_as_the_model_is_asked(template, prompt, tiny_tokenizer, tmp_path):
    options = {} if template is None else {"template": template}
    rows = [{"prompt": "the cat"}, {"prompt": "The cat "}, {"prompt": "a dog"}]
    stage = Stage("rl", rows, dataset_options=options, method="rloo", rewards=[RewardTerm(length)])
    found = load_stage_data(plan_of([stage], "m", tmp_path), stage, tiny_tokenizer)
    assert found.train[0] == {"prompt": prompt} and len(found.train) == 2 == found.data["train"]["pairs_kept"]


def test_weighted_pairs_are_for_rsa_alone(tiny_model_path, make_preference_dataset, tmp_path):
    pairs = make_preference_dataset(8, pair_weight=[2.0] * 8)
    with pytest.raises(ValueError, match="pairs with a column 'pair_weight', but its method 'dpo'"):
        align(plan_of([Stage("one", pairs, dataset_options=TEXT, method="dpo")], tiny_model_path, tmp_path))


def test_from_yaml(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "model: m\noutput_dir: out\nstages:\n"
        "  - {name: liked, dataset: a.jsonl, method: reward}\n"
        "  - name: rl\n    dataset: a.jsonl\n    method: rloo\n"
        "    rewards: [{scorer: 'stage:liked', weight: 2}]\n"
        "    costs: [{scorer: 'm:f', budget: 0, tail: 0.1}]\n",
    )
    stage = Plan.from_yaml(path).stages[1]
    assert stage.rewards == [RewardTerm("stage:liked", 2)] and stage.costs[0].tail == 0.1
    for wrong, message in (
        ("    rewards: [{scorer: 'stage:liked', weights: 2}]", "'weights' in rewards\\[0\\] of stage 'rl'"),
        ("    rewards: [{weight: 2}]", "You left out 'scorer' in rewards\\[0\\]"),
        ("    rewards: stage:liked", "it is a list of mappings"),
    ):
        lines = [wrong if "rewards" in line else line for line in path.read_text().splitlines()]
        (tmp_path / "wrong.yaml").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=message):
            Plan.from_yaml(tmp_path / "wrong.yaml")
