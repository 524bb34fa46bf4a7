"""The audits of a ladder on the page."""

import json

import pytest
from made_up_evaluation import MANIFEST, fill, observation

from trl_rsa.report.audits import audit_plot, audit_sentences
from trl_rsa.report.style import drawing
from trl_rsa.report.write import write_report


AUDIT = {
    "labels": 312,
    "certify_labels": 600,
    "budget": 400,
    "labeller": "people",
    "agreement": {"several": 40, "disagreed": 6},
    "calibration": {"scores": [-1.0, 0.0, 2.0], "labels": [-1.0, 4.0, 10.0], "weights": [1.0, 1.0, 0.5]},
    "curve": {"scores": [-1.0, 0.0, 2.0], "expected": [-1.0, 3.0, 9.0]},
}


def manifest(audit):
    ladder = {
        "constraints": {"cost": {"budget": 0.0, "audit": audit}},
        "observations": [observation(0, 1.0, 2.4, cost=(0.0, 4.1, 5.0))],
    }
    return MANIFEST | {"ladder": ladder}


def test_the_page_says_what_was_spent_and_draws_score_against_label(tmp_path):
    folder = fill(tmp_path, complete=False)
    (folder / "manifest.json").write_text(json.dumps(manifest(AUDIT)))
    write_report(folder)
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "312 labels of at most 400 by people steered the search, and 600 for the certificate." in text
        assert "Of 40 responses with several labels, 6 had labels that differ." in text
    assert (folder / "plots" / "audit.png").exists()


def test_the_page_says_how_many_labels_are_wrong_where_the_search_allowed_for_it():
    assert "wrong" not in audit_sentences(manifest(AUDIT))[0]
    assert "By that about 9% of the labels are wrong, which the search allowed for." in " ".join(
        audit_sentences(manifest(AUDIT | {"error_rate": 0.094}))
    )


def test_points_and_curve_are_those_of_the_manifest():
    with drawing():
        axes = audit_plot(manifest(AUDIT)).axes[0]
    points, curve = axes.lines[:2]
    assert points.get_xydata().tolist() == [[-1.0, -1.0], [0.0, 4.0], [2.0, 10.0]]
    assert curve.get_xydata().tolist() == [[-1.0, -1.0], [0.0, 3.0], [2.0, 9.0]]


@pytest.mark.parametrize("audit", [None, 3, {}, {"calibration": {"scores": "x"}}, {"calibration": [], "curve": 5}])
def test_a_damaged_or_missing_audit_draws_nothing(audit):
    assert audit_plot(manifest(audit)) is None
    assert all("– labels" in sentence for sentence in audit_sentences(manifest(audit)))


def test_a_ladder_without_an_audit_says_nothing(tmp_path):
    folder = fill(tmp_path, complete=False)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    write_report(folder)
    assert "audit" not in (folder / "report.md").read_text(encoding="utf-8").lower()
    assert not (folder / "plots" / "audit.png").exists()
