"""One conversation: the tokens that the policy sees and samples are the tokens that a rung is trained on."""

import copy
import json

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

from trl_rsa import Plan, RiskConstraint, RSAConfig, RSATrainer, RungSettings, Stage
from trl_rsa.alignment.preview import preview
from trl_rsa.ladder.climb import Ladder
from trl_rsa.ladder.pairs import with_tokens
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.generation import generate
from trl_rsa.training.anchor import ModelSettings


ARGS = {"use_cpu": True, "bf16": False, "report_to": "none"}
TEXTS = [
    "the cat",
    "a dog ran",
    "on the hill",
    "the big red mat",
    "a small dog",
    "in the mat",
    "blue hill",
    "quick cat",
]
MESSAGES = [[{"role": "user", "content": text}] for text in TEXTS]


class Stop(Exception):
    """The rung would be trained now."""


class Runner:
    """Samples with a model, notes every prompt that it is given, and trains nothing."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer, self.seen, self.ready = model, tokenizer, [], None

    def sample(self, model, prompts, sampling, *, batch_size, skip):
        whole = self.model.forward

        def noted(input_ids, attention_mask, **kwargs):
            if input_ids.shape[1] > 1:  # prompts are read; then tokens come one by one
                rows = zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
                self.seen += [[i for i, m in zip(ids, mask, strict=True) if m] for ids, mask in rows]
            return whole(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

        self.model.forward = noted
        yield from generate(self.model, self.tokenizer, prompts, sampling, batch_size=batch_size, skip=skip)
        self.model.forward = whole

    def train(self, ready, start):
        self.ready = ready
        raise Stop


def make_ladder(prompts, settings, folder, tokenizer, runner, log=lambda line: None):
    constraint = RiskConstraint(costs, prompts, budget=-50.0, bounds=(-60.0, 60.0))
    models = ModelSettings.of({}, None, ARGS)
    return Ladder([constraint], settings, folder, ARGS, models, 42, tokenizer, runner, log)


def costs(prompts, completions, **kwargs):
    return [float(text.count("red") - text.count("blue")) + 0.1 * len(text) for text in completions]


@pytest.mark.parametrize(
    ("prompts", "chat"), [(TEXTS, True), (MESSAGES, True), (TEXTS, False)], ids=["text", "messages", "no template"]
)
@pytest.mark.parametrize("horizon", [3, 24], ids=["mostly cut", "mostly finished"])
def test_a_rung_is_trained_on_the_tokens_that_were_sampled(
    tiny_model_path, tiny_tokenizer, prompts, chat, horizon, tmp_path
):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    if not chat:
        tokenizer.chat_template = None
    sets = {"train": prompts[:4], "decide": prompts[4:6], "certify": prompts[6:]}
    settings = RungSettings(sampling={"max_new_tokens": horizon}, batch_size=3)
    runner = Runner(AutoModelForCausalLM.from_pretrained(tiny_model_path).eval(), tokenizer)
    with pytest.raises(Stop):
        make_ladder(sets, settings, tmp_path, tokenizer, runner).climb(tiny_model_path)

    records = [json.loads(line) for line in (tmp_path / "ladder" / "00-train.jsonl").read_text().splitlines()]
    cut = sum(not record["finished"] for record in records)
    assert cut > 0 if horizon == 3 else cut < len(records), "the case should be what its name says"
    trainer = RSATrainer(
        model=tiny_model_path,
        args=RSAConfig(**runner.ready.arguments | {"gradient_checkpointing": False}),
        train_dataset=runner.ready.train_dataset,
        processing_class=tokenizer,
    )
    sampled = {tuple(record["token_ids"]): record for record in records}
    assert len(trainer.train_dataset) == runner.ready.data["own_pairs"] > 0
    for row in trainer.train_dataset:
        assert row["prompt_ids"] in runner.seen, "the prompt with its generation prompt, as the policy saw it"
        for name in ("chosen_ids", "rejected_ids"):
            record = sampled[tuple(row[name])]
            # An end was trained on if, and only if, one was sampled.
            assert (row[name][-1] == tokenizer.eos_token_id) == record["finished"]
            assert record["finished"] or len(row[name]) == horizon
    # What the model gets: prompt and completion side by side, the mask on the completion.
    batch = next(iter(trainer.get_train_dataloader()))
    ids, mask = batch["input_ids"][0].tolist(), batch["completion_mask"][0].tolist()
    rows = [(row["prompt_ids"], row["chosen_ids"]) for row in trainer.train_dataset]
    prompt, completion = next((p, c) for p, c in rows if ids[: len(p) + len(c)] == [*p, *c])
    assert mask[: len(prompt) + len(completion)] == [0] * len(prompt) + [1] * len(completion)


def test_the_observation_says_how_many_responses_were_cut(tiny_model_path, tiny_tokenizer, tmp_path):
    settings = RungSettings(sampling={"max_new_tokens": 2}, draws={"decide": 3})
    runner, lines = Runner(AutoModelForCausalLM.from_pretrained(tiny_model_path).eval(), tiny_tokenizer), []
    with pytest.raises(Stop):
        make_ladder(TEXTS, settings, tmp_path, tiny_tokenizer, runner, lines.append).climb(tiny_model_path)
    cut = sum(not json.loads(line)["finished"] for line in (tmp_path / "ladder" / "00-decide.jsonl").open())
    entry = json.loads((tmp_path / "constraint.jsonl").read_text())
    assert 0 < cut == entry["constraints"]["cost"]["cut"] <= entry["constraints"]["cost"]["n"] == 6
    assert any(f"{cut / 6:.0%} cut" in line for line in lines)


@pytest.mark.parametrize("after", ["", "{{ '\\n' }}"], ids=["nothing after the end", "a line break after the end"])
def test_pairs_of_other_origin_end_as_the_template_ends_a_turn(tiny_tokenizer, after):
    """`<|end|>` ends a turn and is not the end-of-sequence token, as in some chat models."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' <|end|>' }}" + after + "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    encoder = ConversationEncoder(tokenizer)
    assert encoder.end == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id
    (row,) = with_tokens([{"prompt": "the cat", "chosen": " sat on ", "rejected": " ran"}], encoder)
    expected = tokenizer.convert_tokens_to_ids(["user", "the", "cat", "<|end|>", "assistant"])
    assert [i for i in row["prompt_ids"] if i != tokenizer.unk_token_id] == expected
    assert row["chosen_ids"] == tokenizer.convert_tokens_to_ids(["sat", "on", "<|end|>"])
    assert ConversationEncoder(tokenizer, "none").end == tokenizer.eos_token_id


def test_a_record_s_own_tokens_are_used_only_if_they_are_its_text(tiny_tokenizer):
    encoder = ConversationEncoder(tiny_tokenizer)
    ids = tiny_tokenizer.convert_tokens_to_ids(["the", "cat", "<eos>"])
    assert encoder.recorded({"response": "the cat", "token_ids": ids}) == ids
    for token_ids in ([5, 4, 1], [10**6], ["the"], None):
        assert encoder.recorded({"response": "the cat", "token_ids": token_ids}) is None


@pytest.mark.parametrize("template", [None, "chat", "none"])
def test_text_for_a_chat_model_must_say_how_it_is_meant(preference_dataset, tiny_model_path, tmp_path, template):
    options = {} if template is None else {"template": template}
    stages = [Stage("helpful", dataset=preference_dataset, dataset_options=options)]
    plan, lines = Plan(stages, model=tiny_model_path, output_dir=str(tmp_path), args=ARGS), []
    if template is None:
        with pytest.raises(ValueError, match=r"'helpful' pairs in plain text.*template: chat.*template: none"):
            preview(plan, log=lines.append)
    else:
        preview(plan, log=lines.append)
        assert "16 pairs" in lines[0]


def test_pairs_that_come_as_tokens_are_not_tokenized_again(tiny_model_path, tiny_args, tiny_tokenizer):
    rows = [{"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [7], "prompt": "a", "chosen": "b"}]
    trainer = RSATrainer(
        model=tiny_model_path,
        args=RSAConfig(**tiny_args()),
        train_dataset=Dataset.from_list(rows * 4),
        processing_class=tiny_tokenizer,
    )
    assert trainer.train_dataset[0]["chosen_ids"] == [7, 8, 9] and trainer.train_dataset[0]["rejected_ids"] == [7]
    trainer.train()
