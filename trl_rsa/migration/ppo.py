"""`safe_rlhf.algorithms.ppo` and `.ppo_lag`: what is helpful from the pairs, and a budget in the place of λ."""

from typing import Any

from trl_rsa.migration.draft import StageDraft
from trl_rsa.migration.flags import Flags, as_word
from trl_rsa.migration.safe_rlhf import NOT_HERE, dataset_of, options_of, place_of, training_arguments


_PPO = {
    "num_return_sequences": "no answers are sampled: the stage learns from the pairs",
    "temperature": "no answers are sampled: the stage learns from the pairs",
    "top_p": "no answers are sampled: the stage learns from the pairs",
    "per_device_prompt_batch_size": "no answers are sampled: the stage learns from the pairs",
    "critic_*": "there are no value models: nothing is learned about rewards but from pairs",
    "*_critic_model_name_or_path": "there are no value models",
    "ptx_*": "there is no pretraining loss: args: {loss_type: [rsa2, sft], loss_weights: [1, 1]} adds the likelihood "
    "of the chosen answers instead",
    "clip_range_*": "a matter of PPO: there are no ratios, values or scores to clip",
    "update_iters": "a matter of PPO: a rung is trained for num_train_epochs on its pairs",
    "gamma": "a matter of PPO: there are no returns",
    "gae_lambda": "a matter of PPO: there are no returns",
    "kl_coeff": "the pull to the reference is β of a stage, 0.1 here, and 1 of the rungs, whose labels are costs: "
    "PPO's coefficient is not on their scale",
    "repetition_penalty": "answers are drawn from the policy's own law, on which the bound rests",
    "normalize_reward": "a matter of PPO",
    "normalize_cost": "set do_normalize in the cost model's config.json, which the scorer follows",
    "eval_*": "a budget is measured on prompts that are held out anyway; see trl-rsa evaluate",
    "cost_coeff*": "λ is found, not set: see the rungs",
    "need_eval": "a budget is measured on prompts that are held out anyway; see trl-rsa evaluate",
    "per_device_eval_batch_size": "a budget is measured on prompts that are held out anyway; see trl-rsa evaluate",
}


def ppo(program: str, flags: Flags) -> StageDraft:
    """PPO on a reward model: a stage on the pairs."""
    return _from_ppo(program, flags, None)


def ppo_lag(program: str, flags: Flags) -> StageDraft:
    """PPO-Lag and its forks: a stage on the pairs, then rungs until mean cost ≤ threshold."""
    if not program.endswith("ppo_lag"):
        flags.notes.append(
            f"{program} has a cost model, and is taken as a fork of ppo_lag; a penalty with a fixed weight becomes a "
            "budget too"
        )
    return _from_ppo(program, flags, flags.text("cost_model_name_or_path", default="COST_MODEL"))


def _from_ppo(program: str, flags: Flags, cost: str | None) -> StageDraft:
    model = flags.text("actor_model_name_or_path", "model_name_or_path", default="MODEL")
    comments: dict[str, list[str]] = {}
    dataset, options = dataset_of(flags, "train_datasets"), options_of(model, comments)
    stage = {"name": "helpful", "dataset": dataset, "dataset_options": options, "beta": 0.1}
    args = training_arguments(flags, "actor_", need_eval=False)
    constraint = rungs = None
    if cost is not None:
        constraint, rungs = _budget(flags, cost, dataset, options["template"], args["max_length"], comments)
    elif "threshold" in flags or "cost_model_name_or_path" in flags:
        flags.drop(
            {
                "threshold": "this program has no constraint",
                "cost_model_name_or_path": "this program has no constraint: see ppo_lag for a budget",
            }
        )
    instead = "label pairs with it (docs/scoring.md)"
    if cost is not None:
        instead += ", or with `labels: unsafe` set it as the reward of the rungs (docs/stages.md)"
    flags.drop(
        {
            "reward_model_name_or_path": "no reward model is asked: what is helpful is learned from the pairs' "
            f"better_response_id, in the stage; to follow this model too, {instead}"
        }
    )
    flags.drop(_PPO | NOT_HERE)
    output_dir, seed, engine = place_of(flags)
    flags.finish(program)
    return StageDraft(
        program,
        model,
        output_dir,
        stage,
        {"loss_type": ["rsa2"], "risk_alpha": 0.0, **args},
        seed,
        constraint,
        rungs,
        engine=engine,
        comments=comments,
        without=flags.without,
        notes=flags.notes,
    )


def _budget(
    flags: Flags, cost: str, dataset: str, template: str, max_length: int, comments: dict[str, list[str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    if "threshold" not in flags:
        flags.notes.append("no --threshold is given: the budget is Safe RLHF's default, mean cost <= 0")
    threshold = flags.number("threshold", default=0.0)
    shown = as_word(threshold)
    low, high = min(-10.0, threshold - 10), max(10.0, threshold + 10)
    constraint = {
        "scorer": cost,
        "prompts": dataset,
        "budget": threshold,
        "bounds": [low, high],
        "tail": 1.0,
        "labels": "raw",
    }
    comments["constraint"] = [
        f"Safe RLHF's constraint: mean cost <= {shown} (--threshold, which is -d of the paper). It acts only on",
        "a model whose mean cost is higher: --dry_run says where the budget lies among the starting model's costs.",
    ]
    comments["constraint.scorer"] = [
        "Higher must be worse, above 0 unsafe. If it is not: scorer_options: {higher_is: better}. A *ForScore model",
        "is asked in Safe RLHF's template, a classifier in its own chat template, whatever the policy answers in.",
    ]
    if dataset.startswith("PKU-") and "/train" in dataset and dataset.count(":") < 2:
        comments["constraint.prompts"] = [
            "As before. The stage trains on these too: for a certificate on prompts that nothing has seen, take",
            f"{dataset.split(':')[0].replace('/train', '/test')}.",
        ]
    comments["constraint.bounds"] = [
        "Assumed: Safe RLHF clips no costs. Fix them before you see any; the claim is about the clipped cost."
    ]
    comments["constraint.tail"] = [
        "1 is the mean of all responses, as before. Our form, the mean of the worst 5 %, in place of the next two:",
        "tail: 0.05",
        "labels: unsafe",
    ]
    draws = flags.count("num_return_sequences", default=1)
    rungs: dict[str, Any] = {
        "sampling": {
            "max_new_tokens": max(1, max_length * 3 // 4),
            "temperature": flags.number("temperature", default=1.0),
            "top_p": flags.number("top_p", default=1.0),
            "template": template,
        },
        "batch_size": flags.count("per_device_prompt_batch_size", default=16),
        "rule": "log_dual_ascent",
        "initial_delta": flags.number("lambda_init", default=1.0),
    }
    if draws > 1:
        rungs["draws"] = {"train": draws}
    comments["rungs.sampling"] = [
        f"--max_length {max_length} counted the prompt too. The template is the policy's, as in the stage."
    ]
    rate = flags.number("lambda_lr", "lambda_learning_rate", default=0.1)
    comments["rungs.rule"] = [
        f"Safe RLHF's ascent on log λ from --lambda_init; its rate is 0.1 a rung, --lambda_lr was {as_word(rate)} an",
        "update. `rule: bracket` (the default) looks for λ itself and needs fewer rungs.",
    ]
    flags.drop(
        {
            "lambda_max": "λ is bounded by max_rungs and max_growth of the rungs",
            "lambda_update_delay_steps": "λ changes from rung to rung, after an estimate",
            "episode_cost_window_size": "no window: each model's cost is bounded, with a stated confidence, on "
            "prompts that are not trained on",
        }
    )
    return constraint, rungs
