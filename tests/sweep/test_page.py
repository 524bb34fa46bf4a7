"""The page of sweeps, from folders as a sweep leaves them: what is read, what is refused, what is said."""

import json

import pytest

from trl_rsa.storage.files import write_json
from trl_rsa.storage.records import RecordWriter
from trl_rsa.sweep.files import SweepState
from trl_rsa.sweep.page import write_front


COSTS = {"a": [3.0, 1.0, -1.0, -1.0], "b": [1.0, 0.0, -1.0, -1.0]}


def write_sweep(folder, name="one", costs=COSTS, budgets=(), tail=0.5, tails=(0.05,), unsafe_above=0.0, **statuses):
    """A sweep of finished points `a`, `b`, of four prompts each. With budgets, a point has one of the plan's tail."""
    points = [
        {
            "name": point,
            "settings": {},
            "folder": f"points/{point}",
            "status": statuses.get(point, "complete"),
            **({"budget": budgets[number]} if budgets else {}),
        }
        for number, point in enumerate(costs)
    ]
    plan = {"constraint": {"name": "cost", "tail": tail}} if budgets else {}
    SweepState(folder, name, plan, {}, points, tails, unsafe_above).write()
    for point, values in costs.items():
        evaluation = folder / f"points/{point}/evaluation"
        settings = {"models": {point: {"path": point}}, "prompts": {"n": 4}, "sampling": {"draws": 1}}
        write_json(evaluation / "evaluation.json", {"settings": settings})
        with RecordWriter(evaluation / "records.jsonl") as writer:
            for i, cost in enumerate(values):
                writer.write({"prompt": f"p{i}", "response": "r", "cost": cost, "reward": float(i), "model": point})
    return folder


def write_page(sweeps, folder, **options):
    lines = []
    return write_front(sweeps, folder, log=lines.append, **options), lines


def settings_of(folder):
    models = json.loads((folder / "metrics.json").read_text())["models"]
    return next(iter(models.values()))["settings"]


def test_tails_and_unsafe_above_are_those_of_the_evaluation(tmp_path):
    one = write_sweep(tmp_path / "one", tails=(0.1, 0.25), unsafe_above=2.0)
    page = tmp_path / "page"
    write_page([one], page)
    assert settings_of(page)["unsafe_above"] == 2.0 and settings_of(page)["tails"] == [0.05, 0.1, 0.25]
    assert write_page([one], page, unsafe_above=1.0, tails=[0.5], tail=0.5)[1] == []
    assert settings_of(page)["unsafe_above"] == 1.0 and settings_of(page)["tails"] == [0.5]
    # A file of an older version leaves it to its points.
    content = json.loads((one / "sweep.json").read_text())
    del content["tails"], content["unsafe_above"]
    write_json(one / "sweep.json", content)
    metrics = {"models": {"b": {"settings": {"tails": [0.5], "unsafe_above": 3.0}}}}
    write_json(one / "points/b/evaluation/metrics.json", metrics)
    write_page([one], page, tail=0.5000001)
    assert settings_of(page)["unsafe_above"] == 3.0 and settings_of(page)["tails"] == [0.5000001]
    two = write_sweep(tmp_path / "two", "two", unsafe_above=1.0)
    with pytest.raises(ValueError, match=r"another unsafe_above .* \(3 in one, 1 in two\).* Set unsafe_above"):
        write_page([one, two], page)
    write_page([one, two], page, unsafe_above=1.0)
    assert settings_of(page)["tails"] == [0.05, 0.5]


@pytest.mark.parametrize("taken", ["evaluation.json", "sweep.json", "records.jsonl"])
def test_nothing_but_a_page_is_overwritten(tmp_path, taken):
    one, two = write_sweep(tmp_path / "one"), write_sweep(tmp_path / "two", "two")
    write_page([one], one)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / taken).write_text("mine")
    for sweeps in ([one], [one, two]):
        with pytest.raises(ValueError, match=rf"You set output_dir to .*other, but it holds .*{taken}"):
            write_page(sweeps, tmp_path / "other")
    assert {path.name: path.read_text() for path in (tmp_path / "other").iterdir()} == {taken: "mine"}
    with pytest.raises(ValueError, match="a sweep with a page of its own"):
        write_page([one, two], one)
    for _ in range(2):
        write_page([one, two], tmp_path / "page")


def test_damaged_records_are_no_page(tmp_path):
    one = write_sweep(tmp_path / "one")
    path = one / "points/b/evaluation/records.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    for lines, said in (
        ([*whole[:3], whole[3][:20]], r"has 1 damaged line \(line 4: truncated last line\)"),
        (
            [whole[0].replace("1.0", '"high"'), *whole[1:]],
            r"has 1 damaged line \(line 1: cost is not a number\)",
        ),
        (whole[:2], r"has 2 of its 4 records"),
    ):
        path.write_text("".join(lines))
        with pytest.raises(ValueError, match=rf"a page with b, but .*{said}.* Remove that file, and start"):
            write_page([one], tmp_path / "page")
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no .*records\.jsonl"):
        write_page([one], tmp_path / "page")
    (path.parent / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"its evaluation\.json cannot be read"):
        write_page([one], tmp_path / "page")
    (path.parent / "evaluation.json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*evaluation\.json\. Remove that folder"):
        write_page([one], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_what_is_not_on_the_page_is_said(tmp_path):
    costs = {"a": [3.0, 1.0, None, -1.0], "b": [1.0, 0.0, -1.0, -1.0], "c": COSTS["a"], "d": COSTS["a"]}
    one = write_sweep(tmp_path / "one", costs=costs, c="failed", d="planned")
    front, lines = write_page([one], one)
    assert front["n_prompts"] == 3
    assert lines == [
        "2 points are not on the page, not being complete: c, d.",
        "The front uses 3 of 4 prompts, those of which every point has an answer with both scores: a lacks 1.",
    ]
    assert front["notes"] == lines


def test_the_tail_is_that_of_the_budgets(tmp_path):
    one = write_sweep(tmp_path / "one", budgets=(1.5, 0.5))
    front, lines = write_page([one, write_sweep(tmp_path / "plain", "plain")], tmp_path / "page")
    assert front["tail"] == 0.5 and [of["limit"] for of in front["methods"][1]["within"]] == [0.5, 1.5]
    assert front["methods"][0]["points"][0]["budget"] == 1.5 and lines == []
    # At another tail they say nothing.
    front, lines = write_page([one], one, tail=0.25)
    assert "budget" not in front["methods"][0]["points"][0]
    assert [of["limit"] for of in front["methods"][0]["within"]] == [1.5, 2.0, 2.5], "quarters of 1 to 3"
    assert lines == [
        "The budgets of a, b are about the tail 0.5, and the front is at 0.25: they are no limits on it. Set tail to "
        "0.5 to read them."
    ]
    two = write_sweep(tmp_path / "two", "two", budgets=(1.0, 0.0), tail=0.25)
    front, lines = write_page([one, two], tmp_path / "page")
    assert front["tail"] == 0.05 and "are about the tail 0.5, 0.25, and the front is at 0.05" in lines[0]
    front, lines = write_page([one, two], tmp_path / "page", tail=0.25)
    assert [of["limit"] for of in front["methods"][0]["within"]] == [0.0, 1.0] and "of one a, one b are" in lines[0]


def test_a_swept_tail_is_that_of_its_budget(tmp_path):
    one = write_sweep(tmp_path / "one", budgets=(1.5, 0.5))
    content = json.loads((one / "sweep.json").read_text())
    content["points"][1]["settings"] = {"constraints.cost.tail": 0.25}
    write_json(one / "sweep.json", content)
    front, _ = write_page([one], one, tail=0.25)
    assert [of["limit"] for of in front["methods"][0]["within"]] == [0.5]


def test_names_of_methods(tmp_path):
    sweeps = [write_sweep(tmp_path / name, "same") for name in "xy"]
    with pytest.raises(ValueError, match=r"two sweeps with the name 'same' .* Set name once per folder"):
        write_page(sweeps, tmp_path / "page")
    front, _ = write_page(sweeps, tmp_path / "page", names=["X", "Y"])
    assert [method["name"] for method in front["methods"]] == ["X", "Y"]
    with pytest.raises(ValueError, match=r"You set 1 names for 2 sweeps"):
        write_page(sweeps, tmp_path / "page", names=["X"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tail": 5.0}, "You set tail=5.0"),
        ({"limits": [1.0, float("nan")]}, "You set limits to nan, but a limit is a CVaR"),
        ({"reference": (float("nan"), 1.0)}, "You set reference to nan 1.0, but it is a point"),
        ({"unsafe_above": float("inf")}, "You set unsafe_above to inf"),
    ],
)
def test_what_cannot_be_read_is_refused_first(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_front([tmp_path / "nowhere"], tmp_path / "page", **options)
