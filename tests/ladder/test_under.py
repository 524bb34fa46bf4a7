"""Budgets under a condition: what is drawn under it, what a rung is trained on, and where it is said."""

import dataclasses
import json
from itertools import pairwise

import pytest
from transformers import AutoModelForCausalLM

from trl_rsa import Plan, RiskConstraint, RSAConfig, RSATrainer, RungSettings
from trl_rsa.alignment.preview import preview
from trl_rsa.evaluation.pressure.condition import Condition
from trl_rsa.evaluation.stress import attack_prompts
from trl_rsa.ladder.audit import label_cost
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.pairs import with_tokens
from trl_rsa.ladder.placement import place_budgets
from trl_rsa.ladder.prompts import prompt_groups
from trl_rsa.ladder.rung import rung_pairs
from trl_rsa.ladder.under import Under
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.worker import SampleRequest, read_request, write_request


ARGS = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
TEXTS = ["the cat", "a dog ran", "on the hill", "the big red mat", "a small dog", "in the mat", "blue hill", "quick"]
SETS = {"train": TEXTS[:4], "decide": TEXTS[4:6], "certify": TEXTS[6:]}


class Stop(Exception):
    """The rung would be trained now."""


class Interrupted(Exception):
    """A kill, in this process."""


class Runner:
    """Samples with a model, notes what it is asked, and trains nothing."""

    def __init__(self, model, tokenizer, batches=None):
        self.model, self.tokenizer, self.batches = model, tokenizer, batches
        self.asked, self.ready = [], None

    def sample(self, model, prompts, sampling, *, batch_size, skip, beginnings=None):
        self.asked.append({"prompts": list(prompts), "sampling": sampling, "beginnings": beginnings})
        options = {"batch_size": batch_size, "skip": skip, "beginnings": beginnings}
        for batch in generate(self.model, self.tokenizer, prompts, sampling, **options):
            if self.batches == 0:
                raise Interrupted
            self.batches = None if self.batches is None else self.batches - 1
            yield batch

    def train(self, ready, start):
        self.ready = ready
        raise Stop


def length(prompts, completions, **kwargs):
    length.seen = list(prompts)
    return [float(len(text)) for text in completions]


def constraint(under=None, name="cost", budget=-50.0, **changes):
    return RiskConstraint(length, SETS, budget=budget, bounds=(-60.0, 300.0), name=name, under=under, **changes)


def make_ladder(folder, tokenizer, runner, *constraints, log=lambda line: None, **settings):
    settings = RungSettings(**{"sampling": {"max_new_tokens": 8}, "batch_size": 3} | settings)
    return Ladder(constraints, settings, folder, ARGS, ModelSettings.of({}, None, ARGS), 42, tokenizer, runner, log)


@pytest.fixture
def model(tiny_model_path):
    return AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()


def climb_to_the_rung(ladder, path):
    with pytest.raises(Stop):
        ladder.climb(path)


def records(folder, name):
    return [json.loads(line) for line in (folder / "ladder" / name).read_text().splitlines()]


# What a condition is


@pytest.mark.parametrize(
    ("under", "said"),
    [
        ({}, "changes nothing"),
        ({"temperature": 0}, "above 0 and finite"),
        ({"prefill": 0}, "number of tokens that are forced"),
        ({"attack": "rot14"}, "the attacks are role_play"),
        ({"beginnings": "x.jsonl", "temperature": 1.2}, "not how many of their tokens"),
        ({"heat": 1.6}, "has the keys temperature, prefill"),
        (1.6, "has the keys temperature, prefill"),
    ],
    ids=str,
)
def test_a_wrong_condition_is_refused(under, said):
    with pytest.raises(ValueError, match=said):
        constraint(under)


def test_conditions_in_words():
    assert Condition(temperature=1.6).in_words == "at temperature 1.6"
    assert Condition(prefill=1).in_words == "after a forced beginning of 1 token"
    both = Condition(attack="base64", prefill=5, temperature=1.5)
    assert both.in_words == "under the attack base64, after a forced beginning of 5 tokens, at temperature 1.5"
    assert constraint({"prefill": 5}).under == Under(prefill=5) and constraint().under_in_words is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{temperature: hot}", "You set 'temperature' to 'hot' in under of the constraint"),
        ("{temprature: 1.6}", r"You set 'temprature' in under of .*Did you mean 'temperature'"),  # codespell:ignore
        ("{prefill: 2.5}", "You set 'prefill' to 2.5"),
        ("{attack: rot14}", "the attacks are role_play"),
        ("1.6", "You set 'under' to 1.6 in the constraint"),
    ],
)
def test_a_plan_with_a_wrong_condition_is_refused(line, said, tmp_path):
    text = "model: m\noutput_dir: o\nconstraint: {scorer: a.py:b, prompts: [x], budget: 0, bounds: [-1, 1], under: %s}"
    (tmp_path / "plan.yaml").write_text(text % line)
    with pytest.raises(ValueError, match=said):
        Plan.from_yaml(tmp_path / "plan.yaml")


def test_a_plan_names_conditions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("def b(prompts, completions):\n    return [0.0 for _ in completions]\n")
    (tmp_path / "plan.yaml").write_text(
        "model: m\noutput_dir: o\nconstraint:\n"
        "- {name: plain, scorer: a.py:b, prompts: [x], budget: 0, bounds: [-1, 1]}\n"
        "- {name: hot, scorer: a.py:b, prompts: [x], budget: 0.5, bounds: [-1, 1], under: {temperature: 1.6}}\n"
        "- {name: begun, scorer: a.py:b, prompts: [x], budget: 1, bounds: [0, 2], under: {prefill: 5, train: no}}\n"
    )
    found = Plan.from_yaml(tmp_path / "plan.yaml").constraints
    assert [one.condition for one in found] == [None, Under(temperature=1.6), Under(prefill=5, train=False)]


# What is drawn


def test_each_condition_is_drawn_and_bounded_by_itself(model, tiny_model_path, tiny_tokenizer, tmp_path):
    """Plain and hot on one ladder: two samplings, two observations, each in a file of its own."""
    runner, lines = Runner(model, tiny_tokenizer), []
    several = constraint(name="plain"), constraint({"temperature": 2.5}, "hot")
    ladder = make_ladder(tmp_path, tiny_tokenizer, runner, *several, log=lines.append)
    assert "[ladder] hot: CVaR 0.05 of cost at temperature 2.5 at most -50" in ladder.describe()[1]
    climb_to_the_rung(ladder, tiny_model_path)
    of = {name: records(tmp_path, f"00-decide-{name}.jsonl") for name in ("plain", "hot")}
    assert {r["under"] for r in of["plain"]} == {None} and {r["under"] for r in of["hot"]} == {"at temperature 2.5"}
    assert [r["response"] for r in of["plain"]] != [r["response"] for r in of["hot"]]
    # As sampling at that temperature draws, with the same noise.
    sampling = dataclasses.replace(ladder.settings.sampling_of("decide", 42), temperature=2.5)
    expected = {r.prompt: r.text for b in generate(model, tiny_tokenizer, TEXTS[4:6], sampling) for r in b}
    assert {r["prompt_number"]: r["response"] for r in of["hot"]} == expected
    entry = json.loads((tmp_path / "constraint.jsonl").read_text())
    assert entry["constraints"]["hot"]["under"] == "at temperature 2.5"
    assert entry["constraints"]["plain"]["under"] is None
    costs = [r["costs"]["hot"] for r in of["hot"]]
    assert entry["constraints"]["hot"]["mean_cost"] == pytest.approx(sum(costs) / len(costs))
    assert any("hot at temperature 2.5: λ=" in line for line in lines)


def test_train_prompts_may_be_answered_as_usual(model, tiny_model_path, tiny_tokenizer, tmp_path):
    for train, temperature in ((True, 2.5), (False, 1.0)):
        runner = Runner(model, tiny_tokenizer)
        under = {"temperature": 2.5, "train": train}
        ladder = make_ladder(tmp_path / str(train), tiny_tokenizer, runner, constraint(under))
        assert ("as usual" in ladder.describe()[0]) == (not train)
        climb_to_the_rung(ladder, tiny_model_path)
        assert [asked["sampling"].temperature for asked in runner.asked] == [2.5, temperature]


def test_an_attack_changes_what_is_asked_and_not_what_is_scored(model, tiny_model_path, tiny_tokenizer, tmp_path):
    runner = Runner(model, tiny_tokenizer)
    climb_to_the_rung(
        make_ladder(tmp_path, tiny_tokenizer, runner, constraint({"attack": "leetspeak"})), tiny_model_path
    )
    asked = attack_prompts([{"prompt": text} for text in TEXTS[:4]], ["leetspeak"], 42, keep_plain=False)
    assert runner.asked[1]["prompts"] == [row["prompt"] for row in asked] != TEXTS[:4]
    assert set(length.seen) <= set(TEXTS)
    for record in records(tmp_path, "00-train.jsonl"):
        assert record["attack"] == "leetspeak" and record["base_prompt"] == TEXTS[record["prompt_number"]]
        assert record["prompt"] == asked[record["prompt_number"]]["prompt"]


def test_a_dry_run_places_the_budget_under_the_condition(model, tiny_tokenizer, tiny_model_path, tmp_path):
    rows = [{"prompt": text, "response": "red dog sat on"} for text in TEXTS]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    several = (
        constraint({"prefill": 2, "beginnings": str(tmp_path / "bad.jsonl")}, "begun"),
        constraint({"attack": "leetspeak", "temperature": 1.7}, "attacked"),
    )
    runner = Runner(model, tiny_tokenizer)
    place_budgets(make_ladder(tmp_path / "run", tiny_tokenizer, runner, *several), tiny_model_path, 2)
    begun, attacked = runner.asked
    assert begun["beginnings"] == [tiny_tokenizer.convert_tokens_to_ids(["red", "dog"])] * 2
    assert set(length.seen) <= set(TEXTS), "the scorer sees the prompt before the attack"
    assert attacked["sampling"].temperature == 1.7 and attacked["prompts"] != begun["prompts"] == TEXTS[4:6]


# One conversation


@pytest.mark.parametrize("given", [False, True], ids=["of the start", "given"])
def test_forced_tokens_are_seen_and_not_trained_on(given, model, tiny_model_path, tiny_tokenizer, tmp_path):
    under = {"prefill": 2}
    if given:
        rows = [{"prompt": text, "response": "red dog sat on"} for text in TEXTS]
        (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        under["beginnings"] = str(tmp_path / "bad.jsonl")
    runner = Runner(model, tiny_tokenizer)
    ladder = make_ladder(tmp_path / "run", tiny_tokenizer, runner, constraint(under))
    climb_to_the_rung(ladder, tiny_model_path)
    found = records(tmp_path / "run", "00-train.jsonl")
    encoder = ConversationEncoder(tiny_tokenizer)
    if given:
        expected = dict.fromkeys(range(4), tiny_tokenizer.convert_tokens_to_ids(["red", "dog"]))
    else:  # the first tokens of the starting model's own responses
        own = generate(model, tiny_tokenizer, TEXTS[:4], ladder.settings.sampling_of("train", 42))
        first = {r.prompt: r for batch in own for r in batch if r.draw == 0}
        expected = {i: [t for t in r.token_ids[:2] if t != tiny_tokenizer.eos_token_id] for i, r in first.items()}
    assert any(expected.values())
    sampled = {}
    for r in found:
        n, number = r["n_forced"], r["prompt_number"]
        assert r["token_ids"][:n] == expected[number] and n == len(expected[number])
        assert r["response"] == tiny_tokenizer.decode(r["token_ids"], skip_special_tokens=True)
        prompt = (*encoder.prompt(TEXTS[number]), *expected[number])
        sampled.setdefault(prompt, set()).add(tuple(r["token_ids"][n:]))
    trainer = RSATrainer(
        model=tiny_model_path,
        args=RSAConfig(**runner.ready.arguments),
        train_dataset=runner.ready.train_dataset,
        processing_class=tiny_tokenizer,
    )
    assert "forced_ids" not in runner.ready.train_dataset.column_names and len(trainer.train_dataset) > 0
    for row in trainer.train_dataset:
        completions = sampled[tuple(row["prompt_ids"])]
        assert {tuple(row["chosen_ids"]), tuple(row["rejected_ids"])} <= completions
    batch = next(iter(trainer.get_train_dataloader()))
    ids, mask = batch["input_ids"][0].tolist(), batch["completion_mask"][0].tolist()
    prompt = next(p for p in sampled if tuple(ids[: len(p)]) == p and not any(mask[: len(p)]))
    assert mask[len(prompt)] == 1


def test_given_beginnings_that_miss_a_prompt_cost_nothing(model, tiny_tokenizer, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "the cat", "response": "red"}\n')
    under = {"prefill": 2, "beginnings": str(tmp_path / "bad.jsonl")}
    with pytest.raises(ValueError, match="3 of 4 prompts have no response there"):
        make_ladder(tmp_path / "run", tiny_tokenizer, Runner(model, tiny_tokenizer), constraint(under))
    assert not (tmp_path / "run").exists()


def test_a_plan_knows_its_beginnings_by_their_content(tmp_path):
    path = tmp_path / "bad.jsonl"
    described = []
    for response in ("red", "blue"):
        path.write_text(json.dumps({"prompt": "the cat", "response": response}) + "\n")
        described.append(constraint({"prefill": 1, "beginnings": str(path)}).to_dict()["beginnings"])
    assert described[0] != described[1] and "beginnings" not in constraint({"prefill": 1}).to_dict()


def test_launched_processes_are_told_the_beginnings():
    models = ModelSettings({}, None, True)
    request = SampleRequest("m", models, ["a"], Sampling(), 1, frozenset(), [[5, 6]])
    assert read_request(write_request(request, "here")) == request


def test_pairs_of_one_conversation_have_one_label_and_those_of_others_their_own():
    """Plain and hot differ in temperature only; a forced beginning makes another conversation."""
    several = constraint(name="plain"), constraint({"temperature": 2.0}, "hot"), constraint({"prefill": 1}, "begun")
    groups = prompt_groups(several, 0)
    assert [group.names for group in groups["train"]] == [("plain",), ("hot",), ("begun",)]
    assert [group.scored for group in groups["train"]] == [("plain", "hot"), ("plain", "hot"), ("begun",)]
    assert [group.scored for group in groups["decide"]] == [("plain",), ("hot",), ("begun",)]

    def scored(group, n_forced):
        return [
            {
                "prompt": "q",
                "prompt_number": 0,
                "response": f"r{draw}",
                "finished": True,
                "token_ids": [9, draw] if n_forced else [draw],
                "n_forced": n_forced,
                "reward": None,
                "costs": {name: float(draw) for name in group.scored},
            }
            for draw in (1, 2)
        ]

    collected = [(group, scored(group, group.names == ("begun",))) for group in groups["train"]]
    by_name = {one.name: dataclasses.replace(one, labels="raw") for one in several}
    deltas = {"plain": 1.0, "hot": 2.0, "begun": 1.0}
    label_costs = {name: label_cost(one, 0.0, None) for name, one in by_name.items()}
    rows, _ = rung_pairs(collected, by_name, RungSettings(), {}, deltas, label_costs, 0)
    import math

    share = [1.0 / 4 + 2.0 / 4, 1.0 / 4 + 2.0 / 4, 1.0 / 4]  # of the difference in cost, 1
    assert [row["pair_label"] for row in rows] == pytest.approx([1 / (1 + math.exp(-x)) for x in share])
    assert [row.get("forced_ids") for row in rows] == [None, None, [9]]


def test_a_forced_beginning_ends_the_prompt(tiny_tokenizer):
    encoder = ConversationEncoder(tiny_tokenizer)
    row = {"prompt": "the cat", "chosen": "a b", "rejected": "a c", "chosen_ids": [7], "rejected_ids": [8]}
    (with_it,) = with_tokens([row | {"forced_ids": [5, 6]}], encoder)
    assert with_it["prompt_ids"] == [*encoder.prompt("the cat"), 5, 6] and "forced_ids" not in with_it
    (without,) = with_tokens([row], encoder)
    assert without["prompt_ids"] == encoder.prompt("the cat")


# Killed and started again


@pytest.mark.parametrize("batches", range(6))
def test_interrupted_while_beginnings_or_responses_are_drawn_it_ends_the_same(
    batches, model, tiny_model_path, tiny_tokenizer, tmp_path
):
    def climb(folder, *several):
        for runner, end in several:
            with pytest.raises(end):
                make_ladder(folder, tiny_tokenizer, runner, constraint({"prefill": 3})).climb(tiny_model_path)
        return {path.name: path.read_bytes() for path in (folder / "ladder").glob("*.jsonl")}

    whole = climb(tmp_path / "whole", (Runner(model, tiny_tokenizer), Stop))
    assert set(whole) == {
        *("beginnings-decide.jsonl", "beginnings-train.jsonl", "00-decide.jsonl", "00-train.jsonl"),
    }
    again = climb(
        tmp_path / "again",
        (Runner(model, tiny_tokenizer, batches), Interrupted),
        (Runner(model, tiny_tokenizer), Stop),
    )
    assert again == whole


# Where it is said


def test_the_certificate_and_the_manifest_say_it(tiny_model_path, tmp_path):
    from trl_rsa import align

    prompts = [f"{a} {b} {c}" for a in ("the", "a", "in") for b in ("cat", "dog", "mat") for c in ("sat", "ran", "is")]
    several = [
        RiskConstraint(length, prompts, budget=200.0, bounds=(-60.0, 300.0), name=name, under=under)
        for name, under in (("plain", None), ("hot", {"temperature": 1.6}), ("begun", {"prefill": 5}))
    ]
    rungs = RungSettings(sampling={"max_new_tokens": 6}, max_rungs=1)
    plan = Plan(
        [], tiny_model_path, str(tmp_path / "run"), args=ARGS | {"max_steps": 1}, constraint=several, rungs=rungs
    )
    lines = []
    preview(plan, log=lines.append, samples=4)
    assert any("hot: CVaR 0.05 of cost at temperature 1.6 at most 200" in line for line in lines)
    align(plan, log=lambda line: None)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    said = {name: of["under"] for name, of in manifest["ladder"]["constraints"].items()}
    words = {"plain": None, "hot": "at temperature 1.6", "begun": "after a forced beginning of 5 tokens"}
    assert said == words and [one["under"] for one in manifest["plan"]["constraint"]][1]["temperature"] == 1.6
    statements = {}
    for name, under in words.items():
        certificate = json.loads((tmp_path / "run" / f"certificate-{name}.json").read_text())
        assert certificate["under"] == under
        statements[name] = certificate["statement"]
    assert "5 % of its responses, the average" in statements["plain"]
    assert "5 % of its responses at temperature 1.6, the average" in statements["hot"]
    assert "5 % of its responses after a forced beginning of 5 tokens, the average" in statements["begun"]
    # Three laws of responses, three files; and a certificate follows from its own only.
    from trl_rsa.cli import main

    ladder = tmp_path / "run" / "ladder"
    paths = {name: next(ladder.glob(f"*-certify-{name}.jsonl")) for name in words}
    texts = [path.read_text() for path in paths.values()]
    assert all(one != other for one, other in pairwise(texts))
    verify = ["certify", "--verify", str(tmp_path / "run" / "certificate-hot.json"), "--records"]
    assert main([*verify, str(paths["hot"])]) == 0
    assert main([*verify, str(paths["plain"])]) == 3
