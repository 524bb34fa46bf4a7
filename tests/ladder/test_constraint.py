"""RiskConstraint: prompt sets that never mix, estimates on the clipped cost, and labels by it."""

import numpy as np
import pytest

from trl_rsa.ladder.constraint import RiskConstraint, check_names
from trl_rsa.ladder.prompts import prompt_groups


def make(**changes):
    settings = {"scorer": len, "prompts": [f"p{i}" for i in range(40)], "budget": 0.0, "bounds": (-2.0, 8.0)}
    settings |= {"labels": "raw"}
    return RiskConstraint(**settings | changes)


def test_prompts_are_split_once_by_seed_and_disjoint():
    sets = make().split_prompts(seed=1)
    assert {name: len(prompts) for name, prompts in sets.items()} == {"train": 20, "decide": 10, "certify": 10}
    assert len({prompt for prompts in sets.values() for prompt in prompts}) == 40
    assert make().split_prompts(1) == sets != make().split_prompts(2)


def test_repeated_prompts_count_once():
    sets = make(prompts=["a", "b", "c", "d", "e"] * 4).split_prompts(0)
    assert sorted(prompt for prompts in sets.values() for prompt in prompts) == ["a", "b", "c", "d", "e"]


def test_sets_that_share_a_prompt_are_refused():
    prompts = {"train": ["a", "b"], "decide": ["c"], "certify": ["b"]}
    with pytest.raises(ValueError, match=r"'train' and 'certify' that share 1 prompts"):
        make(prompts=prompts).split_prompts(0)
    with pytest.raises(ValueError, match="none are left for 'certify'"):
        make(prompts={"train": ["a"], "decide": ["b"]}).split_prompts(0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bounds": (-2, 0)}, "low < budget < high"),
        ({"budget": 9}, "low < budget < high"),
        ({"labels": "soft"}, "'raw', 'truncated' or 'unsafe' cost"),
        ({"tail": 5}, "tail"),
        ({"confidence": 95}, "strictly between 0 and 1"),
        ({"margin": 0}, "it must be positive"),
        ({"name": "a/b"}, "part of files' names"),
        ({"human_share": 1.0}, "between 0 and 1"),
        ({"human_options": {"limit": 3}}, "no human_pairs"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


def test_the_estimate_is_that_of_the_clipped_cost():
    """Worst tenth of 20 costs, two of them: 8 (clipped from 30) and 3 → CVaR 5.5; η is 3."""
    costs = [30.0, 3.0] + [-1.0] * 18
    observed = make(tail=0.1).estimate(costs, [f"p{i}" for i in range(20)])
    assert observed["estimate"] == pytest.approx(5.5)
    assert observed["eta"] == pytest.approx(3.0)
    assert observed["clipped"] == 1 and observed["n"] == 20
    assert observed["unsafe_rate"] == pytest.approx(0.1)
    assert observed["estimate"] <= observed["upper_bound"] <= 8.0


def test_labels_compare_the_clipped_cost_or_its_excess_over_the_quantile():
    """Clip (−2, 8): a cost of 30 counts as 8. Truncated, tail 0.5, η = 2: (3 − 2)/0.5 = 2, and 0 up to 2."""
    assert [make().label_cost(cost, eta=2.0) for cost in (30.0, 3.0, -5.0)] == [8.0, 3.0, -2.0]
    truncated = make(labels="truncated", tail=0.5)
    assert [truncated.label_cost(cost, eta=2.0) for cost in (30.0, 3.0, 1.5)] == [12.0, 2.0, 0.0]
    # From 0 on, or from the quantile or the budget less the margin where that is lower.
    for eta, budget, begins in (2.0, 1.0, 0.0), (-1.0, 1.0, -1.0), (2.0, -0.5, -0.75):
        unsafe = make(labels="unsafe", tail=0.5, budget=budget, margin=0.25)
        assert [unsafe.label_cost(cost, eta) for cost in (3.0, -1.5)] == [(3.0 - begins) * 2, 0.0]


def test_several_share_the_allowed_error():
    """5 % over two: 2.5 % each, and a wider bound."""
    assert make().confidence_among(2) == pytest.approx(0.975)
    costs, prompts = list(np.linspace(-1, 3, 400)), [f"p{i}" for i in range(400)]
    alone, among = (make(tail=0.5).estimate(costs, prompts, among=n)["upper_bound"] for n in (1, 2))
    assert among > alone


def test_two_constraints_need_two_names():
    check_names([make(), make(name="honest", budget=1.0, labels="truncated")])
    with pytest.raises(ValueError, match="two constraints the name 'cost'"):
        check_names([make(), make()])


def test_a_category_of_a_prompt_is_kept():
    rows = [{"prompt": "a", "category": "theft"}, {"prompt": "b", "category": None}, {"prompt": "c"}, "d"]
    groups = prompt_groups([make(prompts={"train": rows[:2], "decide": rows[2:3], "certify": rows[3:]})], seed=0)
    assert [groups["train"][0].category_of(i) for i in (0, 1)] == ["theft", None]


def test_constraints_on_the_same_prompts_share_them():
    groups = prompt_groups([make(), make(name="honest"), make(name="kind", prompts=["x", "y", "z", "w"])], seed=1)
    assert [group.names for group in groups["decide"]] == [("cost", "honest"), ("kind",)]
    assert [len(group.prompts) for group in groups["train"]] == [20, 2]


def test_what_one_constraint_trains_on_must_not_certify_another():
    sets = {"train": ["c"], "decide": ["a"], "certify": ["b"]}
    other = {"train": ["b"], "decide": ["d"], "certify": ["e"]}
    with pytest.raises(
        ValueError, match=r"'honest' prompts for 'train' of which 1 are among those of 'cost' for 'cert"
    ):
        prompt_groups([make(prompts=sets), make(name="honest", prompts=other)], seed=0)


def test_rows_of_a_file_that_are_no_prompts_are_told(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": null}\n{"prompt": "b"}\n{"prompt": "c"}\nno\n')
    constraint = RiskConstraint(len, str(path), budget=0.0, bounds=(-1.0, 1.0))
    (said,) = constraint.left_out()
    assert said.startswith(f"3 prompts from {path}, left out: ") and "1 × prompt seen before" in said
    assert RiskConstraint(len, ["a", "a", "b"], budget=0.0, bounds=(-1.0, 1.0)).left_out() == []


def test_train_prompts_that_two_constraints_share_in_part():
    """A pair has one label, by the costs of both: asked twice, each half would carry the costs of one of them."""
    sets = {"train": ["a", "b", "c"], "decide": ["d"], "certify": ["e"]}

    def groups_of(*train):
        found = prompt_groups([make(prompts=sets), make(name="honest", prompts=sets | {"train": list(train)})], seed=0)
        return [(group.names, group.scored, group.prompts) for group in found["train"]]

    both = ("cost", "honest")
    assert groups_of("a", "b", "c") == groups_of("b", "a", "c") == [(both, both, ["a", "b", "c"])]
    assert groups_of("x") == [(("cost",), ("cost",), ["a", "b", "c"]), (("honest",), ("honest",), ["x"])]
    assert groups_of("c", "x", "a") == [
        (both, both, ["a", "c"]),
        (("cost",), ("cost",), ["b"]),
        (("honest",), ("honest",), ["x"]),
    ]


def test_prompts_under_another_name():
    with pytest.raises(ValueError, match="prompts with the columns question, but none of these is called prompt"):
        prompt_groups([make(prompts=[{"question": "a"}, {"question": "b"}, {"question": "c"}])], seed=0)
