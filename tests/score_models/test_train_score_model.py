"""`trl-rsa score-model`, end to end on a tiny model: what is learned, the folder, its scorer, its card."""

import json
from pathlib import Path

import pytest
import torch
from trl import RewardConfig

from tests.score_models.conftest import HARMFUL, graded_rows, pku_rows, write_jsonl
from trl_rsa.cli import main
from trl_rsa.data.harm import HarmScale
from trl_rsa.data.judged import load_judged
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.encoding import Collator, Encoder, encode, learned_from
from trl_rsa.score_models.rows import hold_out, prompts_of
from trl_rsa.score_models.train import train_score_model
from trl_rsa.scoring import load_scorer


PROMPT, GOOD, BAD = "the cat a dog", "the cat sat on a mat the", "red blue cat big a dog on"


@pytest.fixture
def train(tiny_model_path, training, tmp_path):
    """`train(rows, training changes, **arguments)` trains a score model and returns its folder and what came of it."""

    def run(rows, changes=None, model=tiny_model_path, **arguments):
        config = RewardConfig(**training(**(changes or {})))
        data = [write_jsonl(tmp_path / "rows.jsonl", rows)]
        settings = {"objective": "cost", "data": data, "held_out": 0.2} | arguments
        trained = train_score_model(ScoreModelArguments(**settings), config, model, log=lambda text: None)
        return config.output_dir, trained

    return run


def test_graded_cost_learns_the_scale(train):
    """Two heads; the cost of each grade is near its place on the scale, and the folder says all a scorer needs."""
    folder, trained = train(graded_rows(240), {"max_steps": 80}, heads=2, pessimism=0.5)
    found = trained.measures
    assert found["auc"] > 0.95 and found["rank_correlation"] > 0.85 and trained.warnings == []
    means = [row["mean_score"] for row in found["calibration"]["by_grade"]]
    assert means == sorted(means) and means[0] < 0 < means[2] and means[3] > 6
    assert found == json.loads((Path(folder) / "eval_results.json").read_text())

    scorer = load_scorer(f"hf:{folder}", kind="cost")
    good, bad = scorer([PROMPT, PROMPT], [GOOD, BAD])
    assert -1 <= good < 0 < bad <= 10
    assert scorer([[{"role": "user", "content": PROMPT}]], [GOOD]) == [pytest.approx(good, abs=1e-5)]
    calm = load_scorer(f"hf:{folder}", kind="cost", pessimism=0.0)
    assert calm.fingerprint != scorer.fingerprint
    assert calm([PROMPT], [BAD])[0] < bad
    turned = load_scorer(f"hf:{folder}", kind="reward", higher_is="worse")
    assert turned([PROMPT], [BAD]) == [pytest.approx(-bad, abs=1e-5)]

    card = (Path(folder) / "README.md").read_text()
    assert "expected cost of a response on this scale: safe -1, minor 1, moderate 4, severe 10" in card
    assert "| AUC, unsafe against safe |" in card and "| severe |" in card and str(Path(folder).parent) not in card


def test_plain_cost_of_pairs_and_labels(train):
    """Safe RLHF's cost: 0 parts safe from unsafe. A sequence classifier with one logit."""
    folder, trained = train(pku_rows(120), {"max_steps": 60}, use=["pairs", "labels"])
    assert trained.measures["pair_accuracy"] > 0.9 and trained.measures["right_side_of_zero"] > 0.9
    good, bad = load_scorer(folder, kind="cost")([PROMPT, PROMPT], [GOOD, BAD])
    assert good < 0 < bad
    assert "calibration" not in trained.measures


def test_reward_prefers_what_is_better(train):
    """In these rows the better response is the more harmful one, and a reward is asked to say so."""
    folder, trained = train(pku_rows(120), {"max_steps": 60}, objective="reward")
    assert trained.measures["pair_accuracy"] > 0.9
    good, bad = load_scorer(folder, kind="reward")([PROMPT, PROMPT], [GOOD, BAD])
    assert bad > good


class TestEncoder:
    """A body as BERT: no end-of-sequence token, no chat template, few positions, a head called `classifier`."""

    @pytest.fixture
    def bert(self, tmp_path):
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        words = [
            "[PAD]",
            "[CLS]",
            "[SEP]",
            "[UNK]",
            ":",
            *HARMFUL,
            "the",
            "a",
            "cat",
            "dog",
            "sat",
            "ran",
            "on",
            "mat",
        ]
        words += ["BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT"]
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "bert")
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = BertConfig(vocab_size=len(words), max_position_embeddings=40, pad_token_id=0, **sizes)
        BertModel(config).save_pretrained(tmp_path / "bert")
        return str(tmp_path / "bert")

    def test_it_becomes_a_graded_cost_model(self, train, bert):
        long = {"prompt": "the cat " * 30, "response": "a dog", "grade": 0}
        folder, trained = train([*graded_rows(240), long], {"max_steps": 80, "learning_rate": 3e-3}, model=bert)
        assert trained.measures["auc"] > 0.9
        good, bad = load_scorer(f"hf:{folder}", kind="cost")([PROMPT, PROMPT], [GOOD, BAD])
        assert good < 0 < bad
        card = (Path(folder) / "README.md").read_text()
        assert "template `safe-rlhf`, at most 40 tokens" in card and "longer than max_length" in card

    def test_the_trained_text_is_the_scored_text(self, train, bert):
        """The separator ends every reply, as the end-of-sequence token does elsewhere."""
        folder, _ = train(graded_rows(40), {"max_steps": 1}, model=bert)
        scorer = load_scorer(f"hf:{folder}", kind="cost")
        text, special = scorer._text(PROMPT, GOOD)
        encoder = Encoder(scorer.tokenizer, "safe-rlhf", 40)
        assert text.endswith(GOOD + "[SEP]") and special
        assert encoder(PROMPT, GOOD) == scorer.tokenizer(text)["input_ids"]

    def test_another_number_of_classes_is_refused(self, train, bert):
        folder, _ = train(graded_rows(40), {"max_steps": 1}, model=bert)
        with pytest.raises(ValueError, match="its head has 3 outputs and this score model has 1"):
            train(pku_rows(20), {"max_steps": 1}, model=folder, use=["pairs"])


class TestStartFromAScoreModel:
    """Its head goes on being trained, so that it must say what is to be learned."""

    @pytest.mark.parametrize(
        ("first", "second", "sentence"),
        [
            (
                {"objective": "reward", "use": ["pairs"]},
                {"use": ["pairs"]},
                "is a reward model with 1 head, and this is to be a cost model with 1 head",
            ),
            (
                {"objective": "reward", "use": ["pairs"], "layout": "beaver"},
                {"use": ["pairs"], "layout": "beaver"},
                "is a reward model with 1 head, and this is to be a cost model with 1 head",
            ),
            (
                {"heads": 3, "use": ["pairs"]},
                {"harm_scale": "safe=-1,minor=1,moderate=4,severe=10"},
                "is a cost model with 3 heads, and this is to be a cost model with 1 head on safe=-1,minor=1,",
            ),
            (
                {"use": ["grades"]},
                {"use": ["grades"], "harm_scale": "safe=-1,minor=1,moderate=2,severe=3"},
                "severe=10, and this is to be a cost model with 1 head on safe=-1,minor=1,moderate=2,severe=3",
            ),
        ],
        ids=["sign", "layout beaver", "heads", "scale"],
    )
    def test_of_another_kind(self, first, second, sentence, train):
        folder, _ = train(pku_rows(20), {"max_steps": 1}, **first)
        with pytest.raises(ValueError, match=sentence):
            train(pku_rows(20), model=folder, dry_run=True, **second)

    def test_of_the_same_kind(self, train):
        folder, _ = train(graded_rows(20), {"max_steps": 1})
        train(graded_rows(20), model=folder, dry_run=True)


def test_the_card_names_what_was_measured_on_apart(train, tmp_path):
    exam = write_jsonl(tmp_path / "exam.jsonl", graded_rows(12, seed=5))
    folder, _ = train(graded_rows(24), {"max_steps": 1}, eval_data=[exam])
    learned, measured = (Path(folder) / "README.md").read_text().split("## On held-out prompts")
    assert "`rows.jsonl` (24 rows)" in learned and "exam" not in learned
    assert "They are of `exam.jsonl` (12 rows)." in measured and "rows.jsonl" not in measured


def test_pairs_alone_do_not_say_where_zero_lies(train):
    rows = [{name: value for name, value in row.items() if "is_" not in name and "severity" not in name}
            for row in pku_rows(40)]  # fmt: skip
    folder, trained = train(rows, {"max_steps": 3})
    assert len(trained.warnings) == 1 and "nothing says that 0 parts safe from unsafe" in trained.warnings[0]
    assert "**Warning.** No response on held-out prompts is labelled" in (Path(folder) / "README.md").read_text()


def test_wrong_sign_is_warned_of(train, tmp_path):
    """Labels the wrong way round where it is measured, as in a file whose "cost" is higher for safer answers."""
    rows = [{"prompt": r["prompt"], "response": r["response"], "is_safe": r["grade"] == 0} for r in graded_rows(160)]
    turned = [row | {"is_safe": not row["is_safe"], "prompt": "on " + row["prompt"]} for row in rows]
    trained = train(rows, {"max_steps": 40}, eval_data=[write_jsonl(tmp_path / "turned.jsonl", turned)])[1]
    assert trained.measures["auc"] < 0.2
    assert trained.warnings[0].startswith("Safe-labelled text scores above unsafe-labelled text on held-out prompts")


def test_beaver_layout_round_trip(train, tiny_model_path):
    """Safe RLHF's folder: a head with a bias, its template, the last attended token; and it can be trained further."""
    folder, trained = train(pku_rows(120), {"max_steps": 60}, layout="beaver", normalizer="RunningMeanStd")
    config = json.loads((Path(folder) / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"] and config["score_bias"] and config["do_normalize"]
    assert trained.measures["pair_accuracy"] > 0.9 and trained.measures["right_side_of_zero"] > 0.9
    good, bad = load_scorer(f"beaver:{folder}", kind="cost")([PROMPT, PROMPT], [GOOD, BAD])
    assert good < 0 < bad


def test_for_score_in_and_out(train, tmp_path):
    """Nothing is trained: the scores of the second folder are those of the first, bias and all."""
    first, _ = train(pku_rows(40), {"max_steps": 20}, layout="beaver")
    second, _ = train(
        pku_rows(40), {"max_steps": 1, "learning_rate": 0.0, "output_dir": str(tmp_path / "again")},
        model=first, layout="beaver", loss_type="token-wise",
    )  # fmt: skip
    texts = ["the cat", "a dog"], [GOOD, BAD]
    before, after = (load_scorer(folder, kind="cost")(*texts) for folder in (first, second))
    assert before == pytest.approx(after, abs=1e-6) and abs(before[0] - before[1]) > 1e-3
    with pytest.raises(ValueError, match="its head has a bias, which a sequence classifier has not"):
        train(pku_rows(40), model=first, use=["pairs"])


def test_token_wise(train):
    _, trained = train(pku_rows(120), {"max_steps": 60}, loss_type="token-wise")
    assert trained.measures["pair_accuracy"] > 0.9 and trained.measures["auc"] > 0.9


def test_frozen_backbone_and_adapter(train, tiny_model_path, training, tmp_path):
    from peft import LoraConfig
    from safetensors.torch import load_file

    before = load_file(Path(tiny_model_path) / "model.safetensors")
    folder, _ = train(graded_rows(60), {"max_steps": 2, "gradient_checkpointing": True}, freeze_backbone=True)
    after = load_file(Path(folder) / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items() if name != "score.weight")

    config = RewardConfig(**training(output_dir=str(tmp_path / "lora"), max_steps=60))
    data = [write_jsonl(tmp_path / "g.jsonl", graded_rows(120))]
    arguments = ScoreModelArguments(objective="cost", data=data, held_out=0.2, loss_type="sequence-wise")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    trained = train_score_model(arguments, config, tiny_model_path, lora, log=lambda text: None)
    assert trained.measures["auc"] > 0.9
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    merged = load_file(tmp_path / "lora" / "model.safetensors")
    moved = {
        name.split(".")[-2] for name, value in merged.items() if not torch.equal(value, before.get(name, value + 1))
    }
    assert moved == {"q_proj", "v_proj", "up_proj", "score"}


# Rows and tokens


def test_training_reads_the_tokens_that_scoring_reads(tiny_tokenizer, tmp_path):
    rows = load_judged(write_jsonl(tmp_path / "p.jsonl", pku_rows(3)), preferred_by="safer").rows
    dataset, left_out = encode(rows, Encoder(tiny_tokenizer, "chat"), 1, 0, ("pairs", "labels"), True)
    assert left_out == {} and learned_from(dataset) == {"pairs": 3, "labels": 6, "grades": 0}
    text = tiny_tokenizer.decode(dataset[0]["chosen_ids"])
    prompt, response = rows[0].prompt[0]["content"], rows[0].verdicts[0].response[0]["content"]
    assert text.split() == f"user {prompt} <eos> assistant {response} <eos>".split()
    # Where the responses part, and never behind the end of the shorter one.
    both = dataset[0]["chosen_ids"], dataset[0]["rejected_ids"]
    start = dataset[0]["starts"][0]
    assert both[0][:start] == both[1][:start] and both[0][start] != both[1][start]
    batch = Collator(tiny_tokenizer.pad_token_id)([dataset[0], dataset[1]])
    assert batch["pairs"].tolist() == [[0, 1], [2, 3]] and batch["input_ids"].shape[0] == 4
    short, left_out = encode(rows, Encoder(tiny_tokenizer, "chat", max_length=5), 1, 0, ("pairs",))
    assert len(short) == 0 and left_out == {"longer than max_length": 3}


def test_heads_see_halves_of_the_prompts(tiny_tokenizer, tmp_path):
    """Rows of one prompt have one weight; of each head about half are 0 and the others 2."""
    rows = load_judged(write_jsonl(tmp_path / "g.jsonl", graded_rows(400)), HarmScale()).rows
    weights = encode(rows, Encoder(tiny_tokenizer, "chat"), 3, 0, ("grades",))[0]["head_weights"]
    of_prompt = {}
    for row, weight in zip(rows, weights, strict=True):
        assert of_prompt.setdefault(row.prompt[0]["content"], weight) == weight
    for head in range(3):
        drawn = [weight[head] for weight in of_prompt.values()]
        assert set(drawn) == {0.0, 2.0} and 0.35 < sum(drawn) / len(drawn) / 2 < 0.65


def test_prompts_are_held_out_whole_and_for_good(tmp_path):
    """Spellings of one prompt stay together, and what is measured on does not depend on the other rows."""
    rows = [{"prompt": f"  Prompt {i % 50} " if i % 2 else f"PROMPT {i % 50}", "response": "r", "grade": i % 4}
            for i in range(200)]  # fmt: skip
    rows = load_judged(write_jsonl(tmp_path / "g.jsonl", rows), HarmScale()).rows
    train_rows, held_out = hold_out(rows, 0.3, 7)
    assert prompts_of(train_rows).isdisjoint(prompts_of(held_out)) and len(held_out) % 4 == 0
    assert 0.1 < len(held_out) / len(rows) < 0.5
    fewer = hold_out(rows[:100], 0.3, 7)[1]
    assert prompts_of(fewer) == prompts_of(held_out) & prompts_of(rows[:100])


# The command


@pytest.fixture
def command(tiny_model_path, training, tmp_path):
    settings = training(max_steps=1) | {"model_name_or_path": tiny_model_path, "objective": "cost", "dry_run": True}
    settings["data"] = write_jsonl(tmp_path / "rows.jsonl", graded_rows(40))

    def run(**changes):
        words = ["score-model"]
        for name, value in (settings | changes).items():
            words += [] if value is None else [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
        return main(words)

    return run


def test_dry_run_writes_nothing(command, tmp_path, capsys):
    assert command() == 0
    out = capsys.readouterr().out
    assert "40 rows read as judged responses; 0 pairs, 40 labels, 40 grades" in out
    assert "would be trained on, and nothing was written" in out and not (tmp_path / "out").exists()


def test_command_trains(command, tmp_path, capsys):
    assert command(dry_run=None, held_out=0.3, harm_scale="ok=-1,meh=0,bad=2,awful=5") == 0
    assert "auc" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["score_model"]["harm_scale"]["names"] == ["ok", "meh", "bad", "awful"]
    assert list(config["id2label"].values()) == ["worse than ok", "worse than meh", "worse than bad"]


def test_help_fits_on_a_screen(capsys):
    assert main(["score-model", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": None}, "You gave no objective."),
        ({"data": None}, "You gave no data."),
        ({"model_name_or_path": None}, "You gave no model."),
        ({"model_name_or_path": "./none"}, "You set model_name_or_path='./none', but "),
        ({"data": "none.jsonl"}, "There is no file or folder none.jsonl"),
        ({"objective": "reward", "use": "grades"}, "You set use=grades with objective=reward"),
        ({"objective": "reward"}, "You ask to learn from pairs, but the data have none of them; they have labels"),
        ({"use": "pairs"}, "You ask to learn from pairs, but the data have none of them"),
        ({"layout": "beaver", "heads": 2}, "You set layout=beaver for a graded cost model or several heads"),
        ({"layout": "beaver", "template": "chat"}, "You set template=chat with layout=beaver"),
        ({"normalizer": "RunningMeanStd"}, "You set normalizer=RunningMeanStd with layout=hf"),
        ({"loss_type": "token-wise", "use": "grades"}, "You set loss_type=token-wise for a graded cost model"),
        ({"pessimism": 1}, "You set pessimism=1, but one head has no spread"),
        ({"heads": 0}, "You set heads=0, but they count from 1"),
        ({"held_out": 1}, "You set held_out=1.0, but it is a share of the prompts"),
        ({"regularization": -1}, "You set regularization=-1.0, but it is at least 0"),
        ({"harm_scale": "a=1"}, "You set a harm scale with 1 names and 1 costs"),
        ({"center_rewards_coefficient": 0.1}, "You set center_rewards_coefficient, but a score model does not"),
        ({"max_length": 3}, "No row is left to train on: longer than max_length"),
        ({"load_in_4bit": True}, "You set load_in_4bit or load_in_8bit"),
        ({"objectiv": "cost"}, "unrecognized arguments: --objectiv cost. Did you mean --objective?"),
    ],
)
def test_refused(command, changes, sentence, capsys, tmp_path):
    assert command(**changes) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.removeprefix("trl-rsa score-model: error: ").startswith(sentence), last
    assert not (tmp_path / "out").exists()


# The scorer of a finished folder


def test_scorer_refuses_what_the_folder_contradicts(train):
    folder, _ = train(graded_rows(40), {"max_steps": 1})
    with pytest.raises(ValueError, match="it was trained to give a cost"):
        load_scorer(f"hf:{folder}", kind="reward")
    for settings in ({"kind": "cost", "higher_is": "better"}, {"kind": "reward", "higher_is": "better"}):
        with pytest.raises(ValueError, match=r'higher_is="better" for .* give a cost, of which higher is worse'):
            load_scorer(f"hf:{folder}", **settings)
    with pytest.raises(ValueError, match="says how its logits become a score"):
        load_scorer(f"hf:{folder}", kind="cost", label=0)
    with pytest.raises(ValueError, match="it is a number of at least 0"):
        load_scorer(f"hf:{folder}", kind="cost", pessimism=-1)
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["score_model"]["heads"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="says 6 logits and its head has 3"):
        load_scorer(f"hf:{folder}", kind="cost")
    del config["score_model"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="only a model of `trl-rsa score-model` has several heads"):
        load_scorer(f"hf:{folder}", kind="cost", label=0, pessimism=1.0)


def test_truncation_is_the_scorers_too(train):
    folder, _ = train(graded_rows(40), {"max_steps": 1, "max_length": 8}, truncation="left")
    scorer = load_scorer(f"hf:{folder}", kind="cost")
    long = " ".join(["cat"] * 30)
    assert (scorer.truncation, scorer.max_length) == ("left", 8) and scorer(["a"], [long]) != [None]
    whole, _ = train(graded_rows(40), {"max_steps": 1, "max_length": 20})  # longer rows are left out, so not scored
    scorer = load_scorer(f"hf:{whole}", kind="cost")
    assert (scorer.truncation, scorer.max_length) == (None, 20) and scorer(["a"], [long]) == [None]
