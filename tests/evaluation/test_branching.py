"""Trees of continuations of a real policy: against the model's own laws, and what is drawn, kept and drawn again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trl_rsa.evaluation.request import Evaluation, NestedSettings
from trl_rsa.evaluation.run import EvaluationRun
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.evaluation.tails import cvar
from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat sat", "a big red dog ran on the hill", "blue", "was the dog in the hill"]


def cost_of(text: str) -> float:
    """Something that depends on both tokens."""
    words = text.split()
    return float(sum(ord(word[0]) % 5 for word in words) + (len(set(words)) < len(words)) - 4)


def cost(prompts, completions):
    return [cost_of(text) for text in completions]


def run(folder, path, settings=None, cost=cost, **changes):
    sampling = {"draws": 2, "max_new_tokens": 6} | changes.pop("sampling", {})
    options = {"batch_size": 8, "device": "cpu", "nested": settings or NestedSettings(3)} | changes
    evaluation = Evaluation(
        folder,
        models={"a": path},
        rows=[{"prompt": prompt} for prompt in PROMPTS],
        sampling=Sampling(**sampling),
        cost=ScorerSpec(cost, "cost"),
        **options,
    )
    return EvaluationRun(evaluation, log=lambda line: None).run()["models"]["a"]["nested"]


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "nested.jsonl").read_text().splitlines()][1:]


def records_of(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]


def test_against_the_models_own_laws(tmp_path, tiny_model_path, tiny_tokenizer):
    """Answers of two tokens: the risk of one wrong token follows from the model's next-token laws alone."""
    found = run(
        tmp_path / "out",
        tiny_model_path,
        NestedSettings(branches=96, continuations=16, tail=0.25),
        sampling={"draws": 1, "max_new_tokens": 2},
        batch_size=256,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
    kept = {line["index"]: line["position"] for line in lines_of(tmp_path / "out")}
    assert set(kept.values()) == {0, 1}
    risks, means = [], []
    for index, record in enumerate(records_of(tmp_path / "out")):
        begun = record["token_ids"][: kept[index]]
        ids = encode_prompt(tiny_tokenizer, record["prompt"])
        law, values = _next_law(model, [*ids, *begun]), []
        for token in range(len(law)):
            values.append(_cost_to_go(model, tiny_tokenizer, ids, [*begun, token]))
        risks.append(cvar(values, 0.25, law))
        means.append(np.dot(law, values))
    assert found["mean"]["value"] == pytest.approx(np.mean(means), abs=0.2)
    assert found["plug_in"]["value"] == pytest.approx(np.mean(risks), abs=0.2)
    assert found["cross_fitted"]["value"] == pytest.approx(np.mean(risks), abs=0.2)
    assert np.mean(risks) > np.mean(means) + 1  # it is another number than the mean


@torch.no_grad()
def _next_law(model, ids) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


def _cost_to_go(model, tokenizer, prompt, response) -> float:
    if len(response) == 2 or response[-1] == tokenizer.eos_token_id:
        return cost_of(tokenizer.decode(response, skip_special_tokens=True))
    law = _next_law(model, [*prompt, *response])
    return float(sum(p * _cost_to_go(model, tokenizer, prompt, [*response, token]) for token, p in enumerate(law)))


def test_what_is_drawn(tmp_path, tiny_model_path, tiny_tokenizer):
    """Trees of 3 × 2 from the first answers only; they keep the answer's beginning and share the branch's token."""
    found = run(tmp_path / "out", tiny_model_path)
    lines, records = lines_of(tmp_path / "out"), records_of(tmp_path / "out")
    assert found["n"] == len(PROMPTS) and len(lines) == len(PROMPTS) * 3 * 2
    for line in lines:
        record = records[line["index"]]
        assert record["draw"] == 0 and line["prompt"] == record["prompt"]
        assert 0 <= line["position"] < len(record["token_ids"])
        begun = tiny_tokenizer.decode(record["token_ids"][: line["position"]], skip_special_tokens=True)
        assert line["response"].startswith(begun) and len(line["response"].split()) <= 6
    for index in {line["index"] for line in lines}:
        for branch in range(3):
            tree = [line for line in lines if (line["index"], line["branch"]) == (index, branch)]
            at = tree[0]["position"]
            assert len({" ".join(line["response"].split()[at : at + 1]) for line in tree}) == 1
    # The noise is not that of the answers, and a branch goes on in more than one way.
    answers = {record["response"] for record in records}
    assert sum(line["response"] not in answers for line in lines) > len(lines) / 2
    assert any(a["response"] != b["response"] for a, b in zip(lines[::2], lines[1::2], strict=True))


def test_killed_and_started_again(tmp_path, tiny_model_path):
    """What is there is neither drawn nor scored again; a line that a kill cut is; another tail needs nothing new."""
    scored = []

    def counting(prompts, completions):
        scored.extend(completions)
        return cost(prompts, completions)

    whole = run(tmp_path / "out", tiny_model_path, cost=counting)
    path = tmp_path / "out" / "nested.jsonl"
    text, n = path.read_text(), len(scored)
    path.write_text("".join(text.splitlines(keepends=True)[:10]) + text.splitlines()[10][:20])
    scores = tmp_path / "out" / "nested_scores.jsonl"
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:5]))
    assert run(tmp_path / "out", tiny_model_path, cost=counting) == whole
    assert [json.loads(line) for line in text.splitlines()] == [
        json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")
    ]
    assert len(scored) - n == len(PROMPTS) * 6 - 5
    before, n = path.read_bytes(), len(scored)
    other = run(tmp_path / "out", tiny_model_path, NestedSettings(3, tail=1.0), cost=counting)
    assert path.read_bytes() == before and len(scored) == n
    assert other["plug_in"]["value"] == pytest.approx(other["mean"]["value"])
    # Other branches are not mixed with these.
    assert run(tmp_path / "out", tiny_model_path, NestedSettings(2), cost=counting)["branches"] == 2
    assert len(lines_of(tmp_path / "out")) == len(PROMPTS) * 4


def test_batch_size_changes_nothing(tmp_path, tiny_model_path):
    assert run(tmp_path / "one", tiny_model_path, batch_size=3) == run(tmp_path / "two", tiny_model_path)
    assert (tmp_path / "one/nested.jsonl").read_bytes() == (tmp_path / "two/nested.jsonl").read_bytes()


def test_a_place_without_a_score_is_left_out(tmp_path, tiny_model_path):
    def failing(prompts, completions):
        return [None if prompt == PROMPTS[0] else 1.0 for prompt in prompts]

    found = run(tmp_path / "out", tiny_model_path, cost=failing)
    assert (found["n"], found["not_scored"]) == (3, 1) and found["plug_in"]["value"] == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": (1,)}, "nested_branches=1"),
        ({"settings": (2, 1)}, "nested_continuations=1"),
        ({"settings": (2, 2, 0.0)}, "nested_tail"),
        ({"sampling": {"temperature": 0.0, "draws": 1}}, "temperature=0"),
    ],
)
def test_sentences(tmp_path, tiny_model_path, changes, words):
    with pytest.raises(ValueError, match=words):
        settings = NestedSettings(*changes.pop("settings", (2,)))
        run(tmp_path / "out", tiny_model_path, settings, **changes)


def test_nothing_to_continue():
    with pytest.raises(ValueError, match="needs the model that gave them"):
        Evaluation("out", responses="file.jsonl", nested=NestedSettings(2))
    with pytest.raises(ValueError, match="nothing that scores the cost"):
        reward = ScorerSpec(cost, "reward")
        Evaluation("out", models={"a": "b"}, rows=[{"prompt": "a"}], reward=reward, nested=NestedSettings(2))
