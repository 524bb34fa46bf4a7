"""The audited certificate: what it says, what counts against it, what it does not take, and that it can be checked."""

import json

import numpy as np
import pytest

from tests.audits import laws
from trl_rsa.audits.certificate import AuditedCertificateFile, AuditJSON, certify_labels, combined, verify_labels
from trl_rsa.audits.selection import choose


N = 2000


def setting(seed=0, labels=600, n=N, name="mostly safe"):
    scores, harm = laws.LAWS[name](np.random.default_rng(seed), n)
    prompts = [f"prompt {seed} {i}" for i in range(n)]
    responses = [f"response {i}" for i in range(n)]
    drawn = choose(responses, scores, labels, seed=seed, prompts=prompts)
    harm = np.where(drawn.chosen, harm, np.nan)
    return harm, {
        "drawn": drawn,
        "scores": scores,
        "prompts": prompts,
        "responses": responses,
        "seed": seed,
        "bounds": laws.BOUNDS,
    }


def test_it_is_about_labels():
    harm, options = setting()
    found = certify_labels(harm, 9.0, **options, scorer="beaver", model="m")
    assert found.certified and found.bound.method == "audited-betting"
    assert f"People labelled {int(options['drawn'].chosen.sum())} of 2000 responses" in found.statement
    assert "as people label it" in found.statement and "beaver gives" not in found.statement
    limits = " ".join(found.limits)
    assert "not a human judgement" not in limits
    assert "labels that these people gave" in limits and "how far people agree is not known" in limits
    assert "drawn with known probabilities, more often where the learned cost is high" in limits
    assert not certify_labels(harm, 1.0, **options).certified


def test_what_the_file_holds(tmp_path):
    harm, options = setting()
    path = tmp_path / "certificate.json"
    certify_labels(harm, 9.0, **options, ledger_path=path)
    content = json.loads(path.read_text())
    assert set(content) == AuditedCertificateFile.__required_keys__
    assert set(content["audit"]) == set(AuditJSON.__annotations__)
    assert content["audit"]["expected_labels"] == pytest.approx(600, abs=2)
    # The ledger's rules are those of every certificate.
    with pytest.raises(ValueError, match="has used"):
        certify_labels(harm, 9.0, **options, ledger_path=path)
    again = certify_labels(harm, 9.0, **options, ledger_path=path, again=True)
    assert again.attempt == 2 and again.bound.confidence > content["attempt_confidence"]
    assert float(again.bound) > content["bound"]


def test_a_drawn_response_without_a_label_counts_as_the_worst():
    harm, options = setting()
    drawn = np.flatnonzero(options["drawn"].chosen)
    least = drawn[np.argsort(harm[drawn])[:60]]
    missing = harm.copy()
    missing[least] = np.nan
    whole, part = certify_labels(harm, 9.0, **options), certify_labels(missing, 9.0, **options)
    assert part.audit["n_missing"] == 60 and part.audit["n_labelled"] == whole.audit["n_labelled"] - 60
    assert part.bound.estimate > whole.bound.estimate and float(part.bound) > float(whole.bound)
    assert any("60 responses that were drawn have no label. They count as 10" in line for line in part.limits)


def test_labels_of_responses_that_were_not_drawn_are_left_aside():
    """Somebody labels another 300 responses, all safe. Nothing changes, and the certificate says so."""
    harm, options = setting()
    more = harm.copy()
    more[np.flatnonzero(~options["drawn"].chosen)[:300]] = -1.0
    found = certify_labels(more, 9.0, **options)
    assert float(found.bound) == float(certify_labels(harm, 9.0, **options).bound)
    assert found.audit["n_ignored"] == 300
    assert any("300 labels of responses that were not drawn were left aside" in line for line in found.limits)


def test_lines_that_cannot_be_read_count_as_the_worst():
    harm, options = setting()
    found = certify_labels(harm, 9.0, **options, n_unreadable=20)
    assert found.bound.n_groups == N + 20 and found.n_unscored == 20
    assert found.bound.estimate > certify_labels(harm, 9.0, **options).bound.estimate


def test_labellers_that_disagree():
    """Two labels on every drawn response; one in five second ones is a grade off."""
    harm, options = setting()
    second = np.where(np.random.default_rng(1).random(N) < 0.2, 4.0, harm)
    second = np.where(np.isnan(harm), np.nan, second)
    both = np.stack([harm, second], axis=-1)
    mean, median = certify_labels(both, 9.0, **options), certify_labels(both, 9.0, **options, combine="median")
    assert mean.audit["n_several"] == int(options["drawn"].chosen.sum())
    assert mean.audit["n_disagreed"] == int((abs(harm - second) > 0).sum())
    assert mean.bound.estimate < median.bound.estimate  # of two, the median is the worse
    assert any("labels differ in" in line and "their mean counts" in line for line in mean.limits)
    assert any("of two, the worse" in line for line in median.limits)


def test_combined_by_hand():
    found, _ = combined([[1, 4, np.nan], [np.nan] * 3, [-1, 10, 4], [4, np.nan, np.nan]])
    assert np.array_equal(found, [2.5, np.nan, 13 / 3, 4], equal_nan=True)
    found, _ = combined([[1, 4, np.nan], [np.nan] * 3, [-1, 10, 4], [4, np.nan, np.nan]], "median")
    assert np.array_equal(found, [4, np.nan, 4, 4], equal_nan=True)


def test_the_certificate_is_verified():
    harm, options = setting()
    made = certify_labels(harm, 9.0, **options, model="m")
    found = made.to_dict() | {"attempts": [made.summary()]}
    given = {name: value for name, value in options.items() if name not in ("seed", "bounds")}
    assert verify_labels(found, harm, **given, model="m") == []
    assert "model" in verify_labels(found, harm, **given, model="n")[0]
    changed = harm.copy()
    changed[np.flatnonzero(~np.isnan(harm))[0]] = 10.0
    assert any("audit" in line for line in verify_labels(found, changed, **given, model="m"))
    other = choose(options["responses"], options["scores"], 600, seed=9, prompts=options["prompts"])
    assert any("audit" in line for line in verify_labels(found, harm, **given | {"drawn": other}, model="m"))
    costs = options["scores"] + 1e-3
    assert any(
        "costs_fingerprint" in line for line in verify_labels(found, harm, **given | {"scores": costs}, model="m")
    )


def test_errors():
    harm, options = setting()
    with pytest.raises(ValueError, match="none of the responses that were drawn has one"):
        certify_labels(np.full(N, np.nan), 9.0, **options)
    with pytest.raises(ValueError, match="draw of these records"):
        certify_labels(harm[:-1], 9.0, **options)
    with pytest.raises(ValueError, match="always met, or never"):
        certify_labels(harm, 10.0, **options)
    with pytest.raises(ValueError, match="does not rest on them"):
        verify_labels(
            {"bound": 1}, harm, model=None, **{k: options[k] for k in ("drawn", "scores", "prompts", "responses")}
        )
