"""The chat endpoint against a server on this machine that fails in the ways servers fail."""

import base64
import json
import re
import socket
import threading
import time
from email.utils import formatdate
from itertools import count
from urllib.parse import quote

import pytest

from trl_rsa.scoring import ChatEndpoint
from trl_rsa.scoring.budget import Budget, BudgetSpent
from trl_rsa.scoring.endpoint import CUT, Call, EndpointError
from trl_rsa.scoring.replies import ReplyCache
from trl_rsa.scoring.secret import Secret


def ask(text, **settings):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 10, **settings}


def make(server, **options):
    return ChatEndpoint(getattr(server, "url", server), "m", **{"backoff": 0.01, "cache_dir": False} | options)


def echo(body):
    return "echo " + body["messages"][0]["content"]


def test_replies_come_in_order_and_equal_requests_go_out_once(chat_server):
    server = chat_server(echo)
    replies = make(server, concurrency=3).complete([ask("a"), ask("b"), ask("a"), ask("a", repeat=1), ask("ü\ud83d")])
    assert replies == ["echo a", "echo b", "echo a", "echo a", "echo ü\ud83d"]
    assert len(server.requests) == 4
    assert set(server.paths) == {"/v1/chat/completions"}
    assert all(set(body) == {"model", "messages", "max_tokens"} for body in server.requests)


def test_failures_are_tried_again_and_the_server_s_pause_is_kept(chat_server):
    """429 with Retry-After: 0.2, then 503, then a broken-off body, then the reply: four requests, 0.2 s at least."""
    whole = json.dumps({"choices": [{"message": {"content": "fine"}}]})
    answers = iter(
        [(429, {"Retry-After": "0.2"}, "slow down"), (503, {}, ""), (200, {"Content-Length": "900"}, whole)]
    )
    server = chat_server(lambda body: next(answers, (200, {}, whole)))
    began = time.monotonic()
    assert make(server, timeout=2).complete([ask("a")]) == ["fine"]
    assert time.monotonic() - began >= 0.2
    assert len(server.requests) == 4


def test_retries_end(chat_server):
    server = chat_server(lambda body: (500, {}, "  out \n of order "))
    (reply,) = make(server, max_retries=2).complete([ask("a")])
    assert isinstance(reply, EndpointError)
    assert str(reply) == "no reply after 3 requests; the last: status 500 (out of order)"
    assert len(server.requests) == 3


def test_a_server_that_is_down_is_not_asked_for_ever(chat_server):
    """Eight requests that used up their retries are enough; the other 32 are not sent."""
    server = chat_server(lambda body: (503, {}, ""))
    replies = make(server, max_retries=0, concurrency=1).complete([ask(str(i)) for i in range(40)])
    assert len(server.requests) == 8
    assert "asked no more" in str(replies[-1])


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_pause_that_is_too_long_fails(as_date, chat_server):
    after = formatdate(time.time() + 3600, usegmt=True) if as_date else "3600"
    server = chat_server(lambda body: (429, {"Retry-After": after}, ""))
    (reply,) = make(server, max_wait=5).complete([ask("a")])
    assert re.fullmatch(r"the endpoint asks to wait 3[56]\d\d s, longer than max_wait=5", str(reply))
    assert len(server.requests) == 1


def test_a_refused_key_ends_everything_and_is_never_shown(chat_server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    server = chat_server(lambda body: (401, {}, "wrong key sk-secret-123, get another"))
    endpoint = make(server, api_key_env="JUDGE_KEY", concurrency=1)
    replies = endpoint.complete([ask("a"), ask("b"), ask("c")])
    assert len(server.requests) == 1
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-123"
    assert all("status 401 (wrong key [key], get another)" in str(reply) for reply in replies)
    assert "sk-secret" not in f"{replies}{endpoint!r}"


KEY = "sk-se/cr+et=123.ABC"
ECHOES = {
    "slashes": KEY.replace("/", "\\/"),
    "percent": quote(KEY, safe=""),
    "percent twice": quote(quote(KEY, safe=""), safe=""),
    "escapes": "".join(f"\\u{ord(character):04x}" for character in KEY),
    "hex": KEY.encode().hex(),
    "entities": "".join(f"&#{ord(character)};" for character in KEY),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of more": base64.b64encode(f"user:{KEY}:x".encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(f"a{KEY}".encode()).decode(),
}
# What would give the key away: itself, its beginning, and the middle of its base64.
TRACES = ("se/cr", "sk-se", "c2Uv", "73652f", "%2Fcr", "#115")


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("status", [200, 401])
def test_a_key_that_comes_back_in_another_spelling_is_hidden(echo, status, chat_server, monkeypatch, tmp_path):
    """In the message of a refusal; and in the reply of a 200, which is kept on disk."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    content = json.dumps({"choices": [{"message": {"content": f"You sent {echo}, I say [[A]]"}}]})
    server = chat_server(lambda body: (status, {}, content if status == 200 else f"You sent {echo}, no"))
    (reply,) = make(server, api_key_env="JUDGE_KEY", cache_dir=tmp_path).complete([ask("a")])
    stored = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(stored) == (status == 200)
    assert "[key]" in str(reply)
    assert not [trace for trace in TRACES for text in (str(reply), *stored) if trace.lower() in text.lower()]
    assert str(reply).endswith(", I say [[A]]") if status == 200 else "status 401" in str(reply)


def test_other_text_keeps_its_words():
    assert Secret(KEY).hide("sk- and sec/ret, 123.ABC stay") == "sk- and sec/ret, 123.ABC stay"
    assert KEY not in repr(Secret(KEY))
    assert Secret("k").hide("a key of one letter") == "a [key]ey of one letter"


def test_half_a_key_is_not_left_at_the_cut(chat_server, monkeypatch):
    """An excerpt has 200 characters; a long key that is repeated shrinks before it is cut."""
    monkeypatch.setenv("JUDGE_KEY", "0123456789" * 50)
    server = chat_server(lambda body: (401, {}, "0123456789" * 9000))
    (reply,) = make(server, api_key_env="JUDGE_KEY").complete([ask("a")])
    assert "0123" not in str(reply)


def test_no_key_is_sent_unless_named(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = chat_server(echo)
    make(server).complete([ask("a")])
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("BAD_KEY", "sk\nsecret")
    for name in ("NO_SUCH_KEY", "BAD_KEY"):
        with pytest.raises(ValueError, match=f"api_key_env='{name}'") as caught:
            make(server, api_key_env=name)
        assert "secret" not in str(caught.value)


def test_a_request_that_is_refused_costs_only_itself(chat_server):
    server = chat_server(lambda body: (400, {}, "too long") if "long" in str(body) else echo(body))
    replies = make(server, concurrency=1).complete([ask("long"), ask("short")])
    assert str(replies[0]) == "the endpoint refused the request: status 400 (too long)"
    assert replies[1] == "echo short"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status, chat_server, monkeypatch):
    """They would carry the key to another host."""
    monkeypatch.setenv("JUDGE_KEY", "k")
    thief = chat_server(echo)
    server = chat_server(lambda body: (status, {"Location": f"{thief.url}/chat/completions"}, ""))
    (reply,) = make(server, api_key_env="JUDGE_KEY").complete([ask("a")])
    assert f"status {status}" in str(reply)
    assert thief.paths == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>", "not a chat completion (<html>)"),
        ("[]", "not a chat completion"),
        ('{"choices": []}', "not a chat completion"),
        ('{"choices": [{"message": {"content": null}}]}', "the reply is empty"),
        ('{"choices": [{"message": {"content": " "}}]}', "the reply is empty"),
        ('{"choices": [{"message": {"content": "[[A]] but"}, "finish_reason": "length"}]}', "cut at max_tokens"),
        ('{"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}', "cut at max_tokens"),
    ],
)
def test_answers_that_are_no_reply(body, message, chat_server):
    (reply,) = make(chat_server(lambda _: (200, {}, body))).complete([ask("a")])
    assert isinstance(reply, EndpointError)
    assert message in str(reply)


def test_an_interruption_begins_nothing_more(chat_server):
    """Two at a time of 0.1 s each, interrupted at the third: of 40 requests hardly any goes out."""

    class Interrupted:
        looked = 0

        def get(self, key):
            self.looked += 1
            if self.looked == 3:
                raise KeyboardInterrupt

        def put(self, key, reply):
            pass

    def slow(body):
        time.sleep(0.1)
        return "late"

    server = chat_server(slow)
    endpoint = make(server, concurrency=2)
    endpoint.cache = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        endpoint.complete([ask(str(i)) for i in range(40)])
    assert 2 <= len(server.requests) <= 6
    assert endpoint.complete([ask("again")]) == ["late"]


def test_no_server_and_a_server_that_trickles():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def trickle():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(20):  # a byte every 0.05 s never runs into a socket's own timeout of 0.2 s
                    time.sleep(0.05)
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        (reply,) = make(f"http://127.0.0.1:{port}", timeout=0.2, max_retries=0).complete([ask("a")])
        assert "was not complete after 0.2 s" in str(reply)
        thread.join(timeout=5)
    (reply,) = make(f"http://127.0.0.1:{port}", max_retries=1).complete([ask("a")])
    assert "no reply after 2 requests; the last: no answer (ConnectionRefusedError" in str(reply)


def test_the_cap_on_requests_counts_retries(chat_server):
    numbers = count()
    server = chat_server(lambda body: (503, {}, "") if next(numbers) % 2 == 0 else echo(body))
    endpoint = make(server, max_requests=5, concurrency=1)
    replies = endpoint.complete([ask("a"), ask("b"), ask("c"), ask("d")])
    assert replies[:2] == ["echo a", "echo b"]
    assert [str(reply) for reply in replies[2:]] == ["the cap of 5 requests is reached (max_requests)"] * 2
    assert len(server.requests) == 5


def test_the_cap_on_cost_holds_with_many_in_the_air(chat_server):
    """In millionths: the server counts 100 and 10 tokens, 100·2 + 10·4 = 240. At its worst a request has 10 reply
    tokens, and as its prompt the bytes of its messages + 1,000: [{"role": "user", "content": "xx"}] has 35, so
    1035·2 + 10·4 = 2110. Under a cap of 3000 another fits while 240·n + 2110 ≤ 3000, n ≤ 3.7: four are answered."""
    server = chat_server(echo)
    endpoint = make(server, max_cost=0.003, prompt_price=2.0, completion_price=4.0, concurrency=8)
    replies = endpoint.complete([ask(str(i)) for i in range(10, 50)])
    assert sum(isinstance(reply, str) for reply in replies) == len(server.requests) == 4
    assert endpoint.budget.cost == pytest.approx(4 * 0.00024)
    assert "0.00096 is spent and the next request could cost 0.00211, over the cap of 0.003" in str(replies[-1])


def test_the_cost_of_an_answer_without_usage_is_its_worst(chat_server):
    message = {"choices": [{"message": {"content": "fine"}}]}
    for usage in ({}, {"usage": None}, {"usage": {"prompt_tokens": -5, "completion_tokens": 1}}):
        server = chat_server(lambda body, usage=usage: (200, {}, json.dumps(message | usage)))
        endpoint = make(server, max_cost=1, prompt_price=2.0, completion_price=4.0)
        assert endpoint.complete([ask("xx")]) == ["fine"]
        assert endpoint.budget.cost == pytest.approx(0.00211)


def test_the_budget_by_hand():
    """Worst cost 3, cap 10: 3, 6, 9. A fourth waits until one has turned out to cost 1: 9 − 2 + 3 = 10 fits."""
    budget = Budget(max_cost=10, prompt_price=1)
    for _ in range(3):
        budget.reserve(3)
    fourth = threading.Thread(target=budget.reserve, args=(3,), daemon=True)
    fourth.start()
    fourth.join(timeout=0.05)
    assert fourth.is_alive()
    budget.settle(2)
    fourth.join(timeout=5)
    assert (budget.cost, budget.requests) == (10, 4)
    for _ in range(3):
        budget.settle(0)
    with pytest.raises(BudgetSpent, match="10 is spent"):
        budget.reserve(3)
    with pytest.raises(ValueError, match="no prices"):
        Budget(max_cost=1)
    with pytest.raises(ValueError, match="max_requests=-1"):
        Budget(max_requests=-1)


def test_replies_are_kept_on_disk(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server = chat_server(lambda body: (503, {}, "") if "bad" in str(body) else echo(body))
    options = {"cache_dir": tmp_path / "replies", "api_key_env": "JUDGE_KEY", "max_retries": 0}
    requests = [ask("the prompt"), ask("bad"), ask("the prompt", repeat=1)]
    first = make(server, **options).complete(requests)
    assert len(server.requests) == 3
    second = make(server, **options, max_requests=1).complete(requests)
    assert second[::2] == first[::2]
    assert len(server.requests) == 4  # the failure alone is asked again
    stored = "".join(path.read_text() for path in (tmp_path / "replies").rglob("*.json"))
    assert "echo the prompt" in stored
    assert "sk-secret" not in stored
    make(server.url + "/", **options, max_requests=0).complete(requests[:1])  # a final slash changes nothing
    assert len(server.requests) == 4


def test_two_questions_about_one_text_are_two(chat_server, tmp_path):
    """The path is part of what a reply is kept under, and each answer is read in its own way."""
    other = Call("classify", "a class", lambda answer: str(answer["class"]))
    server = chat_server(lambda body: echo(body) if len(server.paths) == 1 else (200, {}, '{"class": 3}'))
    endpoint = make(server, cache_dir=tmp_path)
    for _ in range(2):
        assert endpoint.complete([ask("a")]) == ["echo a"]
        assert endpoint.complete([ask("a")], other) == ["3"]
    assert server.paths == ["/v1/chat/completions", "/v1/classify"]


def test_a_damaged_reply_is_asked_anew(chat_server, tmp_path):
    """A kill leaves no half file, but disks and people do."""
    server = chat_server(echo)
    endpoint = make(server, cache_dir=tmp_path)
    endpoint.complete([ask("a")])
    (path,) = tmp_path.rglob("*.json")
    for damage in ('{"reply": "ec', "[]", '{"reply": 3}', ""):
        path.write_text(damage)
        assert endpoint.complete([ask("a")]) == ["echo a"]
    assert len(server.requests) == 5
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".json"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    cache = ReplyCache(tmp_path)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cache.put("ab12", "reply")
    assert cache.get("ab12") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_default_folder(tmp_path, monkeypatch, chat_server):
    monkeypatch.setenv("TRL_RSA_CACHE", str(tmp_path))
    assert ChatEndpoint("http://x/v1", "m").cache.folder == tmp_path / "judge"


def test_the_pace(chat_server):
    """600 a minute are 0.1 s apart: four requests take at least 0.3 s, however many may run at once."""
    server = chat_server(echo)
    began = time.monotonic()
    make(server, requests_per_minute=600).complete([ask(str(i)) for i in range(4)])
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://x", {}, "no http"),
        ("localhost:8000", {}, "no http"),
        ("http://x:99999/v1", {}, "no http"),
        ("http://x:8o/v1", {}, "no http"),
        ("http://user:pw@x/v1", {}, "user name, password or query"),
        ("http://x/v1?key=pw", {}, "user name, password or query"),
        ("http://x/v1", {"timeout": 0}, "timeout=0"),
        ("http://x/v1", {"concurrency": 0}, "concurrency=0"),
    ],
)
def test_bad_settings(url, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        ChatEndpoint(url, "m", **options)
    assert "pw" not in str(caught.value)


def test_half_a_reply_is_no_answer_and_is_paid_for_once(chat_server, tmp_path, monkeypatch):
    """It is kept as half a reply. Asked for more tokens, the server is asked again."""
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")

    def reply(body):
        end = "stop" if body["max_tokens"] > 5 else "length"
        return (200, {}, json.dumps({"choices": [{"message": {"content": "half sk-secret"}, "finish_reason": end}]}))

    server = chat_server(reply)
    for _ in range(2):  # a restart
        endpoint = make(server, cache_dir=tmp_path, api_key_env="JUDGE_KEY")
        (first,) = endpoint.complete([ask("a", max_tokens=5)])
        assert isinstance(first, EndpointError) and str(first) == CUT
    assert len(server.requests) == 1
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert "half" in path.read_text() and "sk-secret" not in path.read_text()
    assert ReplyCache(tmp_path).get(path.name.removesuffix("-cut.json")) is None  # as an earlier version looks
    (whole,) = endpoint.complete([ask("a", max_tokens=6)])
    assert isinstance(whole, str) and whole.startswith("half")
