"""RLOO: on-policy RL on prompts with scorers as reward functions; with `costs`, RLOO-Lagrangian.

RLOO-Lagrangian maximises E[R] − β·KL − λ·(risk of C − budget) and moves λ by dual ascent. It is the on-policy baseline
of PPO-Lagrangian (Safe RLHF), on the RL trainer that TRL has. It differs from PPO-Lagrangian: no value function, one
advantage per response, and the objective is not divided by 1 + λ, so that at a fixed λ the optimum is
π_ref·exp((R − λC)/β), that of the ladder.
"""

from pathlib import Path
from typing import Any

from trl_rsa.sampling.policies import is_adapter
from trl_rsa.score_models.whole import undivided
from trl_rsa.storage.hub import NOT_READ
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.methods.method import Method, StageParts, find_in_trl
from trl_rsa.training.methods.terms import CostTerm, RewardTerm
from trl_rsa.training.methods.together import Together


_find = find_in_trl("rloo", "RLOO")


def _make_trainer(parts: StageParts) -> Any:
    from trl_rsa.training.methods.lagrangian import CostPenalty, DualAscentCallback, KnownScores

    rewards: list[RewardTerm] = parts.options["rewards"]
    costs: list[CostTerm] = parts.options["costs"]
    with undivided():
        scorers = [KnownScores(one.load()) for one in rewards]
        penalties = [CostPenalty(one.name, KnownScores(one.load()), one.dual_ascent()) for one in costs]
    parts.config.reward_weights = [*(one.weight for one in rewards), *(1.0 for _ in costs)]
    callback = DualAscentCallback(penalties)
    # The trainer loads the reference itself, from the folder that the policy says it comes from; of an adapter that
    # came with the model it makes a frozen copy.
    anchor = parts.models.anchor_at(_reference_of(parts.start, parts.models), with_reference=False)
    parts.config.trust_remote_code = bool(parts.models.init_kwargs.get("trust_remote_code"))
    trainer = _find()[1](
        model=anchor.model,
        reward_funcs=Together([*scorers, *penalties]).functions,
        args=parts.config,
        train_dataset=parts.train_dataset,
        eval_dataset=parts.eval_dataset,
        processing_class=parts.processing_class,
        callbacks=[*([callback] if penalties else []), *parts.callbacks],
        peft_config=anchor.peft_config,
    )
    callback.trainer = trainer
    for penalty in penalties:
        penalty.trainer = trainer
    return trainer


def _reference_of(start: str, models: ModelSettings) -> str:
    """Of a revision of a model on the Hub, the folder: by name, the trainer would take the newest one as reference.
    With an adapter there is no other model.
    """
    revision = models.init_kwargs.get("revision")
    if revision is None or models.peft_config is not None or Path(start).is_dir() or is_adapter(start):
        return start
    from huggingface_hub import snapshot_download

    places: dict[str, Any] = {name: models.init_kwargs.get(name) for name in ("cache_dir", "token")}
    return snapshot_download(start, revision=revision, ignore_patterns=NOT_READ, **places)


def _check(title: str, config: Any, options: dict[str, Any]) -> None:
    if not options["rewards"]:
        raise ValueError(f"You gave {title} the method 'rloo', but nothing to maximise. Add `rewards:`.")
    names = [cost.name for cost in options["costs"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"You gave two costs of {title} the name {name!r}, but it tells them apart. Rename one.")
    if config.reward_weights is not None:
        raise ValueError(
            f"You set reward_weights in the args of {title}, but each of its `rewards` has a `weight`. Set it there."
        )
    # TRL keeps sampled responses in memory for several steps, and no checkpoint holds them.
    every = config.steps_per_generation * config.num_iterations
    steps = every // config.gradient_accumulation_steps
    is_whole = every % config.gradient_accumulation_steps == 0
    saved = {"steps": config.save_steps, "no": 0}.get(getattr(config.save_strategy, "value", ""))
    if steps <= 1 and is_whole:
        return
    if saved == 0 or (is_whole and saved is not None and saved >= 1 and saved % steps == 0):
        return
    raise ValueError(
        f"You set steps_per_generation={config.steps_per_generation} and num_iterations={config.num_iterations} in "
        f"the args of {title}, so that responses serve {every / config.gradient_accumulation_steps:g} steps, but no "
        "checkpoint holds them: a resumed run would not end like an uninterrupted one. Set save_strategy='steps' and "
        "save_steps to a multiple, or leave the two out."
    )


RLOO = Method(
    "rloo",
    "prompts: the policy's own responses are scored; with costs, RLOO-Lagrangian",
    "prompts",
    _find,
    _make_trainer,
    frozenset({"beta", "rewards", "costs"}),
    overlong="are kept",
    loss_falls=False,
    check=_check,
)
