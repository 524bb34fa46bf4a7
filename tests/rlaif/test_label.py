"""Labels of a judge who follows a known rule are that rule; what is on disk is not asked again."""

import json
import re

import pytest

from trl_rsa.data import load_preferences
from trl_rsa.rlaif.constitution import Constitution
from trl_rsa.rlaif.label import CHUNK, label
from trl_rsa.rlaif.labelling import Labelling
from trl_rsa.rlaif.preview import preview
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.scoring import ChatEndpoint


CONSTITUTION = """
principles:
  - {name: long, compare: "Which response has more letters?"}
  - {name: short, compare: "Which response has fewer letters?"}
"""
NAMES = ("conversation", "response A", "response B")


def sections(text):
    return [re.search(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", text, re.DOTALL)[2] for name in NAMES]


def by_the_principle(body):
    """Does what the question says, and has no opinion on responses of one length."""
    text = body["messages"][0]["content"]
    _, a, b = sections(text)
    if len(a) == len(b):
        return "[[tie]]"
    return "[[A]]" if (len(a) > len(b)) == ("more letters" in text) else "[[B]]"


@pytest.fixture
def constitution(tmp_path):
    path = tmp_path / "constitution.yaml"
    path.write_text(CONSTITUTION)
    return Constitution.from_yaml(path)


@pytest.fixture
def pairs(tmp_path):
    """40 pairs without labels, of which every fifth has two responses of one length."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": f"prompt {i}",
            "response_0": "x" * (3 + i % 5),
            "response_1": f"{i:02d}abc",
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(constitution, pairs, tmp_path):
    def make(server, **settings):
        endpoint = settings.pop("endpoint", {})
        chat = ChatEndpoint(server.url, "judge-1", cache_dir=False, backoff=0.01, max_retries=0, **endpoint)
        return Labelling(settings.pop("source", str(pairs)), constitution, chat, tmp_path / "out.jsonl", **settings)

    return make


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_rule_is_recovered(chat_server, make, tmp_path):
    """32 pairs differ in length: each is labelled by its principle; 8 are ties and left out; 2 requests each."""
    server = chat_server(by_the_principle)
    report = label(make(server), log=lambda line: None)
    rows = read(tmp_path / "out.jsonl")
    assert len(rows) == 32 and len(server.requests) == 80
    for row in rows:
        assert (len(row["chosen"]) > len(row["rejected"])) == (row["principle"] == "long")
    assert report["counts"] == {"rows": 40, "written": 32, "decided": 32, "ties": 8}
    assert report["principles"].keys() == {"long", "short"} and sum(report["principles"].values()) == 40
    assert (report["agreement"], report["first_place"], report["with_data"]) == (1.0, 0.5, None)
    loaded = load_preferences(tmp_path / "out.jsonl").dataset
    assert loaded.column_names == ["prompt", "chosen", "rejected"] and len(loaded) == 32


def test_a_file_of_someone_else_is_not_written_over(chat_server, make, pairs, tmp_path):
    """Its own input, or any other; also found by the dry run. What it has written itself it goes on with."""
    (tmp_path / "out.jsonl").write_text(before := pairs.read_text())
    labelling = make(chat_server(by_the_principle))
    for act in (label, preview):
        with pytest.raises(ValueError, match="this file exists, and this command has not written it"):
            act(labelling, log=lambda line: None)
    assert (tmp_path / "out.jsonl").read_text() == before
    (tmp_path / "out.jsonl").unlink()
    for _ in range(2):
        label(labelling, log=lambda line: None)


def test_ties_are_kept_with_a_half(chat_server, make, tmp_path):
    label(make(chat_server(by_the_principle), ties="keep"), log=lambda line: None)
    loaded = load_preferences(tmp_path / "out.jsonl").dataset
    assert sorted(loaded["pair_label"]) == [0.5] * 8 + [1.0] * 32


def test_orders_that_disagree(chat_server, make, tmp_path):
    """A judge who always takes the first place decides nothing, and is found out."""
    lines = []
    report = label(make(chat_server(lambda body: "[[A]]")), log=lines.append)
    assert report["counts"] == {"rows": 40, "written": 0, "orders that disagree": 40}
    assert (report["agreement"], report["first_place"]) == (0.0, 1.0)
    assert "the response that stands first wins 100% of the verdicts; 50% is no bias" in lines


def test_no_verdict_is_not_asked_again(chat_server, make, tmp_path):
    server = chat_server(lambda body: "I would rather not say.")
    said = []
    report = label(make(server), log=said.append)
    assert report["counts"] == {"rows": 40, "written": 0, "without a verdict": 40}
    assert any(line.startswith("most replies hold no verdict") for line in said)
    label(make(server), log=lambda line: None)
    assert len(server.requests) == 80


def test_a_verdict_that_was_cut_is_none(chat_server, make, tmp_path):
    """It is counted, with its reason, and not asked for again with the same max_tokens."""
    choice = {"message": {"content": "At first sight [[A]], but"}, "finish_reason": "length"}
    server = chat_server(lambda body: (200, {}, json.dumps({"choices": [choice]})))
    report = label(make(server), log=lambda line: None)
    assert report["counts"] == {"rows": 40, "written": 0, "without a verdict": 40}
    assert "was cut at max_tokens" in read(tmp_path / "out.jsonl.lines.jsonl")[0]["reason"]
    label(make(server), log=lambda line: None)
    assert len(server.requests) == 80


def test_labels_of_the_data_are_only_compared_with(chat_server, make, tmp_path):
    """The data prefers `good`, of 4 letters; a judge by length agrees where it is asked for short ones."""
    path = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"p {i}", "chosen": "good", "rejected": "a bad one"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = label(make(chat_server(by_the_principle), source=str(path)), log=lambda line: None)
    assert report["with_data"] == pytest.approx(report["principles"]["short"] / 30)
    assert 0 < report["with_data"] < 1


def test_what_is_labelled_is_not_asked_again(chat_server, make, tmp_path, monkeypatch):
    """Killed in the middle, with half a line on disk: the rest is asked, and the result is that of one run."""
    seen, alive = [], []

    def dies(body):
        seen.append(body)
        return by_the_principle(body) if len(seen) <= 2 * CHUNK else (401, {}, "{}")

    server = chat_server(lambda body: by_the_principle(body) if alive else dies(body))
    with pytest.raises(ValueError, match=r"asked judge-1 to label 40 rows, but .*: 16 are labelled"):
        label(make(server), log=lambda line: None)
    lines = tmp_path / "out.jsonl.lines.jsonl"
    assert len(read(lines)) == CHUNK
    with lines.open("a") as file:
        file.write('{"key": "half')
    alive.append(True)
    asked, said = len(server.requests), []
    label(make(server), log=said.append)
    assert len(server.requests) - asked == 80 - 2 * CHUNK and said[0] == "16 of 40 rows are labelled already"
    again = (tmp_path / "out.jsonl").read_text()
    for path in tmp_path.glob("out.jsonl*"):
        path.unlink()
    label(make(chat_server(by_the_principle)), log=lambda line: None)
    assert (tmp_path / "out.jsonl").read_text() == again
    # Another seed draws other principles: that is another question.
    other = chat_server(by_the_principle)
    label(make(other, seed=1), log=lambda line: None)
    assert len(other.requests) == 80


def test_another_server_is_another_judge(chat_server, make, tmp_path):
    """Of the same name: it is asked itself, and its labels stand."""
    label(make(chat_server(by_the_principle), limit=4), log=lambda line: None)
    other, said = chat_server(lambda body: "[[tie]]"), []
    assert label(make(other, limit=4), log=said.append)["counts"] == {"rows": 4, "written": 0, "ties": 4}
    assert said[0] == f"none of the 4 lines in {tmp_path}/out.jsonl.lines.jsonl is of this labelling: " + (
        "every row is asked for"
    )


def test_lines_of_an_earlier_version_are_kept_and_said(chat_server, make, tmp_path):
    """Their keys leave out the server's address."""
    server, said = chat_server(by_the_principle), []
    labelling, path = make(server, limit=8), tmp_path / "out.jsonl.lines.jsonl"
    label(labelling, log=lambda line: None)
    lines = {line["key"]: line for line in read(path)}
    early = [
        {**lines[labelling.key(row, labelling.judge)], "key": labelling.early_key(row, labelling.judge)}
        for row in labelling.read().rows[:6]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in early))
    before = (tmp_path / "out.jsonl").read_text()
    asked = len(server.requests)
    label(make(server, limit=8), log=said.append)
    assert len(server.requests) - asked == asked / 4 and (tmp_path / "out.jsonl").read_text() == before
    assert said[0] == "6 of 8 rows are labelled already"
    assert said[1].startswith("6 of them by an earlier version") and str(path) in said[1]


def test_the_cap(chat_server, make, tmp_path):
    """40 requests are 16 pairs and a part of the next 16: the whole ones are written."""
    server = chat_server(by_the_principle)
    with pytest.raises(ValueError, match=r"the cap of 40 requests is reached \(max_requests\)"):
        label(make(server, endpoint={"max_requests": 40, "concurrency": 1}), log=lambda line: None)
    assert len(server.requests) == 40
    n = len(read(tmp_path / "out.jsonl.lines.jsonl"))
    assert CHUNK <= n <= 20 and json.loads((tmp_path / "out.jsonl.report.json").read_text())["counts"]["rows"] == 40
    label(make(server), log=lambda line: None)
    assert len(read(tmp_path / "out.jsonl")) == 32


def test_a_dry_run_asks_nothing(chat_server, make, tmp_path):
    server, lines = chat_server(by_the_principle), []
    options = {"prompt_price": 1.0, "completion_price": 2.0, "max_requests": 10}
    preview(make(server, options=options), log=lines.append)
    assert server.requests == [] and not list(tmp_path.glob("out*"))
    text = "\n".join(lines)
    assert "40 rows" in text and "80 requests at most" in text and "max_requests=10 may stop it" in text
    assert "they cost at most" in text


def test_rows_that_say_the_same_are_asked_for_once(chat_server, make, pairs, tmp_path):
    """Each is written all the same. The first start asks for all, the next for none."""
    row, other = pairs.read_text().splitlines()[:2]
    pairs.write_text("\n".join([row, other, *[row] * 20]) + "\n")
    server, said = chat_server(by_the_principle), []
    for _ in range(2):
        assert label(make(server), log=said.append)["counts"] == {"rows": 22, "written": 22, "decided": 22}
        assert len(read(tmp_path / "out.jsonl.lines.jsonl")) == 2 and len(server.requests) == 4
    assert [line for line in said if "already" in line] == ["22 of 22 rows are labelled already"]
    assert not any("none of the" in line for line in said)


@pytest.mark.parametrize("method", ["compare", "revise"])
def test_what_a_dry_run_says_it_costs_holds_the_principle(method, chat_server, make, tmp_path):
    """One row, and a principle of 50,000 bytes, is two requests of as many tokens at most, and a little more."""
    text, lines = "x" * 50_000, []
    (tmp_path / "long.yaml").write_text(f"principles: [{{compare: {text}, critique: {text}, revise: short}}]")
    labelling = make(chat_server(by_the_principle), limit=1, options={"prompt_price": 20.0})
    labelling.constitution, labelling.method = Constitution.from_yaml(tmp_path / "long.yaml"), method
    labelling.__post_init__()
    preview(labelling, log=lines.append)
    (said,) = (line for line in lines if line.startswith("they cost at most"))
    assert 2.0 <= float(said.split()[-1]) < 2.5


def test_a_dry_run_knows_the_other_name_of_max_tokens(chat_server, make):
    lines, options = [], {"extra_body": {"max_completion_tokens": 9000}, "max_tokens": 8}
    preview(make(chat_server(by_the_principle), options=options), log=lines.append)
    assert any(line.endswith("a reply of at most 9000 tokens") for line in lines)


# Critique and revision


def critic(body):
    """Finds the word bad, and replaces it when it is asked to."""
    turns = body["messages"]
    last = turns[-1]["content"]
    if last.startswith("Criticise"):
        return "bad" if "bad" in turns[-2]["content"] else "nothing"
    if last.startswith("Rewrite"):
        assert turns[-2]["content"] in ("bad", "nothing"), "the critique stands before the request"
        return turns[-4]["content"].replace("bad", "good", 1)
    return "a bad bad answer"


@pytest.fixture
def revising(chat_server, tmp_path):
    path = tmp_path / "revising.yaml"
    path.write_text("principles: [{critique: Criticise it., revise: Rewrite it.}]")

    def revising(rows, **settings):
        data = tmp_path / "prompts.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        server = chat_server(critic)
        chat = ChatEndpoint(server.url, "m", cache_dir=False, max_retries=0)
        out = tmp_path / "revised.jsonl"
        labelling = Labelling(str(data), Constitution.from_yaml(path), chat, out, method="revise", **settings)
        return server, label(labelling, log=lambda line: None), out

    return revising


def test_revised_against_original(revising):
    rows = [{"prompt": "q", "response": "a bad one"}, {"prompt": "r", "response": "a fine one"}]
    server, report, out = revising(rows)
    assert read(out) == [{"prompt": "q", "chosen": "a good one", "rejected": "a bad one", "principle": "principle-1"}]
    assert report["counts"] == {"rows": 2, "written": 1, "revised": 1, "not changed": 1}
    assert len(server.requests) == 4
    assert load_preferences(out).dataset[0]["chosen"] == "a good one"


def test_rounds_and_responses_that_are_drawn(revising):
    """Two rounds replace two words; the model's own answer is the original, in messages where the prompt is."""
    server, _, out = revising([{"prompt": [{"role": "user", "content": "q"}]}], rounds=2)
    (row,) = read(out)
    assert row["chosen"] == [{"role": "assistant", "content": "a good good answer"}]
    assert row["rejected"] == [{"role": "assistant", "content": "a bad bad answer"}]
    assert [len(body["messages"]) for body in server.requests] == [1, 3, 5, 3, 5]
    load_preferences(out)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {"max_tokens": 512, "temperature": 0.0}),
        ({"temperature": None, "extra_body": {"seed": 1}}, {"max_tokens": 512, "seed": 1}),
        ({"extra_body": {"max_completion_tokens": 9}}, {"max_completion_tokens": 9, "temperature": 0.0}),
    ],
)
def test_a_revision_is_asked_for_as_a_verdict_is(revising, options, sent):
    server, _, _ = revising([{"prompt": "q", "response": "a bad one"}], options=options)
    for body in server.requests:
        assert {name: body[name] for name in body if name not in ("model", "messages")} == sent


def test_half_a_response_is_no_revision(chat_server, constitution, tmp_path):
    def reply(body):
        end = "length" if body["messages"][0]["content"] == "long" and len(body["messages"]) > 3 else "stop"
        return (200, {}, json.dumps({"choices": [{"message": {"content": critic(body)}, "finish_reason": end}]}))

    (tmp_path / "c.yaml").write_text("principles: [{critique: Criticise it., revise: Rewrite it.}]")
    rows = [{"prompt": prompt, "response": "a bad one"} for prompt in ("short", "long")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = ChatEndpoint(chat_server(reply).url, "m", cache_dir=False, max_retries=0)
    own, out = Constitution.from_yaml(tmp_path / "c.yaml"), tmp_path / "revised.jsonl"
    report = label(Labelling(str(tmp_path / "p.jsonl"), own, chat, out, method="revise"), log=lambda line: None)
    assert [row["prompt"] for row in read(out)] == ["short"]
    assert report["counts"] == {"rows": 2, "written": 1, "revised": 1, "with a reply that was cut": 1}


def test_a_revision_that_was_cut_is_none(chat_server, tmp_path):
    """More such rows than are asked at once do not end the labelling, nor are they asked again."""

    def reply(body):
        end = "length" if "long" in body["messages"][0]["content"] else "stop"
        return (200, {}, json.dumps({"choices": [{"message": {"content": "a better one"}, "finish_reason": end}]}))

    (tmp_path / "c.yaml").write_text("principles: [{critique: Criticise it., revise: Rewrite it.}]")
    rows = [{"prompt": f"long {i}", "response": "a bad one"} for i in range(20)]
    rows.append({"prompt": "short", "response": "a bad one"})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = chat_server(reply)
    own, out, said = Constitution.from_yaml(tmp_path / "c.yaml"), tmp_path / "revised.jsonl", []
    for _ in range(2):
        chat = ChatEndpoint(server.url, "m", cache_dir=False, max_retries=0)
        report = label(Labelling(str(tmp_path / "p.jsonl"), own, chat, out, method="revise"), log=said.append)
        assert [row["prompt"] for row in read(out)] == ["short"]
        assert report["counts"] == {"rows": 21, "written": 1, "with a reply that was cut": 20, "revised": 1}
        assert said[-1] == "replies were cut at max_tokens: raise the judge's max_tokens"
    assert len(server.requests) == 22
    reasons = [line["reason"] for line in read(tmp_path / "revised.jsonl.lines.jsonl")]
    assert sum("was cut at max_tokens" in (reason or "") for reason in reasons) == 20


def test_a_revision_that_is_empty_is_not_asked_for_again(chat_server, tmp_path):
    """A first start with nothing but such rows ends well, and so does the second."""
    (tmp_path / "c.yaml").write_text("principles: [{critique: Criticise it., revise: Rewrite it.}]")
    rows = [{"prompt": f"p {i}", "response": "a bad one"} for i in range(CHUNK + 1)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = chat_server(lambda body: " ")
    own, out, said = Constitution.from_yaml(tmp_path / "c.yaml"), tmp_path / "revised.jsonl", []
    for _ in range(2):
        chat = ChatEndpoint(server.url, "m", cache_dir=False, max_retries=0)
        report = label(Labelling(str(tmp_path / "p.jsonl"), own, chat, out, method="revise"), log=said.append)
        assert report["counts"] == {"rows": CHUNK + 1, "written": 0, "without a reply": CHUNK + 1}
    assert len(server.requests) == CHUNK + 1
    assert said[-1].startswith("rows without a reply are not asked for again")


# A local model


def test_a_model_of_this_machine(save_tiny_llama, constitution, pairs, tmp_path):
    """A model of random weights has no verdicts, and what does not fit is not asked; both are counted."""
    model, options = save_tiny_llama(max_position_embeddings=400), {"max_tokens": 4, "batch_size": 4}
    pairs.write_text(pairs.read_text() + json.dumps({"prompt": "a " * 500, "response_0": "x", "response_1": "y"}))
    labelling = Labelling(str(pairs), constitution, model, tmp_path / "l.jsonl", options=options)
    report = label(labelling, log=lambda line: None)
    assert report["counts"] == {"rows": 41, "written": 0, "without a verdict": 41}
    reasons = [line["reason"] for line in read(tmp_path / "l.jsonl.lines.jsonl")]
    assert sum("does not fit" in reason for reason in reasons) == 1
    assert sum("has no verdict" in reason or "empty" in reason or "was cut" in reason for reason in reasons) == 40
    assert any("was cut at max_tokens" in reason for reason in reasons)


@pytest.mark.parametrize("first", ["a " * 500, [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]])
def test_rows_that_a_local_model_cannot_be_asked(first, save_tiny_llama, tmp_path):
    """A chunk of such rows does not end a revision: those after it are asked."""
    model = save_tiny_llama(max_position_embeddings=400)
    tokenizer = load_tokenizer(model)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    tokenizer.save_pretrained(model)
    (tmp_path / "c.yaml").write_text("principles: [{critique: the cat, revise: the dog}]")
    rows = [{"prompt": first, "response": f"x {i}"} for i in range(CHUNK)]
    rows.append({"prompt": "the cat" if isinstance(first, str) else first[1:], "response": "a dog"})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own, out = Constitution.from_yaml(tmp_path / "c.yaml"), tmp_path / "revised.jsonl"
    for _ in range(2):
        labelling = Labelling(
            str(tmp_path / "p.jsonl"), own, model, out, method="revise", options={"max_tokens": 4, "batch_size": 4}
        )
        counts = label(labelling, log=lambda line: None)["counts"]
        assert counts["without a reply"] >= CHUNK and "not labelled yet" not in counts
    reasons = [line["reason"] for line in read(tmp_path / "revised.jsonl.lines.jsonl")]
    why = "does not fit" if isinstance(first, str) else "does not take the turns system, user, assistant, user (no sys"
    assert len(reasons) == CHUNK + 1 and sum(why in (reason or "") for reason in reasons) == CHUNK


def test_a_judge_whose_template_takes_none_of_the_rows_is_an_error(save_tiny_llama, constitution, pairs, tmp_path):
    """Nothing is written down for good: the template can be mended."""
    model = save_tiny_llama(max_position_embeddings=400)
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = "{{ raise_exception('nothing at all') }}"
    tokenizer.save_pretrained(model)
    with pytest.raises(ValueError, match=r"but the judge's chat template does not take the turns .*: 0 are labelled"):
        label(Labelling(str(pairs), constitution, model, tmp_path / "o.jsonl"), log=lambda line: None)
    assert not read(tmp_path / "o.jsonl.lines.jsonl")


def test_a_local_model_takes_no_fields_of_a_request(constitution, pairs, tmp_path):
    """It would not see them. Found before the model is loaded: also by the dry run."""
    with pytest.raises(ValueError, match="option 'extra_body', but some/model is a model in this process"):
        Labelling(str(pairs), constitution, "some/model", tmp_path / "o.jsonl", options={"extra_body": {"seed": 1}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rank"}, "one of compare, revise"),
        ({"rounds": 0}, "from 1 on"),
        ({"options": {"max_price": 1}}, "the judge's option 'max_price'"),
        ({"method": "revise", "options": {"repeats": 3}}, "the judge's option 'repeats', but revise takes"),
        ({"method": "revise"}, "no principle of the constitution has"),
    ],
)
def test_settings_that_cannot_be(settings, message, constitution, pairs, tmp_path):
    with pytest.raises(ValueError, match=message):
        Labelling(str(pairs), constitution, "http://localhost:1/v1#m", tmp_path / "o.jsonl", **settings)
