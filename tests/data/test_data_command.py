"""`trl-rsa data`, run in this process."""

import json

import pytest

from trl_rsa.data import load_preferences
from trl_rsa.scripts.data import main, make_parser


ROW = {"prompt": "Sky? [bold]é", "chosen": "Blue.", "rejected": "Green."}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROW, ROW | {"chosen": ""}, ROW | {"prompt": "Sea?"})))
    return str(path)


def run(*arguments):
    return main(make_parser().parse_args(list(arguments)))


def test_prints_pairs_and_report(source, capsys):
    assert run(source, "--show", "1", "--template", "chat") == 0
    output = capsys.readouterr().out
    assert "prompt: [user] Sky? [bold]é" in output
    assert "Sea?" not in output
    assert "3 rows read as preference" in output
    assert "1  empty response" in output
    assert "\x1b" not in output  # not a terminal: no colours


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("template", [[], ["--template", "safe-rlhf", "--eos_token", "</s>"]])
def test_written_pairs_load_back_the_same(source, tmp_path, name, template, capsys):
    path = tmp_path / name
    run(source, "--output", str(path), *template)
    again = load_preferences(path)
    assert f"fingerprint {again.counts.fingerprint}" in capsys.readouterr().out
    assert len(again.dataset) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (["missing.jsonl"], FileNotFoundError, "no file or folder"),
        (["SOURCE", "--strict"], ValueError, "line 2"),
        (["SOURCE", "--output", "out.txt"], ValueError, "only .jsonl and .parquet"),
        (["SOURCE", "--output", "/nowhere/out.jsonl"], FileNotFoundError, "no folder"),
        (["SOURCE", "--output", "SOURCE"], ValueError, "this file exists, and would be overwritten"),
        (["SOURCE", "--format", "beavertails"], ValueError, "missing field `response`"),
    ],
)
def test_errors_are_one_sentence(source, arguments, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        run(*(source if argument == "SOURCE" else argument for argument in arguments))
    assert "\n" not in str(raised.value)


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    output = capsys.readouterr().out
    assert output.startswith("usage: trl-rsa data")
    assert "example:" in output


def test_data_moves_no_cursor(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "p\x1b[2J", "chosen": "a\u202eb", "rejected": "c\x07"}) + "\n")
    assert run(str(path)) == 0
    shown = capsys.readouterr().out
    assert "p\\x1b[2J" in shown and "a\\u202eb" in shown and "c\\x07" in shown
    assert not any(character in shown for character in "\x1b\u202e\x07")
