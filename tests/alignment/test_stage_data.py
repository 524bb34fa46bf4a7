"""The rows of a stage are written down as the policy, and its scorers, will see them."""

from trl_rsa import Plan, Stage
from trl_rsa.alignment.stage_data import load_stage_data
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.training.methods.terms import RewardTerm


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
    rows, _, _ = load_stage_data(plan, stage, load_tokenizer(tiny_model_path))
    assert rows[0]["prompt"] == "BEGINNING OF CONVERSATION: USER: the cat ASSISTANT:"
