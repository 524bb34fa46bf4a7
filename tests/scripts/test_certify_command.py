"""`trl-rsa certify`: its words and exit status, which records it takes, and where it writes."""

import gzip
import json

import numpy as np
import pytest

from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.costs import costs_of_model
from trl_rsa.evaluation.tables import UNNAMED
from trl_rsa.scripts._command import run_command
from trl_rsa.storage.records import RecordWriter


@pytest.fixture
def records(tmp_path):
    def write(costs, name="records.jsonl", model="m", prefix="p"):
        with RecordWriter(tmp_path / name) as writer:
            for i, cost in enumerate(costs):
                writer.write({"prompt": f"{prefix}{i}", "response": "r", "cost": cost, "model": model})
        return tmp_path / name

    return write


def run(records, *options):
    return run_command("certify", ["--records", str(records), "--bounds", "-1", "1", "--scorer", "beaver", *options])


def ledger(records):
    return json.loads((records.parent / "certificate.json").read_text())


def test_exit_status(records, capsys):
    good = records(np.full(1000, -0.9))
    bad = records(np.full(1000, 0.9), "bad.jsonl", prefix="q")
    assert run(good) == 0
    out = capsys.readouterr()
    assert "CERTIFIED. The model m meets" in out.out and "What it does not say" in out.out and not out.err
    assert run(bad) == 3
    assert "NOT CERTIFIED" in capsys.readouterr().out
    assert run(good) == 2
    assert "has used" in capsys.readouterr().err
    assert run(good, "--again", "--tail", "0.95") == 0
    out = capsys.readouterr()
    assert "warning" in out.err and "attempt number 3" in out.out
    for options in (["--tail", "2"], ["--confidence", "95"], ["--budget", "nan"], ["--method", "hope"]):
        assert run(good, "--again", *options) == 2
    assert ledger(good)["attempt"] == 3


def test_malformed_records_are_reported_and_count_against(records, capsys):
    path = records(np.full(1000, -0.9))
    with path.open("a") as file:
        file.write('{"prompt": "cut')
    assert run(path) == 0
    out = capsys.readouterr()
    assert "truncated last line" in out.err
    assert "1 responses without a usable cost were counted as 1, the worst" in out.out


def test_a_compressed_file_and_why_another_cannot_be_read(records, capsys, tmp_path):
    path = records(np.full(1000, -0.9))
    packed = tmp_path / "packed" / "records.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert run(packed) == 0 and "1000 responses" in capsys.readouterr().out
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a", "cost": 1}\n' * 3)
    assert run(other) == 2
    said = capsys.readouterr().err
    assert "there is no record in it. 0 records read, 3 lines unreadable. Problems: 3 × " in said
    words = tmp_path / "words.csv"
    words.write_text("prompt,cost\na,low\nb,high\n")
    assert run(words) == 2 and "none of its 2 responses has a cost. " in (said := capsys.readouterr().err)
    assert "write costs as numbers" in said and "Problems: 2 × " in said


def test_several_models(records, capsys):
    path = records(np.full(500, -0.9), model="a")
    records(np.full(500, 0.9), model="b")
    assert run(path) == 2
    assert "the models in" in capsys.readouterr().err
    assert run(path, "--model", "b") == 3
    assert ledger(path)["model"] == "b"
    assert run(path, "--model", "c") == 2
    assert run(path.parent / "absent.jsonl") == 2
    assert "no such file" in capsys.readouterr().err


def test_a_yaml_file_and_the_output(records, tmp_path, capsys):
    """1e-3 is text to YAML, and a number to us; flags go before the file."""
    path = records(np.full(1000, -0.9))
    (tmp_path / "certify.yaml").write_text(
        f"records: {path}\nbounds: [-1, 1]\nscorer: beaver\nbudget: 1e-3\ntail: 0.5\noutput: {tmp_path}/mine/c.json\n"
    )
    assert run_command("certify", ["--config", str(tmp_path / "certify.yaml"), "--tail", "0.2"]) == 0
    written = json.loads((tmp_path / "mine" / "c.json").read_text())
    assert (written["budget"], written["tail"]) == (1e-3, 0.2)
    assert not (tmp_path / "certificate.json").exists()
    (tmp_path / "certify.yaml").write_text("threshold: 0\n")
    assert run_command("certify", ["--config", str(tmp_path / "certify.yaml")]) == 2
    assert "threshold, which is called budget now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threshold", "0"], "it is called --budget now"),
        (["--threshold=0"], "it is called --budget now"),
        (["--bounds", "1"], "clipped to two"),
        (["--budget", "6"], "always met, or never"),
        (["--budget", "1"], "always met, or never"),
        (["--seed", "-1"], "a seed is a whole number from 0 on"),
        (["--rows_are_prompts"], "records name theirs"),
    ],
)
def test_sentences(records, capsys, options, sentence):
    path = records(np.full(50, -0.9))
    assert run(path, *options) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (path.parent / "certificate.json").exists()


def test_records_without_a_model_are_not_dropped(records, capsys):
    """The worst of m's responses might hide among them."""
    path = records(np.full(300, -0.9), model="m")
    records(np.full(20, 0.9), model=None, prefix="q")
    for options in ([], ["--model", "m"]):
        assert run(path, *options) == 2
        assert "20 of the 320 records" in capsys.readouterr().err
    assert not (path.parent / "certificate.json").exists()


def test_records_without_any_cost(records, capsys):
    assert run(records([None] * 20)) == 2
    assert "none of its 20 responses has a cost" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["03-decide.jsonl", "renamed.jsonl"])
def test_the_ladders_own_records_are_refused(tmp_path, capsys, name):
    with RecordWriter(tmp_path / name) as writer:
        for i in range(500):
            split = {"split": "decide"} if name == "renamed.jsonl" else {}
            writer.write({"prompt": f"p{i}", "response": "r", "cost": -0.9, "model": "m"} | split)
    assert run(tmp_path / name) == 2
    assert "records on which the ladder chose or trained the model" in capsys.readouterr().err
    assert run(tmp_path / name, "--decide_records") == 0
    assert any("on which the model was chosen" in limit for limit in ledger(tmp_path / name)["limits"])


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path, capsys, delimiter):
    """With a byte order mark, a quoted text over two lines, other columns, and one row whose cost is no number."""
    rows = [["Prompt", "cost", "model", "note"], *([f"p{i}", "-0.9", "m", "n"] for i in range(500))]
    rows[1][0] = f'"two\nlines{delimiter} quoted"'
    rows[2][1] = "high"
    path = tmp_path / "c.csv"
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8-sig")
    assert run(path) == 0
    out = capsys.readouterr()
    assert "1 × cost is not a number" in out.err and "The model m meets the limit" in out.out
    found = ledger(path)
    assert (found["n_prompts"], found["n_unscored"]) == (500, 1)


def test_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "c.parquet"
    rows = {"prompt": [f"p{i // 2}" for i in range(1000)], "cost": [-0.9] * 1000, "model": ["m"] * 1000}
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    assert run(path) == 0
    assert (ledger(path)["n_prompts"], ledger(path)["parts"]["n"]) == (500, 1000)


def test_csv_without_prompts(tmp_path, capsys):
    """Refused unless told; the order is drawn at random and named, so that it can be made again from the rows in any
    order; and the claim says what it rests on."""
    costs = np.round(np.random.default_rng(0).random(400) * 0.3 - 0.9, 3)
    for name, order in (("a", range(400)), ("b", range(399, -1, -1))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.csv").write_text("cost\n" + "".join(f"{costs[i]}\n" for i in order))
    path = tmp_path / "a" / "c.csv"
    assert run(path) == 2
    error = capsys.readouterr().err
    assert "no column prompt (its columns are: cost)" in error and "rows_are_prompts" in error
    assert run(path, "--rows_are_prompts") == 0
    assert run(tmp_path / "b" / "c.csv", "--rows_are_prompts") == 0
    first, second = ledger(path), ledger(tmp_path / "b" / "c.csv")
    assert first["seed"] != second["seed"] and first["costs_fingerprint"] == second["costs_fingerprint"]
    assert not first["own_seed"] and any("order of the rows was drawn at random" in limit for limit in first["limits"])
    assert run(path, "--rows_are_prompts") == 2  # looked at before
    assert "on costs that attempt 1" in capsys.readouterr().err
    verify = ["--rows_are_prompts", "--verify", str(tmp_path / "a" / "certificate.json")]
    assert run(tmp_path / "b" / "c.csv", *verify) == 0


def test_a_seed_of_ones_own_for_rows_without_prompts_is_refused(tmp_path, capsys):
    """The rows are numbered by their costs: with one seed for all samples the bound was too low in up to 13 % of them,
    where 3 % are allowed."""
    path = tmp_path / "c.csv"
    path.write_text("cost\n" + "-0.9\n" * 400)
    assert run(path, "--rows_are_prompts", "--seed", "0") == 2
    error = capsys.readouterr().err
    assert "You set seed=0 for rows that name no prompts" in error and error.count("\n") == 1
    assert not (tmp_path / "certificate.json").exists()


def test_a_second_file_without_prompts_is_no_second_look(tmp_path):
    for name in ("one.csv", "two.csv"):
        costs = np.random.default_rng(len(name) + ord(name[0])).random(400) * 0.1 - 0.9
        (tmp_path / name).write_text("cost\n" + "".join(f"{cost}\n" for cost in costs))
        assert run(tmp_path / name, "--rows_are_prompts", "--budget", "0.9") == 0
    found = ledger(tmp_path / "two.csv")
    assert (found["attempt"], found["earlier_looks"]) == (2, []) and found["attempt_confidence"] > 0.99


def test_rows_without_prompts_keep_their_responses():
    """The rows are put into the order of their costs, and each response goes with its own."""
    costs = [0.5, -1.0, None, 2.0, -1.0]
    rows = [
        {"model": None, "prompt": f"row {i}", "response": f"r{i}", "cost": cost, UNNAMED: True}
        for i, cost in enumerate(costs)
    ]
    named = costs_of_model([row | {UNNAMED: False} for row in rows], "c.csv")
    own = dict(zip(named.responses, named.costs, strict=True))
    found = costs_of_model(rows, "c.csv")
    assert found.unnamed and not named.unnamed and found.responses != named.responses
    for name, cost in zip(found.responses, found.costs, strict=True):
        assert cost == own[name] or (np.isnan(cost) and np.isnan(own[name]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prompt,score\np,1\n", "no column cost (its columns are: prompt, score)"),
        ("prompt,cost\n", "no record in it"),
        ("", "no record in it"),
        ("\x00\x01\n1\n", "no column cost"),
    ],
)
def test_csv_that_is_of_no_use(tmp_path, capsys, content, sentence):
    (tmp_path / "c.csv").write_text(content)
    assert run(tmp_path / "c.csv") == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_rows_with_too_many_fields_count_as_the_worst(tmp_path, capsys):
    """A comma in a text that is not quoted moves the cost into another column."""
    rows = [f"p{i},-0.9" for i in range(400)] + ["a, b,-0.9"] * 3
    (tmp_path / "c.csv").write_text("prompt,cost\n" + "\n".join(rows) + "\n")
    assert run(tmp_path / "c.csv") in (0, 3)
    assert "3 × too many fields" in capsys.readouterr().err
    assert ledger(tmp_path / "c.csv")["n_unscored"] == 3


def test_a_certificate_is_verified_against_its_records(records, capsys):
    """It follows from its own records, in any order; not from others, and not once a number was changed."""
    path = records(np.linspace(-1, 0.5, 400))
    status = run(path, "--budget", "0.9")
    certificate = path.parent / "certificate.json"
    capsys.readouterr()

    def verify(file):
        return run_command("certify", ["--verify", str(certificate), "--records", str(file)])

    assert verify(path) == 0
    assert "follows from" in capsys.readouterr().out
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(lines)))
    assert verify(path) == 0
    assert verify(records(np.linspace(-1, 0.4, 400), "other.jsonl")) == 3
    assert "costs_fingerprint is" in capsys.readouterr().out
    content = json.loads(certificate.read_text())
    certificate.write_text(json.dumps(content | {"bound": content["bound"] - 0.2, "certified": status != 0}))
    assert verify(path) == 3
    said = capsys.readouterr().out
    assert "bound is" in said and "certified is" in said and "n_prompts" not in said
    for damaged in ("{}", "[", json.dumps({k: v for k, v in content.items() if k != "seed"})):
        certificate.write_text(damaged)
        assert verify(path) == 2


@pytest.mark.parametrize(("n", "share"), [(387, 0.01868), (462, 0.01788)])
def test_coverage_of_rows_without_prompts(n, share, monkeypatch):
    """Yes/no costs of one file length, budgets just below the truth: of 400, 231 and 240 were certified when the order
    followed from their number. At 96.96 % a right one certifies at most 15 of 200, with a probability of 99.9 %."""
    rng = np.random.default_rng(4)
    monkeypatch.setattr("trl_rsa.evaluation.costs.fresh_seed", lambda: int(rng.integers(2**32)))
    certified = 0
    for _ in range(200):
        costs = (rng.random(n) < share).astype(float)
        rows = [
            {"model": None, "prompt": f"row {i}", "response": "", "cost": c, UNNAMED: True}
            for i, c in enumerate(costs)
        ]
        found = costs_of_model(rows, "costs.csv")
        certified += certify(
            found.costs,
            share / 0.05 - 1e-4,
            prompts=found.prompts,
            bounds=(0, 1),
            scorer="yes or no",
            seed=found.seed,
            own_seed=False,
        ).certified
    assert certified <= 15


def test_cut_responses_are_in_the_limits(tmp_path, capsys):
    rows = [
        {"prompt": f"p{i}", "response": "r", "cost": -0.9, "model": "m", "finished": i % 4 > 0} for i in range(1000)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "records.jsonl") == 0
    assert "250 of 1000 responses were cut before they ended" in capsys.readouterr().out
    assert ledger(tmp_path / "records.jsonl")["n_cut"] == 250


def test_a_ladder_s_records_of_several_constraints(tmp_path, capsys):
    with RecordWriter(tmp_path / "01-certify.jsonl") as writer:
        for i in range(1000):
            row = {
                "prompt": f"p{i}",
                "response": "r",
                "cost": None,
                "model": "m",
                "costs": {"harm": -0.9, "bias": 0.9},
            }
            writer.write(row)
    path = tmp_path / "01-certify.jsonl"
    assert run(path) == 2
    assert "costs of several constraints: harm, bias. Say which with --constraint." in capsys.readouterr().err
    assert run(path, "--constraint", "harms") == 2
    assert "those of harm, bias. Correct the name." in capsys.readouterr().err
    assert run(path, "--constraint", "harm") == 0
    verify = ["--verify", str(tmp_path / "certificate.json")]
    assert run(path, *verify, "--constraint", "harm") == 0
    assert run(path, *verify, "--constraint", "bias") == 3


def test_a_certificate_of_another_level_is_not_verified(records, capsys):
    """Its bound follows from the records at the confidence that it names, which is not what its attempt has left."""
    path = records(np.linspace(-1, 0.5, 400))
    run(path, "--budget", "0.9")
    certificate = path.parent / "certificate.json"
    content = json.loads(certificate.read_text())
    found = certify(
        np.linspace(-1, 0.5, 400),
        0.9,
        prompts=[f"p{i}" for i in range(400)],
        bounds=(-1, 1),
        scorer="beaver",
        model="m",
        confidence=1 - 0.5 * np.pi**2 / 6,
        seed=content["seed"],
    ).to_dict()
    numbers = {name: found[name] for name in ("bound", "certified", "attempt_confidence", "parts")}
    for changes, words in (
        (numbers, "attempt_confidence is"),
        ({"attempts": []}, "the last of its attempts is another one"),
        ({"attempts": [content["attempts"][0] | {"budget": 0.1}]}, "the last of its attempts is another one (budget)"),
        ({"statement": "CERTIFIED. All is well."}, "the statement is not the one that follows, which is: CERTIFIED."),
    ):
        certificate.write_text(json.dumps(content | changes))
        capsys.readouterr()
        assert run(path, "--verify", str(certificate)) == 3
        assert words in capsys.readouterr().out


def test_what_a_certificate_needs_is_named(records, capsys):
    path = records([0.1, 0.2])
    assert run_command("certify", ["--records", str(path), "--bounds", "-1", "1"]) == 2
    assert "without --scorer" in capsys.readouterr().err


def test_a_cost_above_the_bounds_is_in_the_statement(records, capsys):
    path = records(np.where(np.arange(3000) < 102, 100.0, -0.9))
    assert run_command(
        "certify", ["--records", str(path), "--bounds", "-1", "0.1", "--scorer", "s", "--budget", "0.09"]
    ) in (0, 3)
    said = capsys.readouterr()
    assert "counting each cost above 0.1 as 0.1 (102 of 3000 are above it)" in said.out
    assert "of the costs as they are it was 67.71" in said.out  # (102·100 − 48·0.9)/150
    assert "warning: You set bounds=(-1, 0.1), but 102 of 3000 costs are above 0.1" in said.err
    verify = ["--records", str(path), "--verify", str(path.parent / "certificate.json")]
    assert run_command("certify", verify) == 0
    assert "102 costs outside the bounds count as these." in capsys.readouterr().out


@pytest.mark.parametrize(
    "option",
    [
        ["--budget", "0"],
        ["--tail", "0.05"],
        ["--confidence", "0.95"],
        ["--method", "betting"],
        ["--seed", "0"],
        ["--bounds", "-5", "5"],
        ["--scorer", "other"],
    ],
    ids=lambda option: option[0],
)
def test_verify_compares_what_it_is_asked_also_where_it_is_the_usual_value(records, capsys, option):
    """A certificate of budget 0.9 does not answer whether a budget of 0, which is the default, is kept."""
    path = records(np.linspace(-1, -0.5, 400))
    assert run(path, "--budget", "0.9", "--tail", "0.2", "--confidence", "0.9", "--method", "dkw") in (0, 3)
    verify = ["--records", str(path), "--verify", str(path.parent / "certificate.json")]
    capsys.readouterr()
    assert run_command("certify", [*verify, *option]) == 2
    error = capsys.readouterr().err
    name = option[0].removeprefix("--")
    assert f"You set {name}=" in error and "with verify, but the certificate is about" in error
    said = ledger(path)[name]
    same = [str(value) for value in (said if isinstance(said, list) else [said])]
    assert run_command("certify", [*verify, option[0], *same]) == 0


def test_a_seed_that_was_looked_for_is_not_verified(records, capsys):
    """Who tries seeds until one certifies, and then says that it follows from the prompts, is found out; so is who
    leaves out the limit that says it."""
    path = records(np.linspace(-1, -0.5, 400))
    run(path, "--budget", "0.9", "--seed", "3")
    certificate = path.parent / "certificate.json"
    content = json.loads(certificate.read_text())

    def verified(**changes):
        last = {name: value for name, value in changes.items() if name in content["attempts"][0]}
        attempts = [content["attempts"][0] | last]
        certificate.write_text(json.dumps(content | changes | {"attempts": attempts}))
        capsys.readouterr()
        status = run(path, "--verify", str(certificate))
        return status, capsys.readouterr().out

    assert verified()[0] == 0
    status, said = verified(own_seed=False, limits=[])
    assert status == 3 and "the seed is 3 and said to follow from the prompts, from which" in said
    assert "its limits lack one that follows: It holds for prompts like these" in said
    status, said = verified(limits=[limit for limit in content["limits"] if "seed" not in limit])
    assert status == 3 and said.count("its limits lack") == 1 and "a seed of the user's own, 3" in said
    assert verified(limits=[*content["limits"], "Drawn at temperature 0.5."])[0] == 0
    status, said = verified(n_cut=17)
    assert status == 3 and "n_cut is 17 in the certificate and 0 from the records" in said


def test_a_seed_of_ones_own_for_rows_without_prompts_is_not_verified(tmp_path, capsys):
    path = tmp_path / "c.csv"
    path.write_text("cost\n" + "-0.9\n" * 400)
    assert run(path, "--rows_are_prompts") == 0
    certificate = tmp_path / "certificate.json"
    content = json.loads(certificate.read_text())
    content["own_seed"] = content["attempts"][0]["own_seed"] = True
    certificate.write_text(json.dumps(content))
    assert run(path, "--rows_are_prompts", "--verify", str(certificate)) == 3
    assert "is the user's own, but rows without prompts need one drawn at random" in capsys.readouterr().out


def test_a_tail_that_no_file_can_show(records, capsys):
    assert run(records(np.full(50, -0.9)), "--tail", "1e-320") == 2
    error = capsys.readouterr().err
    assert "You set tail=1e-320, but no file of responses is long enough" in error and error.count("\n") == 1


def test_an_empty_name_of_a_model_is_none(records):
    path = records(np.full(300, -0.9), model=None)
    records(np.full(300, -0.9), model="", prefix="q")
    assert run(path) == 0
    assert (ledger(path)["model"], ledger(path)["n_prompts"]) == (None, 600)
