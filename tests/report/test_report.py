"""The report from its files: what it says, what it survives, what it escapes, how large it is."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_evaluation import MANIFEST, fill, make_records, observation, write_lines

from trl_rsa.cli import main
from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.certificate import certify
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.tails import cvar
from trl_rsa.report import headline_markdown, write_report
from trl_rsa.report.bars import group_bars
from trl_rsa.report.inputs import read_inputs
from trl_rsa.report.names import short_names
from trl_rsa.report.numbers import out_of, per_hundred, prompts_needed, text_of
from trl_rsa.report.page import page_context, render_html, render_markdown
from trl_rsa.report.pictures import beginning, survival_curve, survival_plot, tradeoff_plot, worst_plot
from trl_rsa.report.responses import read_responses
from trl_rsa.report.style import PAPER, drawing, inline_svg
from trl_rsa.report.tokens import Scales, coloured, level
from trl_rsa.report.unscored import most_hidden
from trl_rsa.report.words import Limit, doubt, summarise, verdict
from trl_rsa.storage.records import ReadReport, read_records


EVIL = '<script>alert("x")</script>'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place, and collects what the page is made of."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.found, self.text, self.attributes = [], {}, [], []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.found[tag] = self.found.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, f"</{tag}> out of place at {self.getpos()}"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Balanced(written["html"].read_text("utf-8")), written, written["html"].parent


def undrawn(folder):
    """What the templates are filled with, but no pictures: they take most of the time."""
    return page_context(read_inputs(folder), 0.05, Limit(0.0, "of this test"), "A title", {})


def test_the_page_has_every_section_and_asks_for_nothing(page):
    parsed, written, output = page
    text = " ".join(parsed.text)
    for words in ("The numbers", "The tail", "Where the risk is", "On the same prompts", "The certificate"):
        assert words in text
    assert parsed.found["svg"] == 8 and parsed.found["script"] == 1
    addresses = [value for name, value in parsed.attributes if name.split(":")[-1] in ("href", "src", "srcset")]
    assert addresses and all(value.startswith(("#", "data:")) for value in addresses)
    outside = re.findall(r"url\((?!#)[^)]*\)|@import", written["html"].read_text("utf-8"))
    assert outside == []
    names = {path.name for path in (output / "plots").iterdir()}
    assert {f"{n}.{ext}" for n in ("worst", "survival", "tradeoff", "ladder") for ext in ("png", "svg")} <= names
    for picture in re.findall(r"\]\((.*?\.png)\)", written["markdown"].read_text("utf-8")):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


def test_every_id_on_the_page_is_used_once(page):
    parsed, _, _ = page
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {v[1:] for n, v in parsed.attributes if n.endswith("href") and v.startswith("#")} <= set(ids)


def test_the_numbers_on_the_page_are_those_of_the_metrics(page, complete_folder):
    parsed, _, _ = page
    metrics = json.loads((complete_folder / "metrics.json").read_text())
    text = " ".join(parsed.text)
    for model in metrics["models"].values():
        for estimate in (*model["cost"]["cvar"].values(), model["reward"]["mean"]):
            assert text_of(estimate["value"]) in text
            assert f"[{text_of(estimate['low'])}, {text_of(estimate['high'])}]" in text
    certificate = json.loads((complete_folder / "certificate.json").read_text())
    assert certificate["statement"] in text and all(limit in text for limit in certificate["limits"])


def test_the_worst_responses_are_folded_and_coloured(page, complete_folder):
    _, written, _ = page
    html = written["html"].read_text("utf-8")
    assert html.count('<details class="unpleasant">') == 4 and "<details open" not in html
    lines = [json.loads(line) for line in (complete_folder / "tokens.jsonl").read_text().splitlines()]
    # A view per response for the drift; the one for harm only where it was recorded.
    assert html.count('data-label="drift risk"') == len(lines)
    assert html.count('data-label="token harm"') == sum(line["harm"] is not None for line in lines)
    assert "Not recorded for this response" in html


def test_foreign_text_stays_text(tmp_path):
    records = [
        r | {"model": f"{r['model']} $x$ {EVIL}", "response": EVIL, "prompt": [{"role": "user", "content": EVIL}]}
        for r in make_records(20)
    ]
    records[0]["category"] = records[1]["attack"] = EVIL
    records[2]["response"] = "half a \ud800 character"
    write_lines(tmp_path / "records.jsonl", records)
    (tmp_path / "metrics.json").write_text(json.dumps(summarize_models(records)))
    token = {"drift": [0.1, 2.0], "harm": [-1.0, 1.0], "cost": 1.0, "reward": EVIL}
    lines = [
        token | {"model": r["model"], "prompt": EVIL, "response": EVIL, "tokens": [EVIL, "\"'&"]} for r in records
    ]
    write_lines(tmp_path / "tokens.jsonl", lines[:3])
    evil = {"certified": True, "statement": EVIL, "limits": [EVIL], "attempts": [{"attempt": EVIL}], "scorer": EVIL}
    (tmp_path / "certificate.json").write_text(json.dumps(evil))
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": [{"name": EVIL}], "versions": {EVIL: EVIL}}))
    written = write_report(tmp_path, title=EVIL)
    parsed = Balanced(written["html"].read_text("utf-8"))
    assert parsed.found["script"] == 1
    assert "".join(parsed.text).count(EVIL) > 20
    assert "<script" not in written["markdown"].read_text("utf-8")
    assert "<script" not in (tmp_path / "plots" / "worst.svg").read_text("utf-8")


def test_only_records_and_metrics_are_needed(small):
    written = write_report(small)
    text = " ".join(Balanced(written["html"].read_text("utf-8")).text)
    assert "There is none." in text and "Before you read on" not in text
    # Without tokens.jsonl the worst responses come from the records.
    worst = max(make_records(20), key=lambda record: record["cost"])
    assert worst["response"] in text
    assert not (small / "plots" / "ladder.png").exists()


@pytest.mark.parametrize("name", ["certificate.json", "manifest.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_optional_file_is_said_not_hidden(small, name, content):
    (small / name).write_text(content)
    assert read_inputs(small).warnings == [f"{name} is damaged and was left out."]


def test_tokens_without_one_number_each_are_counted_and_shown_plain(small):
    first, second = read_responses(small / "records.jsonl").worst["RSA"][:2]
    first, second = (
        {name: one[name] for name in ("prompt", "response")} | {"model": "RSA"} for one in (first, second)
    )
    lines = [
        first | {"tokens": first["response"].split(" "), "drift": [1.0]},
        second | {"tokens": None, "drift": None, "harm": None},
        {"model": "RSA", "tokens": []},
    ]
    write_lines(small / "tokens.jsonl", lines)
    html = render_html(undrawn(small))
    assert "1 × drift is not one number per token" in html and "1 × no prompt and no response" in html
    assert f"<pre>{first['response']}</pre>" in html and f"<pre>{second['response']}</pre>" in html


def test_tokens_of_an_old_response_are_not_shown(small):
    """Of two lines one is of a response that is not in the records: its colours go, and that is said."""
    record = read_responses(small / "records.jsonl").worst["DPO"][1]
    old = {"model": "DPO", "prompt": "OLD PROMPT", "response": "OLD RESPONSE", "cost": 99.0, "tokens": ["OLD"]}
    known = {name: record[name] for name in ("prompt", "response")} | {"model": "DPO", "tokens": ["new"], "cost": 99.0}
    write_lines(small / "tokens.jsonl", [line | {"drift": [0.1]} for line in (old, known)])
    context = undrawn(small)
    (group,) = [group for group in context["worst"] if group["model"] == "DPO"]
    assert [bool(one["views"]) for one in group["responses"]] == [False, True, False, False, False]
    assert group["responses"][1]["cost"] == text_of(record["cost"]), "the score of the records"
    assert "OLD" not in render_html(context)
    assert [line for line in context["warnings"] if "tokens.jsonl" in line and "out of date" in line]


def test_costs_that_changed_and_models_without_metrics_are_said(small):
    records = make_records(20)
    write_lines(small / "records.jsonl", [r | {"cost": r["cost"] + 100 * (r["model"] == "RSA")} for r in records])
    (warning,) = read_inputs(small).warnings
    assert "as the highest cost of RSA, but records.jsonl has" in warning and "out of date" in warning
    write_lines(small / "records.jsonl", [*records, *(r | {"model": "new"} for r in records[:3])])
    (warning,) = read_inputs(small).warnings
    assert warning.startswith("records.jsonl has responses of new, of which metrics.json says nothing.")


def changed_metrics(folder, change):
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["models"]["RSA"].update(cost=None), "NoneType"),
        (lambda m: m["models"]["RSA"]["cost"].pop("unsafe_rate"), "unsafe_rate"),
        (lambda m: m["models"]["RSA"]["cost"].update(cvar=[1]), "cvar of 'RSA' is no object"),
        (lambda m: m["models"]["SFT"]["settings"].update(unsafe_above=None), "unsafe_above of 'SFT' is no number"),
        (lambda m: m["models"]["SFT"].update(drift=[1]), "list"),
        (lambda m: m.update(models=[1]), "items"),
    ],
)
def test_damaged_metrics_are_an_error_in_one_sentence(small, change, words):
    with pytest.raises(ValueError, match=r"is not what summarize_models gives \(.*" + words):
        write_report(changed_metrics(small, change))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.update(comparisons=[{"model": "RSA"}]), "A comparison in metrics.json"),
        (lambda m: m.update(comparisons=5), "A comparison in metrics.json"),
        (lambda m: m["comparisons"][0].update(arena={"safe": {"better": "x"}}), "A comparison in metrics.json"),
        (lambda m: m.update(benchmarks=[1]), "“benchmarks” in metrics.json"),
        (lambda m: m.update(benchmarks={"RSA": [1]}), "“benchmarks” in metrics.json"),
        (lambda m: m.update(pressures=[{"cost": {"cvar": [1]}, "model": "RSA"}]), "“pressures” in metrics.json"),
    ],
)
def test_damaged_parts_of_the_metrics_are_left_out_and_said(small, change, part):
    context = undrawn(changed_metrics(small, change))
    assert context["warnings"] == [f"{part} is not of its form and was left out."]
    render_html(context)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", {"stages": 5}),
        ("manifest.json", {"stages": [{}], "plan": {"stages": 5}}),
        ("certificate.json", {}),
        ("certificate.json", {"statement": "Yes.", "limits": 5}),
    ],
)
def test_an_optional_file_of_another_form_is_left_out_and_said(small, name, content):
    (small / name).write_text(json.dumps(content))
    context = undrawn(small)
    assert context["warnings"] == [f"{name} is not of its form and was left out."]
    assert context["ladders"] == context["certificates"] == []


def test_pictures_of_damaged_parts_are_left_out(small):
    """One drawing of all: front, groups, pressures, and a ladder whose first observation has no constraint."""

    def change(metrics):
        metrics["models"]["RSA"]["by"]["category"] = [1]
        metrics["pressures"] = [{"cost": {"cvar": [1]}, "pressure": name, "model": "RSA"} for name in "ab"]

    observations = [{"rung": 0, "constraints": {}}, observation(1, 1.0, 2.0, cost=(1.0, 1.6, 2.4))]
    (small / "manifest.json").write_text(json.dumps({"ladder": {"observations": observations}}))
    (small / "front.json").write_text(json.dumps({"methods": [{"name": "A"}], "differences": [], "tail": 0.05}))
    text = write_report(changed_metrics(small, change))["markdown"].read_text("utf-8")
    for part in ("front.json", "“by category” in metrics.json", "“pressures” in metrics.json"):
        assert f"{part} is not of its form and was left out." in text
    assert "manifest.json" not in text and (small / "plots" / "ladder.png").exists()
    assert (small / "plots" / "tradeoff.png").exists() and not (small / "plots" / "by_category.png").exists()


def test_malformed_records_are_counted_as_the_evaluation_counts_them(small):
    broken = [b"[1]", b"not json", b'{"prompt": "p"}', b'{"prompt": "p", "response": "r", "cost": NaN}']
    broken += [b'{"prompt": "p", "response": "r", "cost": true, "reward": 1' + b"0" * 400 + b"}", b'{"prompt": "cut']
    with (small / "records.jsonl").open("ab") as file:
        file.write(b"\n".join(broken))
    evaluation = ReadReport()
    for _ in read_records(small / "records.jsonl", evaluation):
        pass
    responses = read_responses(small / "records.jsonl")
    assert responses.found == evaluation and (evaluation.read, evaluation.unreadable) == (82, 4)
    assert len(evaluation.problems) == 8
    text = " ".join(Balanced(render_html(undrawn(small))).text)
    assert "82 records were read and 4 lines could not be" in text
    assert all(f"1 × {reason}" in text for reason in evaluation.problems)


def test_what_evaluate_adds_is_shown(small):
    metrics = json.loads((small / "metrics.json").read_text())
    metrics["models"]["RSA"] |= {"cut": 7, "drift": {"mean": estimate(3.25, 3.0, 3.5), "reference": "sft"}}
    metrics["benchmarks"] = {"RSA": {"bbq": {"bbq": {"alias": "bbq", "acc,none": 0.5, "acc_stderr,none": 0.25}}}}
    metrics["evaluation"] = {
        "settings": {"scorers": {"cost": {"name": "a scorer"}}, "tails": [1, 2], "evil": EVIL},
        "versions": {"torch": "9.9"},
        "source": {"unreadable": 3, "read": 80},
    }
    (small / "metrics.json").write_text(json.dumps(metrics))
    text = " ".join(" ".join(Balanced(render_html(undrawn(small))).text).split())
    assert "3 lines could not be read, beside 80 that could" in text
    assert "cut off at the length limit: RSA 7." in text
    assert "3.25 [3.00, 3.50]" in text and "RSA bbq acc 0.500 ± 0.250" in text
    assert "evaluation.scorers.cost.name a scorer" in text and "evaluated with.torch 9.9" in text


def test_records_that_do_not_belong_to_the_metrics_are_noticed(small):
    lines = (small / "records.jsonl").read_text().splitlines()
    (small / "records.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    (warning,) = read_inputs(small).warnings
    assert "metrics.json speaks of 20 scored responses of RSA, but records.jsonl has 19" in warning


def test_ten_thousand_records_make_a_page_below_five_megabytes(tmp_path):
    fill(tmp_path, n=2500)
    long = "many words and more of them " * 400
    tokens = [f"word{i} " for i in range(600)]
    line = {"prompt": long, "response": long, "tokens": tokens, "drift": [0.123456] * 600, "harm": [-1.23456] * 600}
    write_lines(tmp_path / "tokens.jsonl", [line | {"model": m, "cost": i} for m in ("SFT", "RSA") for i in range(9)])
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    for record in sorted(records, key=lambda r: -r["cost"] if r["model"] in ("SFT", "RSA") else 0)[:5000]:
        record |= {"prompt": long, "response": long} if record["model"] in ("SFT", "RSA") else {}
    write_lines(tmp_path / "records.jsonl", records)
    path = write_report(tmp_path)["html"]
    assert read_responses(tmp_path / "records.jsonl").found.read == 10_000
    assert 100_000 < path.stat().st_size < 5_000_000 and 'data-label="drift risk"' in path.read_text("utf-8")


def test_the_worst_responses_are_the_worst_and_few_are_kept(tmp_path):
    costs = np.random.default_rng(0).permutation(1000) / 10
    lines = [{"prompt": "p", "response": str(i), "cost": cost, "model": None} for i, cost in enumerate(costs)]
    write_lines(tmp_path / "records.jsonl", lines)
    responses = read_responses(tmp_path / "records.jsonl", keep=3)
    assert [response["cost"] for response in responses.worst["unnamed"]] == [99.9, 99.8, 99.7]


def test_a_model_without_scores_and_a_single_prompt_do_not_break_the_page(tmp_path):
    records = [
        {"prompt": "p", "response": "r", "cost": 1.0, "reward": None, "model": "one"},
        {"prompt": "p", "response": "r", "cost": None, "reward": None, "model": "none"},
    ]
    write_lines(tmp_path / "records.jsonl", records)
    (tmp_path / "metrics.json").write_text(json.dumps(summarize_models(records)))
    text = " ".join(Balanced(write_report(tmp_path)["html"].read_text("utf-8")).text)
    assert "no costs" in text and "too few prompts to say" in text


def test_the_stages_are_shown_where_there_is_no_ladder(small):
    (small / "rsa").mkdir()
    stage = {"name": "helpful", "status": "complete", "temperature": 0.25, "steps": 17, "metrics": {"loss": 0.5}}
    imitated = {"name": "first", "status": "complete", "steps": 3}
    planned = {"beta": 0.5, "constraint_multiplier": 2.0}
    manifest = {"stages": [imitated, stage], "plan": {"stages": [planned | {"method": "sft"}, planned]}}
    (small / "rsa" / "manifest.json").write_text(json.dumps(manifest))
    markdown = render_markdown(undrawn(small))
    assert "How the model was made: rsa" in markdown
    assert "| helpful | complete | 0.5 | 2 | 0.25 | – | 17 | 0.500 | – | – | – |" in markdown
    assert "| first (sft) | complete | – | – | – | – | 3 | – | – | – | – |" in markdown


def test_limit_and_tail_follow_what_is_asked_and_what_there_is(complete_folder, tmp_path):
    asked = write_report(complete_folder, tmp_path, budget=-7.5, tail=0.01)["markdown"].read_text("utf-8")
    assert "The limit for CVaR 0.01 is -7.5, set for this report." in asked
    assert "Of 100 responses of RSA, the worst one has a cost of" in asked
    with pytest.raises(ValueError, match=r"You set tail to 0.2, but metrics.json has 0.05, 0.01"):
        write_report(complete_folder, tmp_path, tail=0.2)


def test_the_command(small, tmp_path, capsys):
    assert main(["report", str(small), "--output", str(tmp_path / "new"), "--title", "My title"]) == 0
    assert "<title>My title</title>" in (tmp_path / "new" / "report.html").read_text("utf-8")
    assert str(tmp_path / "new" / "report.html") in capsys.readouterr().out
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "has no records.jsonl" in capsys.readouterr().err
    (small / "metrics.json").write_text("[]")
    assert main(["report", str(small)]) == 2
    assert "is not what summarize_models gives" in capsys.readouterr().err


def test_a_foreign_page_is_not_written_over(small):
    page = small / "report.html"
    page.write_text("<title>My thesis</title> about trl-rsa")
    for output in (None, small, page):
        with pytest.raises(ValueError, match=r"was not written by trl-rsa|that is a file. Set it to a folder"):
            write_report(small, output)
    assert page.read_text().startswith("<title>My thesis") and not (small / "plots").exists()
    page.write_text(render_html(undrawn(small)))
    write_report(small)
    assert "<svg" in page.read_text("utf-8")


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "method": "percentile"}


def metrics_of(**models):
    """name=(CVaR, low, high, unsafe rate, reward)."""
    return {
        "models": {
            name: {
                "n": 100,
                "n_prompts": 100,
                "cost": {
                    "n": 100,
                    "cvar": {"0.05": estimate(*v[:3])},
                    "unsafe_rate": estimate(v[3], 0.0, 0.03),
                    "mean": None,
                },
                "reward": {"mean": estimate(v[4], v[4] - 0.1, v[4] + 0.1)},
                "settings": {"unsafe_above": 0.0, "confidence": 0.95},
            }
            for name, v in models.items()
        }
    }


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["SFT", "RSA"], ["SFT", "RSA"]),
        (["org/Qwen3-0.6B-SFT-v2", "org/Qwen3-0.6B-RSA-v2"], ["SFT", "RSA"]),
        (["runs/aligned/01-helpful", "runs/aligned/02-safe"], ["01-helpful", "02-safe"]),
        (["one-single-very-long-name-of-a-model"], ["one-sing…f-a-model"]),
        (["org/a-long-name", "org/a-long-name-that-goes-on"], ["name", "name-that-goes-on"]),
        (["x" * 30, "x" * 29], ["xxxxxxxx…xxxxx (1)", "xxxxxxxx…xxxxx (2)"]),
    ],
)
def test_short_names_tell_models_apart(names, short):
    assert short_names(names) == short
    assert all(len(name) <= 18 for name in short)


def test_long_names_are_shortened_everywhere_and_told(tmp_path):
    full = {name: f"my-organisation/Qwen3-0.6B-{name}-run-number-1" for name in ("SFT", "DPO", "SACPO", "RSA")}
    write_lines(tmp_path / "records.jsonl", [r | {"model": full[r["model"]]} for r in make_records(20)])
    metrics = summarize_models(read_records(tmp_path / "records.jsonl"))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    inputs = read_inputs(tmp_path)
    assert inputs.full_names == full and inputs.warnings == []
    assert list(inputs.metrics["models"]) == list(inputs.responses.costs) == list(inputs.responses.worst) == list(full)
    assert [c["baseline"] + c["model"] for c in inputs.metrics["comparisons"]] == ["SFTDPO", "SFTSACPO", "SFTRSA"]
    context = undrawn(tmp_path)
    assert f"RSA is {full['RSA']}." in render_markdown(context)
    assert render_html(context).count(full["RSA"]) == 1


def test_the_summary_names_the_safest_model_and_its_price():
    metrics = metrics_of(A=(5.0, 4.0, 6.0, 0.2, 2.0), B=(-1.0, -2.0, -0.5, 0.0, 1.5))
    said = dict(summarise(metrics, 0.05, Limit(0.0, "of this test")))
    worst = said["Safest in the worst case: B"]
    assert worst.startswith("Of 100 responses of B, the worst 5 have, on average, a cost of −1.00 [−2.00, −0.50].")
    assert "within the limit of 0 (of this test)" in worst and "A 5.00" in worst
    # 0.2 of 100 is 20; of B none was unsafe, and 0.03 is the upper end of its interval.
    often = said["How often is a response unsafe at all?"]
    assert often == "Of 100 responses: B 0 (none seen, but up to 3.0 would fit); A 20."
    assert "of B is 1.50" in said["What does safety cost in helpfulness?"]
    assert "Does it refuse what is harmless?" not in said
    metrics["models"]["B"]["refusal"] = {"over_refusal": estimate(0.7, 0.6, 0.8)}
    said = dict(summarise(metrics, 0.05, Limit(0.0, "of this test")))
    assert said["Does it refuse what is harmless?"] == "Of 100 harmless prompts are refused: B 70."


def test_an_overlap_is_no_victory():
    metrics = metrics_of(A=(0.5, -0.7, 1.0, 0.2, 2.0), B=(-1.0, -2.0, -0.5, 0.0, 1.5), C=(9.0, 8.0, 10.0, 0.5, 3.0))
    title, sentence = summarise(metrics, 0.05, Limit(0.0, "of this test"))[0]
    assert title == "Safest in the worst case: B or A"
    assert "the intervals of B and A overlap" in sentence


def test_what_is_left_out_of_a_list_is_said():
    metrics = metrics_of(**{f"m{i}": (float(i), i - 0.1, i + 0.1, 0.5, 1.0) for i in range(9)})
    for model in metrics["models"].values():
        model["refusal"] = {"over_refusal": estimate(0.5, 0.4, 0.6)}
    said = dict(summarise(metrics, 0.05, Limit(0.0, "of this test")))
    for about in ("How often is a response unsafe at all?", "Does it refuse what is harmless?"):
        assert said[about].endswith("m5 50; 3 more, with a higher CVaR, in the table below.")


def test_captions_say_what_a_picture_leaves_out(tmp_path):
    lines = [
        {"prompt": f"p{i}", "response": "r", "cost": i % 7, "reward": 1.0, "model": f"m{j}", "category": f"c{i}"}
        for j in range(9)
        for i in range(15)
    ]
    write_lines(tmp_path / "records.jsonl", lines)
    (tmp_path / "metrics.json").write_text(json.dumps(summarize_models(lines)))
    context = undrawn(tmp_path)
    context["plots"] = dict.fromkeys(("costs", "rewards", "by_category", "by_attack"), "")
    html, markdown = render_html(context), render_markdown(context)
    assert html.count(" Shown are 6 of 8 models after it; the curves above have all.</figcaption>") == 2
    assert " Shown are the 12 worst of 15; all are in metrics.json.</figcaption>" in html
    assert "By attack on the prompt, the worst on top.</figcaption>" in html
    assert "![By category. Shown are the 12 worst of 15; all are in metrics.json.](" in markdown
    assert "![By attack](" in markdown


@pytest.mark.parametrize(
    ("rewards", "sentence"),
    [
        # B is the safest. Its reward is the highest, by more than the intervals (± 0.1), by less, and not at all.
        ((1.0, 1.5), "Nothing, among these models: B also has the highest average reward, 1.50 [1.40, 1.60]."),
        ((1.4, 1.5), "These responses do not settle it. The average reward, a score of helpfulness, of B is 1.50"),
        ((1.5, 1.5), "These responses do not settle it. The average reward, a score of helpfulness, of B is 1.50"),
        # And the lower one.
        ((1.6, 1.5), "that of A is 1.60 [1.50, 1.70]; the intervals overlap."),
        ((2.0, 1.5), "of B is 1.50 [1.40, 1.60]; the most helpful model, A, has 2.00 [1.90, 2.10]."),
    ],
)
def test_a_tie_in_helpfulness_is_no_victory(rewards, sentence):
    metrics = metrics_of(A=(5.0, 4.0, 6.0, 0.2, rewards[0]), B=(-1.0, -2.0, -0.5, 0.0, rewards[1]))
    said = dict(summarise(metrics, 0.05, Limit(0.0, "of this test")))
    assert sentence in said["What does safety cost in helpfulness?"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("animal_abuse", "animal_abuse"),
        ("violence,aiding_and_abetting,incitement", "violence,aiding_and_\nabetting,incitement"),
        ("misinformation_regarding_ethics,laws_and_safety", "misinformation_regarding_\nethics,laws_and_safety"),
        ("x" * 60, "x" * 25 + "…"),
        (
            "drug_abuse,weapons,banned_substance and all that follows",
            "drug_abuse,weapons,banned_\nsubstance and all that fo…",  # codespell:ignore
        ),
    ],
)
def test_a_category_keeps_its_beginning(name, shown):
    assert beginning(name) == shown


@pytest.mark.parametrize("tail", [0.05, 0.0125])
def test_nothing_sticks_out_of_a_picture(tail):
    """Every text within the edges, also beside long categories and with a tail of many digits."""
    metrics = metrics_of(**{"instruct-135m": (1.3, 1.1, 1.5, 0.2, 1.0), "ladder-alpha0": (-0.5, -0.9, -0.1, 0.0, 1.1)})
    groups = ("violence,aiding_and_abetting,incitement", "non_violent_unethical_behavior", "x" * 60)
    for model in metrics["models"].values():
        model["cost"]["cvar"] = {f"{tail:g}": model["cost"]["cvar"]["0.05"]}
        model["by"] = {"category": {name: {"cost": model["cost"]} for name in groups}}
    risks = [(name, model["cost"]["cvar"][f"{tail:g}"]) for name, model in metrics["models"].items()]
    rewards = [(name, risk, metrics["models"][name]["reward"]["mean"]) for name, risk in risks]
    costs = {name: [-1.0, 0.0, 1.0] for name, _ in risks}
    with drawing():
        for figure in (
            group_bars(metrics, "category", tail, 0.0),
            worst_plot(risks, tail, 0.0),
            tradeoff_plot(rewards, tail, 0.0),
            survival_plot(costs, tail, {}),
        ):
            figure.draw_without_rendering()
            drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert drawn.x0 >= -0.01 and drawn.y0 >= -0.01
            assert drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01


def model_of(found, n_prompts=100):
    cost = {"cvar": {"0.05": found, "0.01": found}, "n": n_prompts}
    return {"cost": cost, "n_prompts": n_prompts, "settings": {}}


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (estimate(-1.0, -2.0, 0.0), "within"),
        (estimate(1.0, 0.5, 2.0), "beyond"),
        (estimate(-1.0, -2.0, 0.1), "open"),
        (estimate(-1.0), "open"),
        (None, "open"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(found, kind):
    assert verdict(model_of(found), 0.05, 0.0).kind == kind


def test_within_needs_prompts_that_can_show_the_tail():
    """0.95^71 is 0.0262 and 0.95^72 is 0.0249, on either side of 0.025; 0.99^367 and 0.99^368 likewise."""
    assert [prompts_needed(tail) for tail in (0.05, 0.01, 1.0)] == [72, 368, 1]
    good, bad = estimate(-1.0, -2.0, -0.5), estimate(1.0, 0.5, 2.0)
    assert [verdict(model_of(good, n), 0.05, 0.0).kind for n in (71, 72)] == ["open", "within"]
    assert [verdict(model_of(good, n), 0.01, 0.0).kind for n in (367, 368)] == ["open", "within"]
    assert verdict(model_of(good, 71), 0.05, 0.0).text == "too few prompts to say"
    # Prompts whose responses have no cost show nothing.
    model = model_of(good, 400)
    model["cost"]["n"] = 50
    assert verdict(model, 0.05, 0.0).kind == "open"
    # What was seen is bad enough, however little it is.
    assert verdict(model_of(bad, 30), 0.05, 0.0).kind == "beyond"


def test_too_few_prompts_have_no_winner_and_are_hollow():
    metrics = metrics_of(A=(5.0, 4.0, 6.0, 0.2, 2.0), B=(-1.0, -2.0, -0.5, 0.0, 1.5))
    metrics["models"]["B"]["n_prompts"] = 30
    said = dict(summarise(metrics, 0.05, Limit(0.0, "of this test")))
    sentence = said["Safest in the worst case: too few prompts to say"]
    assert "is not settled: too few prompts to say. For this tail at least 72 prompts are needed, and B has 30." in (
        sentence
    )
    assert said["What does safety cost in helpfulness?"].startswith("Too few prompts to say")
    del metrics["models"]["A"]
    ((title, sentence), *_) = summarise(metrics, 0.05, Limit(0.0, "of this test"))
    assert title == "How bad are the worst responses?" and "so is the whole interval" not in sentence
    with drawing():
        axes = worst_plot([("A", estimate(5.0)), ("B", estimate(-1.0))], 0.05, 0.0, {"B": "too few prompts"}).axes[0]
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() in "os"]
    assert faces[0] != PAPER and faces[1] == PAPER
    assert "−1.00 (too few prompts)" in [text.get_text() for text in axes.texts]


def test_how_sure_we_are_comes_from_responses_with_a_cost():
    metrics = metrics_of(A=(5.0, 4.0, 6.0, 0.2, 2.0), B=(-1.0, -2.0, -0.5, 0.0, 1.5))
    sure = dict(summarise(metrics, 0.05, Limit(0.0, "")))["How sure are we?"]
    assert "from 100 responses with a cost to 100 prompts per model" in sure
    metrics["models"]["B"]["cost"]["n"] = 66
    sure = dict(summarise(metrics, 0.05, Limit(0.0, "")))["How sure are we?"]
    assert "from 66–100 responses with a cost to 66–100 prompts per model" in sure


def test_headline_for_a_model_card():
    """-0.004 rounds to 0.00, without a sign; the vertical bar of a name does not end its cell."""
    table = headline_markdown(metrics_of(**{"A|<b>": (-0.004, -1.0, 1.0, 0.125, 2.0)}))
    assert (
        "| A\\|&lt;b&gt; | 0.00 [−1.00, 1.00] | 12.50\u00a0% [0.00\u00a0%, 3.00\u00a0%] | 2.00 [1.90, 2.10] |" in table
    )


def test_tails_and_rates_in_plain_counts():
    assert [out_of(tail) for tail in (0.05, 0.01, 0.025, 0.001, 1.0)] == [
        (5, 100),
        (1, 100),
        (25, 1000),
        (1, 1000),
        (100, 100),
    ]
    assert [per_hundred(rates) for rates in ([0.5, 0.02], [0.5, 0.0028], [], [0.0])] == [100, 1000, 100, 100]


def test_the_thinned_curve_is_the_curve():
    """At every kept cost the share is exact, and between two of them it falls by less than a line is wide."""
    ordered = np.sort(np.random.default_rng(0).standard_t(3, size=50_000))
    x, share = survival_curve(ordered)
    assert x.size <= 801
    exact = 1 - np.searchsorted(ordered, x[1:], side="right") / ordered.size
    assert share[1:] == pytest.approx(np.maximum(exact, 0.5 / ordered.size))
    # On an axis from 1 to 1e-5, 3 % of a value is 0.3 % of its height.
    above_single_responses = share[:-1] > 60 / ordered.size
    assert np.all(np.diff(np.log(share))[above_single_responses] > -0.035)


def test_ties_have_the_share_that_is_really_worse():
    """Of 1, 2, 2, 4: above 1 are 3/4, above 2 is 1/4, above 4 none, drawn as half of 1/4."""
    x, share = survival_curve(np.array([1.0, 2.0, 2.0, 4.0]))
    assert dict(zip(x, share, strict=True)) == {1.0: 0.75, 2.0: 0.25, 4.0: 0.125}


def test_colour_levels_are_shared_and_bounded():
    lines = [{"tokens": ["a", "b"], "drift": [0.0, 3.0], "harm": [-6.0, 3.0]}, {"tokens": ["c"], "drift": [6.0]}]
    scales = Scales.of(lines)
    assert (scales.drift, scales.harm) == (6.0, 6.0)
    assert [level(value, 6.0) for value in (0.0, 3.0, 60.0, -6.0)] == [0, 3, 6, -6]
    first = coloured(lines[0], scales)
    assert first["views"]["harm"]["spans"] == [("hm6", "a"), ("h3", "b")]
    assert "harm" not in coloured(lines[1], scales)["views"]
    assert coloured({"tokens": ["a"] * 1000, "drift": [0.0] * 1000}, scales)["left_out"] == 232


def test_the_same_drawing_follows_the_page():
    svg = '<?xml?><svg height="3pt" width="4pt" viewBox="0 0 4 3"><g id="a" style="fill: #1b1f24"/>'
    svg += '<use href="#a"/></svg>'
    inlined = inline_svg(svg, "p")
    assert inlined == '<svg viewBox="0 0 4 3"><g id="p-a" style="fill: var(--ink)"/><use href="#p-a"/></svg>'


def test_several_budgets_are_shown_with_their_certificates(small):
    """A ladder with two constraints: a panel, columns, a limit and a certificate for each."""
    observations = [
        observation(0, 1.0, 2.0, harmless=(0.0, 4.0, 5.0), honest=(0.0, 1.0, 2.0)),
        observation(1, 1.0, 1.8, harmless=(0.5, -1.0, -0.2), honest=(1.0, 0.1, 0.4)),
    ]
    constraints = {"harmless": {"budget": 0.0}, "honest": {"budget": 0.5}}
    manifest = MANIFEST | {"ladder": {"constraints": constraints, "observations": observations}}
    (small / "manifest.json").write_text(json.dumps(manifest))
    for name, certified in ("harmless", True), ("honest", False):
        content = {"statement": f"About {name}.", "certified": certified, "limits": [f"Only {name}."], "budget": 0.0}
        (small / f"certificate-{name}.json").write_text(json.dumps(content))
    write_report(small)
    page = (small / "report.html").read_text(encoding="utf-8")
    for name in ("harmless", "honest"):
        assert f"About {name}." in page and f"Only {name}." in page and f"{name} Upper bound" in page
    assert "The certificates" in page and "There is none." not in page
    assert "About honest." in (small / "report.md").read_text(encoding="utf-8")


def test_control_characters_of_the_data_do_not_reach_the_markdown(small):
    """A certificate whose model's name clears the terminal."""
    content = {"statement": "The model \x1b[2Jx.", "certified": False, "limits": ["\x1b]0;title\x07"], "budget": 0.0}
    (small / "certificate.json").write_text(json.dumps(content))
    write_report(small)
    text = (small / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in text and "\x07" not in text and "The model" in text


# Responses without a cost


def without_cost(metrics, name, missing, worst=0.0, var=-2.0):
    """`missing` of the hundred responses of a model have none; the worst of the others costs `worst`."""
    cost = metrics["models"][name]["cost"]
    cost["n"] = 100 - missing
    cost["worst"], cost["var"] = [{"index": 0, "cost": worst}], {"0.05": estimate(var)}


@pytest.mark.parametrize(
    ("missing", "worst", "kind"),
    [
        (0, 9.0, "within"),
        # From a share of 0.05 on they may be the whole tail.
        (5, -0.5, "open"),
        # CVaR −1, VaR −2: one more response of the worst kind adds 0.01·((W + 2)/0.05 − 1). Its interval ends at −0.5,
        # which W = 0.4 moves to −0.03 and W = 0.6 to 0.01.
        (1, 0.4, "within"),
        (1, 0.6, "open"),
    ],
)
def test_a_verdict_needs_the_costs_of_nearly_all(missing, worst, kind):
    metrics = metrics_of(A=(-1.0, -2.0, -0.5, 0.0, 1.5))
    without_cost(metrics, "A", missing, worst)
    found = verdict(metrics["models"]["A"], 0.05, 0.0)
    assert found.kind == kind
    if kind == "open":
        have = "has" if missing == 1 else "have"
        assert found.text == f"open: {missing} of 100 responses {have} no cost"


def test_the_worst_case_of_missing_costs_is_an_upper_bound():
    """Costs 1, …, 392 and 8 of 400 missing: the formula is not below the CVaR with each of these at 392."""
    costs = np.arange(1.0, 393.0)
    lines = [{"prompt": f"p{i}", "response": "r", "cost": c, "model": "m"} for i, c in enumerate(costs)]
    lines += [{"prompt": f"q{i}", "response": "r", "cost": None, "model": "m"} for i in range(8)]
    model = summarize_models(lines, bootstrap=Bootstrap(n_resamples=20))["models"]["m"]
    hidden = most_hidden(model, 0.05)
    exact = cvar(np.append(costs, np.full(8, costs.max())), 0.05) - cvar(costs, 0.05)
    assert exact <= hidden < 1.25 * exact


def test_a_model_with_missing_costs_is_not_called_safest():
    metrics = metrics_of(A=(0.0, -0.2, 0.2, 0.2, 2.0), B=(-1.0, -2.0, -0.5, 0.0, 1.5))
    without_cost(metrics, "B", 10)
    limit = Limit(0.0, "of this test")
    said = dict(summarise(metrics, 0.05, limit))
    sentence = said["Safest in the worst case: open"]
    assert "is not settled: 10 of 100 responses have no cost, and they may be its worst." in sentence
    assert "so is the whole interval" not in sentence
    assert said["What does safety cost in helpfulness?"] == "Open: which model is safest is not known."
    assert "10 of 100 responses of B have no cost. They are missing from these numbers." in headline_markdown(metrics)
    # Fewer of them may still cost it the first place.
    without_cost(metrics, "B", 3, -0.5)
    assert doubt(metrics["models"]["B"], 0.05, 0.5) is None
    (title, _), *_ = summarise(metrics, 0.05, Limit(0.5, "of this test"))
    assert title == "Safest in the worst case: B or A"
    without_cost(metrics, "B", 0)
    (title, _), *_ = summarise(metrics, 0.05, Limit(0.5, "of this test"))
    assert title == "Safest in the worst case: B"


def test_beyond_the_limit_stays_so_only_if_the_costs_that_there_are_say_it():
    """With 60 of 100 missing, the worst five of all may be five of the 40: far better than the worst two of these."""
    metrics = metrics_of(A=(5.0, 4.0, 6.0, 0.2, 2.0))
    model = metrics["models"]["A"]
    without_cost(metrics, "A", 60, 9.0, 3.0)
    model["cost"]["mean"] = estimate(-3.0, -4.0, -2.0)
    assert verdict(model, 0.05, 0.0).kind == "open"
    model["cost"]["mean"] = estimate(2.0, 1.0, 3.0)
    assert verdict(model, 0.05, 0.0).kind == "beyond"


def test_a_certificate_of_costs_that_were_cut_says_so_on_the_page(small):
    with pytest.warns(UserWarning):
        certify(
            np.where(np.arange(1000) < 30, 100.0, -0.9),
            0.09,
            prompts=[f"c{i}" for i in range(1000)],
            bounds=(-1.0, 0.1),
            scorer="s",
            ledger_path=small / "certificate.json",
        )
    context = undrawn(small)
    html, markdown = render_html(context), render_markdown(context)
    for page in (html, markdown):
        assert "counting each cost above 0.1 as 0.1 (30 of 1000 are above it)" in page
        assert "so that the certificate does not say how much worse these are" in page
    assert "<td>The same, of the costs as they are</td><td>59.64</td>" in html
