"""What is compared in the constraint track: the methods, what each may spend, and the ablations."""

from dataclasses import dataclass, field
from typing import Any


# The labels' own scale: with soft labels at β = 1 the multiplier λ is in units of reward per cost.
BETA = 1.0
TAIL = 0.05
FAR_TAIL = 0.01
# The range of costs that count for the bound that steers the search, by world: fixed before any cost was seen. The
# worst cost is 21 in "tail" and 4 in "aligned". Results are judged by the true cost without clipping.
CLIP = {"tail": (-2.0, 12.0), "aligned": (-2.0, 4.0)}

TUNING_SEEDS = (100,)
TEST_SEEDS = (0, 1, 2, 3, 4)
# Only the sandbox's SFT policy and cost model are shared by all seeds.
SANDBOX_SEED = 0


@dataclass(frozen=True)
class Sizes:
    """What one rung takes, and what policies are judged on.

    Args:
        prompts (`int`), draws (`int`), pairs_per_prompt (`int`):
            Train prompts of a rung, scored responses to each, and pairs made of these.
        batch_size (`int`), steps (`int`):
            Pairs per optimizer step, and steps of a rung: each pair is seen once.
        helpful_rungs (`float`), grid_rungs (`float`):
            Size of the helpful stage, and of each policy of a grid, in rungs.
        decide (`int`), test (`int`), test_draws (`int`):
            Prompts that the search is steered by, with one response each; test prompts, and responses to each.
    """

    prompts: int = 192
    draws: int = 4
    pairs_per_prompt: int = 2
    batch_size: int = 8
    steps: int = 48
    helpful_rungs: float = 2.5
    grid_rungs: float = 2.0
    decide: int = 1200
    test: int = 1200
    test_draws: int = 2


@dataclass(frozen=True)
class Method:
    """
    One method.

    Args:
        name (`str`):
            Name in the table.
        description (`str`):
            One line for the table's legend.
        search (`str`):
            `"ladder"`: rungs by the scheduler; `"grid"`: one safety stage for each λ of `grid`; `"lagrangian"`: one
            stage from the SFT policy on reward − λ·cost, for each λ of `grid`.
        loss (`dict`):
            [`RSAConfig`] arguments of the safety stage or rung.
        labels (`str`), soft (`bool`):
            What the safety pairs are labelled by, as in [`RiskConstraint`].
        on_policy (`bool`):
            Whether the pairs come from the policy that the stage starts from, or from the SFT policy.
        scorer (`str`):
            `"true"` cost, or the `"learned"` one, or the one of a `"graded"` cost model, for labels and decisions
            alike.
        reward (`str`):
            What decides between harmless responses in a rung's labels: nothing, the `"true"` reward, or the
            `"learned"` one.
        audit (`dict`):
            Arguments of [`AuditSettings`]; empty for a search without an audit.
        grid (`tuple[float, ...]`):
            Multipliers of a grid.
        scheduler (`dict`):
            Changes of [`SCHEDULER`].
        learning_rate (`float`, *optional*), keep_optimizer (`bool`):
            Peak learning rate of a rung; whether Adam's moments are carried to the next.
        bound (`str`):
            What steers the ladder: the package's `"betting"` bound, or a one-sided 95 % `"bootstrap"` one, which is
            tighter and promises nothing for finite samples.
    """

    name: str
    description: str
    search: str
    loss: dict[str, Any] = field(default_factory=dict)
    labels: str = "raw"
    soft: bool = True
    on_policy: bool = True
    scorer: str = "true"
    reward: str = ""
    audit: dict[str, Any] = field(default_factory=dict)
    grid: tuple[float, ...] = ()
    scheduler: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    keep_optimizer: bool = False
    bound: str = "betting"


LEARNING_RATE = 3e-4
SLOW = 1e-4  # RSA-1 does not bear more: docs/method.md, "Step size"
SCHEDULER: dict[str, Any] = {"max_rungs": 6, "max_growth": 2.0, "initial_delta": 0.5, "max_walk_backs": 2}
CONFIDENCE = 0.8
MARGIN_SHARE = 0.04  # of the range of costs

# By the tuning seeds: about 1/4, 2/5 and 11/20 of the way from the helpful policy's CVaR, 4.7 and 3.05, to −2, which
# refusing everything reaches; in quarters.
BUDGETS = {"tail": (3.0, 2.0, 1.0), "aligned": (1.75, 1.0, 0.25)}

NONE = {"loss_type": ["rsa2"], "risk_alpha": 0.0, "risk_measure": "expectation"}  # which is DPO
# As a rung of the package is trained by default.
WITH_SFT = {**NONE, "loss_type": ["rsa2", "sft"], "loss_weights": [1.0, 1.0]}
ENTROPIC2 = {"loss_type": ["rsa2"], "risk_measure": "entropic"}
EXPECTATION2 = {"loss_type": ["rsa2"], "risk_measure": "expectation"}
CVAR2 = {"loss_type": ["rsa2"], "risk_measure": "cvar", "risk_tail": 0.1}
ENTROPIC1 = {"loss_type": ["rsa1"], "risk_measure": "entropic"}
CVAR1 = {"loss_type": ["rsa1"], "risk_measure": "cvar", "risk_tail": 0.1}


def ladder(name: str, description: str, loss: dict[str, Any], **settings: Any) -> Method:
    return Method(name, description, "ladder", loss, **settings)


UNSAFE = {"labels": "unsafe"}
RSA = ladder("RSA", "RSA-2 entropic, on-policy ladder, unsafe cost (η ≤ 0)", ENTROPIC2, **UNSAFE)
METHODS = (
    RSA,
    ladder("α = 0, truncated", "α = 0, else as RSA", NONE, **UNSAFE),
    ladder("SACPO, on-policy ladder", "α = 0 on raw cost, else as RSA", NONE),
    Method(
        "SACPO",
        "as published: α = 0, pairs of the SFT policy, one stage; best λ of 0.5, 1, 2, 4",
        "grid",
        NONE,
        on_policy=False,
        grid=(0.5, 1.0, 2.0, 4.0),
    ),
    Method(
        "DPO-Lagrangian",
        "one DPO from the SFT policy on reward − λ·cost; best λ of 0.5, 1, 2",
        "lagrangian",
        NONE,
        on_policy=False,
        grid=(0.5, 1.0, 2.0),
    ),
    ladder(
        "α = 0, truncated, bootstrap bound",
        "α = 0, else as RSA, but steered by a bootstrap bound",
        NONE,
        bound="bootstrap",
        **UNSAFE,
    ),
)
LEARNED = (ladder("RSA, learned cost", "as RSA, on the cost model's cost", ENTROPIC2, scorer="learned", **UNSAFE),)
# Audits: on seeds that no method was run on before, with today's version, and what they are compared with.
AUDIT_SEEDS = (10, 11, 12, 13, 14)
AUDIT_BUDGET = 400
AUDIT: dict[str, Any] = {
    "labels": [140, 50, 40],
    "budget": AUDIT_BUDGET,
    "confirm": 0,
    "rounds": 3,
    "uniform": 0.5,
    "refresh": True,
    "errors": False,
}
# A search that allows for wrong labels, on seeds of its own: it was made by what the others' seeds had shown.
ERROR_SEEDS = (15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
ERROR_AUDIT = AUDIT | {"labels": [140, 60], "uniform": 0.8, "errors": True}
TRUE_COST = ladder("true cost", "RSA on the true cost of every response", ENTROPIC2, **UNSAFE)
AUDITED = ladder(
    "learned cost, audited",
    f"RSA on the learned cost, refreshed and calibrated by at most {AUDIT_BUDGET} labels",
    ENTROPIC2,
    scorer="learned",
    audit=AUDIT,
    **UNSAFE,
)
# As a rung of the package is with a reward: α = 0, and the likelihood of the chosen response beside the loss.
WITH_REWARD = "α = 0, a learned reward in the rungs, and the likelihood of the chosen response"
TRUE_REWARDED = ladder(
    "true cost, with a learned reward", f"as true cost, but {WITH_REWARD}", WITH_SFT, reward="learned", **UNSAFE
)
AUDITED_REWARDED = ladder(
    "learned cost, audited, with a learned reward",
    f"as audited, but {WITH_REWARD}",
    WITH_SFT,
    scorer="learned",
    reward="learned",
    audit=AUDIT,
    **UNSAFE,
)
ERRORS = ladder(
    "learned cost, audited, wrong labels allowed for",
    "as audited, but a search counts a response by the chance of each grade",
    ENTROPIC2,
    scorer="learned",
    audit=ERROR_AUDIT,
    **UNSAFE,
)
# In the order in which they are run.
AUDITS = (
    AUDITED,
    TRUE_COST,
    AUDITED_REWARDED,
    ladder("graded cost", "RSA on a cost model that was trained on grades", ENTROPIC2, scorer="graded", **UNSAFE),
    ladder("learned cost", "RSA on the learned cost", ENTROPIC2, scorer="learned", **UNSAFE),
)
ERROR_METHODS = (ERRORS, TRUE_COST, TRUE_REWARDED)
# Labels kept back for a policy that may be within the budget, on fresh seeds again: in the searches above the labels
# that had made a rung also judged it. Chosen in the world "tail" of seeds 20 to 24. Fixed before these were run: the
# goal is 27 of 30 truly met and 0.9 of the reward on the true cost.
CONFIRM_SEEDS = (25, 26, 27, 28, 29)
CONFIRM_AUDIT = AUDIT | {"labels": [80, 40], "uniform": 0.8, "confirm": 100}
KEPT = "labels are kept back for a policy that may be within the budget"
CONFIRMED = ladder(
    "learned cost, audited, confirmed, wrong labels allowed for",
    f"as audited with wrong labels allowed for, but {KEPT}",
    ENTROPIC2,
    scorer="learned",
    audit=CONFIRM_AUDIT | {"errors": True},
    **UNSAFE,
)
CONFIRMED_PLAIN = ladder(
    "learned cost, audited, confirmed",
    f"as audited, but {KEPT}",
    ENTROPIC2,
    scorer="learned",
    audit=CONFIRM_AUDIT,
    **UNSAFE,
)
CONFIRM_METHODS = (CONFIRMED, TRUE_COST, CONFIRMED_PLAIN)
# A reward that decides between harmless responses, with the weight that the package has by default. How it enters the
# labels was chosen on the tuning seed, of: not at all, between ties, added to the cost of every pair, and certain
# labels by safety first. That was with the true reward. With a learned one the language broke in some seeds; what
# mends it was then chosen on the tuning seeds 100 to 104, of: weights 1, 0.5 and 0.25, and TRL's SFT term.
SFT_TERM = "and the loss has the likelihood of the chosen response beside it (`sft`, weight 1)"
# Found later, before the rows of the learned reward with the term were run: an unsafe chosen response is not raised.
UNMASKED = ". These rows raise an unsafe chosen response too, which the package does not do any more"
REWARDED = (
    ladder(
        "α = 0, with a reward",
        "as α = 0, and of two harmless responses a label prefers the more helpful one, by true reward",
        NONE,
        reward="true",
        **UNSAFE,
    ),
    ladder(
        "α = 0, with a learned reward",
        "the same by the sandbox's reward model, which learned from the helpful pairs",
        NONE,
        reward="learned",
        **UNSAFE,
    ),
    ladder(
        "α = 0, with a learned reward and SFT",
        f"as α = 0, with a learned reward, {SFT_TERM}",
        WITH_SFT,
        reward="learned",
        **UNSAFE,
    ),
    ladder("α = 0, with a reward and SFT", f"as α = 0, with a reward, {SFT_TERM}", WITH_SFT, reward="true", **UNSAFE),
    ladder("α = 0, with SFT", f"as α = 0, {SFT_TERM}{UNMASKED}", WITH_SFT, **UNSAFE),
)
ABLATION_WORLD = "tail"
ABLATION_SEEDS = TEST_SEEDS[:3]
ABLATIONS = (
    ladder("raw cost", "", ENTROPIC2),
    ladder("η at the policy's quantile", "", ENTROPIC2, labels="truncated"),
    ladder("RSA-2 expectation", "", EXPECTATION2, **UNSAFE),
    ladder("RSA-2 CVaR 0.1", "", CVAR2, **UNSAFE),
    ladder("RSA-1 entropic, learning rate 1e-4", "", ENTROPIC1, learning_rate=SLOW, **UNSAFE),
    ladder("SFT policy's pairs", "", ENTROPIC2, on_policy=False, **UNSAFE),
    ladder("sampled labels", "", ENTROPIC2, soft=False, **UNSAFE),
    ladder(
        "one rung of λ = 2, walked back", "", ENTROPIC2, scheduler={"max_rungs": 1, "initial_delta": 2.0}, **UNSAFE
    ),
    ladder("steered by a bootstrap bound", "", ENTROPIC2, bound="bootstrap", **UNSAFE),
    ladder("first rung 0.125", "", ENTROPIC2, scheduler={"initial_delta": 0.125}, **UNSAFE),
    ladder("RSA-1 entropic, learning rate 3e-4", "", ENTROPIC1, **UNSAFE),
    ladder("RSA-1 CVaR 0.1, learning rate 1e-4", "", CVAR1, learning_rate=SLOW, **UNSAFE),
    ladder("learning rate 1e-4", "", ENTROPIC2, learning_rate=SLOW, **UNSAFE),
    ladder("learning rate 1e-3", "", ENTROPIC2, learning_rate=1e-3, **UNSAFE),
    ladder("optimizer kept", "", ENTROPIC2, keep_optimizer=True, **UNSAFE),
    ladder("RSA-2 entropic, α = 0.1", "", ENTROPIC2 | {"risk_alpha": 0.1}, **UNSAFE),
    # Another processor rounds otherwise: after training that is as much as another seed.
    ladder("RSA again, on another machine", "", ENTROPIC2, **UNSAFE),
)
TUNING = (
    RSA,
    METHODS[1],
    ladder("raw cost", "", ENTROPIC2),
    ladder("η at the policy's quantile", "", ENTROPIC2, labels="truncated"),
)
