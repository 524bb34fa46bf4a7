"""Rows with one response: to imitate, and with a label; as they are, and made of pairs."""

import json

import pytest

from trl_rsa.data.single import load_demonstrations, load_unpaired


PAIRS = [{"prompt": f"p{i}", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(6)]
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
PKU = {
    "prompt": "p",
    "response_0": "zero",
    "response_1": "one",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}


def test_pairs_are_taken_apart_and_mixed_by_seed():
    loaded = load_unpaired(PAIRS, seed=1)
    rows = [*loaded.dataset]
    assert len(rows) == 12 and loaded.counts.pairs_kept == 6
    assert {(row["prompt"], row["completion"], row["label"]) for row in rows} == {
        (pair["prompt"], pair[side], side == "chosen") for pair in PAIRS for side in ("chosen", "rejected")
    }
    assert [*load_unpaired(PAIRS, seed=1).dataset] == rows
    assert [*load_unpaired(PAIRS, seed=2).dataset] != rows
    assert loaded.counts.fingerprint != load_unpaired(PAIRS, seed=2).counts.fingerprint


def test_labelled_rows_are_read_as_they_are():
    rows = [{"prompt": "p", "completion": "c", "label": True}, {"prompt": "p", "completion": "d", "label": 0}]
    loaded = load_unpaired([*rows, {"prompt": "p", "completion": "e", "label": None}])
    assert sorted((row["completion"], row["label"]) for row in loaded.dataset) == [("c", True), ("d", False)]
    assert loaded.counts.rows_read == 3 and loaded.counts.skipped == {"missing field `label`": 1}


def test_the_safe_answers_of_beavertails_are_desirable(tmp_path):
    rows = [{"prompt": "p", "response": "r", "is_safe": True}, {"prompt": "p", "response": "s", "is_safe": False}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_unpaired(str(path), template="chat")
    assert {row["completion"][0]["content"]: row["label"] for row in loaded.dataset} == {"r": True, "s": False}
    assert loaded.dataset[0]["prompt"] == [{"role": "user", "content": "p"}]


def test_pku_rows_serve_both():
    good = [row for row in load_unpaired([PKU], preferred_by="safer").dataset if row["label"]]
    assert good[0]["completion"] == [{"role": "assistant", "content": "zero"}]
    (shown,) = load_demonstrations([PKU], preferred_by="better").dataset
    assert shown["completion"] == [{"role": "assistant", "content": "one"}]


def test_demonstrations():
    assert [*load_demonstrations([{"prompt": "p", "completion": "c"}]).dataset] == [{"prompt": "p", "completion": "c"}]
    assert [*load_demonstrations([{"prompt": "p", "response": "c"}]).dataset] == [{"prompt": "p", "completion": "c"}]
    (row,) = load_demonstrations([{"messages": [USER, ASSISTANT]}]).dataset
    assert row == {"prompt": [USER], "completion": [ASSISTANT]}
    assert load_demonstrations(PAIRS).dataset["completion"] == [pair["chosen"] for pair in PAIRS]


@pytest.mark.parametrize(
    ("column", "good", "bad", "reason"),
    [
        ("label", True, 0, "labelled undesirable"),
        ("is_safe", 1, False, "labelled unsafe"),
        ("safe", "yes", "no", "labelled unsafe"),
        ("is_unsafe", False, True, "labelled unsafe"),
        ("jailbroken", "0", "1.0", "labelled unsafe"),
        ("harmful", 0, 1, "labelled unsafe"),
    ],
)
@pytest.mark.parametrize("field", ["completion", "response", "messages"])
def test_what_is_labelled_bad_is_not_imitated(field, column, good, bad, reason):
    """Nor is a row without the label that the others have: nobody has said that it is good."""

    def row(text, **label):
        turns = [USER, {"role": "assistant", "content": text}]
        return {"messages": turns, **label} if field == "messages" else {"prompt": "p", field: text, **label}

    rows = [row("a", **{column: good}), row("b", **{column: bad}), row("c")]
    rows += [] if column == "label" else [row("d", **{column: "?"})]
    loaded = load_demonstrations(rows)
    completion = loaded.dataset[0]["completion"]
    assert len(loaded.dataset) == 1 and (completion if field != "messages" else completion[0]["content"]) == "a"
    unclear = {} if column == "label" else {f"field `{column}` is not true or false": 1}
    assert loaded.counts.skipped == {reason: 1, f"missing field `{column}`": 1, **unclear}
    assert loaded.counts.preferred_by == column


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], ["science", "art"], [True, "?"]])
def test_a_label_that_is_no_verdict_is_refused(labels):
    """Of topics from 0 to 4, 0 calls nothing bad."""
    rows = [{"prompt": "p", "completion": f"c{i}", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match=r"its column `label` is not true or false .*Rename the column"):
        load_demonstrations(rows)
    renamed = [{"topic" if name == "label" else name: value for name, value in row.items()} for row in rows]
    renamed = [{**row, "topic": str(row["topic"])} for row in renamed]
    assert len(load_demonstrations(renamed).dataset) == len(labels)


@pytest.mark.parametrize(("column", "value"), [("severity", 0), ("grade", "severe"), ("score", 0.9)])
def test_a_grade_without_a_label_is_not_guessed(column, value):
    """A score of 0.9 is a good answer in one file, and a bad one in another."""
    rows = [{"prompt": "p", "response": "r"}, {"prompt": "p", "response": "s", column: value}]
    with pytest.raises(ValueError, match=f"its column `{column}` may call some responses harmful"):
        load_demonstrations(rows)
    rows[0]["is_safe"], rows[1]["is_safe"] = False, True
    assert load_demonstrations(rows).dataset["completion"][:] == ["s"]


@pytest.mark.parametrize("name", ["pair_weight", "pair_label"])
@pytest.mark.parametrize("load", [load_unpaired, load_demonstrations])
@pytest.mark.parametrize("row", [PAIRS[0], {"prompt": "p", "completion": "c", "label": True}])
def test_weights_that_would_not_count_are_refused(load, row, name):
    with pytest.raises(ValueError, match=f"has a column '{name}', but only the method 'rsa' reads it"):
        load([row, row | {name: 0.5}])


@pytest.mark.parametrize("load", [load_unpaired, load_demonstrations])
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing_or_takes_from_the_end(load, limit):
    for rows in (PAIRS, [{"prompt": "p", "completion": "c", "label": True}] * 3):
        with pytest.raises(ValueError, match=f"You set limit to {limit}, but it is a whole number of at least 1"):
            load(rows, limit=limit)


def test_labels_of_a_csv_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\np,c,True\np,d,0\n")
    assert sorted((row["completion"], row["label"]) for row in load_unpaired(path).dataset) == [
        ("c", True),
        ("d", False),
    ]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"messages": [ASSISTANT, USER]}], {}, "does not end with a turn of the assistant"),
        ([{"prompt": "p", "completion": "c"}], {"pair_rule": "safedpo"}, "You set 'pair_rule' .* one response each"),
        ([{"prompt": "p", "completion": "c"}], {"preferred_by": "safer"}, "You set 'preferred_by'"),
        ([{"prompt": "p", "completion": "c"}], {"template": "chatty"}, "You set template to 'chatty'"),
        (
            [{"prompt": "p", "answer": "c"}],
            {},
            "here rows have prompt, completion; messages; prompt, response, or are preference pairs",
        ),
        ([{"prompt": "p", "completion": [ASSISTANT]}], {}, "the prompt is text and the response is messages"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(rows, options, message):
    with pytest.raises(ValueError, match=message):
        load_demonstrations(rows, **options)
