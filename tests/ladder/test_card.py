"""The certificate in a model's card, and beside the model: both are those of the latest end of the ladder."""

import json

import pytest

from trl_rsa.ladder.card import BEGIN, add_certificates, start_card


def certificate(folder, statement):
    path = folder.parent / "certificate-cost.json"
    path.write_text(json.dumps({"statement": statement, "limits": ["one"]}))
    return {"cost": path}, {"cost": json.loads(path.read_text())}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "rung-01"
    folder.mkdir()
    (folder / "README.md").write_text("# A model\n")
    return folder


def test_card_and_copy_follow_the_certificate(model):
    """After a corrected label there is another one. What others have added to the card stays."""
    add_certificates(model, *certificate(model, "CERTIFIED. Once."), "met")
    card = model / "README.md"
    added = "## My notes\n\n<!-- trl-rsa evaluation: begin -->\n## Evaluation\n"
    card.write_text(f"{card.read_text()}\n{added}")
    for _ in range(2):
        add_certificates(model, *certificate(model, "NOT CERTIFIED. Twice."), "met")
        text = card.read_text()
        assert "Once" not in text and text.count("NOT CERTIFIED. Twice.") == text.count(BEGIN) == 1
        assert text.startswith("# A model\n\n<!--") and text.endswith(f"* one\n\n{added}")
        assert "Twice" in (model / "certificate-cost.json").read_text()
    before = [path.stat().st_mtime_ns for path in sorted(model.iterdir())]
    add_certificates(model, *certificate(model, "NOT CERTIFIED. Twice."), "met")
    assert [path.stat().st_mtime_ns for path in sorted(model.iterdir())] == before, "nothing is written twice"


def test_the_certificate_of_a_rung_is_not_that_of_the_model_walked_back_from_it(model, tmp_path):
    add_certificates(model, *certificate(model, "NOT CERTIFIED."), "not met")
    walked = tmp_path / "rung-01-at-0.5"
    walked.mkdir()
    start_card(walked, model, 0.5)
    text = (walked / "README.md").read_text()
    assert text.startswith("# A model\n\nWalked back: 0.5 of") and "CERTIFIED" not in text
