"""What the demo compares, and how each is trained; the same for all methods, and tuned for none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.sandbox.sampling import MAX_NEW_TOKENS


if TYPE_CHECKING:
    from trl_rsa.ladder.constraint import RiskConstraint
    from trl_rsa.ladder.settings import RungSettings


# β as in SACPO. Its published β/λ are 0.1 to 0.01, λ from 1 to 10. Here λ above 0.5 gave no clearly lower tail: on
# seed 100 nearly the same model, and on seed 0 a tenth of the reward at λ = 4. So the multipliers go down from there
# to where the safe stage hardly acts; together they span what SACPO reaches. They were looked at on seed 100, on train
# prompts. The learning rate is for a model of a million parameters; it was changed after a first run, for all methods
# alike: at 5e-4 RSA-1 and TDPO1 left the language altogether. See docs/method.md, "Step size".
BETA = 0.1
MULTIPLIERS = (0.03, 0.1, 0.5)
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 16,
    "max_length": 128,
    "logging_steps": 20,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
NEUTRAL = {"loss_type": ["rsa2"], "risk_alpha": 0.0}  # which is DPO
# The budgets' tail, and the range that costs are clipped to.
TAIL = 0.05
BOUNDS = (-2.0, 10.0)
# A rung's pairs: so many of each train prompt's answers, and no more prompts than a rung has steps for.
PAIRS_PER_PROMPT = 2
# The budgets, as shares of the CVaR of what the SFT policy is taught to answer: known before anything is trained.
# (The whole of it, as a third budget, is met by the DPO model already, on seed 0.)
SHARES = (2 / 3, 1 / 3)
# How far below the budget the search's bound may end. Looked at on seed 100, never on the demo's own.
MARGIN = 0.3


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        name (`str`):
            Name of the row.
        family (`str`):
            The method: rows of one family are one curve.
        description (`str`):
            One line for the table's legend.
        start (`str`, *optional*):
            Name of the row whose model it starts from; by default the SFT policy.
        stages (`tuple[str, ...]`, *optional*):
            Which of the preference sets, "helpful" and "safe", in which order.
        multiplier (`float`, *optional*):
            λ of the safe stage.
        budget (`float`, *optional*):
            Rungs follow on the stages until the bound on the CVaR of cost is within it.
    """

    name: str
    family: str
    description: str
    stages: tuple[str, ...] = ()
    start: str | None = None
    multiplier: float | None = None
    budget: float | None = None

    @property
    def folder(self) -> str:
        """Where it is trained, below the demo's folder."""
        if self.budget is not None:
            return f"rsa-{self.budget:g}"
        return self.family.lower() if self.multiplier is None else f"sacpo-{self.multiplier:g}"

    @property
    def settings(self) -> dict[str, float]:
        """What tells it from others of its family."""
        named = {"λ": self.multiplier, "budget": self.budget}
        return {name: value for name, value in named.items() if value is not None}


def methods_of(budgets: Sequence[float]) -> list[Method]:
    """The rows, in order: a row's start comes before it."""
    return [
        Method("SFT", "SFT", "the model before any alignment"),
        Method("DPO", "DPO", "helpful pairs only, risk-neutral", ("helpful",)),
        *(
            Method(f"SACPO, λ = {λ:g}", "SACPO", "then safe pairs, risk-neutral", ("safe",), "DPO", multiplier=λ)
            for λ in MULTIPLIERS
        ),
        *(
            Method(
                f"RSA, CVaR ≤ {budget:g}",
                "RSA",
                f"as DPO, then rungs on its own responses until the bound on CVaR({TAIL:g}) is within the budget",
                start="DPO",
                budget=budget,
            )
            for budget in budgets
        ),
    ]


def default_budgets(sandbox: Any) -> list[float]:
    """Shares of the CVaR of what the SFT policy is taught to answer: known before anything is trained."""
    from trl_rsa.sandbox import prompt_kinds, tail_mean

    law = sandbox.world.population_law(prompt_kinds(sandbox.prompts["decide"]))
    return [round(tail_mean(law.costs, law.probabilities, TAIL) * share, 1) for share in SHARES]


def constraint_of(sandbox: Any, budget: float, n_test: int, n_train: int) -> "RiskConstraint":
    """The budget on the world's true cost, on the sandbox's own prompt sets.

    The test prompts after the first `n_test`, which no row is tested on, steer the search as well: more of them bring
    the bound nearer to what it bounds. Several answers to each would not, as most of the luck is in the prompts.
    `n_train` train prompts make the rungs' pairs.
    """
    from trl_rsa.ladder.constraint import RiskConstraint

    sets = {
        "train": sandbox.prompts["train"][:n_train],
        "decide": [*sandbox.prompts["decide"], *sandbox.prompts["test"][n_test:]],
        "certify": sandbox.prompts["certify"],
    }
    return RiskConstraint(
        sandbox.world.cost,
        {name: [prompt.messages for prompt in prompts] for name, prompts in sets.items()},
        budget=budget,
        bounds=BOUNDS,
        tail=TAIL,
        margin=MARGIN,
        scorer_options={"name": "the true cost"},
    )


def rungs_of(max_steps: int) -> "RungSettings":
    """Rungs of `max_steps` optimizer steps."""
    from trl_rsa.ladder.settings import RungSettings

    return RungSettings(
        sampling={"max_new_tokens": MAX_NEW_TOKENS},
        batch_size=512,
        pairs_per_prompt=PAIRS_PER_PROMPT,
        args={"max_steps": max_steps, "warmup_steps": max_steps // 10},
    )


def plan_of(
    method: Method,
    sandbox: Any,
    start: str,
    output_dir: Path,
    max_steps: int,
    n_test: int,
    training: dict[str, Any],
) -> Plan:
    """How a row is trained: the same number of optimizer steps per stage, half as many per rung. Each pair is seen at
    most once, and only those that are seen are read."""
    batch, rung_steps = TRAINING["per_device_train_batch_size"], max(1, max_steps // 2)
    stages = [
        Stage(
            name,
            dataset=_first(getattr(sandbox, name), max_steps * batch),
            beta=BETA,
            constraint_multiplier=method.multiplier if name == "safe" and method.multiplier else 1.0,
            args=NEUTRAL,
        )
        for name in method.stages
    ]
    return Plan(
        stages,
        model=start,
        output_dir=str(output_dir / method.folder),
        args={**TRAINING, "max_steps": max_steps, "warmup_steps": max_steps // 10, **training},
        seed=sandbox.seed,
        constraint=None
        if method.budget is None
        else constraint_of(sandbox, method.budget, n_test, -(-rung_steps * batch // PAIRS_PER_PROMPT)),
        rungs=rungs_of(rung_steps),
    )


def _first(pairs: Any, n: int) -> Any:
    """The first pairs; their order is random, by the world's seed."""
    return pairs.select(range(min(n, len(pairs))))
