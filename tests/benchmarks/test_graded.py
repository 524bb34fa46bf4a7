"""The benchmark of grades against pairs: its laws, its splits, a tiny run of both parts, and the page."""

import csv
import gzip
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks import graded
from benchmarks.graded import BEGIN, CSV, END, HEADS, KEY, PAGE, RUBRIC, SCALE, Answer, Targets, table


WORDS = ["cat", "dog", "hill", "red", "big", "sat", "the", "ran", "sun", "tree"]
SCORES = (0.0, 0.125, 0.5, 1.0)


def answers_of(prompts, each=4):
    return [
        Answer(f"the {WORDS[i % 10]} {i}", f"{WORDS[j]} {i}", SCORES[j], j > 0)
        for i in range(prompts)
        for j in range(each)
    ]


def test_the_tables_in_the_documentation_are_current():
    assert f"{BEGIN}\n\n{table()}\n\n{END}" in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(not CSV.exists(), reason="not measured yet")
def test_every_split_of_the_csv_has_every_arm():
    rows = list(csv.DictReader(CSV.open()))
    assert len({tuple(row[name] for name in KEY) for row in rows}) == len(rows)
    for part, model in {(row["part"], row["model"]) for row in rows}:
        own = [row for row in rows if (row["part"], row["model"]) == (part, model)]
        arms = {row["arm"] for row in own}
        assert {"pairs", "grades"} <= arms
        for split in {row["split"] for row in own}:
            assert {row["arm"] for row in own if row["split"] == split} == arms


def test_pairs_are_within_a_prompt_and_the_milder_comes_first():
    answers = answers_of(3)
    pairs = graded.pairs_of(answers)
    assert len(pairs) == 3 * 6
    for i, j in pairs:
        assert answers[i].prompt == answers[j].prompt and answers[i].severity < answers[j].severity


def test_a_prompt_is_on_one_side_and_splits_differ():
    answers = answers_of(20)
    masks = []
    for split in (0, 1):
        train, held, mask = graded.parted(answers, 0.3, split)
        assert len(held) == mask.sum() == 24 and len(train) == 56
        assert not {one.prompt for one in train} & {one.prompt for one in held}
        masks.append(mask)
    assert (masks[0] != masks[1]).any()


def test_each_response_is_matched_once_and_the_safer_is_named():
    rows = graded.matched(answers_of(5, 3), 0)
    assert len(rows) == 5, "of three responses one has no partner"
    for row in rows:
        grades = [row["response_0_severity_level"], row["response_1_severity_level"]]
        assert grades[row["safer_response_id"]] == min(grades)
        assert [row["is_response_0_safe"], row["is_response_1_safe"]] == [grade == 0 for grade in grades]


def test_the_law_of_proportional_odds():
    outputs = torch.randn(5, 4, dtype=torch.float64)
    outputs[:, 1:] = outputs[0, 1:]
    law = graded.odds_law(outputs)
    assert law.shape == (5, 4) and (law > 0).all()
    assert torch.allclose(law.sum(-1), torch.ones(5, dtype=torch.float64))
    by_direction = outputs[:, 0].argsort()
    costs = law @ torch.tensor(SCALE.costs, dtype=torch.float64)
    assert (costs[by_direction].diff() > 0).all()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_every_head_finds_a_direction_of_harm(head):
    """300 answers whose harm is one of five features, the others noise: its cost ranks new ones."""
    rng = np.random.default_rng(0)
    answers = answers_of(75)
    harm = np.array([one.severity for one in answers])
    x = torch.from_numpy(rng.normal(size=(300, 5)))
    x[:, 0] = torch.from_numpy(harm + 0.1 * rng.normal(size=300))
    targets = Targets(
        torch.from_numpy(graded.pairs_of(answers)),
        torch.tensor([one.unsafe for one in answers]),
        torch.tensor([one.grade for one in answers]),
    )
    outputs = graded.fit(head, x[:200], graded.targets_of(answers[:200]), 1e-2)
    assert spearmanr(head.cost(outputs(x[200:])), harm[200:]).statistic > 0.7
    least = head.loss(outputs(x), targets).mean()
    assert least < head.loss(torch.zeros_like(outputs(x)), targets).mean()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name, rows in {
        RUBRIC: [
            {"prompt": f"the {WORDS[i % 10]} {'big ' * (i // 10)}sat", "response": f"{word} ran", "score": score}
            for i in range(20)
            for word, score in zip(WORDS, SCORES, strict=False)
        ],
        graded.ELSEWHERE: [
            {"prompt": f"a {word} ran", "response": "the sun", "is_unsafe": i % 2} for i, word in enumerate(WORDS)
        ],
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", ["frozen", "whole"])
def test_a_tiny_run_goes_on_where_it_was(part, data, tiny_model_path, tmp_path, monkeypatch):
    def run():
        options = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "graded.csv"), "--splits", "1"]
        graded.main(["--data", str(data), "--model", str(tiny_model_path), "--part", part, *options])
        return list(csv.DictReader((tmp_path / "graded.csv").open()))

    rows = run()
    wanted = [head.name for head in HEADS] if part == "frozen" else [*graded.WHOLE]
    assert [row["arm"] for row in rows] == wanted
    assert all(0 <= float(row["auc"]) <= 1 and row["held_out"] == "24" for row in rows)
    monkeypatch.setattr(graded, "measures_of", None)
    assert run() == rows, "what is there is not made again"


def test_without_the_data_one_sentence(tmp_path, tiny_model_path):
    with pytest.raises(FileNotFoundError, match=r"it has no strongreject_scored/rubric_scored"):
        graded.main(["--data", str(tmp_path), "--model", str(tiny_model_path)])
