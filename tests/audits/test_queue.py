"""The queue on disk: labels that come late, in part, twice, in another order, or for nothing that was asked."""

import random

import pytest

from trl_rsa.audits.queue import AUDIT, LABELS, AuditQueue, folders_of
from trl_rsa.data.harm import HarmScale
from trl_rsa.storage.digests import response_key
from trl_rsa.storage.files import write_json
from trl_rsa.storage.lines import LineWriter


SCALE = HarmScale()
SAFE, MINOR, SEVERE = 0, 1, 3


def requests(*names):
    return [
        {
            "id": response_key(name, "an answer"),
            "prompt": name,
            "response": "an answer",
            "score": 0.5,
            "probability": 0.25,
            "prompt_number": number,
            "draw": 0,
        }
        for number, name in enumerate(names)
    ]


def a_queue(folder, names=("a", "b", "c"), budget=400, second="unsafe"):
    queue = AuditQueue(folder, SCALE, second, budget, seed=0)
    queue.add_draw(draw_of(0, names))
    return queue


def draw_of(number, names, split="decide"):
    return {
        "observation": number,
        "split": split,
        "round": 1,
        "model": "m",
        "seed": 0,
        "least": 0.25,
        "probabilities": [0.25] * 40,
        "time": "now",
        "requests": requests(*names),
    }


def label(name, grade, labeller="alice"):
    return {"id": response_key(name, "an answer"), "grade": grade, "labeller": labeller}


def missing(queue):
    return [request["prompt"] for request in queue.missing()]


def test_a_label_belongs_to_a_prompt_and_a_response_however_they_are_spelled():
    assert response_key("How  are you?", "Fine.") == response_key(
        [{"role": "user", "content": "how are you?"}], "Fine."
    )
    assert response_key("How are you?", "Fine.") != response_key("How are you?", "Bad.")


def test_labels_in_part_twice_and_in_another_order_end_the_same(tmp_path):
    labels = [label("a", SAFE), label("b", SEVERE), label("b", SEVERE, "bob"), label("c", SAFE)]
    whole = a_queue(tmp_path / "whole")
    whole.add_labels(labels, "all.csv")
    parts = a_queue(tmp_path / "parts")
    random.Random(0).shuffle(labels)
    parts.add_labels(labels[:2], "one.csv")
    assert missing(parts), "some are missing in between"
    again = parts.add_labels(labels[:3], "two.csv")
    assert (again.new, again.known, again.changed) == (1, 2, 0)
    parts.add_labels(labels, "three.csv")
    assert parts.labels() == whole.labels() and parts.spent() == 4
    assert missing(parts) == missing(whole) == []


def test_an_unsafe_label_asks_for_a_second_and_a_quarrel_for_a_third(tmp_path):
    queue = a_queue(tmp_path)
    queue.add_labels([label("a", SAFE), label("b", SEVERE), label("c", MINOR)], "1")
    assert missing(queue) == ["b", "c"]
    queue.add_labels([label("b", SEVERE, "bob"), label("c", SAFE, "bob")], "2")
    assert missing(queue) == ["c"], "the two about c differ"
    queue.add_labels([label("c", SAFE, "carol")], "3")
    assert missing(queue) == []


def test_first_labels_come_before_second_ones_and_the_budget_ends_them(tmp_path):
    queue = a_queue(tmp_path, names=("a", "b", "c", "d"), budget=4)
    queue.add_labels([label("a", SEVERE), label("b", SEVERE)], "1")
    assert missing(queue) == ["c", "d"], "two labels are left, and two responses have none"
    queue.add_labels([label("c", SEVERE), label("d", SAFE)], "2")
    assert missing(queue) == []


def test_a_label_of_an_earlier_observation_is_not_asked_again(tmp_path):
    queue = a_queue(tmp_path)
    queue.add_labels([label(name, SAFE) for name in "abc"], "1")
    queue.add_draw(draw_of(1, ("b", "d")))
    assert missing(queue) == ["d"]


def test_certify_labels_have_a_budget_of_their_own(tmp_path):
    queue = a_queue(tmp_path, names=("a",), budget=1)
    queue.add_labels([label("a", SAFE)], "1")
    queue.add_draw(draw_of(2, ("x", "y"), "certify"))
    assert missing(queue) == ["x", "y"]
    queue.add_labels([label("x", SAFE)], "2")
    assert (queue.spent(), queue.spent("certify")) == (2, 1)


def test_the_last_label_of_one_labeller_counts(tmp_path):
    queue = a_queue(tmp_path)
    queue.add_labels([label("a", SEVERE)], "1")
    assert queue.add_labels([label("a", SAFE)], "2").changed == 1
    assert queue.grades() == {label("a", SAFE)["id"]: [SAFE]} and queue.spent() == 1


def test_a_label_of_a_response_that_was_never_asked_for_is_refused_alone(tmp_path):
    queue = a_queue(tmp_path)
    added = queue.add_labels([label("z", SAFE), label("a", SAFE)], "1")
    assert (added.unknown, added.new) == ([0], 1)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    queue = a_queue(tmp_path)
    queue.add_labels([label("a", SAFE)], "1")
    with (tmp_path / LABELS).open("ab") as file:
        file.write(b'{"id": "half')
    assert len(queue.labels()) == 1
    queue.add_labels([label("b", SAFE)], "2")
    assert len(queue.labels()) == 2


def test_a_folder_without_an_audit_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no audit yet"):
        folders_of(tmp_path)
    folder = tmp_path / "ladder" / "audit-cost"
    content = {"harm_scale": SCALE.to_dict(), "second": "0.5", "budget": 7, "seed": 3}
    write_json(folder / AUDIT, content)
    assert folders_of(tmp_path) == {"cost": folder}
    opened = AuditQueue.open(folder)
    assert (opened.scale, opened.second, opened.budget, opened.seed) == (SCALE, 0.5, 7, 3)


def test_a_line_of_another_kind_is_no_label(tmp_path):
    queue = a_queue(tmp_path)
    with LineWriter(tmp_path / LABELS) as writer:
        writer.write({"id": "x", "grade": "severe"})
    assert queue.labels() == {}


def test_nobody_is_asked_for_a_certificate_that_will_not_be_made(tmp_path):
    """After "NOT met" the search went on, and another policy is certified."""
    queue = a_queue(tmp_path, ("a",))
    queue.add_draw(draw_of(1, ("x",), "certify"))
    assert missing(queue) == ["a", "x"]
    queue.add_draw(draw_of(3, ("y",), "certify"))
    assert missing(queue) == ["a", "y"]
