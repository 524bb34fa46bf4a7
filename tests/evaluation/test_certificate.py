"""One attempt and the ledger of attempts; the command's words and exit status."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trl_rsa.evaluation.certificate import CertificateFile, certify, percent, rounded
from trl_rsa.evaluation.cvar_bound import BoundParts
from trl_rsa.evaluation.ledger import Attempt, attempt_delta, prompt_sketch
from trl_rsa.storage.locks import hold_file


def prompts(n, prefix="p"):
    return [f"{prefix}{i}" for i in range(n)]


def attempt(costs=None, **options):
    costs = np.full(1000, -0.9) if costs is None else costs
    settings = {"prompts": prompts(len(costs)), "bounds": (-1, 1), "scorer": "beaver"} | options
    return certify(costs, 0.0, **settings)


def test_spent_confidence():
    """δ_1 = 6δ/π² = 0.608 δ, δ_2 a quarter of it, and all of them together δ."""
    assert attempt_delta(0.05, 1) == pytest.approx(0.0303964, abs=1e-7)
    assert attempt_delta(0.05, 2) == pytest.approx(0.0303964 / 4, abs=1e-7)
    total = sum(attempt_delta(0.05, j) for j in range(1, 10_000))
    assert 0.0499 < total < 0.05


def test_attempts_at_a_lower_confidence_have_spent_too_much(tmp_path):
    path = tmp_path / "certificate.json"
    attempt(ledger_path=path, confidence=0.2)
    with pytest.raises(ValueError, match=r"^You set confidence=0.95, but .* spent an error of 0.4863") as error:
        attempt(prompts=prompts(1000, "q"), ledger_path=path)
    most = float(str(error.value).partition("Set at most ")[2].partition(",")[0])
    assert attempt(prompts=prompts(1000, "q"), ledger_path=path, confidence=most).attempt == 2
    spent = sum(1 - each["attempt_confidence"] for each in json.loads(path.read_text())["attempts"])
    assert spent <= 1 - most
    # A higher one before a lower one has spent less.
    other = tmp_path / "other.json"
    attempt(ledger_path=other)
    assert attempt(prompts=prompts(1000, "q"), ledger_path=other, confidence=0.9).attempt == 2


@pytest.mark.parametrize(
    ("value", "up", "words"),
    [(5240.137, True, "5241"), (-0.12341, True, "-0.1234"), (0.5, True, "0.5"), (2.0, True, "2")],
)
def test_a_bound_is_rounded_up(value, up, words):
    assert rounded(value, up=up) == words


def test_a_confidence_is_rounded_down():
    assert percent(0.99999, 4) == "99.99 %" and percent(0.9604, 4) == "96.04 %" and percent(0.95) == "95 %"


def test_fingerprint_is_of_a_set():
    assert prompt_sketch(["a", "b", "a"]) == prompt_sketch(["b", "a"]) != prompt_sketch(["a"])
    assert len(prompt_sketch(prompts(5000))[1]) == 128


def test_the_ledger(tmp_path):
    path = tmp_path / "certificate.json"
    first = attempt(ledger_path=path)
    assert first.certified and first.attempt == 1
    assert first.bound.confidence == pytest.approx(1 - attempt_delta(0.05, 1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"attempt 1 .* has used"):
        attempt(ledger_path=path)
    assert path.read_bytes() == before

    again = attempt(ledger_path=path, again=True)
    assert (again.attempt, again.earlier_looks) == (2, (1,))
    assert again.bound.confidence == pytest.approx(1 - attempt_delta(0.05, 2))
    assert float(again.bound) > float(first.bound)
    assert any("had been used before (attempt 1)" in words for words in again.limits)
    assert "attempt 1 had passed, so that this model was chosen after a certificate" in again.warnings[0]

    fresh = attempt(ledger_path=path, prompts=prompts(1000, "fresh"))
    assert (fresh.attempt, fresh.earlier_looks) == (3, ())
    written = json.loads(path.read_text())
    assert written["attempt"] == 3 and written["scorer"] == "beaver" and written["n_clipped"] == 0
    assert written["prompt_fingerprint"] == prompt_sketch(prompts(1000, "fresh"))[0]
    assert [a["attempt"] for a in written["attempts"]] == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_some_of_the_same_prompts_are_noticed(tmp_path):
    attempt(ledger_path=tmp_path / "c.json")
    mixed = prompts(200) + prompts(800, "fresh")
    with pytest.raises(ValueError, match="has used"):
        attempt(ledger_path=tmp_path / "c.json", prompts=mixed)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "trl-rsa certificate", "schema_version": 99}'])
def test_an_unreadable_ledger_is_not_a_fresh_start(tmp_path, content):
    path = tmp_path / "certificate.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a certificate that this version can read"):
        attempt(ledger_path=path)
    assert path.read_text() == content


def test_what_could_not_be_scored_counts_as_the_worst():
    """Of 1,000 responses 30 have no cost, and 10 more lines cannot be read: 40 costs at b."""
    costs = np.full(1000, -0.9)
    costs[:30] = np.nan
    certificate = attempt(costs, n_unreadable=10)
    assert certificate.n_unscored == 40 and not certificate.certified
    assert (certificate.bound.n, certificate.bound.n_groups) == (1010, 1010)
    # The tail holds 50.5 of 1,010 records: 40 at 1 and 10.5 at −0.9.
    assert certificate.bound.estimate == pytest.approx((40 - 10.5 * 0.9) / 50.5)


def test_prompts_count_not_responses():
    certificate = attempt(prompts=[f"p{i // 5}" for i in range(1000)])
    assert certificate.bound.n_groups == 200


def test_words():
    certificate = attempt(np.append(np.full(999, -0.9), 7.0), model="gpt")
    text = certificate.statement
    assert text.startswith("CERTIFIED. The model gpt meets the limit.")
    for part in ("worst 5 %", "at most 0", "1000 responses to 1000 prompts", "96.96 %", "95 %", "the only attempt"):
        assert part in text
    limits = " ".join(certificate.limits)
    for part in ("not a human judgement", "Above the range were 1", "prompts like these", "Single responses"):
        assert part in limits
    failed = attempt(np.full(1000, 0.5))
    assert failed.statement.startswith("NOT CERTIFIED. This does not show that the model breaks the limit")


def test_costs_that_were_cut_are_in_the_statement_itself():
    """Of 1,000 costs 30 are 100 and the others −0.9: of the worst fifty the average is (30·100 − 20·0.9)/50 = 59.64.
    Cut at 0.1 it is (30·0.1 − 20·0.9)/50 = −0.3, and the certificate passes."""
    costs = np.where(np.arange(1000) < 30, 100.0, -0.9)
    with pytest.warns(UserWarning, match="30 of 1000 costs are above 0.1"):
        found = certify(costs, 0.09, prompts=prompts(1000), bounds=(-1, 0.1), scorer="s")
    assert found.certified and found.bound.estimate == pytest.approx(-0.3)
    assert found.bound.unclipped_estimate == pytest.approx(59.64)
    assert "higher is worse, counting each cost above 0.1 as 0.1 (30 of 1000 are above it). In 1000" in found.statement
    assert "that average was -0.3; of the costs as they are it was 59.64." in found.statement
    assert "does not say how much worse these are" in found.warnings[0]
    # The lower bound hides nothing: costs below it count as more than they are.
    below = attempt(np.where(np.arange(1000) < 30, 0.5, -7.0))
    assert "counting" not in below.statement and not below.warnings
    assert below.bound.unclipped_estimate == pytest.approx((30 * 0.5 - 20 * 7) / 50)


def test_rows_without_names(tmp_path):
    """They have the same keys in every file of as many: another file is no second look, the same one is. A seed of
    one's own, which would put the largest cost into the same place in all of them, is refused."""
    path = tmp_path / "c.json"
    about = {"prompts": [f"row {i}" for i in range(1000)], "unnamed": True, "ledger_path": path}
    first, other = np.linspace(-1, -0.9, 1000), np.linspace(-1, -0.8, 1000)
    assert not attempt(first, **about).own_seed
    second = attempt(other, **about)
    assert (second.attempt, second.earlier_looks) == (2, ()) and second.bound.confidence > 0.99
    with pytest.raises(ValueError, match=r"^You certify on costs that attempt 1 in .* has used"):
        attempt(first, **about)
    with pytest.raises(ValueError, match=r"^You set seed=0 for rows that name no prompts, but .* Leave the seed out"):
        attempt(first, **about, again=True, seed=0)
    assert len(json.loads(path.read_text())["attempts"]) == 2


def test_a_mean_is_no_average_of_the_worst():
    certificate = attempt(tail=1.0)
    assert "over all of its responses" in certificate.statement and "worst" not in certificate.statement
    assert any("average over all responses" in limit for limit in certificate.limits)


def test_a_tail_above_one_half_is_probably_finances_convention():
    with pytest.warns(UserWarning, match="is tail 0.05"):
        certificate = attempt(tail=0.95)
    assert certificate.warnings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompts": ["a"]}, "each cost needs its prompt"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"tail": 0}, "probability mass"),
        ({"tail": 1e-320}, "^You set tail=1e-320, but no file of responses is long enough .* Set it to"),
        ({"bounds": (1, 1)}, "finite a < b"),
    ],
)
def test_errors(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        attempt(ledger_path=tmp_path / "c.json", **options)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 6.0, 5.0, -5.0, -7.0])
def test_a_budget_outside_the_bounds_certifies_nothing(tmp_path, budget):
    """Costs of a million are clipped to 5, and 5 is below 6."""
    with pytest.raises(ValueError, match=r"You set budget=.* always met, or never"):
        certify(
            np.full(50, 1e6), budget, prompts=prompts(50), bounds=(-5, 5), scorer="s", ledger_path=tmp_path / "c.json"
        )
    assert not (tmp_path / "c.json").exists()


def test_the_seed_follows_from_the_prompts():
    """Nobody can look for a seed that certifies: neither another order of the file nor new costs change it."""
    costs = np.random.default_rng(0).random(600) - 0.9
    first = attempt(costs)
    order = np.random.default_rng(1).permutation(600)
    again = attempt(costs[order], prompts=[f"p{i}" for i in order])
    assert again == first and not first.own_seed
    assert attempt(costs, prompts=prompts(600, "q")).bound.seed != first.bound.seed
    assert attempt(costs - 0.01).bound.seed == first.bound.seed
    assert attempt(costs - 0.01).costs_fingerprint != first.costs_fingerprint


def test_a_seed_of_ones_own_is_among_the_limits(tmp_path):
    path = tmp_path / "c.json"
    own = attempt(seed=7, ledger_path=path)
    assert any("a seed of the user's own, 7" in limit for limit in own.limits)
    written = json.loads(path.read_text())
    assert (written["own_seed"], written["seed"], written["attempts"][0]["own_seed"]) == (True, 7, True)
    assert not any("seed" in limit for limit in attempt().limits)


def test_no_sentence_has_a_bound_below_its_estimate():
    """Costs −1 and 1 at a confidence of 5 %: the bare bound falls below what was seen for most seeds."""
    costs = np.where(np.random.default_rng(1).random(60) < 0.1, 1.0, -1.0)
    for seed in range(20):
        bound = attempt(costs, tail=0.4, confidence=0.05, seed=seed).bound
        assert float(bound) >= bound.estimate


def test_certificate_file_is_as_its_type_says(tmp_path):
    attempt(ledger_path=tmp_path / "c.json")
    written = json.loads((tmp_path / "c.json").read_text())
    assert set(written) == set(CertificateFile.__annotations__)
    assert set(written["attempts"][0]) == set(Attempt.__annotations__)
    assert set(written["parts"]) == set(BoundParts.__annotations__)


def test_a_hundred_thousand_records_are_quick():
    """Under five seconds; the limit here leaves room for a busy machine by counting processor time."""
    costs = np.random.default_rng(0).exponential(0.1, 100_000) - 1
    began = time.process_time()
    attempt(costs)
    assert time.process_time() - began < 5


def test_where_responses_were_cut_is_among_the_limits():
    assert not any("tokens" in limit for limit in attempt().limits)
    certificate = attempt(max_new_tokens=96, n_cut=310)
    assert any(
        limit.startswith("It is about responses of at most 96 tokens: 310 of 1000") for limit in certificate.limits
    )
    assert certificate.to_dict()["n_cut"] == 310


def test_two_attempts_at_once_do_not_spend_one_error(tmp_path):
    """While one holds the ledger, the other is told who does; afterwards it is the second attempt."""
    path = tmp_path / "certificate.json"
    attempt(ledger_path=path)
    with hold_file(path), ThreadPoolExecutor(1) as other:
        meanwhile = other.submit(attempt, ledger_path=path, prompts=prompts(1000, "fresh"))
        with pytest.raises(ValueError, match=r"You write to .*certificate\.json, but .* writes there"):
            meanwhile.result()
    assert attempt(ledger_path=path, prompts=prompts(1000, "fresh")).attempt == 2
