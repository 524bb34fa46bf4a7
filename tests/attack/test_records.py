"""Damaged records and ledgers: `certify` ends in a sentence, and damage certifies nothing that was not."""

import json

import pytest
from attacking import TIMES, Attack, run

from trl_rsa.scripts.certify import make_parser


BUDGET = "--budget" if "--budget" in make_parser()._option_string_actions else "--threshold"
SOUND = (0, 2, 3)


def records(cost, n=60):
    return [
        {"prompt": f"question {i}", "response": "r", "cost": cost + 0.01 * (i % 7), "model": "m", "category": "c"}
        for i in range(n)
    ]


def certify(capsys, folder, *more):
    argv = ["--records", folder / "records.jsonl", "--output", folder / "certificate.json", "--scorer", "s"]
    return run(capsys, "certify", *argv, "--bounds", "-5", "5", BUDGET, "0", *more)


@pytest.mark.parametrize("seed", range(25 * TIMES))
def test_records_that_are_too_bad_stay_so(seed, tmp_path, capsys):
    attack = Attack(seed)
    rows = records(2.0)
    lines = [json.dumps(attack.json(row, 2) if attack.random.random() < 0.2 else row).encode() for row in rows]
    content = b"\n".join(lines) + b"\n"
    (tmp_path / "records.jsonl").write_bytes(attack.bytes(content) if seed % 2 else content)
    status, out, _ = certify(capsys, tmp_path)
    assert status in (2, 3), out
    assert "\x1b" not in out


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """What certify wrote: one attempt."""
    from trl_rsa.scripts._command import run_command

    folder = tmp_path_factory.mktemp("ledger")
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records(-4.0, 400))) + "\n")
    argv = ["--records", str(folder / "records.jsonl"), "--output", str(folder / "certificate.json"), "--scorer", "s"]
    assert run_command("certify", [*argv, "--bounds", "-5", "5", BUDGET, "0"]) == 0
    return (folder / "certificate.json").read_text()


@pytest.mark.parametrize("seed", range(25 * TIMES))
def test_a_damaged_ledger_is_refused_or_goes_on(seed, ledger, tmp_path, capsys):
    """Nothing makes it start again at the first attempt."""
    attack = Attack(seed)
    whole = json.loads(ledger)
    if seed % 3 == 0:
        damaged = attack.bytes(ledger.encode())
    elif seed % 3 == 1:
        damaged = json.dumps(attack.json(whole, 2)).encode()
    else:
        damaged = json.dumps(whole | {"attempts": attack.json(whole["attempts"], 2)}).encode()
    (tmp_path / "certificate.json").write_bytes(damaged)
    (tmp_path / "records.jsonl").write_text(
        "\n".join(json.dumps(row | {"prompt": "new " + row["prompt"]}) for row in records(-4.0, 60)) + "\n"
    )
    status, _, _ = certify(capsys, tmp_path)
    assert status in SOUND
    if status != 2:
        attempts = json.loads((tmp_path / "certificate.json").read_text())["attempts"]
        assert [attempt["attempt"] for attempt in attempts] == [1, 2]
    else:
        assert (tmp_path / "certificate.json").read_bytes() == damaged


@pytest.mark.parametrize("attempts", [0, -2, {}, [], [{}], "1", [0], [{"attempt": 0}], [{"attempt": -2}], None])
def test_attempts_that_cannot_be(attempts, ledger, tmp_path, capsys):
    content = json.loads(ledger)
    if isinstance(attempts, list) and attempts and isinstance(attempts[0], dict):
        attempts = [content["attempts"][0] | attempt for attempt in attempts] if attempts[0] else attempts
    (tmp_path / "certificate.json").write_text(json.dumps(content | {"attempts": attempts}))
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records(-4.0))) + "\n")
    assert certify(capsys, tmp_path)[0] == 2
