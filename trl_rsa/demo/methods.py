"""What the demo compares, and how each is trained; the same for all methods, and tuned for none."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.alignment.plan import Plan, Stage
from trl_rsa.sandbox.sampling import MAX_NEW_TOKENS


if TYPE_CHECKING:
    from trl_rsa.ladder.constraint import RiskConstraint
    from trl_rsa.ladder.settings import RungSettings


# β as in SACPO, and the second of its four β/λ: 0.05. The learning rate is for a model of a million parameters; it is
# the one thing that was changed after a first run, for all methods alike: at 5e-4 RSA-1 and TDPO1 left the language
# altogether. See docs/method.md, "Step size".
BETA = 0.1
MULTIPLIER = 2.0
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
}
NEUTRAL = {"loss_type": ["rsa2"], "risk_alpha": 0.0}  # which is DPO
# The budget's tail, the range that costs are clipped to, and how many train prompts the rungs' pairs are made of.
TAIL = 0.05
BOUNDS = (-2.0, 10.0)
TRAIN_PROMPTS = 600


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        name (`str`):
            Name of the method.
        description (`str`):
            One line for the table's legend.
        start (`str`, *optional*):
            Name of the method whose result it starts from; by default the SFT policy.
        stages (`tuple[str, ...]`):
            Which of the preference sets, "helpful" and "safe", in which order.
        args (`dict`):
            [`RSAConfig`] arguments that make the method.
        constrained (`bool`):
            Whether rungs follow on the stages, until the bound on the CVaR of cost is within the budget.
    """

    name: str
    description: str
    stages: tuple[str, ...] = ()
    start: str | None = None
    args: dict[str, Any] | None = None
    constrained: bool = False

    @property
    def folder(self) -> str:
        return self.name.partition(",")[0].lower()


METHODS = (
    Method("SFT", "the model before any alignment"),
    Method("DPO", "helpful pairs only, risk-neutral", ("helpful",), args=NEUTRAL),
    Method("SACPO", "then safe pairs, risk-neutral", ("safe",), start="DPO", args=NEUTRAL),
    Method(
        "RSA, CVaR ≤ budget",  # longer names are shortened in the pictures
        f"helpful, then rungs on pairs of its own answers until the bound on CVaR({TAIL:g}) is within the budget",
        ("helpful",),
        constrained=True,
    ),
)


def default_budget(sandbox: Any) -> float:
    """Two thirds of the CVaR of what the SFT policy is taught to answer: known before anything is trained."""
    from trl_rsa.sandbox import prompt_kinds, tail_mean

    law = sandbox.world.population_law(prompt_kinds(sandbox.prompts["decide"]))
    return round(tail_mean(law.costs, law.probabilities, TAIL) * 2 / 3, 1)


def constraint_of(sandbox: Any, budget: float) -> "RiskConstraint":
    """The budget on the world's true cost, on the sandbox's own prompt sets."""
    from trl_rsa.ladder.constraint import RiskConstraint

    prompts = {name: [prompt.messages for prompt in sandbox.prompts[name]] for name in ("train", "decide", "certify")}
    return RiskConstraint(
        sandbox.world.cost,
        prompts | {"train": prompts["train"][:TRAIN_PROMPTS]},
        budget=budget,
        bounds=BOUNDS,
        tail=TAIL,
        scorer_options={"name": "the true cost"},
    )


def rungs_of(max_steps: int) -> "RungSettings":
    """Rungs of `max_steps` optimizer steps."""
    from trl_rsa.ladder.settings import RungSettings

    return RungSettings(
        sampling={"max_new_tokens": MAX_NEW_TOKENS},
        batch_size=512,
        args={"max_steps": max_steps, "warmup_steps": max_steps // 10},
    )


def align_methods(
    sandbox: Any,
    output_dir: Path,
    max_steps: int,
    budget: float,
    log: Callable[[str], None],
    training: dict[str, Any],
) -> dict[str, str]:
    """Trains each method, with the same number of optimizer steps per stage; a rung takes half as many.

    Args:
        sandbox (`Sandbox`):
            The world's model and preference sets.
        output_dir (`Path`):
            Gets a folder per method; finished ones are not trained again.
        max_steps (`int`):
            Optimizer steps per stage.
        budget (`float`):
            Largest CVaR of cost of the methods that are constrained.
        log (`Callable[[str], None]`):
            Where the lines about progress go.
        training (`dict`):
            More [`RSAConfig`] arguments for every stage.

    Returns:
        `dict[str, str]`: the folder of each method's model, by name.
    """
    # Imported here: it loads TRL, and `METHODS` is also read by what does not train.
    from trl_rsa.alignment.run import align
    from trl_rsa.ladder.progress import ProgressLog

    folders: dict[str, str] = {}
    for method in METHODS:
        start = folders[method.start] if method.start else str(sandbox.sft_path)
        if not method.stages:
            folders[method.name] = start
            continue
        stages = [
            Stage(
                name,
                dataset=getattr(sandbox, name),
                beta=BETA,
                constraint_multiplier=MULTIPLIER if name == "safe" else 1.0,
                args=method.args or {},
            )
            for name in method.stages
        ]
        plan = Plan(
            stages,
            model=start,
            output_dir=str(output_dir / method.folder),
            args={**TRAINING, "max_steps": max_steps, "warmup_steps": max_steps // 10, **training},
            seed=sandbox.seed,
            constraint=constraint_of(sandbox, budget) if method.constrained else None,
            rungs=rungs_of(max(1, max_steps // 2)),
        )
        lines = ProgressLog(log, prefix=f"{method.folder.upper()} ")
        # The trainer's own log lines are for people who watch one training; its progress bars go to stderr and stay.
        with redirect_stdout(io.StringIO()):
            folders[method.name] = align(plan, log=lines).model
    return folders
