"""`trl-rsa label`, as a user types it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.rlaif.test_label import CONSTITUTION, by_the_principle
from tests.scoring.conftest import chat_server
from trl_rsa.cli import main


__all__ = ["chat_server"]


@pytest.fixture
def arguments(tmp_path):
    """`arguments(url)`: 40 pairs, of which all differ in length."""
    rows = [{"prompt": f"p {i}", "response_0": "x" * (i + 1), "response_1": "y" * (i + 3)} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)

    def make(url, *more):
        files = [str(tmp_path / "pairs.jsonl"), "--constitution", str(tmp_path / "constitution.yaml")]
        judge = ["--judge", f"{url}#m", "--judge_option", "cache_dir=false", "max_retries=0", "concurrency=1"]
        return ["label", *files, *judge, "--output", str(tmp_path / "out.jsonl"), *more]

    return make


def test_labels_and_says_so(chat_server, arguments, tmp_path, capsys):
    server = chat_server(by_the_principle)
    assert main(arguments(server.url, "--dry_run")) == 0
    assert server.requests == [] and "80 requests at most" in capsys.readouterr().out
    assert main(arguments(server.url)) == 0
    said = capsys.readouterr().out
    assert "40 pairs written of 40 rows: 40 decided" in said
    assert "both orders give the same verdict in 100% of the pairs" in said
    assert main(["data", str(tmp_path / "out.jsonl"), "--show", "0"]) == 0


def test_a_cap_is_one_sentence(chat_server, arguments, tmp_path, capsys):
    assert main(arguments(chat_server(by_the_principle).url, "--judge_option", "max_requests=33")) == 2
    error = capsys.readouterr().err
    assert "the cap of 33 requests is reached" in error and "16 are labelled" in error and "Traceback" not in error
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 16


@pytest.mark.slow
@pytest.mark.kills
def test_killed_and_started_again(chat_server, arguments, tmp_path):
    """The process dies while it waits for an answer. The second one asks for what is missing, and no more."""
    running = []

    def kills(body):
        if len(server.requests) == 40:
            running[0].send_signal(signal.SIGKILL)
        return by_the_principle(body)

    server = chat_server(kills)
    environment = {**os.environ, "no_proxy": "127.0.0.1"}
    running.append(subprocess.Popen([sys.executable, "-m", "trl_rsa", *arguments(server.url)], env=environment))
    assert running[0].wait() == -signal.SIGKILL and not (tmp_path / "out.jsonl").exists()
    assert len((tmp_path / "out.jsonl.lines.jsonl").read_text().splitlines()) == 16
    assert main(arguments(server.url)) == 0
    assert 80 - 32 <= len(server.requests) - 40 <= 80 - 32 + 4  # four were under way
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--judge_option", "max_price=3"], "the judge's option 'max_price'"),
        (["--judge_option", "max_cost"], "an option is NAME=VALUE"),
        (["--judge_option", "max_cost=3"], "but no prices"),
        (["--method", "rank"], "invalid choice"),
        (["--method", "revise"], "no principle of the constitution has"),
        (["--output", "out.csv"], "only .jsonl can be written"),
        (["--output", "nowhere/out.jsonl"], "there is no folder nowhere"),
        (["--constitution", "none.yaml"], "there is no such file"),
        (["--judge", "ftp://x#m"], "no http(s) address"),
        (["--limit", "0"], "from 1 on"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_one_sentence(more, sentence, arguments, tmp_path, capsys):
    assert main(arguments("http://127.0.0.1:1/v1", *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
    assert not (tmp_path / "out.jsonl").exists()
