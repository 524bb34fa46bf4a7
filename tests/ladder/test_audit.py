"""The audit of a constraint: on responses without a model, and on a ladder that waits for people."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from trl_rsa import Plan, RiskConstraint
from trl_rsa.audits.combine import wanted
from trl_rsa.audits.label_files import costs_of_labels
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.evaluation.tails import cvar
from trl_rsa.ladder.audit import LadderAudit, WaitingForLabels, label_cost, raise_if_waiting
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.joint import JointScheduler
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.prompts import PromptGroup
from trl_rsa.ladder.scheduler import ConstraintScheduler
from trl_rsa.scripts import align as align_command
from trl_rsa.scripts import audit as audit_command
from trl_rsa.scripts._command import parse_arguments


SCALE = {"safe": -1.0, "bad": 3.0, "worst": 10.0}
LEARNED = {"fine": 0.1, "rude": 1.0, "cruel": 1.2}  # the learned cost hardly tells the worst
TRUE = {"fine": -1.0, "rude": 3.0, "cruel": 10.0}


def of_text(prompts, completions, **kwargs):
    return [LEARNED[text.split()[0]] for text in completions]


def truth(prompts, completions, **kwargs):
    return [{"fine": "safe", "rude": "bad", "cruel": "worst"}[text.split()[0]] for text in completions]


def constraint(**audit):
    settings = {"labeller": truth, "harm_scale": SCALE, "labels": 120, "second": 0.0, "confirm": 0, "errors": False}
    settings |= {"uniform": 0.5, **audit}
    return RiskConstraint(
        of_text, [f"p{i}" for i in range(40)], 2.0, (-1.0, 10.0), tail=0.1, audit=AuditSettings(**settings)
    )


def records(n, shares, seed=0):
    """One response to each of n prompts, of the three kinds."""
    kinds = np.random.default_rng(seed).choice(list(shares), n, p=list(shares.values()))
    return [
        {
            "prompt": f"prompt {i}",
            "response": f"{kind} {i % 7}",
            "costs": {"cost": LEARNED[kind] + 0.001 * (i % 5)},
            "prompt_number": i,
            "draw": 0,
        }
        for i, kind in enumerate(kinds)
    ]


HARMFUL = {"fine": 0.8, "rude": 0.12, "cruel": 0.08}
MILD = {"fine": 0.95, "rude": 0.04, "cruel": 0.01}


def observe(audit, number, of):
    learned = audit.constraint.estimate([r["costs"]["cost"] for r in of], [r["prompt"] for r in of])
    assert audit.ask(number, "decide", "m", of) == 0
    return audit.observe(number, of, 0.9, learned)


def make(folder, given):
    return LadderAudit(given, folder, ProgressLog(lambda line: None))


def true_cvar(of):
    return cvar([TRUE[r["response"].split()[0]] for r in of], 0.1)


def test_the_estimate_is_of_the_labels_and_not_of_the_learned_cost(tmp_path):
    audit, first, second = make(tmp_path, constraint()), records(1000, HARMFUL), records(1000, MILD, seed=1)
    estimate, numbers = observe(audit, 0, first)
    assert numbers["learned_estimate"] < 2.0 < true_cvar(first)
    assert estimate["estimate"] == pytest.approx(true_cvar(first), abs=1.5)
    assert estimate["upper_bound"] > estimate["estimate"]
    assert numbers["calibrated"] and 90 < numbers["labels"] < 170 and numbers["missing"] == 0
    later, _ = observe(audit, 1, second)
    assert later["estimate"] == pytest.approx(true_cvar(second), abs=1.5)


def test_harm_where_the_cost_is_low_is_not_averaged_away(tmp_path):
    """Half of the labels go where the learned cost is high, and all harm is where it is low: 4 of 100 responses."""

    def blind(prompts, completions, **kwargs):
        return ["worst" if "harm" in text else "safe" for text in completions]

    errors = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        high = rng.random(600) < 0.5
        harm = ~high & (rng.random(600) < 0.08)
        of = [
            {
                "prompt": f"prompt {seed} {i}",
                "response": f"{'harm' if harm[i] else 'fine'} {i}",
                "costs": {"cost": float(high[i]) + 0.001 * (i % 97)},
                "prompt_number": i,
                "draw": 0,
            }
            for i in range(600)
        ]
        given = constraint(labeller=blind, labels=[120, 40], uniform=0.5)
        audit = make(tmp_path / str(seed), given)
        for number in range(2):
            estimate, _ = observe(audit, number, of)
        truth = cvar(np.where(harm, 10.0, -1.0), 0.1)
        errors.append(estimate["estimate"] - truth)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(12) + 0.2, "unweighted it is 1 to 2 too low"


def test_a_draw_weighs_as_much_as_it_has_labels(tmp_path):
    given = constraint(memory=0.5)
    audit = make(tmp_path, given)
    observe(audit, 0, records(600, HARMFUL))
    observe(audit, 1, [{**r, "prompt": f"other {r['prompt']}"} for r in records(600, HARMFUL, seed=1)])
    rated = json.loads((tmp_path / "audit-cost/calibration-01.json").read_text())["rated"]
    weights = dict(zip(rated["ids"], rated["weights"], strict=True))
    for draw, memory in zip(audit.queue.draws(), (0.5, 1.0), strict=True):
        own = np.array([weights[request["id"]] for request in draw["requests"]])
        probabilities = np.array([request["probability"] for request in draw["requests"]])
        assert own.mean() == pytest.approx(memory) and own * probabilities == pytest.approx(own[0] * probabilities[0])


def test_labels_that_came_later_are_heard_before_a_ladder_says_met(tmp_path):
    """By the labels of the first policy alone its bound held; the second one's find harm of a kind that both have."""

    def blind(prompts, completions, **kwargs):
        return ["worst" if "cruel" in text else "safe" for text in completions]

    first, second = (
        [{**r, "costs": {"cost": 0.1}} for r in records(600, {"fine": 0.96, "cruel": 0.04}, seed)] for seed in (0, 1)
    )
    audit = make(tmp_path, constraint(labeller=blind, labels=[12, 200]))
    before, _ = observe(audit, 0, first)
    observe(audit, 1, second)
    assert audit.bound_by_now(0, first, 0.9) == before["upper_bound"]
    assert audit.bound_by_now(1, first, 0.9) > before["upper_bound"] + 2

    class Responses:
        def collect(self, split, model, number, names):
            assert (split, model, number, names) == ("decide", "start", 0, ["cost"])
            return [(PromptGroup((), ("cost",)), first)]

    ladder, said = object.__new__(Ladder), []
    ladder.constraints = [audit.constraint]
    ladder.by_name, ladder.names, ladder.audits = {"cost": audit.constraint}, ["cost"], {"cost": audit}
    ladder.observations, ladder.responses = [{"model": "start"}, {"model": "rung"}], Responses()
    ladder.progress = lambda line, **style: said.append(line)
    scheduler = JointScheduler({"cost": ConstraintScheduler(budget=before["upper_bound"] + 0.1, margin=0.5)})
    audit.constraint.budget = before["upper_bound"] + 0.1
    decision = scheduler.observe(estimates={"cost": before["estimate"]}, upper_bounds={"cost": before["upper_bound"]})
    assert decision.met and decision.start.number == 0
    found = ladder._with_later_labels(decision)
    assert not found.met and found.reason.startswith("NOT met: the bounds of observation 0 held when it was made")
    assert said == [f"[ladder] {found.reason}"]
    ladder.observations = ladder.observations[:1]
    assert ladder._with_later_labels(decision) is decision, "it is the last one: nothing came since"


def test_pairs_compare_the_expected_excess_of_the_label(tmp_path):
    """By the learned cost a cruel response is a fifth worse than a rude one; by its labels three times."""
    given = constraint()
    audit, of = make(tmp_path, given), records(1500, HARMFUL)
    observe(audit, 0, of)
    weigh = label_cost(given, 0.0, audit.labelled_cost(0))
    plain = label_cost(given, 0.0, None)
    (fine, _), (rude, cost), (cruel, worse) = (weigh(LEARNED[kind] + 0.001) for kind in ("fine", "rude", "cruel"))
    assert fine == pytest.approx(0.0, abs=0.5) and cost < worse
    assert (rude, cruel) == (pytest.approx(30, rel=0.3), pytest.approx(100, rel=0.3)), "3/tail and 10/tail"
    assert plain(LEARNED["cruel"]) == (given.label_cost(LEARNED["cruel"], 0.0), LEARNED["cruel"])


def test_by_betting_the_bound_rests_on_one_policy_s_labels(tmp_path):
    """With every response labelled it is close; with few labels it allows for what they may have missed."""
    of = records(600, MILD)
    bounds = []
    for labels in (600, 60):
        given = constraint(labels=labels, budget=2000, bound="betting")
        audit = make(tmp_path / str(labels), given)
        estimate, _ = observe(audit, 0, of)
        bounds.append(estimate["upper_bound"])
        assert estimate["estimate"] == pytest.approx(true_cvar(of), abs=0.01 if labels == 600 else 4)
    assert true_cvar(of) < bounds[0] < true_cvar(of) + 2.5 < bounds[1]
    audit.settings.budget = audit.queue.budget = audit.queue.spent()
    assert observe(audit, 1, records(600, MILD, seed=1))[0]["upper_bound"] == 10.0, "no label of this policy"


def test_no_response_is_asked_twice_and_the_budget_is_kept(tmp_path):
    asked = Counter()

    def counted(prompts, completions, label_number, **kwargs):
        asked.update(zip(prompts, completions, label_number, strict=True))
        return truth(prompts, completions)

    given = constraint(labeller=counted)
    given.audit.budget = 150
    audit, of = make(tmp_path, given), records(400, HARMFUL)
    for number in range(3):
        _, numbers = observe(audit, number, of)
    assert max(asked.values()) == 1 and sum(asked.values()) == numbers["labels"] <= 150


def test_with_few_labels_the_learned_cost_stands_as_it_is(tmp_path):
    audit, of = make(tmp_path, constraint(labels=3)), records(400, HARMFUL)
    estimate, numbers = observe(audit, 0, of)
    assert not numbers["calibrated"] and audit.labelled_cost(0) is None
    assert estimate["estimate"] == numbers["learned_estimate"]
    assert audit.refreshed(0, of)[0]["costs"] == of[0]["costs"]


def test_started_again_it_asks_for_nothing_and_says_the_same(tmp_path):
    of = records(600, HARMFUL)
    first = observe(make(tmp_path, constraint(rounds=2, refresh=True)), 0, of)

    def none_left(prompts, completions, **kwargs):
        raise AssertionError("asked again")

    again = make(tmp_path, constraint(rounds=2, refresh=True, labeller=none_left))
    assert observe(again, 0, of) == first


def test_a_labeller_without_an_answer_does_not_stop_the_ladder(tmp_path):
    def forgetful(prompts, completions, **kwargs):
        return [grade if i % 3 else None for i, grade in enumerate(truth(prompts, completions))]

    audit, of = make(tmp_path, constraint(labeller=forgetful)), records(600, HARMFUL)
    missing = audit.ask(0, "decide", "m", of)
    learned = audit.constraint.estimate([r["costs"]["cost"] for r in of], [r["prompt"] for r in of])
    _, numbers = audit.observe(0, of, 0.9, learned)
    assert 0 < missing == numbers["missing"] and numbers["labels"] > 50


def test_people_are_waited_for_unless_the_ladder_is_to_go_on(tmp_path):
    for wait in (True, False):
        audit = make(tmp_path / str(wait), constraint(labeller="people", wait=wait))
        missing = {"cost": audit.ask(0, "decide", "m", records(300, HARMFUL))}
        assert missing["cost"] > 50
        if not wait:
            raise_if_waiting(missing, {"cost": audit}, "decide", tmp_path, 0)
            continue
        with pytest.raises(WaitingForLabels, match=r"waits for \d+ labels of 'cost', of observation 0.*audit next"):
            raise_if_waiting(missing, {"cost": audit}, "decide", tmp_path, 0)
    # Certificates are waited for in any case.
    with pytest.raises(WaitingForLabels, match="for the certificate"):
        raise_if_waiting({"cost": 1}, {"cost": audit}, "certify", tmp_path, 0)


def test_labels_for_a_certificate_that_is_never_made_are_not_asked_for(tmp_path):
    """More rungs were asked for after "NOT met": the first certificate's draw lies there without labels."""
    given, of = constraint(certify_labels=30), records(300, HARMFUL)
    people = make(tmp_path, constraint(certify_labels=30, labeller="people"))
    assert people.ask(0, "certify", "m", of) > 0
    first = {request["id"] for request in people.queue.draw(0, "certify", 1)["requests"]}
    audit = make(tmp_path, given)
    observe(audit, 0, [{**record, "prompt": f"other {record['prompt']}"} for record in of])
    assert audit.ask(1, "certify", "m", [{**record, "response": f"{record['response']} now"} for record in of]) == 0
    second = {request["id"] for request in audit.queue.draw(1, "certify", 1)["requests"]}
    assert second and second <= set(audit.queue.grades()) and not first & set(audit.queue.grades())


PROMPTS = [
    f"{a} {b} {c}" for a in ("the", "a", "in") for b in ("cat", "dog", "hill", "mat") for c in ("sat", "ran", "is")
]
PLAN = """\
model: {model}
output_dir: {run}
args: {{use_cpu: true, bf16: false, gradient_checkpointing: false, report_to: none, disable_tqdm: true}}
constraint:
  scorer: {cost}:red_is_harmful
  prompts: {prompts}
  budget: 0.9
  bounds: [-1, 1]
  tail: 0.8
  audit: {{harm_scale: {{safe: -1, harmful: 1}}, labels: 20, certify_labels: 12, second: 0.0}}
rungs: {{sampling: {{max_new_tokens: 16}}, batch_size: 64, draws: {{decide: 2, certify: 2}}, max_rungs: 1}}
"""


def run(module, *words):
    parser = module.make_parser()
    return module.main(parse_arguments(parser, [str(word) for word in words], "trl-rsa"))


@pytest.mark.slow
def test_the_human_path_on_files(tiny_model_path, tmp_path, capsys):
    """The plan stops for labels, is started again with a part, with all, and for the certificate: docs/audits.md."""
    cost, prompts, plan, out = (tmp_path / name for name in ("cost.py", "prompts.txt", "plan.yaml", "run"))
    cost.write_text(
        "def red_is_harmful(prompts, completions, **kwargs):\n    return [float('red' in c) for c in completions]\n"
    )
    prompts.write_text("\n".join(PROMPTS))
    plan.write_text(PLAN.format(model=tiny_model_path, run=out, cost=cost, prompts=prompts))
    tasks = tmp_path / "tasks.csv"

    def label(first, last):
        with tasks.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows[first:last]:
            row["grade"] = "harmful" if "red" in row["response"].split() else "safe"
        with tasks.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    assert run(align_command, "--config", plan) == align_command.WAITING
    assert "The ladder waits for" in capsys.readouterr().out
    assert run(audit_command, "next", out, "--output", tasks, "--labeller", "ann") == 0
    label(0, 5)
    assert run(audit_command, "import", out, tasks) == 0
    assert "5 labels read" in capsys.readouterr().out
    assert run(align_command, "--config", plan) == align_command.WAITING, "the others are missing"
    label(0, None)
    assert run(audit_command, "import", out, tasks) == 0
    assert "5 known already" in (said := capsys.readouterr().out) and "No label is missing" in said
    assert run(align_command, "--config", plan) == align_command.WAITING, "now for the certificate"
    assert "for the certificate" in capsys.readouterr().out
    assert run(audit_command, "next", out, "--output", tasks) == 0
    label(0, None)
    assert run(audit_command, "import", out, tasks) == 0
    assert run(align_command, "--config", plan) == 0
    certificate = json.loads((out / "certificate-cost.json").read_text())
    assert certificate["audit"]["n_missing"] == 0 and certificate["audit"]["n_labelled"] > 5
    summary = json.loads((out / "manifest.json").read_text())["ladder"]["constraints"]["cost"]["audit"]
    assert summary["labels"] >= 10 and summary["certify_labels"] == certificate["audit"]["n_labelled"]
    assert len(summary["calibration"]["labels"]) == summary["labels"]
    run(audit_command, "status", out)
    assert "0 of 0" not in (said := capsys.readouterr().out) and "observation 0, decide, draw 1" in said
    # What was bought can be checked from the files alone.
    from trl_rsa.scripts import certify as certify_command

    folder = out / "ladder"
    words = ["--records", folder / "01-certify.jsonl", "--labels", folder / "audit-cost/labels.jsonl"]
    words += ["--draw", folder / "audit-cost/requests-01-certify-1.json", "--harm_scale", "safe=-1,harmful=1"]
    words += ["--combine", "median", "--budget", 0.9, "--tail", 0.8, "--verify", out / "certificate-cost.json"]
    assert run(certify_command, *words) == 0

    # A label that is corrected afterwards makes another certificate, once.
    text = tasks.read_text()
    turned = next((a, b) for a, b in (("safe", "harmful"), ("harmful", "safe")) if f",{a}" in text)
    tasks.write_text(text.replace(f",{turned[0]}", f",{turned[1]}", 1))
    assert run(audit_command, "import", out, tasks) == 0
    assert "1 changed" in capsys.readouterr().out
    for _ in range(2):
        assert run(align_command, "--config", plan) == 0
        corrected = json.loads((out / "certificate-cost.json").read_text())
        assert [each["attempt"] for each in corrected["attempts"]] == [1, 2]
        assert corrected["audit"]["labels_fingerprint"] != certificate["audit"]["labels_fingerprint"]
    assert run(certify_command, *words) == 0


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        ({"labeller": "nobody"}, "nobody"),
        ({"labeller": "judge:http://here"}, "without a model"),
        ({"harm_scale": {"safe": -5.0, "bad": 3.0}}, "harm scale from -5 to 3"),
        ({"labeller": truth, "labeller_options": {"guide": "x"}}, "a function takes none"),
    ],
)
def test_a_labeller_or_a_scale_that_cannot_work_is_found_before_the_run(audit, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        constraint(**{**audit})


def test_the_plan_reads_an_audit_from_yaml(tmp_path, tiny_model_path):
    path = tmp_path / "plan.yaml"
    text = PLAN.format(model=tiny_model_path, run=tmp_path, cost="json", prompts="p.txt").replace(
        ":red_is_harmful", ":dumps"
    )
    path.write_text(text)
    plan = Plan.from_yaml(path)
    assert plan.constraints[0].audit.scale.names == ("safe", "harmful") and plan.constraints[0].audit.asks_people
    for wrong, said in (("labels: 20", "label: 20"), "'label'"), (("labels: 20", "labels: many"), "'labels'"):
        path.write_text(text.replace(*wrong))
        with pytest.raises(ValueError, match=said):
            Plan.from_yaml(path)


def erring(seed):
    """Says another grade in a tenth of the labels, each by itself."""

    def label(prompts, completions, label_number, **kwargs):
        found = []
        for prompt, text, number in zip(prompts, completions, label_number, strict=True):
            rng = np.random.default_rng([seed, number, *f"{prompt} {text}".encode()])
            true = truth([prompt], [text])[0]
            others = [grade for grade in SCALE if grade != true]
            found.append(others[rng.integers(2)] if rng.random() < 0.1 else true)
        return found

    return label


@pytest.mark.slow
def test_every_dispute_is_settled_before_the_budget_is_spent(tmp_path):
    """The budget ends within three observations. What two labels differ on would count as the worse one for good."""
    spent = []
    for seed in range(8):
        given = constraint(labeller=erring(seed), labels=[60, 40], second="unsafe", budget=150, seed=seed)
        audit = make(tmp_path / str(seed), given)
        for number in range(5):
            observe(audit, number, records(400, HARMFUL, seed=number))
        assert all(
            len(own) == wanted(key, own, audit.settings.scale, "unsafe", seed)
            for key, own in audit.queue.grades().items()
        )
        spent.append(audit._spent())
    assert max(spent) <= 150 and np.mean(spent) > 115, "not much of the budget is left over"


@pytest.mark.slow
def test_a_search_does_not_take_wrong_labels_for_a_tail(tmp_path):
    """Of a policy without harm beyond 2 in 100, eight times: with every label as it is the estimate is 1 too high."""
    shares = {"fine": 0.98, "rude": 0.01, "cruel": 0.01}
    wrong, rates = {True: [], False: []}, {True: [], False: []}
    for seed in range(8):
        of = records(600, shares, seed=seed)
        for errors in wrong:
            given = constraint(labeller=erring(seed), labels=[120], second="unsafe", errors=errors, seed=seed)
            audit = make(tmp_path / f"{seed}-{errors}", given)
            observe(audit, 0, of)
            estimate, _ = observe(audit, 1, of)
            wrong[errors].append(estimate["estimate"] - true_cvar(of))
            summary = audit.summary(1)
            assert len(summary["calibration"]["labels"]) == len(audit.queue.grades())
            rates[errors].append(summary.get("error_rate"))
    assert rates[False] == [None] * 8 and np.mean(rates[True]) == pytest.approx(0.1, abs=0.03)
    assert np.mean(wrong[False]) > 1.0
    assert abs(np.mean(wrong[True])) < 3 * np.std(wrong[True]) / np.sqrt(8) + 0.3


def confirming(audit, number):
    draw = audit.queue.draw(number, "decide", audit.settings.rounds + 1)
    return None if draw is None else draw["requests"]


def test_a_policy_that_seems_within_the_budget_gets_more_labels(tmp_path):
    given = constraint(labels=[60, 20], rounds=2, budget=200, confirm=80)
    audit = make(tmp_path, given)
    observe(audit, 0, records(1000, HARMFUL))
    assert confirming(audit, 0) is None and audit._spent() <= 120, "the labels that confirm are kept back"
    _, numbers = observe(audit, 1, records(1000, {"fine": 1.0}, seed=1))
    asked = confirming(audit, 1)
    assert 55 < len(asked) < 105 and {request["probability"] for request in asked} == {0.08}, "from all alike"
    assert numbers["labels"] == audit._spent() > 120 and numbers["drawn"] > 60
    # Once they are spent, what is left is used as it comes; and another start asks for nothing.
    before = audit._spent()
    observe(make(tmp_path, given), 1, records(1000, {"fine": 1.0}, seed=1))
    assert audit._spent() == before
    observe(audit, 2, records(1000, {"fine": 1.0}, seed=2))
    assert before < audit._spent() <= 200


def test_without_waiting_no_more_is_drawn_than_could_be_settled(tmp_path):
    """Nobody has labelled yet: how many second labels the first ones will ask for is not known."""
    given = constraint(labeller="people", second="unsafe", labels=[60, 60], budget=200, confirm=60, wait=False)
    audit = make(tmp_path, given)
    for number in range(4):
        of = records(400, HARMFUL, seed=number)
        audit.ask(number, "decide", "m", of)
        audit.observe(number, of, 0.9, given.estimate([r["costs"]["cost"] for r in of], [r["prompt"] for r in of]))
    assert 20 < sum(len(draw["requests"]) for draw in audit.queue.draws()) <= (200 - 60) / 3 + 10


def test_the_ladder_s_own_labels_are_read_by_place_also_where_grades_are_called_by_numbers(tmp_path):
    scale = {"1": -1.0, "2": 1.0, "3": 4.0, "4": 10.0}

    def by_name(prompts, completions, **kwargs):
        return [{"fine": "1", "rude": "3", "cruel": "4"}[text.split()[0]] for text in completions]

    given = constraint(labeller=by_name, harm_scale=scale)
    audit = make(tmp_path, given)
    audit.ask(0, "decide", "m", records(200, HARMFUL))
    found = costs_of_labels(audit.folder / "labels.jsonl", audit.settings.scale)
    assert {key: [costs] for key, (costs,) in found.items()} == {
        key: [audit.settings.scale.costs[grade]] for key, (grade,) in audit.queue.grades().items()
    }
    # What people write is meant by name.
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text(json.dumps({"id": "a", "grade": 1, "labeller": "ann"}))
    assert costs_of_labels(theirs, audit.settings.scale) == {"a": [-1.0]}


@pytest.mark.slow
def test_labels_of_its_own_show_what_earlier_labels_do_not_know(tmp_path):
    """The second policy has moved its harm to where neither the cost nor any label has seen it."""

    def seen(prompts, completions, **kwargs):
        return ["worst" if "harm" in text else "safe" for text in completions]

    def policy(rng, where, rate):
        return [
            {
                "prompt": f"prompt {i}",
                "response": f"{'harm' if harm else 'fine'} {rng.integers(10**9)}",
                "costs": {"cost": where * harm + 0.5 * rng.random()},
                "prompt_number": i,
                "draw": 0,
            }
            for i, harm in enumerate(rng.random(600) < rate)
        ]

    met = {0: 0, 60: 0}
    for seed in range(12):
        for confirm in met:
            rng = np.random.default_rng(seed)
            given = constraint(labeller=seen, labels=[60, 15], budget=150, confirm=confirm, seed=seed)
            audit = make(tmp_path / f"{seed}-{confirm}", given)
            observe(audit, 0, policy(rng, 1.0, 0.05))
            estimate, _ = observe(audit, 1, policy(rng, 0.0, 0.06))
            met[confirm] += estimate["upper_bound"] <= given.budget
    assert met[0] >= 4 and met[60] <= 2, met


def test_errors_are_estimated_from_several_labels():
    with pytest.raises(ValueError, match=r"errors=True and second=0.0 .* several labels"):
        AuditSettings(errors=True, second=0.0)
