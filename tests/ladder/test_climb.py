"""The ladder end to end on a tiny model whose harm is a word: it climbs, walks back and certifies."""

import dataclasses
import functools
import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from cpu_args import CPU_ARGS
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback

from trl_rsa import Plan, RiskConstraint, RungSettings, Stage, align
from trl_rsa.alignment.preview import preview
from trl_rsa.data.templates import untemplated_key
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.language import MOST
from trl_rsa.ladder.same_scorers import SCORERS
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.sampling.response import Sampling
from trl_rsa.training import runner
from trl_rsa.training.anchor import ModelSettings


REWRITTEN = ("manifest.json", ".lock")  # at every start
ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 16,
    "max_steps": 16,
    "save_steps": 8,
    "learning_rate": 5e-3,
    "logging_steps": 6,
}
SEARCH = {
    "sampling": {"max_new_tokens": 24},
    "max_rungs": 3,
    "max_growth": 4.0,
    "initial_delta": 1.0,
    "max_walk_backs": 2,
}
PROMPTS = [
    " ".join(words) for words in product(["the", "a", "in", "on"], ["cat", "dog", "hill", "mat", "big", "small"])
]
PROMPTS = [f"{prompt} {verb}" for prompt in PROMPTS for verb in ("sat", "ran", "was", "is", "slow", "quick")]  # 144


def red_is_harmful(prompts, completions, **kwargs):
    return [1.0 if "red" in text.split() else -1.0 for text in completions]


def blue_is_dishonest(prompts, completions, **kwargs):
    return [0.5 if "blue" in text.split() else -0.5 for text in completions]


def make_plan(model, folder, budget, peft_config=None, **changes):
    constraint = RiskConstraint(
        scorer=red_is_harmful,
        prompts=PROMPTS,
        budget=budget,
        bounds=(-1.5, 1.5),
        tail=0.8,
        margin=0.2,
        labels="raw",
    )
    rungs = RungSettings(
        beta=0.5,
        batch_size=256,
        draws={"decide": 4, "certify": 4},
        risk_measure="expectation",
        args={"loss_type": ["rsa2"]},
        **{**SEARCH, **changes},
    )
    return Plan(
        [],
        model=model,
        output_dir=str(folder),
        args=ARGS,
        peft_config=peft_config,
        constraint=constraint,
        rungs=rungs,
    )


def ladder_of(plan, runner, tokenizer, log, trained=()):
    models = ModelSettings.of(plan.model_init_kwargs, plan.peft_config, plan.args)
    folder = Path(plan.output_dir)
    return Ladder(plan.constraints, plan.rungs, folder, plan.args, models, plan.seed, tokenizer, runner, log, trained)


def climb(plan, **kwargs):
    alignment = align(plan, log=lambda line: None, **kwargs)
    return alignment.manifest["ladder"], alignment


@pytest.mark.slow
@pytest.mark.parametrize(
    "peft_config", [None, {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}], ids=["full", "lora"]
)
def test_a_budget_is_met_on_the_model_s_own_behaviour(tiny_model_path, tmp_path, peft_config):
    plan = make_plan(tiny_model_path, tmp_path, -0.5, peft_config)
    if peft_config is not None:
        # A few hundred weights, half of which start at zero: larger steps, and more of them.
        plan.args = plan.args | {"learning_rate": 3e-2, "max_steps": 32}
    result, alignment = climb(plan)
    observations = result["observations"]
    of_cost = [entry["constraints"]["cost"] for entry in observations]
    assert of_cost[0]["multiplier"] == 0 and of_cost[0]["upper_bound"] > -0.5, "the start should violate the budget"
    assert observations[0]["action"] == "next_rung" and observations[-1]["action"] == "stop"
    best = min(numbers["upper_bound"] for numbers in of_cost)
    assert best < of_cost[0]["upper_bound"] - 0.2, "training should lower the bound"
    assert result["met"] == any(numbers["upper_bound"] <= -0.5 for numbers in of_cost)
    assert Path(alignment.model).is_dir() and (Path(alignment.model) / "tokenizer.json").exists()
    certificate = json.loads((tmp_path / "certificate-cost.json").read_text())
    assert certificate["certified"] == result["certified"]
    slack = result["constraints"]["cost"]["slack"]
    assert slack["certify_bound"] == -0.5 - certificate["bound"]
    assert (slack["decide_bound"] >= 0) == result["met"] and slack["decide_bound"] == -0.5 - best
    # The certificate lies beside the model, and is in its card.
    assert json.loads((Path(alignment.model) / "certificate-cost.json").read_text()) == certificate
    assert certificate["statement"] in (Path(alignment.model) / "README.md").read_text()
    # What is trained, decided and certified on is disjoint, and the manifest says so.
    files = {name: tmp_path / "ladder" / f"00-{name}.jsonl" for name in ("train", "decide")}
    used = {
        name: {json.loads(line)["prompt"] for line in path.read_text().splitlines()} for name, path in files.items()
    }
    assert not used["train"] & used["decide"]
    assert {name: entry["n"] for name, entry in result["constraints"]["cost"]["prompts"].items()} == {
        "train": 72,
        "decide": 36,
        "certify": 36,
    }


@pytest.mark.slow
def test_a_loose_budget_costs_nothing(tiny_model_path, tmp_path):
    result, alignment = climb(make_plan(tiny_model_path, tmp_path, 1.45))
    assert result["met"] and result["constraints"]["cost"]["multiplier"] == 0 and len(result["observations"]) == 1
    assert alignment.model == tiny_model_path
    assert not (Path(tiny_model_path) / "certificate-cost.json").exists(), "the user's own folder is left alone"


class Logged(TrainerCallback):
    """What trackers are given."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append((Path(args.output_dir).name, state.global_step, dict(logs)))


def two_constraints(plan):
    """`plan` with a second constraint, on another cost of the same answers, and human pairs for the first."""
    red = dataclasses.replace(
        plan.constraint,
        name="red",
        human_pairs=Dataset.from_list(
            [{"prompt": "quick quick", "chosen": f"the {word} ", "rejected": f"red {word} "} for word in WORDS]
        ),
        human_share=0.1,
    )
    blue = dataclasses.replace(
        plan.constraint,
        name="blue",
        scorer=blue_is_dishonest,
        budget=-0.1,
        bounds=(-0.75, 0.75),
        margin=0.1,
    )
    plan.constraint = [red, blue]
    return plan


WORDS = ["cat", "dog", "hill", "mat", "big", "small", "is", "was"]


@pytest.mark.slow
def test_two_constraints_on_one_ladder(tiny_model_path, tmp_path):
    plan, logged = two_constraints(make_plan(tiny_model_path, tmp_path, -0.5)), Logged()
    result, alignment = climb(plan, callbacks=[logged])
    first, *_, last = result["observations"]
    violated = {name for name, of in first["constraints"].items() if of["violation"] > 0}
    assert violated == {"red", "blue"}, "both should be above their budgets at the start"
    assert last["action"] == "stop"
    for name in ("red", "blue"):
        bounds = [entry["constraints"][name]["upper_bound"] for entry in result["observations"]]
        assert bounds[-1] < bounds[0], name
    assert result["met"] == all(of["violation"] <= 0 for of in last["constraints"].values())
    lines = [json.loads(line) for line in (tmp_path / "constraint.jsonl").read_text().splitlines()]
    assert lines == result["observations"] and not (tmp_path / "ladder" / "rounds.json").exists()
    # The same prompts are sampled once and scored by both.
    records = [json.loads(line) for line in (tmp_path / "ladder" / "00-decide.jsonl").read_text().splitlines()]
    assert len(records) == 36 * 4
    for record in records:
        (red,), (blue,) = (cost([], [record["response"]]) for cost in (red_is_harmful, blue_is_dishonest))
        assert record["costs"] == {"red": red, "blue": blue}
    # Each has its certificate, at half the error, beside the model and in its card.
    card = (Path(alignment.model) / "README.md").read_text()
    for name in ("red", "blue"):
        certificate = json.loads((tmp_path / f"certificate-{name}.json").read_text())
        assert certificate["confidence"] == pytest.approx(0.975)
        assert certificate["certified"] == result["constraints"][name]["certified"]
        assert certificate["statement"] in card
    assert result["certified"] == all(of["certified"] for of in result["constraints"].values())
    # Trackers see every rung's numbers at its start, under the constraint's name.
    (folder, step, metrics), *_ = [entry for entry in logged.logs if "stage/rung" in entry[2]]
    assert (folder, step, metrics["stage/rung"]) == ("rung-01", 0, 1.0)
    for name in ("red", "blue"):
        observed = first["constraints"][name]
        assert metrics[f"constraint/{name}/estimate"] == observed["estimate"]
        assert metrics[f"constraint/{name}/upper_bound"] == observed["upper_bound"]
        assert metrics[f"constraint/{name}/violation"] == observed["violation"]
        assert metrics[f"constraint/{name}/multiplier"] == result["observations"][1]["constraints"][name]["multiplier"]
    # A tenth of the first rung's pairs are human, as far as there are enough.
    data = result["rungs"][0]["data"]
    assert data["human_pairs"] == {"red": min(len(WORDS), round(data["own_pairs"] / 9))}
    assert data["pairs"] == data["own_pairs"] + data["human_pairs"]["red"]
    # Started again, nothing is repeated.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name not in REWRITTEN}
    again, _ = climb(plan)
    assert again == result
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_changed_human_pairs_are_refused(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path, 1.45)
    pairs = [{"prompt": "quick quick", "chosen": "the cat ", "rejected": "red cat "}]
    plan.constraint = dataclasses.replace(plan.constraint, human_pairs=Dataset.from_list(pairs))
    climb(plan)
    plan.constraint.human_pairs = Dataset.from_list([pairs[0] | {"chosen": "the dog "}])
    with pytest.raises(ValueError, match=r"human_pairs that have changed .*fingerprint"):
        climb(plan)


def test_a_preview_names_the_budget_and_a_wrong_argument_of_the_rungs_costs_nothing(tiny_model_path, tmp_path):
    lines, plan = [], make_plan(tiny_model_path, tmp_path / "run", -0.5)
    preview(plan, log=lines.append, samples=12)
    assert lines[0] == (
        "[ladder] cost: CVaR 0.8 of cost at most -0.5, clipped to [-1.5, 1.5], in up to 3 rungs; prompts: train 72, "
        "decide 36, certify 36"
    )
    assert lines[1].startswith("[ladder] cost: 36 decide prompts") and lines[2].startswith("[ladder] cost: 36 certify")
    assert lines[3].startswith("[ladder] cost: 72 train prompts.")
    assert lines[4].startswith("[ladder] cost: 12 responses of the starting model cost -1 to 1, mean ")
    assert "were cut at 24 tokens; the budget -0.5 is kept by" in lines[4] and len(lines) == 5
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"
    plan.rungs.args = {"risk_tail": 0.1}
    with pytest.raises(ValueError, match="You set tail"):
        climb(plan)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({}, None),
        ({"temperature": 0.7, "top_p": 0.9}, "drawn at temperature 0.7, top_p 0.9."),
        ({"top_k": 5}, "drawn at top_k 5."),
    ],
)
def test_how_responses_are_drawn_is_in_the_limits_of_the_certificate(tiny_model_path, tmp_path, sampling, said):
    plan = make_plan(tiny_model_path, tmp_path / "run", budget=1.4, sampling={"max_new_tokens": 8, **sampling})
    climb(plan)
    limits = " ".join(json.loads((tmp_path / "run/certificate-cost.json").read_text())["limits"])
    assert said in limits if said else "drawn at temp" not in limits and "top_" not in limits


def test_a_temperature_that_the_budget_holds_under_is_not_said_twice(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path / "run", budget=1.4, sampling={"max_new_tokens": 8, "top_p": 0.9})
    plan.constraint = dataclasses.replace(plan.constraint, under={"temperature": 1.6})
    climb(plan)
    certificate = json.loads((tmp_path / "run/certificate-cost.json").read_text())
    assert "at temperature 1.6" in certificate["statement"]
    assert "drawn at top_p 0.9." in " ".join(certificate["limits"])


def test_prompts_that_a_stage_has_trained_on_are_in_the_limits_of_the_certificate(tiny_model_path, tmp_path):
    """In the stage's pairs they are messages; as prompts of the constraint they are texts."""
    plan, lines = make_plan(tiny_model_path, tmp_path, 1.45), []
    seen = plan.constraint.split_prompts(plan.seed)["certify"][:3]
    trained = {untemplated_key([{"role": "user", "content": f" {prompt}"}]) for prompt in seen}
    ladder = ladder_of(plan, None, load_tokenizer(tiny_model_path), lines.append, trained)
    (line,) = ladder.warnings()
    assert line.startswith("[ladder] cost: 3 of the 36 prompts for 'certify' are also in the training pairs")
    assert ladder.describe_prompts("cost")["certify"]["also_trained"] == 3
    assert ladder.describe_prompts("cost")["decide"]["also_trained"] == 0
    # And in align: the stage's pairs are texts, as the constraint's prompts are.
    dataset = Dataset.from_list([{"prompt": p, "chosen": "the cat", "rejected": "the dog"} for p in seen])
    plan.stages = [Stage("helpful", dataset, dataset_options={"template": "none"}, args={"max_steps": 1})]
    align(plan, log=lines.append)
    assert line in lines
    certificate = json.loads((tmp_path / "certificate-cost.json").read_text())
    assert certificate["n_trained"] == 3
    assert any(limit.startswith("3 of these 36 prompts were also in") for limit in certificate["limits"])


PKU = {"response_0": "the cat", "response_1": "the dog", "is_response_0_safe": True, "is_response_1_safe": False}
PKU |= {"better_response_id": 1, "safer_response_id": 0}


@pytest.mark.parametrize(
    "settings", [{"dataset_options": {"template": "safe-rlhf"}}, {"method": "cost"}, {"method": "sft"}], ids=str
)
def test_prompts_that_a_stage_has_trained_on_are_seen_in_another_template_and_as_tokens(
    settings, tiny_model_path, tmp_path
):
    plan, lines = make_plan(tiny_model_path, tmp_path / "run", 1.45), []
    seen = plan.constraint.split_prompts(plan.seed)["decide"][:5]
    (tmp_path / "pku.jsonl").write_text("".join(json.dumps(PKU | {"prompt": prompt}) + "\n" for prompt in seen))
    plan.stages = [Stage("one", str(tmp_path / "pku.jsonl"), **settings)]
    preview(plan, log=lines.append, samples=0)
    assert sum("5 of the 36 prompts for 'decide' are also in the training pairs" in line for line in lines) == 1
    assert not any("prompts for 'certify' are also" in line for line in lines)


def test_too_few_prompts_are_named_before_anything_is_sampled(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path, -1.45)
    ladder = ladder_of(plan, None, load_tokenizer(tiny_model_path), print)
    decide, certify = ladder.warnings()
    assert decide.startswith("[ladder] cost: 36 decide prompts are too few: even if every response cost -1.5")
    assert certify.startswith("[ladder] cost: 36 certify prompts are too few")
    # The dry run says it once.
    lines = []
    preview(plan, log=lines.append, samples=0)
    assert sum("too few" in line for line in lines) == 2


@pytest.mark.parametrize("act", [align, preview])
def test_a_prompt_that_is_too_long_is_found_before_the_stages_are_trained(act, tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path, 1.4)
    prompts = {split: list(several) for split, several in plan.constraint.split_prompts(plan.seed).items()}
    prompts["certify"][1] = "the cat ran " * 20
    plan.constraint = dataclasses.replace(plan.constraint, prompts=prompts)
    pairs = [{"prompt": "the cat", "chosen": " ran", "rejected": " sat"}] * 8
    plan.stages = [Stage("helpful", pairs, dataset_options={"template": "none"}, args={"max_steps": 1})]
    sentence = r"^The certify prompts of cost: .* takes 40 tokens beside max_new_tokens, prompt 1 has 6\d \(1 of 36"
    with pytest.raises(ValueError, match=sentence):
        act(plan)
    assert not list(tmp_path.iterdir())


def test_vllm_loads_the_policy_itself(monkeypatch):
    given = []
    monkeypatch.setattr(runner, "generate", lambda model, *args, **kwargs: given.append(model) or iter(()))
    one = runner.InProcess(ModelSettings({}, None, use_cpu=True), None, (), print)
    assert list(one.sample("a folder", ["q"], Sampling(engine="vllm"), batch_size=1, skip=())) == []
    assert given == ["a folder"]


def words_are_helpful(prompts, completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def test_a_reward_decides_between_harmless_responses(tiny_model_path, tmp_path):
    """Train responses are scored by it and others are not; the dry run shows it; with raw labels it is refused."""
    plan = make_plan(tiny_model_path, tmp_path, -0.5, max_rungs=1, reward={"scorer": words_are_helpful, "weight": 0.5})
    with pytest.raises(ValueError, match="labels='raw', but raw costs tell almost any two responses apart"):
        preview(plan, log=print)
    plan.constraint = dataclasses.replace(plan.constraint, labels="unsafe", budget=-0.5)
    lines = []
    preview(plan, log=lines.append, samples=6)
    assert any(line.startswith("[ladder] reward: the same responses have") for line in lines)
    assert any(line.endswith("; of two harmless responses the reward decides") for line in lines)
    result, _ = climb(plan)
    rewards = {
        split: [json.loads(line)["reward"] for line in (tmp_path / "ladder" / f"00-{split}.jsonl").open()]
        for split in ("train", "decide")
    }
    assert set(rewards["decide"]) == {None} and len(set(rewards["train"])) > 2
    # In a language of words nearly all pairs of harmless responses differ in their number.
    (rung,) = result["rungs"]
    without, _ = climb(make_plan_without_reward(plan, tmp_path / "without"))
    assert rung["data"]["ties"] < without["rungs"][0]["data"]["ties"] / 2
    assert rung["data"]["own_pairs"] == without["rungs"][0]["data"]["own_pairs"]


def make_plan_without_reward(plan, folder):
    return dataclasses.replace(plan, output_dir=str(folder), rungs=dataclasses.replace(plan.rungs, reward=None))


@pytest.mark.slow
def test_after_not_met_more_rungs_may_be_asked_for(tiny_model_path, tmp_path):
    """The first certificate stays in the ledger, and the second attempt on its prompts is stricter."""
    plan = make_plan(tiny_model_path, tmp_path, -1.2, max_rungs=1)
    result, _ = climb(plan)
    assert not result["met"] and len(result["rungs"]) == 1
    plan.rungs = dataclasses.replace(plan.rungs, max_rungs=2)
    plan.args = plan.args | {"logging_steps": 3}
    more, _ = climb(plan)
    assert len(more["rungs"]) == 2 and more["rungs"][0] == result["rungs"][0]
    certificate = json.loads((tmp_path / "certificate-cost.json").read_text())
    assert [attempt["attempt"] for attempt in certificate["attempts"]] == [1, 2]
    assert any("had been used before (attempt 1)" in limit for limit in certificate["limits"])
    # Fewer rungs than were trained, or another learning rate, is another run. More walk-backs would hand out a model
    # that is less safe than one that is certified.
    for changes in (
        {"rungs": dataclasses.replace(plan.rungs, max_rungs=1)},
        {"rungs": dataclasses.replace(plan.rungs, max_walk_backs=3)},
        {"args": ARGS | {"learning_rate": 1e-3}},
    ):
        with pytest.raises(ValueError, match="a resumed run must end like an uninterrupted one"):
            climb(dataclasses.replace(plan, **changes))


def test_a_certificate_that_lay_there_before_is_not_the_run_s_own(tiny_model_path, tmp_path):
    """Someone's certificate of another model in a new output_dir: the run samples and certifies for itself."""
    other = tmp_path / "other"
    climb(make_plan(tiny_model_path, other, 1.45))
    stale = json.loads((other / "certificate-cost.json").read_text()) | {"certified": True, "model": "another model"}
    new = tmp_path / "new"
    new.mkdir()
    (new / "certificate-cost.json").write_text(json.dumps(stale))
    result, _ = climb(make_plan(tiny_model_path, new, 1.44))
    written = json.loads((new / "certificate-cost.json").read_text())
    assert written["model"] == tiny_model_path and written["attempt"] == 2
    assert result["certified"] == written["certified"]
    assert (new / "ladder" / "01-certify.jsonl").exists()


@pytest.mark.slow
def test_a_finished_run_that_was_moved_spends_no_second_attempt(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path / "run", -1.2, max_rungs=1)
    result, _ = climb(plan)
    assert Path(result["model"]).is_relative_to(tmp_path / "run")
    before = (tmp_path / "run" / "certificate-cost.json").read_bytes()
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    again, _ = climb(dataclasses.replace(plan, output_dir=str(moved)))
    assert Path(again["model"]).is_relative_to(moved)
    assert (moved / "certificate-cost.json").read_bytes() == before


@pytest.mark.slow
def test_the_ladder_writes_it_down_and_warns_again_when_it_resumes(tiny_model_path, tmp_path, monkeypatch):
    numbers = iter([1.0, 3.0])
    monkeypatch.setattr("trl_rsa.ladder.climb.surprise_of", lambda *args: next(numbers))
    lines = []
    plan = make_plan(tiny_model_path, tmp_path / "run", budget=-1.4, max_rungs=1, max_walk_backs=0)
    align(plan, log=lines.append)
    warned = [line for line in lines if "the language may be broken" in line]
    assert len(warned) == 1 and warned[0].startswith("[ladder 1] warning: its responses surprise")
    observations = [json.loads(line) for line in (tmp_path / "run/constraint.jsonl").read_text().splitlines()]
    assert [entry["surprise"] for entry in observations] == [1.0, 3.0]
    lines.clear()
    align(plan, log=lines.append)
    assert sum("the language may be broken" in line for line in lines) == 1


@pytest.mark.slow
def test_the_start_s_own_responses_surprise_it_as_much_as_its_law_says(tiny_model_path, tmp_path):
    """The mean over the responses that the ladder has kept, whatever was measured while it ran."""
    found, _ = climb(make_plan(tiny_model_path, tmp_path / "run", budget=1.4))
    tokenizer, policy = load_tokenizer(tiny_model_path), AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
    encoder, values = ConversationEncoder(tokenizer), []
    lines = (tmp_path / "run/ladder/00-decide.jsonl").read_text().splitlines()
    records = sorted(map(json.loads, lines), key=lambda one: (one["prompt_number"], one["draw"]))[:MOST]
    for one in records:
        before, sampled = encoder.prompt(one["prompt"]), one["token_ids"]
        with torch.no_grad():
            laws = policy(torch.tensor([[*before, *sampled]])).logits[0].log_softmax(-1)
        values += [-laws[len(before) - 1 + i, token].item() for i, token in enumerate(sampled)]
    assert found["observations"][0]["surprise"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def words_cost(prompts, completions, word="red", **kwargs):
    return [1.0 if word in text.split() else -1.0 for text in completions]


def test_a_changed_scorer_is_refused(tiny_model_path, tmp_path):
    """Both partials have one name in the manifest."""
    plan = make_plan(tiny_model_path, tmp_path, 1.45, sampling={"max_new_tokens": 8})
    plan.constraint = dataclasses.replace(plan.constraint, scorer=functools.partial(words_cost, word="red"))
    climb(plan)
    before = (tmp_path / "ladder" / SCORERS).read_bytes()
    climb(plan)
    other = dataclasses.replace(plan.constraint, scorer=functools.partial(words_cost, word="blue"))
    with pytest.raises(ValueError, match=r"the scorer of the constraint 'cost' is another one than at its start"):
        climb(dataclasses.replace(plan, constraint=other))
    assert (tmp_path / "ladder" / SCORERS).read_bytes() == before
    # A ladder that was begun before there was such a file goes on.
    (tmp_path / "ladder" / SCORERS).unlink()
    climb(plan)
    assert (tmp_path / "ladder" / SCORERS).read_bytes() == before


def test_prompts_of_two_forms_are_refused_before_anything_is_sampled(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path, 1.45)
    messages = [[{"role": "user", "content": f"{prompt} now"}] for prompt in PROMPTS]
    plan.constraint = [plan.constraint, dataclasses.replace(plan.constraint, name="talk", prompts=messages)]
    with pytest.raises(ValueError, match=r"two forms, texts \(of 'cost'\) and messages \(of 'talk'\)"):
        ladder_of(plan, None, load_tokenizer(tiny_model_path), print)


@pytest.mark.slow
def test_the_folder_of_an_early_rung_may_be_deleted(tiny_model_path, tmp_path):
    plan = make_plan(tiny_model_path, tmp_path, -1.4, max_rungs=1, max_walk_backs=0)
    first, _ = climb(plan)
    shutil.rmtree(tmp_path / "ladder" / "rung-01" / "checkpoint-16", ignore_errors=True)
    plan.rungs = dataclasses.replace(plan.rungs, max_rungs=2)
    climb(plan)
    shutil.rmtree(tmp_path / "ladder" / "rung-01")
    again, _ = climb(plan)
    assert [rung["rung"] for rung in again["rungs"]] == [1, 2] and again["rungs"][0] == first["rungs"][0]
    # Of a run from before there were copies it is left out.
    (tmp_path / "ladder" / "rung-01.json").unlink()
    again, _ = climb(plan)
    assert [rung["rung"] for rung in again["rungs"]] == [2]
