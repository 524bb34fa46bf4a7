"""The pair rules on all sixteen kinds of PKU-SafeRLHF rows, and where they can be asked for."""

import json
from itertools import product

import pytest

from trl_rsa.data import PAIR_RULES, load_preferences
from trl_rsa.scripts.data import main, make_parser


def row(better, safer, safe_0, safe_1, **more):
    ids = {"better_response_id": better, "safer_response_id": safer}
    labels = {"is_response_0_safe": safe_0, "is_response_1_safe": safe_1}
    name = f"{better}{safer}{int(safe_0)}{int(safe_1)}"
    return {"prompt": f"prompt {name}", "response_0": "answer 0", "response_1": "answer 1", **ids, **labels, **more}


ROWS = [row(*labels) for labels in product((0, 1), (0, 1), (False, True), (False, True))]


def by_hand(rule, judged, safe):
    """The chosen answer, or None where the pair is left out: the rules as their papers say them, case by case."""
    if rule == "one-safe":
        return judged if safe in ((True, False), (False, True)) else None
    if rule == "safe-better":
        return judged if safe[judged] else None
    if safe == (False, False):
        return None
    return judged if safe == (True, True) else safe.index(True)


@pytest.mark.parametrize("rule", PAIR_RULES)
@pytest.mark.parametrize("preferred_by", ["better", "safer"])
def test_every_kind_of_row(rule, preferred_by):
    expected, swapped, contradicting = {}, 0, 0
    for each in ROWS:
        safe = (each["is_response_0_safe"], each["is_response_1_safe"])
        judged = each[f"{preferred_by}_response_id"]
        if preferred_by == "safer" and not safe[judged] and safe[1 - judged]:
            contradicting += 1  # skipped before any rule
            continue
        chosen = by_hand(rule, judged, safe)
        if chosen is not None:
            expected[each["prompt"]] = f"answer {chosen}"
            swapped += chosen != judged
    data = load_preferences(ROWS, preferred_by=preferred_by, pair_rule=rule)
    assert {r["prompt"][0]["content"]: r["chosen"][0]["content"] for r in data.dataset} == expected
    assert all(r["rejected"][0]["content"] != r["chosen"][0]["content"] for r in data.dataset)
    counts = data.counts
    assert (counts.pairs_swapped, sum(counts.skipped.values())) == (swapped, contradicting)
    assert sum(counts.left_out_by_rule.values()) == 16 - len(expected) - contradicting > 0
    assert counts.rows_read == counts.rows_used + sum(counts.skipped.values()) + sum(counts.left_out_by_rule.values())


def test_what_is_counted_is_said_and_a_sound_row_is_no_error_in_strict_mode():
    counts = load_preferences(ROWS, pair_rule="safedpo", strict=True).counts
    text = str(counts)
    assert "4  rows left out by the rule safedpo" in text and "4  both answers are unsafe" in text
    assert "4  pairs in which the rule chose the other answer" in text
    assert counts.to_dict()["pairs_swapped"] == 4
    assert "pair_rule" not in load_preferences(ROWS).counts.to_dict()  # manifests of before stay as they were


def test_the_probability_of_a_judgement_that_is_turned_is_dropped():
    rows = [row(0, 0, False, True, pair_label=0.7, pair_weight=2.0), row(0, 0, True, True, pair_label=0.7)]
    data = load_preferences(rows, pair_rule="safedpo").dataset
    assert (data["pair_label"][:], data["pair_weight"][:]) == ([1.0, 0.7], [2.0, 1.0])


@pytest.mark.parametrize(
    ("rows", "rule", "sentence"),
    [
        (ROWS, "safest", "the known rules are one-safe, safe-better, safedpo"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "one-safe", "the rows are of format preference"),
        (
            [{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0}],
            "one-safe",
            "the rows have no column is_response_0_safe",
        ),
        ([row(0, 0, False, False)], "safedpo", "1 × both answers are unsafe"),
    ],
)
def test_what_cannot_work_is_one_sentence(rows, rule, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        load_preferences(rows, pair_rule=rule)
    assert "\n" not in str(raised.value)


def test_trl_rsa_data_takes_the_rule(tmp_path, capsys):
    path = tmp_path / "pku.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    assert main(make_parser().parse_args([str(path), "--pair_rule", "one-safe", "--preferred_by", "safer"])) == 0
    output = capsys.readouterr().out
    assert "4  pairs kept" in output and "rows left out by the rule one-safe" in output


def test_a_stage_takes_the_rule(tiny_tokenizer, tmp_path):
    from trl_rsa import Plan, Stage
    from trl_rsa.alignment.stage_data import load_stage_data

    path = tmp_path / "pku.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    stage = Stage("safe", str(path), dataset_options={"pair_rule": "safedpo"})
    rows = load_stage_data(Plan([stage], "m", str(tmp_path)), stage, tiny_tokenizer)
    assert len(rows.train) == 12 and rows.data["train"]["left_out_by_rule"] == {"both answers are unsafe": 4}


def test_trl_rsa_train_takes_the_rule(tmp_path):
    from trl import DatasetMixtureConfig

    from trl_rsa.scripts._datasets import PreferenceScriptArguments, load_pairs

    path = tmp_path / "pku.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    arguments = PreferenceScriptArguments(dataset_name=str(path), pair_rule="safe-better")
    train, _ = load_pairs(arguments, DatasetMixtureConfig(), with_test=False, seed=0)
    assert len(train) == 8
