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


def test_a_stage_in_another_template_than_the_ladder_is_named():
    from types import SimpleNamespace

    from trl_rsa.alignment.preview import _other_templates
    from trl_rsa.ladder.settings import RungSettings

    def said(own, asked, has_chat=True):
        stage = SimpleNamespace(name="helpful", dataset_options={} if own is None else {"template": own})
        ladder = SimpleNamespace(
            processing_class=SimpleNamespace(chat_template="x" if has_chat else None),
            settings=RungSettings(sampling={"template": asked, "max_new_tokens": 8}),
            seed=0,
        )
        return _other_templates(SimpleNamespace(stages=[stage]), ladder)

    assert said("safe-rlhf", "auto")[0].startswith(
        "[ladder] the stage 'helpful' trains in the template 'safe-rlhf', but"
    )
    assert "Set rungs: {sampling: {template: chat}}" in said(None, "safe-rlhf")[0]
    assert said("chat", "auto") == said("safe-rlhf", "safe-rlhf") == said(None, "auto", has_chat=False) == []
