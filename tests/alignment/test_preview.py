"""The dry run: what does not fit, before anything is trained."""

from datasets import Dataset

from trl_rsa import Plan, Stage
from trl_rsa.alignment.preview import preview


ARGS = {"use_cpu": True, "bf16": False, "report_to": "none"}


def test_pairs_that_do_not_fit_are_counted(tiny_model_path, tmp_path):
    """With the chat template a pair of n words has n + 5 tokens: user, the, <eos>, assistant, n words, <eos>."""
    rows = [{"prompt": "the", "chosen": " ".join(["cat"] * n), "rejected": "dog"} for n in (2, 3, 9, 10)]
    stages = [Stage("helpful", Dataset.from_list(rows), dataset_options={"template": "chat"}, args={"max_length": 8})]
    lines = []
    preview(Plan(stages, model=tiny_model_path, output_dir=str(tmp_path), args=ARGS), log=lines.append)
    assert lines[1] == "[1/1] helpful: 2 of 4 pairs are longer than max_length=8 tokens and are dropped"
