"""Flags with odd values, misspelt or left out: a command does what they say, or says one sentence."""

import json

import pytest
from attacking import TIMES, Attack, run


VALUES = [
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "",
    " ",
    "x",
    "-5",
    "5",
    "0.05",
    "99999999999999999999",
    "🙂",
    "\x1b[2J",
    "/",
]
VALUES += ["none", "true", "--", "-", "a\ud800b", "~nouser", "/dev/null", "/proc/self/mem", "../.."]


@pytest.fixture(scope="module")
def commands(tmp_path_factory, tiny_model_path):
    """By name: sound arguments of commands that need no training and no sampling."""
    folder = tmp_path_factory.mktemp("flags")
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    costs = [{"prompt": f"p{i}", "response": "r", "cost": -1.0, "model": "m"} for i in range(40)]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, costs)) + "\n")
    stage = {"name": "s", "dataset": str(folder / "pairs.jsonl"), "dataset_options": {"template": "none"}}
    plan = {"model": tiny_model_path, "output_dir": str(folder / "out"), "stages": [stage]}
    plan["args"] = {"use_cpu": True, "bf16": False, "report_to": "none"}
    (folder / "plan.yaml").write_text(json.dumps(plan))
    certify = {"--records": folder / "records.jsonl", "--scorer": "s", "--bounds": ["-5", "5"]}
    certify |= {"--tail": "0.1", "--confidence": "0.9", "--output": folder / "c.json"}
    return {
        "data": [
            str(folder / "pairs.jsonl"),
            {"--limit": "3", "--seed": "1", "--show": "1", "--format": "preference"},
        ],
        "certify": [certify],
        "align": [{"--config": folder / "plan.yaml", "--dry_run": [], "--seed": "3"}],
        "report": [str(folder), {}],
        "doctor": [{}],
    }


def words_of(arguments):
    words = []
    for part in arguments:
        if isinstance(part, str):
            words.append(part)
            continue
        for flag, value in part.items():
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


@pytest.mark.parametrize("name", ["data", "certify", "align", "report", "doctor"])
@pytest.mark.parametrize("seed", range(6 * TIMES))
def test_flags(name, seed, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        attack = Attack(seed * 100 + number)
        words = words_of(commands[name])
        for _ in range(attack.random.randint(1, 2)):
            how, place = (
                attack.random.choice(("value", "misspelt", "drop", "add")),
                attack.random.randrange(len(words) + 1),
            )
            if how == "add" or place == len(words):
                words.insert(place, attack.random.choice(VALUES))
            elif how == "drop":
                del words[place]
            elif how == "value":
                words[place] = attack.random.choice(VALUES)
            else:
                words[place] = attack.misspelt(words[place])
        assert run(capsys, name, *words)[0] in (0, 2, 3)


@pytest.fixture(scope="module")
def workers(tmp_path_factory, tiny_model_path):
    """As `commands`, of commands that train and sample: a step, a few tokens."""
    folder = tmp_path_factory.mktemp("workers")
    pairs = [{"prompt": f"the cat {i}", "chosen": " ran ", "rejected": " sat "} for i in range(8)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    prompts = [{"prompt": f"the cat {i}", "category": "c"} for i in range(6)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n")
    (folder / "cost.py").write_text("def cost(prompts, completions, **kwargs):\n    return [0.0] * len(prompts)\n")
    train = {"--model_name_or_path": tiny_model_path, "--dataset_name": folder / "pairs.jsonl", "--output_dir": "out"}
    train |= {"--use_cpu": "true", "--bf16": "false", "--report_to": "none", "--save_strategy": "no", "--seed": "3"}
    train |= {"--learning_rate": "1e-3", "--risk_tail": "0.1", "--risk_measure": "cvar", "--max_steps=1": []}
    train |= {"--gradient_checkpointing": "false"}
    evaluate = {"--model": f"a={tiny_model_path}", "--prompts": folder / "prompts.jsonl", "--output_dir": "out"}
    evaluate |= {"--cost": f"{folder / 'cost.py'}:cost", "--max_new_tokens": "3", "--seed": "2", "--batch_size": "4"}
    return {"train": [train], "evaluate": [evaluate]}


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("seed", range(4 * TIMES))
def test_flags_of_commands_that_work(name, seed, workers, tmp_path, monkeypatch, capsys):
    """One odd value each, and none that asks for more than a moment's work."""
    monkeypatch.chdir(tmp_path)
    attack, words = Attack(seed), words_of(workers[name])
    place = attack.random.randrange(len(words) // 2) * 2 + 1
    words[place] = attack.random.choice([value for value in VALUES if len(value) < 20])
    assert run(capsys, name, *words)[0] in (0, 2)
