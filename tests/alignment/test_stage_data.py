"""The rows of a stage are written down as the policy, and its scorers, will see them."""

import json

import pytest
from datasets import Dataset, DatasetDict

from trl_rsa import Plan, Stage
from trl_rsa.alignment.preview import preview
from trl_rsa.alignment.stage_data import load_stage_data
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.training.methods.terms import RewardTerm


PAIR = {"prompt": "the cat", "chosen": "runs", "rejected": "sits"}


def test_prompts_of_rloo_in_safe_rlhfs_template(tiny_model_path, tmp_path):
    """As the pairs of the stages beside it: a policy is not to be trained on prompts of another form."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the cat"}\n')
    stage = Stage(
        "rl",
        str(path),
        method="rloo",
        rewards=[RewardTerm("builtins:len")],
        dataset_options={"template": "safe-rlhf"},
    )
    plan = Plan([stage], tiny_model_path, str(tmp_path / "out"), args={"use_cpu": True, "bf16": False})
    rows = load_stage_data(plan, stage, load_tokenizer(tiny_model_path))
    assert rows.train[0]["prompt"] == "BEGINNING OF CONVERSATION: USER: the cat ASSISTANT:"


@pytest.mark.parametrize(
    ("method", "dataset", "options", "sentence"),
    [
        ("kto", [PAIR | {"pair_weight": 0.0}], {}, "column 'pair_weight', but only the method 'rsa' reads it"),
        ("sft", [PAIR | {"pair_label": 0.5}], {}, "column 'pair_label', but only the method 'rsa' reads it"),
        ("cost", [PAIR | {"pair_label": 0.5}], {}, "column 'pair_label', but only the method 'rsa' reads it"),
        ("kto", [PAIR], {"limit": 0}, "You set limit to 0"),
        ("rloo", [PAIR, {"prompt": "a dog"}], {"limit": -1}, "You set limit to -1"),
        ("rloo", [PAIR], {"limit": 0}, "You set limit to 0"),
    ],
)
def test_what_a_stage_would_lose_is_refused(method, dataset, options, sentence, tiny_tokenizer, tmp_path):
    more = {"rewards": [RewardTerm("builtins:len")]} if method == "rloo" else {}
    stage = Stage("one", dataset, method=method, dataset_options=options, **more)
    with pytest.raises(ValueError, match=sentence):
        load_stage_data(Plan([stage], "m", str(tmp_path)), stage, tiny_tokenizer)


def test_weighted_pairs_are_not_evaluated_without_their_weights(tiny_tokenizer, tmp_path):
    weighted = [PAIR | {"prompt": "a dog", "pair_weight": 2.0}]
    stage = Stage("one", [PAIR], method="dpo", dataset_options={"template": "chat"}, eval_dataset=weighted)
    with pytest.raises(ValueError, match="pairs with a column 'pair_weight', but its method 'dpo'"):
        load_stage_data(Plan([stage], "m", str(tmp_path)), stage, tiny_tokenizer)


def test_prompts_that_do_not_fit_safe_rlhfs_template_are_counted(tiny_tokenizer, tmp_path):
    """It has no place for a system message."""
    system = [{"role": "system", "content": "be good"}, {"role": "user", "content": "the dog"}]
    options = {"method": "rloo", "rewards": [RewardTerm("builtins:len")], "dataset_options": {"template": "safe-rlhf"}}

    def load(prompts):
        stage = Stage("rl", [{"prompt": prompt} for prompt in prompts], **options)
        return load_stage_data(Plan([stage], "m", str(tmp_path)), stage, tiny_tokenizer)

    found = load([system, "the cat", "a mat"])
    assert found.train["prompt"][0] == "BEGINNING OF CONVERSATION: USER: the cat ASSISTANT:" and len(found.train) == 2
    counts = found.data["train"]
    assert counts["skipped"] == {"turns do not alternate between user and assistant": 1}
    assert (counts["rows_read"], counts["rows_used"], counts["pairs_kept"]) == (3, 2, 2)
    with pytest.raises(ValueError, match=r"none of the 1 prompts of .* fits it \(turns do not alternate"):
        load([system])


# Rows to evaluate on


ARGS = {"use_cpu": True, "bf16": False, "report_to": "none"}
CHAT = {"template": "chat"}


def pairs(*prompts):
    return [{"prompt": prompt, "chosen": "the cat", "rejected": "the dog"} for prompt in prompts]


def pku(*prompts):
    labels = {"better_response_id": 0, "safer_response_id": 1, "is_response_0_safe": False, "is_response_1_safe": True}
    return [{"prompt": prompt, "response_0": "the cat", "response_1": "the dog", **labels} for prompt in prompts]


def lines_of(stage, model, folder):
    """What the dry run says of the stage."""
    lines = []
    preview(Plan([stage], model=model, output_dir=str(folder), args=ARGS), log=lines.append)
    return lines


@pytest.mark.parametrize(("method", "make"), [("rsa", pairs), ("reward", pku), ("cost", pku)])
def test_a_stage_does_not_evaluate_on_the_rows_that_it_trains_on(method, make, tiny_model_path, tmp_path):
    train, test = make(*"abcd"), make("C ", "e")
    folder = str(tmp_path / "saved")
    DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test)).save_to_disk(folder)
    options = {"split": "train"} if method == "cost" else {"split": "train", "template": "chat"}
    stage = {"dataset": folder, "eval_dataset": folder, "dataset_options": options, "method": method}
    with pytest.raises(ValueError, match=r"the stage 'one' to .*saved, split train, but these are the rows"):
        lines_of(Stage("one", **stage), tiny_model_path, tmp_path / "out")
    lines = lines_of(Stage("one", **stage, eval_options={"split": "test"}), tiny_model_path, tmp_path / "out")
    assert lines[0].startswith("[1/1] one: 1 of the 2 prompts of eval_dataset are also trained on;")
    assert "2 held out" in lines[1]
    # A file has no splits, and the split of the training data is none of it.
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in make("f", "g", "h")))
    stage |= {"eval_dataset": str(file)}
    (line,) = (line for line in lines_of(Stage("one", **stage), tiny_model_path, tmp_path / "out") if "held" in line)
    assert "3 held out" in line


def hold_out_of_a_cost(held_out, prompts, tokenizer, folder):
    stage = Stage("harm", pku(*prompts), method="cost", held_out=held_out)
    return load_stage_data(Plan([stage], "m", str(folder)), stage, tokenizer)


def test_a_number_of_rows_held_out_of_a_cost_stage(tiny_tokenizer, tmp_path):
    """At most so many, whole prompts, and fewer by less than the rows of one prompt: 3 of 20 without repetitions."""
    rows = hold_out_of_a_cost(3, [f"the {i}" for i in range(20)], tiny_tokenizer, tmp_path)
    assert (len(rows.train), len(rows.held_out), rows.data["held_out_pairs"]) == (17, 3, 3)
    rows = hold_out_of_a_cost(3, [f"the {i // 2}" for i in range(20)], tiny_tokenizer, tmp_path)
    assert (len(rows.train), len(rows.held_out)) == (18, 2)


@pytest.mark.parametrize("held_out", [4, 100])
def test_a_cost_stage_of_which_all_rows_would_be_held_out(held_out, tiny_tokenizer, tmp_path):
    sentence = f"You set held_out={held_out} for the cost stage 'harm', but of its 4 rows with 4 different prompts"
    with pytest.raises(ValueError, match=sentence):
        hold_out_of_a_cost(held_out, "abcd", tiny_tokenizer, tmp_path)


def test_a_share_of_a_single_prompt_is_none(tiny_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"You set held_out=0\.5 for the cost stage 'harm', but of its 2 rows with"):
        hold_out_of_a_cost(0.5, "aa", tiny_tokenizer, tmp_path)


def test_rows_of_the_eval_data_that_are_skipped_are_said(tiny_model_path, tmp_path):
    stage = Stage("one", pairs(*"ab"), eval_dataset=pairs("c", "d", " "), dataset_options=CHAT)
    first, second = lines_of(stage, tiny_model_path, tmp_path / "out")
    assert first == "[1/1] one: 1 of 3 rows of eval_dataset were skipped: 1 × empty prompt"
    assert "2 held out" in second


def test_a_preference_that_decides_nothing_is_said(tiny_model_path, tmp_path):
    """Two stages of a preset on one file of plain pairs would learn the same."""
    stage = Stage("safe", pairs(*"ab"), preferred_by="safer", dataset_options=CHAT)
    first, _ = lines_of(stage, tiny_model_path, tmp_path / "out")
    assert first.startswith("[1/1] safe: You set preferred_by='safer', but the pairs of dataset in memory say")
    stage = Stage("safe", pku(*"ab"), preferred_by="safer")
    assert len(lines_of(stage, tiny_model_path, tmp_path / "out")) == 1
