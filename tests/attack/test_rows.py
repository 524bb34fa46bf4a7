"""Rows of every format, mutated: each is used as it stands, or counted with a reason; sound rows stay as they were."""

import json

import pytest
from attacking import TIMES, Attack

from trl_rsa.data import load_preferences
from trl_rsa.scripts._command import explain


ROWS = {
    "preference": {"prompt": "p", "chosen": "good", "rejected": "bad"},
    "messages": {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    },
    "weighted": {"prompt": "p", "chosen": "good", "rejected": "bad", "pair_weight": 0.5, "pair_label": 0.9},
    "pku-safe-rlhf": {
        "prompt": "p",
        "response_0": "good",
        "response_1": "bad",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 0,
        "safer_response_id": 0,
    },
    "hh-rlhf": {"chosen": "\n\nHuman: p\n\nAssistant: good", "rejected": "\n\nHuman: p\n\nAssistant: bad"},
}


def numbered(row, number):
    """The row with a prompt of its own."""
    return json.loads(json.dumps(row).replace('"p"', f'"p{number}"').replace("Human: p", f"Human: p{number}"))


@pytest.mark.parametrize("seed", range(4 * TIMES))
@pytest.mark.parametrize("kind", ROWS)
def test_rows(kind, seed, tmp_path):
    """Half of 200 rows are mutated, a tenth of them as bytes."""
    attack, path = Attack(seed), tmp_path / "rows.jsonl"
    sound = [json.dumps(numbered(ROWS[kind], number)).encode() for number in range(100)]
    hurt = []
    for number in range(100):
        row = numbered(ROWS[kind], 1000 + number)
        line = json.dumps(attack.json(row, attack.random.randint(1, 3))).encode()
        hurt.append(attack.bytes(line).replace(b"\n", b" ") if number % 10 == 0 else line)
    mixed = [line for pair in zip(sound, hurt, strict=True) for line in pair]
    path.write_bytes(b"\n".join(sound) + b"\n")
    expected = load_preferences(str(path)).dataset.to_list()
    path.write_bytes(b"\n".join(mixed) + b"\n")
    try:
        loaded = load_preferences(str(path))
    except Exception as error:
        assert explain(error), "no sentence"
        return
    counts = loaded.counts
    assert counts.rows_read == counts.rows_used + sum(counts.skipped.values()) + sum(counts.unpaired.values())
    columns = expected[0].keys()
    rows = [{key: row[key] for key in columns} for row in loaded.dataset.to_list()]
    assert [row for row in rows if row in expected] == expected, "a sound row was lost, changed or moved"
