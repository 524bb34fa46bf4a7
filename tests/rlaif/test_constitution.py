"""A constitution is read, and draws one principle for each pair."""

from collections import Counter

import pytest

from trl_rsa.rlaif.constitution import Constitution, draw_principle


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "constitution.yaml"
        path.write_text(text)
        return path

    return write


def test_principles_of_both_kinds(write):
    constitution = Constitution.from_yaml(
        write("principles:\n- Which is safer?\n- {name: kind, critique: What is rude, revise: Be kind.}\n")
    )
    assert [p.name for p in constitution.for_task("compare")] == ["principle-1"]
    assert [p.name for p in constitution.for_task("revise")] == ["kind"]
    other = Constitution.from_yaml(write("principles: [Which is safer to say]"))
    assert other.digest != constitution.digest
    with pytest.raises(ValueError, match="no principle of the constitution has `critique:` and `revise:`"):
        other.for_task("revise")


def test_draws_are_of_the_pair_and_the_seed(write):
    principles = Constitution.from_yaml(write("principles: [A, B, C]")).for_task("compare")
    drawn = [draw_principle(principles, 0, f"pair {i}").name for i in range(300)]
    assert drawn == [draw_principle(principles, 0, f"pair {i}").name for i in range(300)]
    assert drawn != [draw_principle(principles, 1, f"pair {i}").name for i in range(300)]
    # Binomial(300, 1/3): 100 ± 8; six deviations either way
    assert all(52 < count < 148 for count in Counter(drawn).values()) and len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "is not YAML"),
        ("rules: []", "no list `principles:`"),
        ("principles: []", "no list `principles:`"),
        ("principles: [3]", "it is a text or a mapping"),
        ("principles: [{name: a}]", "without `compare:`"),
        ("principles: [{critique: a}]", "without `compare:`"),
        ("principles: [{compares: a}]", "'compares' in principle 1"),
        ("principles: [{compare: ''}]", "it is a text"),
        ("principles: [{name: a, compare: x}, {name: a, compare: y}]", "named two principles"),
    ],
)
def test_what_is_no_constitution(text, message, write):
    with pytest.raises(ValueError, match=message):
        Constitution.from_yaml(write(text))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Constitution.from_yaml(tmp_path / "none.yaml")
