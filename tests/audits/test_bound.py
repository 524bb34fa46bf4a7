"""The bound on labelled harm: the plain one where all is labelled, coverage in simulation, and what it rests on."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.audits import laws
from trl_rsa.audits.bound import _sample, _terms, audited_cvar_bound
from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.selection import choose
from trl_rsa.audits.shuffle import prompt_places
from trl_rsa.evaluation.bounds import betting_cvar_upper_bound
from trl_rsa.evaluation.tails import cvar


# At 95 % a right bound misses at most 21 of 200 with probability 99.9 %. benchmarks/audits.py has 1,000 per law.
DATA_SETS = 200
ALLOWED = int(stats.binom.ppf(0.999, DATA_SETS, 0.05))
TAIL, N, LABELS = 0.2, 400, 120


def audit(scores, harm, seed, labels=LABELS, uniform=0.7, **options):
    keys = [f"{seed} {i}" for i in range(scores.size)]
    drawn = choose(keys, scores, labels, uniform, seed)
    settings = {"tail": TAIL, "bounds": laws.BOUNDS, "keys": keys, "seed": seed, "least": drawn.least} | options
    seen = np.where(drawn.chosen.reshape(-1, *[1] * (np.ndim(harm) - 1)), harm, np.nan)
    return audited_cvar_bound(scores, seen, drawn.probabilities, **settings)


def truth_of(law):
    return cvar(law(np.random.default_rng(99), 1_000_000)[1], TAIL)


def misses(law, bound, truth):
    return sum(bound(*law(np.random.default_rng([5, i]), N), i) < truth - 1e-9 for i in range(DATA_SETS))


@pytest.mark.parametrize("name", laws.LAWS)
def test_coverage(name):
    law = laws.LAWS[name]
    assert misses(law, lambda s, h, i: float(audit(s, h, i)), truth_of(law)) <= ALLOWED


def test_the_coverage_test_can_fail():
    """Believing the calibrated score where there is no label misses, and so does leaving out the probabilities."""
    law = laws.LAWS["blind spot"]
    assert misses(law, lambda s, h, i: audit(s, h, i).estimate, truth_of(law)) > 2 * ALLOWED

    def unweighted(scores, harm, i):
        keys = [f"{i} {j}" for j in range(N)]
        # Half of the labels, those of the mildest scores; then as if they had been drawn alike.
        seen = np.where(scores < np.median(scores), harm, np.nan)
        return float(
            audited_cvar_bound(scores, seen, np.full(N, 0.5), tail=TAIL, bounds=laws.BOUNDS, keys=keys, seed=i)
        )

    law = laws.LAWS["graded"]
    assert misses(law, unweighted, truth_of(law)) > 2 * ALLOWED


@pytest.mark.parametrize("said", [-1.0, 10.0])
def test_coverage_where_the_prediction_is_wrong(said):
    """A pilot of great weight says that all responses are safe, or that all are severe. Only the labels, each counted
    one by its probability, know better."""
    law = laws.LAWS["upside down"]
    pilot = Calibration.fit([0.0, 1.0], [said, said], [1e9, 1e9])
    assert misses(law, lambda s, h, i: float(audit(s, h, i, pilot=pilot)), truth_of(law)) <= ALLOWED


def test_what_is_bet_depends_on_earlier_prompts_only():
    """Other labels of the prompts from place 200 on change nothing of what is bet on those before."""
    scores, harm = laws.continuous(np.random.default_rng(18), N)
    keys = [f"k{i}" for i in range(N)]
    drawn = choose(keys, scores, 200, 0.5, 3)
    seen = np.where(drawn.chosen, harm, np.nan)
    changed = np.where((prompt_places(keys, 3) >= 200) & drawn.chosen, 10.0, seen)
    terms, other = (
        _terms(_sample(scores, labels, drawn.probabilities, keys, 3, laws.BOUNDS)[0], TAIL, 10.0, None)
        for labels in (seen, changed)
    )
    before = 200 - (N - len(terms))  # the first prompts only show where the tail begins
    assert before > 100 and np.array_equal(terms[:before], other[:before])
    assert not np.array_equal(terms[before:], other[before:])


def test_coverage_of_noisy_labels():
    """One in ten labels is another grade; a part has two labels. The bound is for the label, and by convexity for the
    mean of a response's labels over all people too."""
    law = laws.LAWS["graded"]

    def label(rng, harm):
        wrong = rng.random(harm.size) < 0.1
        return np.where(wrong, rng.choice(laws.COSTS, harm.size), harm)

    mean_label = 0.9 * law(np.random.default_rng(99), 1_000_000)[1] + 0.1 * laws.COSTS.mean()

    def bound(scores, harm, i):
        rng = np.random.default_rng([6, i])
        first, second = label(rng, harm), np.where(rng.random(harm.size) < 0.2, label(rng, harm), np.nan)
        return float(audit(scores, np.stack([first, second], axis=-1), i))

    assert misses(law, bound, cvar(mean_label, TAIL)) <= ALLOWED


def test_coverage_with_several_responses_per_prompt():
    """Responses of a prompt are alike. The labels of a prompt enter as a mean."""

    def draw(rng):
        of_prompt = np.repeat(rng.normal(size=100), 4)
        latent = 0.9 * of_prompt + np.sqrt(1 - 0.81) * rng.normal(size=400)
        harm = laws.COSTS[np.searchsorted(stats.norm.ppf([0.8, 0.9, 0.96]), latent)]
        return latent + 0.5 * rng.normal(size=400), harm

    truth, missed = truth_of(laws.LAWS["graded"]), 0
    for i in range(DATA_SETS):
        scores, harm = draw(np.random.default_rng([7, i]))
        prompts, keys = [f"{i} {j // 4}" for j in range(400)], [f"{i} {j}" for j in range(400)]
        drawn = choose(keys, scores, 200, 0.7, i, prompts)
        seen = np.where(drawn.chosen, harm, np.nan)
        found = audited_cvar_bound(
            scores, seen, drawn.probabilities, tail=TAIL, bounds=laws.BOUNDS, keys=prompts, seed=i, least=drawn.least
        )
        assert (found.n, found.n_groups) == (400, 100)
        missed += float(found) < truth
    assert missed <= ALLOWED


@pytest.mark.parametrize("responses", [1, 3])
def test_it_is_the_plain_bound_where_all_is_labelled(responses):
    rng = np.random.default_rng(1)
    scores, harm = laws.LAWS["heavy tail"](rng, 900)
    prompts = [f"p{i // responses}" for i in range(900)]
    found = audited_cvar_bound(scores, harm, np.ones(900), tail=0.05, bounds=laws.BOUNDS, keys=prompts, seed=3)
    order = np.lexsort((harm, prompt_places(prompts, 3)))
    sizes = np.full(900 // responses, responses)
    plain, eta = betting_cvar_upper_bound(harm[order], sizes, 0.05, 0.05, *laws.BOUNDS)
    assert (found.upper_bound, found.eta) == (pytest.approx(plain, abs=1e-12), pytest.approx(eta))
    assert found.estimate == pytest.approx(cvar(harm, 0.05)) and found.method == "betting"
    # The scores do not matter then.
    assert audited_cvar_bound(
        None, harm, np.ones(900), tail=0.05, bounds=laws.BOUNDS, keys=prompts, seed=3
    ).upper_bound == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("responses", [1, 3])
def test_a_uniform_audit_without_predictions_is_the_plain_bound_on_the_labels(responses):
    scores, harm = laws.continuous(np.random.default_rng(8), 3000)
    keys, prompts = [f"r{i}" for i in range(3000)], [f"p{i // responses}" for i in range(3000)]
    drawn = choose(keys, scores, 1000, 1.0, 3, prompts)
    seen = np.where(drawn.chosen, harm, np.nan)
    options = {"tail": 0.05, "bounds": laws.BOUNDS, "keys": prompts, "seed": 3}
    found = audited_cvar_bound(None, seen, drawn.probabilities, **options)
    places = prompt_places(prompts, 3)[drawn.chosen]
    known = harm[drawn.chosen]
    _, sizes = np.unique(places, return_counts=True)
    plain, _ = betting_cvar_upper_bound(known[np.lexsort((known, places))], sizes, 0.05, 0.05, *laws.BOUNDS)
    assert found.upper_bound == pytest.approx(plain, abs=1e-12)
    assert (found.n, found.n_labelled, found.method) == (3000, known.size, "betting")
    assert found.least_probability == pytest.approx(1 / 3)


def test_prompts_with_few_responses_are_not_left_out():
    """Half of the prompts have one response, harm 10 with a probability of 0.2; half have eight safe ones. Of 40 data
    sets none was covered when prompts without a label were left out. CVaR is η + E(h − η)₊/0.2 at η = −1: 4.5."""
    keys = [f"p{i}" for i in range(1000)] + [f"q{i // 8}" for i in range(8000)]
    missed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        harm = np.where((np.arange(9000) < 1000) & (rng.random(9000) < 0.2), 10.0, -1.0)
        seen = np.where(rng.random(9000) < 0.1, harm, np.nan)
        found = audited_cvar_bound(None, seen, np.full(9000, 0.1), tail=0.2, bounds=(-1, 10), keys=keys, seed=seed)
        missed += found.upper_bound < 4.5
    assert missed <= 4


def test_predictions_and_a_draw_by_score_are_worth_labels():
    """As above: with the scores the gap is smaller by a tenth at least, on average over twelve data sets."""
    uniform, audited, truth = [], [], cvar(laws.continuous(np.random.default_rng(99), 1_000_000)[1], 0.05)
    for i in range(12):
        scores, harm = laws.continuous(np.random.default_rng([9, i]), 3000)
        known = harm[choose([f"{i} {j}" for j in range(3000)], scores, 600, 1.0, i).chosen]
        uniform.append(betting_cvar_upper_bound(known, np.ones(known.size, int), 0.05, 0.05, *laws.BOUNDS)[0])
        audited.append(float(audit(scores, harm, i, 600, 0.85, tail=0.05)))
    assert np.mean(audited) - truth < 0.9 * (np.mean(uniform) - truth)


def test_the_price_of_a_blind_spot():
    """All labels are the least there is. Nothing can bring the bound below about 3(b − η)/(m · tail)."""
    rng = np.random.default_rng(2)
    for labels in (200, 800):
        found = audit(rng.normal(size=2000), np.full(2000, -1.0), 0, labels, 1.0, tail=0.05)
        floor = -1 + np.log(20) * 11 / (labels * 0.05)
        assert floor <= found.upper_bound <= -1 + 1.6 * (floor + 1)
        assert found.estimate == -1


def test_never_below_the_estimate():
    for i in range(60):
        scores, harm = laws.LAWS["mostly safe"](np.random.default_rng([10, i]), 60)
        found = audit(scores, harm, i, 30, 0.5, tail=0.9, confidence=0.05)
        assert found.upper_bound >= found.estimate
        assert laws.BOUNDS[0] <= found.estimate <= found.upper_bound <= laws.BOUNDS[1]


def test_the_order_of_the_records_does_not_matter():
    rng = np.random.default_rng(11)
    scores, harm = laws.continuous(rng, 600)
    keys, order = [f"p{i // 2}" for i in range(600)], rng.permutation(600)
    probabilities = rng.choice([0.3, 0.6, 1.0], 600)
    seen = np.where(rng.random(600) < probabilities, harm, np.nan)
    options = {"tail": 0.2, "bounds": laws.BOUNDS, "seed": 5}
    found = audited_cvar_bound(scores, seen, probabilities, keys=keys, **options)
    again = audited_cvar_bound(
        scores[order], seen[order], probabilities[order], keys=[keys[i] for i in order], **options
    )
    assert again == found


@pytest.mark.slow
def test_a_pilot_saves_the_first_labels():
    """Calibration and η from 200 labels of other prompts: less gap than without, and coverage."""
    law, with_pilot, without, missed = laws.LAWS["graded"], [], [], 0
    truth = truth_of(law)
    pilot = Calibration.fit(*law(np.random.default_rng(12), 200))
    for i in range(DATA_SETS):
        scores, harm = law(np.random.default_rng([13, i]), N)
        with_pilot.append(float(audit(scores, harm, i, 60, pilot=pilot)))
        without.append(float(audit(scores, harm, i, 60)))
        missed += with_pilot[-1] < truth
    assert missed <= ALLOWED
    assert np.mean(with_pilot) < np.mean(without)


def test_the_estimate_is_nearer_with_predictions():
    """Over 60 data sets: the root mean square error of the estimate, with scores and without."""
    law, errors = laws.LAWS["heavy tail"], {True: [], False: []}
    truth = truth_of(law)
    for i in range(60):
        scores, harm = law(np.random.default_rng([14, i]), N)
        keys = [f"{i} {j}" for j in range(N)]
        drawn = choose(keys, scores, LABELS, 0.85, i)
        seen = np.where(drawn.chosen, harm, np.nan)
        for scored in errors:
            found = audited_cvar_bound(
                scores if scored else None, seen, drawn.probabilities, tail=TAIL, bounds=laws.BOUNDS, keys=keys
            )
            errors[scored].append(found.estimate - truth)
    assert np.std(errors[True]) < np.std(errors[False])
    assert abs(np.mean(errors[True])) < 3 * np.std(errors[True]) / np.sqrt(60) + 0.1


def test_no_label_at_all_is_the_worst():
    found = audited_cvar_bound([1.0, 2.0], [np.nan, np.nan], [0.5, 0.5], tail=0.5, bounds=(-1, 10), keys=["a", "b"])
    assert found.estimate == found.upper_bound == 10 and found.n_labelled == 0


def test_parts():
    scores, harm = laws.continuous(np.random.default_rng(15), 500)
    found = audit(scores, harm * 1.5, 1, 200)
    content = json.loads(json.dumps(found.to_dict()))
    assert (content["n"], content["n_groups"], content["method"]) == (500, 500, "audited-betting")
    assert content["n_clipped_above"] > 0 and content["least_probability"] == pytest.approx(0.28)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": [1.0]}, "one of each"),
        ({"predictions": [1.0]}, "one of each"),
        ({"keys": ["a"]}, "one of each"),
        ({"probabilities": [0.0, 1.0]}, r"not in \(0, 1\]"),
        ({"probabilities": [0.5, 1.0]}, "labelled for certain"),
        ({"labels": [np.inf, np.nan]}, "finite label"),
        ({"keys": ["a", "a"]}, "single prompt"),
        ({"least": 0.7}, "least=0.7"),
        ({"tail": 5}, "probability mass"),
        ({"bounds": (1, 0)}, "finite a < b"),
        ({"confidence": 95}, "between 0 and 1"),
    ],
)
def test_errors(change, sentence):
    arguments = {
        "predictions": [1.0, 2.0],
        "labels": [1.0, np.nan],
        "probabilities": [0.5, 0.5],
        "tail": 0.5,
        "bounds": (-1, 10),
        "keys": ["a", "b"],
    }
    given = arguments | change
    with pytest.raises(ValueError, match=sentence):
        audited_cvar_bound(given.pop("predictions"), given.pop("labels"), given.pop("probabilities"), **given)


def test_a_pilot_beyond_the_bounds_is_clipped():
    """A pilot that promises 1,000 where 10 is the most: as one that promises 10."""
    scores, harm = laws.LAWS["graded"](np.random.default_rng(16), N)
    wild, tame = (Calibration.fit([0.0, 1.0], [-1.0, top]) for top in (1000.0, 10.0))
    assert audit(scores, harm, 0, pilot=wild) == audit(scores, harm, 0, pilot=tame)
