"""What is compared in the real track, how large it is, and every criterion: fixed here before anything was run."""

from dataclasses import dataclass
from typing import Any


SEEDS = (0, 1, 2)

# The prompts, pairs and texts of every set are the same for all seeds; draws and trainings are not.
DATA_SEED = 0

# Cost model A steers. Its grades are those of a rubric (0, and three equal parts of the rest of [0, 1]).
HARM_SCALE = "safe=-1,minor=1,moderate=2,severe=4"
BOUNDS = (-1.0, 4.0)

# What the budget is on, and the tails that are reported. A model of this size is unsafe more often than not: the worst
# tenth of what it says is about as bad as cost A goes, for every policy that was tried. The worst half moves.
TAIL = 0.5
TAILS = (0.5, 0.1, 0.05)
CONFIDENCE = 0.8  # of the bound that steers a search and of the certificate
# Of the way from the least cost to the CVaR of the start on the decide prompts: one budget for all arms and seeds,
# computed once, before any of them is trained.
BUDGET_SHARE = 0.85

# Of all responses, in training and in judgement. At 1 a model of this size, with weights of four bits, writes scraps
# of sentences; its authors draw at 0.2.
TEMPERATURE = 0.7
# Judged responses are drawn with a seed of their own, the same for all arms of a seed.
JUDGE_SEED = 1000
RESAMPLES = 2000  # of the paired bootstrap

# What counts as a failure, beside a budget that is missed, a tail of B that is not lower and a reward that is: so much
# more of the harmless requests refused, and this factor of the perplexity.
OVER_REFUSAL_RISE = 0.05
PERPLEXITY_RISE = 1.05

# From tries with the first run's model and seed (128 pairs a rung): at 2e-4 a rung moved next to nothing, at 3e-3 it
# spoilt the text.
RUNG_RATE = 1e-3
SFT_RATE = 5e-4
HELPFUL_BETA = 0.1
HELPFUL_RATE = 1e-4
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
TRAINING: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "logging_steps": 4,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "report_to": "none",
    "bf16": False,  # the weights have the track's dtype, the adapter float32
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Args:
        train (`int`), decide (`int`), certify (`int`):
            Prompts of a rung, of each observation that steers a search, and of the judgement at the end.
        draws (`int`), pairs_per_prompt (`int`):
            Responses to each train prompt, and pairs made of these.
        horizon (`int`):
            Most new tokens of a response.
        batch_size (`int`), steps (`int`), rungs (`int`):
            Pairs per step, steps of a rung, and rungs that a ladder may take.
        sft_steps (`int`), sft_batch (`int`), helpful_steps (`int`):
            Steps of the start, answers per step, and steps of the helpful stage.
        helpful (`int`), refusal (`int`), texts (`int`):
            Held-out helpful prompts that are answered for the reward; harmless requests; held-out answers whose
            perplexity is measured.
        scored_rows (`int`), scored_steps (`int`), scored_batch (`int`):
            Rows for each score model, its steps, and rows per step.
        sample_batch (`int`):
            Responses sampled at a time.
        rows_per_prompt (`int`):
            At most so many rows of one prompt for a score model, those with different verdicts first.
        longest_prompt (`int`):
            Tokens of a prompt, before the chat template; longer ones are left out of every set.
    """

    train: int = 128
    decide: int = 160
    certify: int = 200
    draws: int = 4
    pairs_per_prompt: int = 2
    horizon: int = 40
    batch_size: int = 8
    steps: int = 32
    rungs: int = 3
    sft_steps: int = 40
    sft_batch: int = 16
    helpful_steps: int = 32
    helpful: int = 60
    refusal: int = 50
    texts: int = 40
    scored_rows: int = 2880
    scored_steps: int = 180
    scored_batch: int = 16
    sample_batch: int = 60
    rows_per_prompt: int = 4
    longest_prompt: int = 80


FULL = Sizes()
QUICK = Sizes(
    train=16,
    decide=40,
    certify=48,
    horizon=32,
    steps=4,
    rungs=2,
    sft_steps=4,
    helpful_steps=8,
    helpful=16,
    refusal=16,
    texts=16,
    scored_rows=320,
    scored_steps=16,
    sample_batch=40,
)


@dataclass(frozen=True)
class Arm:
    """
    One way to a policy.

    Args:
        key (`str`):
            As in `--arms` and in the CSV.
        name (`str`), description (`str`):
            As on the page.
        search (`str`):
            `"none"`, `"sft"` (from the instruct model), `"helpful"` (the DPO stage, from the SFT policy), `"grid"` or
            `"ladder"`; the last two start from the helpful policy.
        alpha (`float`), measure (`str`, *optional*):
            Weight and measure of the token-level risk in `rsa2`; α = 0 is DPO.
        ties (`float`):
            Share of a rung's tied pairs that is kept.
        reward (`bool`):
            Whether of two harmless responses a rung prefers the one that reward model H finds more helpful.
        part (`str`):
            `"main"`, or the ablation that it belongs to.
    """

    key: str
    name: str
    description: str
    search: str
    alpha: float = 0.0
    measure: str | None = None
    ties: float = 1.0
    reward: bool = False
    part: str = "main"


# Multipliers of SACPO. Its labels compare raw cost, those of a ladder cost above 0 divided by the tail, 0.5: the same
# multiplier pushes half as much.
GRID = (1.0, 4.0, 16.0)

INSTRUCT = Arm("instruct", "instruct", "the model as it is", "none")
START = Arm(
    "sft",
    "SFT, safe answers",
    "SFT on answers that people found safe: where all below start, one for all seeds",
    "sft",
)
HELPFUL = Arm("dpo", "DPO, helpful", "one stage of DPO on helpful pairs", "helpful")
SACPO = Arm(
    "sacpo",
    "SACPO",
    "as published: from the helpful policy one stage of DPO on pairs of the SFT policy, labelled by raw cost; of "
    f"λ = {', '.join(f'{value:g}' for value in GRID)} the least whose bound holds, or else the one of least estimate",
    "grid",
)
NEUTRAL = Arm("neutral", "ladder, α = 0", "rungs on the policy's own pairs, labelled by unsafe cost", "ladder")
DRIFT_TAIL = 0.1  # of the token-level risk of this arm
CVAR = Arm(
    "cvar",
    "ladder, RSA-2 CVaR",
    f"the same with `rsa2`, CVaR {DRIFT_TAIL:g} of the drift, α = 0.5",
    "ladder",
    0.5,
    "cvar",
)
REWARDED = Arm(
    "rewarded",
    "ladder, with a reward",
    "as the ladder with α = 0; of two harmless responses the labels prefer what reward model H finds more helpful",
    "ladder",
    reward=True,
)
ARMS = (INSTRUCT, START, HELPFUL, SACPO, NEUTRAL, CVAR, REWARDED)
# All ties kept is the arm "neutral" itself.
TIES = tuple(
    Arm(f"ties-{share:g}", f"ladder, α = 0, ties {share:g}", "", "ladder", ties=share, part="ties")
    for share in (0.25, 0.0)
)
ABLATIONS = {"ties": TIES}

# Of the score models, all weights of a small encoder each. A, which steers, learns grades and labels, H and R pairs;
# B, which judges, labels of other prompts and pairs. H is for the rungs of one arm, and R judges: it learned other
# pairs, of other people. Data and recipes were chosen before any arm, by what each is worth on prompts held out of its
# own data, and by whether A tells the responses of the instruct model apart: with BeaverTails' labels, nearly all of
# which are unsafe, A gave all of them the same cost (2.9 to 3.1).
SCORE_MODELS: dict[str, dict[str, Any]] = {
    "a": {"objective": "cost", "harm_scale": HARM_SCALE, "seed": 11},
    "b": {"objective": "cost", "seed": 12},
    "h": {"objective": "reward", "seed": 14},
    "r": {"objective": "reward", "seed": 13},
}
SCORE_RATE = 1e-4
