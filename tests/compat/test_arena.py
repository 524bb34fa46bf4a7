"""`python -m trl_rsa.compat.safe_rlhf.evaluate.arena`: its table, its analysis, and the page beside them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trl_rsa.cli import main
from trl_rsa.compat.safe_rlhf.command_line import run
from trl_rsa.compat.safe_rlhf.datasets import RawDataset, RawSample
from trl_rsa.compat.safe_rlhf.evaluate import arena
from trl_rsa.compat.safe_rlhf.evaluate.arena import read_prompts
from trl_rsa.compat.safe_rlhf.evaluate.table import Answer, Match, analysis, summary, write_table


PROMPTS = ["the cat sat", "a big red dog ran", "blue", "was the dog in the hill", "the cat sat"]
SCORERS = """
def reward(prompts, completions):
    return [float(len(c)) for c in completions]

def cost(prompts, completions):
    return [c.split().count("dog") + c.split().count("cat") - 0.5 for c in completions]
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "scorers.py").write_text(SCORERS)
    rows = [{"prompt": text, "response_0": "a", "response_1": "b", "better_response_id": 0} for text in PROMPTS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_page(monkeypatch):
    """Without the page and its pictures, which take most of the time."""
    monkeypatch.setattr("trl_rsa.report.write_report", lambda folder: None)


def read_table(path: str | Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def start(red: str, blue: str, *more: str, cost: str = "scorers.py:cost") -> int:
    words = ["--red_corner_model_name_or_path", red, f"--blue_corner_model_name_or_path={blue}"]
    words += ["--reward_model_name_or_path", "scorers.py:reward", "--cost_model_name_or_path", cost]
    words += ["--datasets", "PKU-SafeRLHF/test::pairs.jsonl", "--output_dir", "O", "--max_new_tokens", "8", *more]
    return run(arena.make_parser(), arena.main, words, arena._KNOWN_AS)


def test_table_analysis_and_page(work, tiny_model_path, other_tiny_model_path, monkeypatch, capsys):
    more = ["--trust_remote_code", "True", "--zero_stage", "3", "--offload=none", "--max_length", "512"]
    assert start(tiny_model_path, other_tiny_model_path, *more) == 0
    shown = capsys.readouterr()
    red, blue = Path(tiny_model_path).name, Path(other_tiny_model_path).name
    folder = Path("O") / f"{red}_vs_{blue}"
    head, *rows = read_table(folder / "table.csv")
    assert head == ["Prompt", red, "Reward", "Cost", blue, "Reward", "Cost"]
    # Each prompt once, as it was asked.
    assert [row[0] for row in rows] == [f"BEGINNING OF CONVERSATION: USER: {p} ASSISTANT:" for p in PROMPTS[:4]]
    numbers = np.array([[row[2], row[3], row[5], row[6]] for row in rows], dtype=float)  # [4, 4]
    assert all(float(row[2]) == len(row[1]) and float(row[5]) == len(row[4]) for row in rows)
    means = numbers.mean(0)
    assert f"Average reward of {red}: {means[0]}" in shown.out and f"Average cost of {blue}: {means[3]}" in shown.out
    better, safe_red, safe_blue = numbers[:, 2] > numbers[:, 0], numbers[:, 1] <= 0, numbers[:, 3] <= 0
    assert f"{blue} is better and safe: {(better & safe_blue).sum()}" in shown.out
    for which, word in ((safe_red, "safe"), (~safe_red, "unsafe")):
        line = next(line for line in shown.out.splitlines() if line.startswith(f"{red} ({word})"))
        counts = [part.split(" (win rate")[0] for part in line.split(f"({word})")[1].split("  ") if "win rate" in part]
        assert [int(n) for n in counts] == [(which & safe_blue).sum(), (which & ~safe_blue).sum()]
    # The same three numbers as in `trl-rsa evaluate`'s metrics.json, from the same records.
    metrics = json.loads((folder / "metrics.json").read_text())["models"]
    told = json.loads((folder / "summary.json").read_text())
    for name, column in ((red, 0), (blue, 2)):
        assert told[name]["mean_reward"] == pytest.approx(metrics[name]["reward"]["mean"]["value"])
        assert told[name]["mean_cost"] == pytest.approx(metrics[name]["cost"]["mean"]["value"])
        assert told[name]["safe_rate"] == pytest.approx(1 - metrics[name]["cost"]["unsafe_rate"]["value"])
        assert told[name]["safe_rate"] == (numbers[:, column + 1] <= 0).mean()
    assert "table.csv" in shown.out and (folder / "report.html").stat().st_size > 10_000
    assert "without effect here: --zero_stage, --offload, --trust_remote_code" in shown.err
    assert "has a chat template, and is asked in Safe RLHF's" in shown.err
    # Started again, nothing is done twice, and the table is the same.
    monkeypatch.setattr("trl_rsa.report.write_report", lambda folder: None)
    before = (folder / "table.csv").read_bytes()
    assert start(tiny_model_path, other_tiny_model_path, *more) == 0
    assert (folder / "table.csv").read_bytes() == before
    # And so from answers that are written down, by one command.
    words = ["--responses", str(folder / "responses.jsonl"), "--output_dir", "E"]
    assert main(["evaluate", *words, "--reward", "scorers.py:reward", "--cost", "scorers.py:cost"]) == 0
    for name, model in json.loads(Path("E/metrics.json").read_text())["models"].items():
        three = model["reward"]["mean"], model["cost"]["mean"], model["cost"]["unsafe_rate"]
        reward, cost, unsafe = (estimate["value"] for estimate in three)
        assert told[name]["mean_reward"] == pytest.approx(reward) and told[name]["mean_cost"] == pytest.approx(cost)
        assert told[name]["safe_rate"] == pytest.approx(1 - unsafe)


def test_what_a_policy_says_of_its_answers_and_is_not_done_is_said(work, tiny_model_path, capsys):
    """Safe RLHF left each policy to its generation_config.json; here both are asked alike."""
    folder = Path(shutil.copytree(tiny_model_path, "own"))
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    words = ["--reward_model_name_or_path=r", "--cost_model_name_or_path=c", "--datasets=d", "--output_dir=O"]
    words += ["--red_corner_model_name_or_path=own", f"--blue_corner_model_name_or_path={tiny_model_path}"]
    policies = {"red": str(folder), "blue": tiny_model_path}
    arena._warn_of_law(policies, arena.make_parser().parse_args(words))
    said = "own has temperature 0.6, top_p 0.9, repetition_penalty 1.1 in its generation_config.json; "
    assert capsys.readouterr().err == f"{said}asked at temperature 1, top_p 1, repetition_penalty 1.\n"
    arena._warn_of_law(policies, arena.make_parser().parse_args([*words, "--temperature=0.5", "--top_p=1"]))
    assert capsys.readouterr().err.count("temperature") == 0


def test_adapter_without_a_tokenizer_against_its_base(work, tiny_model_path, no_page, capsys):
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained("adapter")
    assert start(tiny_model_path, "adapter", "--template", "chat", "--temperature", "0") == 0
    folder = Path("O") / f"{Path(tiny_model_path).name}_vs_adapter"
    rows = list(read_table(folder / "table.csv"))[1:]
    assert [row[0] for row in rows] == PROMPTS[:4] and any(row[1] != row[4] for row in rows)
    assert "chat template" not in capsys.readouterr().err


def test_the_same_folder_name_twice(work, tiny_model_path, other_tiny_model_path, no_page):
    for folder, path in (("a", tiny_model_path), ("b", other_tiny_model_path)):
        Path(folder).mkdir()
        Path(folder, "sft").symlink_to(path)
    assert start("a/sft", "b/sft/", "--cost_higher_is", "better") == 0
    head, *rows = read_table("O/sft_vs_sft/table.csv")
    assert head == ["Prompt", "sft", "Reward", "Cost", "sft", "Reward", "Cost"]
    words = [row[1].split() for row in rows]
    # The sign was turned, as it was said.
    assert [float(row[3]) for row in rows] == [0.5 - w.count("dog") - w.count("cat") for w in words]
    assert set(json.loads(Path("O/sft_vs_sft/summary.json").read_text())) == {"sft (red)", "sft (blue)"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--fp16", "True", "--bf16", "yes"], "You set fp16 and bf16"),
        (["--train_datasets", "x"], "You set --train_datasets, but here it is --datasets"),
        (["--datasets", "nothing/here"], "nothing/here"),
        (["--blue_corner_modle_name_or_path", "x"], "Did you mean --blue_corner_model_name_or_path?"),
    ],
)
def test_sentences(work, tiny_model_path, other_tiny_model_path, more, sentence, capsys):
    assert start(tiny_model_path, other_tiny_model_path, *more) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"{arena.PROG}: error: ") and sentence in err and not Path("O").exists()


def test_other_processes_of_a_launcher_do_nothing(work, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert start("missing", "missing too") == 0 and not Path("O").exists()


def test_prompts_of_a_dataset_of_ones_own(work):
    class Mine(RawDataset):
        NAME = "arena-test/mine"

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index) -> RawSample:
            return RawSample(input=["hello", "yes?", f"turn {index % 5}"] if index else "only one", answer="no")

    rows = read_prompts(["arena-test/mine", "PKU-SafeRLHF/test:2/-1:pairs.jsonl"], seed=0)
    assert rows[0]["prompt"] == "only one" and len(rows) == 6 + 2
    assert rows[1]["prompt"][-1] == {"role": "user", "content": "turn 1"}


# By hand: red is safe, safe, unsafe, unsafe; blue better, equal, better, worse, and safe, unsafe, safe, unsafe.
MATCHES = [
    Match("a", Answer("x", 1.0, 0.0), Answer("y", 2.0, -1.0)),
    Match("b", Answer("x", 1.0, -1.0), Answer("y", 1.0, 0.5)),
    Match("c", Answer("x", 1.0, 3.0), Answer("y", 5.0, 0.0)),
    Match("d", Answer("x", 1.0, 2.0), Answer("y", 0.0, 1.0)),
    Match("e", Answer("x", 9.0, None), Answer("y", 9.0, 9.0)),  # not scored: left out of everything
]


def test_analysis_by_hand():
    lines = analysis(MATCHES, "red", "blue")
    assert "Average reward of blue: 2.0" in lines and "Average cost of red: 1.0" in lines
    assert lines[-7:-3] == [
        "Number of responses where blue is better and safe: 2",
        "Number of responses where blue is better but unsafe: 0",
        "Number of responses where blue is worse but safe: 0",
        "Number of responses where blue is worse and unsafe: 2",  # an equal reward is not better
    ]
    assert [line.split() for line in lines[-2:]] == [
        ["red", "(safe)", "1", "(win", "rate:", "100.00%)", "1", "(win", "rate:", "0.00%)"],
        ["red", "(unsafe)", "1", "(win", "rate:", "100.00%)", "1", "(win", "rate:", "0.00%)"],
    ]
    assert summary(MATCHES, "red", "blue")["blue"] == {
        "n": 4,
        "mean_reward": 2.0,
        "mean_cost": 0.125,
        "safe_rate": 0.5,
    }
    with pytest.raises(ValueError, match="for no prompt both answers have both scores"):
        summary(MATCHES[-1:], "red", "blue")


def test_table_keeps_line_breaks_and_shows_what_has_no_score(tmp_path):
    match = Match("a", Answer('two\nlines, "quoted"', 1.0, None), Answer("y", 2.5, 0.0))
    write_table(tmp_path / "table.csv", [match], "red", "blue", "safe-rlhf")
    rows = read_table(tmp_path / "table.csv")
    assert rows[1][1:] == ['two\nlines, "quoted"', "1.0", "", "y", "2.5", "0.0"]
