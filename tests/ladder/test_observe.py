"""Responses: sampled once per prompt set, scored once per cost model, and never made again."""

import json
from types import SimpleNamespace

import pytest

from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.observe import ScoredResponses
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.prompts import prompt_groups
from trl_rsa.ladder.settings import RungSettings


SETS = {"train": ["a", "b"], "decide": ["c", "d", "e"], "certify": ["f"]}
OTHER = {"train": ["u"], "decide": ["v"], "certify": ["w"]}


class Counted:
    """A cost, and the texts that it was asked for."""

    def __init__(self):
        self.texts = []

    def __call__(self, prompts, completions, **kwargs):
        self.texts += completions
        return [float(len(text)) for text in completions]


@pytest.fixture
def make(tmp_path):
    def build(*constraints):
        asked = []

        def sample(model, prompts, sampling, *, batch_size, skip):
            wanted = [(i, d) for i in range(len(prompts)) for d in range(sampling.draws) if (i, d) not in skip]
            asked.append((list(prompts), len(wanted)))
            for i, d in reversed(wanted):  # an order of its own
                text = f"{model} {prompts[i]}{d}"
                yield [SimpleNamespace(prompt=i, draw=d, text=text, finished=True, token_ids=[i, d])]

        settings = RungSettings(draws={"decide": 2})
        log = ProgressLog(lambda line: None)
        return ScoredResponses(tmp_path, prompt_groups(constraints, 0), constraints, settings, sample, 0, log), asked

    return build


def constraint(scorer, prompts=SETS, **changes):
    settings = {"budget": 0.0, "bounds": (-2.0, 8.0)}
    return RiskConstraint(scorer, prompts, **settings | changes)


def test_the_same_prompts_are_sampled_once_and_a_shared_cost_model_is_asked_once(make, tmp_path):
    cost, other = Counted(), Counted()
    constraints = constraint(cost), constraint(cost, name="tail", tail=0.5), constraint(other, name="honest")
    responses, asked = make(*constraints)
    ((group, records),) = responses.collect("decide", "m", 0, ["cost", "tail", "honest"])
    assert group.names == ("cost", "tail", "honest") and asked == [(["c", "d", "e"], 6)]
    assert len(cost.texts) == len(other.texts) == 6
    assert [(record["prompt_number"], record["draw"]) for record in records] == [
        (i, d) for i in range(3) for d in (0, 1)
    ]
    assert records[0]["costs"] == {"cost": 4.0, "tail": 4.0, "honest": 4.0} and records[0]["response"] == "m c0"
    assert (tmp_path / "00-decide.jsonl").exists()


def test_other_prompts_are_sampled_for_their_constraint_where_it_is_wanted(make, tmp_path):
    responses, asked = make(constraint(len_of), constraint(len_of, OTHER, name="honest"))
    assert [group.names for group, _ in responses.collect("train", "m", 3, ["honest"])] == [("honest",)]
    assert asked == [(["u"], 4)]
    assert (tmp_path / "03-train-honest.jsonl").exists() and not (tmp_path / "03-train-cost.jsonl").exists()


def len_of(prompts, completions, **kwargs):
    return [float(len(text)) for text in completions]


def test_what_is_recorded_is_not_made_again(make, tmp_path):
    responses, _ = make(constraint(len_of))
    ((_, expected),) = responses.collect("decide", "m", 0, ["cost"])
    path = tmp_path / "00-decide.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])  # a kill in the fourth line
    again, asked = make(constraint(len_of))
    for _ in range(2):
        ((_, records),) = again.collect("decide", "m", 0, ["cost"])
        for record, whole in zip(records, expected, strict=True):
            assert {key: record[key] for key in whole} == whole
    assert asked == [(["c", "d", "e"], 3)], "the three that are missing, once"
    assert json.loads(lines[0])["cost"] == json.loads(lines[0])["costs"]["cost"], "other readers find the one cost"


def test_what_a_part_of_two_lists_shares_is_sampled_once_and_has_both_costs(make, tmp_path):
    cost, other = Counted(), Counted()
    shared = SETS | {"train": [*SETS["train"], "x"]}
    responses, asked = make(constraint(cost), constraint(other, shared, name="honest"))
    found = responses.collect("train", "m", 0, ["cost", "honest"])
    assert [(sorted(records[0]["costs"]), group.prompts) for group, records in found] == [
        (["cost", "honest"], SETS["train"]),
        (["honest"], ["x"]),
    ]
    assert [prompts for prompts, _ in asked] == [SETS["train"], ["x"]]
    more = SETS | {"train": ["x"]}
    responses, _ = make(constraint(cost, shared), constraint(other, more, name="honest"))
    responses.collect("train", "m", 1, ["cost", "honest"])
    names = sorted(path.name for path in tmp_path.glob("01-train*.jsonl"))
    assert names == ["01-train-cost-of-cost+honest.jsonl", "01-train-cost-of-cost.jsonl"]
    # Of a ladder before this, "00-train-honest.jsonl" held the whole list.
    names = sorted(path.name for path in tmp_path.glob("00-train*.jsonl"))
    assert names == ["00-train-cost-of-cost+honest.jsonl", "00-train-honest-of-honest.jsonl"]
