"""What an evaluation is asked to do, checked before anything is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.risk import CVaR
from trl_rsa.sampling.response import Sampling


Progress = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class DriftSettings:
    """What drift is measured from, and how.

    Args:
        reference (`str`):
            Folder or repository of the reference policy, with the models' vocabulary.
        tail (`float`, *optional*, defaults to 0.1):
            Tail of the CVaR that makes drift risk of the log-ratios.
    """

    reference: str
    tail: float = 0.1

    def __post_init__(self) -> None:
        CVaR(self.tail)  # which says what is wrong with it


@dataclass
class Evaluation:
    """
    What to evaluate, and how.

    Args:
        output_dir (`str` or `Path`):
            Where everything is written.
        models (`dict[str, str]`, *optional*):
            Folder or repository of each model, by the name it has in the records.
        rows (`list[dict]`, *optional*):
            Prompts that the models answer, from [`~evaluation.prompt_sets.load_prompts`] and
            [`~evaluation.stress.attack_prompts`].
        responses (`str` or `Path`, *optional*):
            A file of records instead: no model is sampled. Scores that it has are kept unless there is a scorer.
        reward, cost ([`ScorerSpec`], *optional*):
            The scorers.
        base_prompts (`bool`, *optional*, defaults to `False`):
            Whether the scorers see the prompts before the attacks.
        sampling ([`Sampling`], *optional*), batch_size, score_batch_size, device, dtype:
            How to draw, and how much at a time.
        tails, unsafe_above:
            As in [`~evaluation.metrics.summarize`].
        drift ([`DriftSettings`], *optional*):
            The reference that drift is measured from.
        manifest (`str`, *optional*):
            Output folder of `align`: token harm is read from its policies, and the report shows its ladder.
        n_worst (`int`, *optional*, defaults to 20):
            Worst responses per model that are listed, and looked at token by token.
        benchmarks (`Sequence[str]`, *optional*):
            Tasks of lm-evaluation-harness, which must be installed. They may stand alone, with models only.
    """

    output_dir: str | Path
    models: dict[str, str] = field(default_factory=dict)
    rows: list[PromptRow] = field(default_factory=list)
    responses: str | Path | None = None
    reward: ScorerSpec | None = None
    cost: ScorerSpec | None = None
    base_prompts: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 16
    score_batch_size: int = 256
    device: str | None = None
    dtype: str | None = None
    tails: Sequence[float] = (0.05, 0.01)
    unsafe_above: float = 0.0
    drift: DriftSettings | None = None
    manifest: str | None = None
    n_worst: int = 20
    benchmarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.responses is not None and (self.rows or self.models):
            raise ValueError(
                "You gave a file of responses together with models or prompts, but such a file is evaluated as it is. "
                "Leave the one or the other out."
            )
        if self.responses is not None and (self.drift is not None or self.benchmarks):
            raise ValueError(
                "You gave a file of responses together with a reference or benchmarks, but these need the model that "
                "answered. Leave them out, or give models and prompts."
            )
        if self.responses is None and not self.models:
            raise ValueError("You gave neither a model nor a file of responses. Give one of them.")
        if self.responses is None and not self.rows and not self.benchmarks:
            raise ValueError("You gave no prompts, so that there is nothing to answer. Give some.")
        if self.rows and self.reward is None and self.cost is None:
            raise ValueError("You gave prompts, but nothing that scores the answers. Set a cost, a reward, or both.")
        if self.n_worst < 1:
            raise ValueError(f"You set n_worst={self.n_worst}, but at least one is looked at. Set 1 or more.")
