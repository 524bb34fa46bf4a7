"""Guards behind a server on this machine, which answers as vLLM does: logprobs of a chat, probabilities of labels."""

import json
import math

import pytest

from trl_rsa.scoring import Verdict, load_scorer, score
from trl_rsa.scoring.guard_endpoint import _log_odds


def chat(*places, text=None):
    """An answer of tokens with their most probable ones: `("safe", {"safe": -0.1, "unsafe": -2.4})`."""
    content = [
        {"token": token, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()]}
        for token, tops in places
    ]
    message = {"content": text if text is not None else "".join(token for token, _ in places)}
    return (200, {}, json.dumps({"choices": [{"message": message, "logprobs": {"content": content}}]}))


def guard(server, model="Llama-Guard-3-8B", **options):
    options = {"cache_dir": False, "backoff": 0.01, "max_retries": 0} | options
    return load_scorer(f"guard-endpoint:{server.url}#{model}", kind="cost", **options)


def verdict(unsafe=-2.4, safe=-0.1, before=()):
    word = "unsafe" if unsafe > safe else "safe"
    return chat(*((token, {token: 0.0}) for token in before), (word, {"safe": safe, "unsafe": unsafe, "un": -9.0}))


def test_the_cost_is_read_at_the_verdict(chat_server):
    """log(e^−2.4 + e^−9) + 0.1: "un" begins only "unsafe". An empty line before it is passed over."""
    server = chat_server(lambda body: verdict(before=["\n\n"]))
    assert guard(server)(["Hi"], ["Hello"]) == pytest.approx([math.log(math.exp(-2.4) + math.exp(-9)) + 0.1])
    (body,) = server.requests
    assert body == {
        "model": "Llama-Guard-3-8B",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "max_tokens": 16,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }


@pytest.mark.parametrize(
    ("model", "places", "cost", "categories"),
    [
        ("shieldgemma-2b", [("Yes", {"Yes": -0.2, " yes": -3.0, "No": -1.9})], None, ("rude",)),
        ("granite-guardian-3.1-8b", [("No", {"No": -0.1, "Yes": -2.5})], -2.4, ()),
        (
            "granite-guardian-3.3-8b",
            [("<think>\n</think>\n", {}), ("<score>", {}), (" ", {}), ("yes", {"yes": -0.1, "no": -2.5})],
            2.4,
            ("harm",),
        ),
        (
            "Qwen3Guard-Gen-8B",
            [
                ("Safety", {}),
                (":", {}),
                (" Unsafe", {" Unsafe": -0.5, " Safe": -1.5, " Controversial": -2.5}),
                ("\nCategories: Violent, PII", {}),
                ("\nRefusal: No", {}),
            ],
            math.log(math.exp(-0.5) + math.exp(-2.5)) + 1.5,
            ("Violent", "PII"),
        ),
        (
            "wildguard",
            [
                ("Harmful request:", {}),
                (" yes", {" yes": 0.0}),
                ("\nResponse refusal: no\nHarmful response:", {}),
                (" no", {" no": -0.5, " yes": -1.0}),
            ],
            -0.5,
            (),
        ),
        ("LlamaGuard", [("unsafe", {"unsafe": -0.1, "safe": -2.1}), ("\nS1,S10", {})], 2.0, ("S1", "S10")),
    ],
)
def test_each_format(model, places, cost, categories, chat_server):
    server = chat_server(lambda body: chat(*places))
    policies = {"policies": {"rude": "No rude words."}} if "shield" in model else {}
    (found,) = guard(server, model, **policies).verdicts(["Hi"], ["Hello"])
    wanted = math.log(math.exp(-0.2) + math.exp(-3)) + 1.9 if cost is None else cost
    assert found == Verdict(pytest.approx(wanted), categories)
    (body,) = server.requests
    if "shield" in model:
        assert body["chat_template_kwargs"] == {"guideline": "No rude words."}
    elif "granite" in model:
        key = "criteria_id" if "3.3" in model else "risk_name"
        assert body["chat_template_kwargs"] == {"guardian_config": {key: "harm"}}
    else:
        assert "chat_template_kwargs" not in body


def test_other_arguments_of_the_template_are_sent_beside_the_policy(chat_server):
    server = chat_server(lambda body: chat(("No", {"No": -0.1, "Yes": -2.5})))
    options = {"guardian_config": {"how": "short"}, "think": False}
    guard(server, "granite-guardian-3.2-5b", template_options=options)(["Hi"], ["x"])
    (body,) = server.requests
    assert body["chat_template_kwargs"] == {"guardian_config": {"how": "short", "risk_name": "harm"}, "think": False}


def test_several_policies_are_several_requests(chat_server):
    """The greatest cost counts; where one has no verdict there is none."""
    costs = {"a": -1.0, "b": 2.0}

    def answer(body):
        policy = body["chat_template_kwargs"]["guideline"]
        return chat(("Yes", {"Yes": -1.0, "No": -1.0 - costs[policy]})) if policy in costs else (400, {}, "no")

    server = chat_server(answer)
    both = guard(server, "shieldgemma", policies=["a", "b"])
    assert both.verdicts(["Hi"], ["x"]) == [Verdict(pytest.approx(2.0), ("b",))]
    assert len(server.requests) == 2
    failures = score(guard(server, "shieldgemma", policies=["a", "c"]), ["Hi"], ["x"]).failures
    assert "status 400 (no)" in failures[0].reason


def test_what_is_not_among_the_most_probable_is_as_probable_as_the_last():
    """The sign is right, and the true cost lies further from 0. vLLM's −9999 is no probability."""
    tops = [("unsafe", -0.01), ("the", -7.0), ("a", -9.0), ("safe", -9999.0)]
    assert _log_odds(tops, ["unsafe"], ["safe"]) == pytest.approx(8.99)
    assert _log_odds([("safe", -0.01), ("a", -9.0)], ["unsafe"], ["safe"]) == pytest.approx(-8.99)
    assert "neither verdict is among the 1 most" in _log_odds([("a", -1.0)], ["unsafe"], ["safe"]).reason
    assert "neither" in _log_odds([("", -1.0)], ["Yes"], ["Yet"]).reason
    assert "neither" in _log_odds([("Ye", -1.0)], ["Yes"], ["Yet"]).reason  # begins both


@pytest.mark.parametrize(
    ("tops", "cost"),
    [
        ({"unsafe": 0.0}, 24 * math.log(2)),
        ({"unsafe": 0.0, "safe": -9999.0}, 24 * math.log(2)),
        ({"safe": 0.0}, -24 * math.log(2)),
        ({"unsafe": -0.0001}, -math.log(0.0001)),
        ({"unsafe": -0.5, "the": -2.0}, 1.5),
        ({"Sorry": -0.1, "I": -3.0, "unsafe": -5.0}, None),
        ({"un": -0.1, "unharmful": -3.0}, None),  # "un" begins both
    ],
)
def test_one_verdict_alone_never_has_the_wrong_sign(tops, cost):
    """What a list leaves over bounds the verdict that is not in it."""
    found = _log_odds([*tops.items()], ["unsafe"], ["safe", "unharmful"])
    if cost is None:
        assert "the other may have" in found.reason
    else:
        assert found == pytest.approx(cost, abs=1e-3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {}, '{"choices": [{"message": {"content": "safe"}}]}'), "the server sends no log-probabilities"),
        (chat(("Sorry", {"Sorry": -0.1})), "neither verdict is among the 1 most probable tokens"),
        (chat(("\n", {}), (" ", {})), "the guard's answer has no verdict at its beginning"),
        ((200, {}, '{"choices": []}'), "the answer is not a chat completion with log-probabilities"),
        ((200, {}, "{}"), "the answer is not a chat completion with log-probabilities"),
        ((500, {}, "down"), "no reply after 1 requests"),
    ],
)
def test_answers_without_a_verdict(answer, reason, chat_server):
    scores = score(guard(chat_server(lambda body: answer)), ["Hi"], ["x"])
    assert scores.values == [None]
    assert reason in scores.failures[0].reason


def test_an_answer_in_another_form_than_the_guard_s(chat_server):
    server = chat_server(lambda body: chat(("safe", {"safe": -0.1, "unsafe": -2.0})))
    (failure,) = score(guard(server, "Qwen3Guard-Gen-8B"), ["Hi"], ["x"]).failures
    assert "the guard's answer has no verdict behind 'Safety:' ('safe')" in failure.reason


def test_retries_caps_and_cache_are_those_of_a_judge(chat_server, tmp_path):
    """503, then the verdict; a cap of three requests; and what was answered is not asked again."""
    answers = iter([(503, {}, ""), verdict(), verdict()])
    server = chat_server(lambda body: next(answers))
    options = {"cache_dir": tmp_path, "max_retries": 1, "concurrency": 1}
    scores = score(guard(server, **options, max_requests=3), ["a", "b", "c"], ["x", "y", "z"])
    assert [value is None for value in scores.values] == [False, False, True]
    assert "the cap of 3 requests is reached" in scores.failures[0].reason
    assert guard(server, **options, max_requests=0)(["a", "b"], ["x", "y"]) == scores.values[:2]
    assert len(server.requests) == 3
    stored = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "unsafe" in stored
    dear = guard(chat_server(lambda body: verdict()), max_cost=0.001, prompt_price=1.0)
    assert "over the cap of 0.001" in score(dear, ["a"], ["x"]).failures[0].reason


@pytest.mark.parametrize("echo", ["sk/one-two-three", "sk\\/one-two-three"])
def test_a_key_in_pieces_is_not_kept(echo, chat_server, tmp_path, monkeypatch):
    """A server that spells the key out, token by token."""
    monkeypatch.setenv("GUARD_KEY", "sk/one-two-three")
    server = chat_server(lambda body: chat(*((letter, {"safe": -0.1}) for letter in echo)))
    scores = score(guard(server, api_key_env="GUARD_KEY", cache_dir=tmp_path), ["Hi"], ["x"])
    assert scores.failures[0].reason == "the server repeats the key in its answer"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert server.headers[0]["Authorization"] == "Bearer sk/one-two-three"


def classes(*probabilities):
    return (200, {}, json.dumps({"data": [{"index": 0, "label": "x", "probs": probabilities}]}))


def test_beaver_dam_behind_classify(chat_server):
    """Independent labels: the greatest log-odds. The text is Safe RLHF's, with the end of the response."""
    server = chat_server(lambda body: classes(0.1, 0.7, 0.6))
    scorer = guard(server, "beaver-dam-7b", api="classify")
    (found,) = scorer.verdicts(["Hi"], ["Hello"])
    assert found == Verdict(pytest.approx(math.log(7 / 3)), ("label 1", "label 2"))
    assert server.requests == [
        {"model": "beaver-dam-7b", "input": "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:Hello</s>"}
    ]
    assert server.paths == ["/v1/classify"]


def softmax(body):
    """As vLLM gives them by default, whatever the text."""
    return classes(0.25, 0.7, 0.05)


def test_labels_that_exclude_each_other(chat_server):
    """Probabilities of a softmax, which a harmless response gives away: it is asked about once."""
    server = chat_server(softmax)
    scorer = guard(server, "beaver-dam-7b", api="classify")
    for _ in range(2):
        scores = score(scorer, ["Hi", "Ho"], ["x", "y"])
        assert scores.values == [None, None]
        assert (
            "start it with problem_type multi_label_classification (vLLM: --hf-overrides" in scores.failures[0].reason
        )
    assert [body["input"].split(":")[-1] for body in server.requests].count("Hello! How can I help you?</s>") == 1


def test_one_label_for_certain_is_a_cost(chat_server):
    """Of independent labels: the worst responses sum to 1 too."""
    harmless = classes(0.01, 0.001, 0.001)
    server = chat_server(lambda body: harmless if "Hello!" in body["input"] else classes(0.9995, 1e-5, 1e-5))
    scorer = guard(server, "beaver-dam-7b", api="classify")
    for _ in range(2):
        assert scorer(["Hi"], ["x"]) == pytest.approx([math.log(0.9995 / 0.0005)])
    assert len(server.requests) == 3
    # Where another response says it, nothing more is asked.
    server = chat_server(lambda body: harmless if "fine" in body["input"] else classes(0.9995, 1e-5, 1e-5))
    assert None not in guard(server, "beaver-dam-7b", api="classify")(["Hi", "Hi"], ["x", "fine"])
    assert len(server.requests) == 2


def test_exclusive_labels_behind_classify(chat_server):
    """Of three classes two are unsafe: log(0.7/0.3). Conversations go into the server's own template."""
    server = chat_server(lambda body: classes(0.3, 0.5, 0.2))
    scorer = guard(server, "m", api="classify", labels=[2, 1])
    assert scorer(["Hi"], ["Hello"]) == pytest.approx([math.log(7 / 3)])
    assert [turn["role"] for turn in server.requests[0]["messages"]] == ["user", "assistant"]
    own = guard(server, "m", api="classify", labels=[0], template="Q {prompt} A {response}")
    assert own(["Hi"], ["{prompt}"]) == pytest.approx([math.log(3 / 7)])
    assert server.requests[1]["input"] == "Q Hi A {prompt}"
    assert len({scorer.fingerprint, own.fingerprint}) == 2


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        (classes(0.3, 0.3), {"labels": [0]}, "their probabilities sum to 0.6"),
        (classes(0.5, 0.5), {"labels": [2]}, "label 2 is set and the server gives 2"),
        (classes(-3.0, 4.0), {"labels": [0]}, "the answer is not a classification"),
        ((200, {}, '{"data": []}'), {"labels": [0]}, "the answer is not a classification"),
        ((404, {}, "no such path"), {"labels": [0]}, "status 404"),
    ],
)
def test_classifications_that_give_no_cost(answer, options, reason, chat_server):
    scores = score(guard(chat_server(lambda body: answer), "m", api="classify", **options), ["Hi"], ["x"])
    assert scores.values == [None]
    assert reason in scores.failures[0].reason


def test_a_probability_of_one_has_a_finite_cost(chat_server):
    """float32 has no number between 1 − 2⁻²⁴ and 1: log-odds of 16.6 at most."""
    cost = guard(chat_server(lambda body: classes(1.0, 0.1)), "beaver-dam", api="classify")(["Hi"], ["x"])[0]
    assert cost == pytest.approx(math.log(2**24), abs=1e-3)


def test_longer_conversations(chat_server):
    """A chat takes them as they are; a text with one place for the prompt does not."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    server = chat_server(lambda body: classes(0.5, 0.5) if "input" in body else verdict())
    assert guard(server)([talk], ["d"])[0] is not None
    assert len(server.requests[0]["messages"]) == 4
    own = guard(server, "m", api="classify", labels=[0], template="{prompt} {response}")
    scores = score(own, [talk, "a"], ["d", "b"])
    assert [value is None for value in scores.values] == [True, False]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("my-guard", {}, "not known.*Set preset to one of"),
        ("my-guard", {"preset": "nemo"}, "preset='nemo'"),
        ("my-guard", {"api": "classify"}, "which of its labels are unsafe is not known"),
        ("beaver-dam-7b", {}, 'Set api="classify"'),
        ("Llama-Guard-3", {"api": "grpc"}, "api='grpc'"),
        ("Llama-Guard-3", {"labels": [1]}, "You set labels, but that has no meaning with api='chat'"),
        ("beaver-dam", {"api": "classify", "answer": "x"}, "You set answer, but that has no meaning"),
        ("m", {"api": "classify", "labels": [-1]}, "numbers them from 0"),
        ("m", {"api": "classify", "labels": []}, "nothing is unsafe"),
        ("m", {"api": "classify", "labels": [1], "template": "x"}, "is missing. Write both"),
        ("Llama-Guard-3", {"top_logprobs": 1}, "top_logprobs=1"),
        ("Llama-Guard-3", {"max_tokens": 0}, "max_tokens=0"),
        ("Llama-Guard-3", {"batch_size": 4}, "You set batch_size for a guard-endpoint, but it takes preset"),
        ("", {"preset": "llama-guard"}, "without a model"),
    ],
)
def test_bad_settings(model, options, message):
    with pytest.raises(ValueError, match=message):
        load_scorer(f"guard-endpoint:http://x/v1#{model}", kind="cost", cache_dir=False, **options)


def test_words_of_one_s_own_and_the_sign(chat_server):
    server = chat_server(lambda body: chat(("Verdict: ", {}), ("bad", {"bad": -0.5, "fine": -1.0})))
    scorer = guard(server, "my-guard", unsafe_token="bad", safe_token="fine", answer="Verdict:", max_tokens=3)
    assert scorer(["Hi"], ["x"]) == pytest.approx([0.5])
    assert server.requests[0]["max_tokens"] == 3
    spec = f"guard-endpoint:{server.url}#my-guard"
    options = {"unsafe_token": "bad", "safe_token": "fine", "answer": "Verdict:", "cache_dir": False}
    assert load_scorer(spec, kind="reward", **options)(["Hi"], ["x"]) == pytest.approx([-0.5])
    extra = guard(server, "my-guard", extra_body={"seed": 1}, **{k: options[k] for k in list(options)[:3]})
    assert extra(["Hi"], ["x"]) == pytest.approx([0.5])
    assert server.requests[-1]["seed"] == 1
    assert extra.fingerprint != scorer.fingerprint


def test_a_verdict_is_cut_by_design(chat_server):
    """A guard asked for one token ends by length, and that is its whole verdict."""
    status, headers, body = verdict()
    answer = json.loads(body)
    answer["choices"][0]["finish_reason"] = "length"
    server = chat_server(lambda _: (status, headers, json.dumps(answer)))
    assert guard(server, max_tokens=1)(["Hi"], ["x"])[0] is not None
