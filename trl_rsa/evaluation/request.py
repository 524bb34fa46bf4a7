"""What an evaluation is asked to do, checked before anything is loaded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trl_rsa.evaluation.certificate import check_budget
from trl_rsa.evaluation.cvar_bound import Method, check_bounds
from trl_rsa.evaluation.intervals import check_confidence
from trl_rsa.evaluation.pressure.settings import PressureSettings
from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.evaluation.tails import check_tail
from trl_rsa.risk import CVaR
from trl_rsa.sampling.encoding import TEMPLATES
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring.batches import pick_device, pick_dtype


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


@dataclass(frozen=True)
class NestedSettings:
    """How the risk of one wrong token is estimated: see [`~evaluation.nested`].

    Args:
        branches (`int`):
            Next tokens that are drawn at a place of every first answer.
        continuations (`int`, *optional*, defaults to 2):
            Ways in which each branch goes on.
        tail (`float`, *optional*, defaults to 0.25):
            Tail of the CVaR over next tokens. With 4 branches it is the worst of them.
    """

    branches: int
    continuations: int = 2
    tail: float = 0.25

    def __post_init__(self) -> None:
        check_tail(self.tail, "nested_tail")
        for name, value in (("nested_branches", self.branches), ("nested_continuations", self.continuations)):
            if value < 2:
                raise ValueError(
                    f"You set {name}={value}, but the worst of several is looked for, by one and told by another. Set "
                    "2 or more."
                )


@dataclass(frozen=True)
class CertificateSettings:
    """A budget that one model's costs are to be certified for.

    Args:
        budget (`float`), bounds (`tuple[float, float]`), tail, confidence, method, again:
            As in [`~evaluation.certificate.certify`].
        model (`str`, *optional*):
            Name of the model; needed if there are several.
    """

    budget: float
    bounds: tuple[float, float]
    tail: float = 0.05
    confidence: float = 0.95
    method: Method = "betting"
    model: str | None = None
    again: bool = False

    def __post_init__(self) -> None:
        check_budget(self.budget, check_bounds(self.bounds))
        check_tail(self.tail)
        check_confidence(self.confidence)


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
            A file of records, or a table of responses ([`~evaluation.tables.read_responses`]), instead: no model is
            sampled. Scores that it has are kept unless there is a scorer.
        rows_are_prompts (`bool`, *optional*, defaults to `False`):
            For a table without prompts: each row answers a prompt of its own.
        reward, cost ([`ScorerSpec`], *optional*):
            The scorers.
        base_prompts (`bool`, *optional*, defaults to `False`):
            Whether the scorers see the prompts before the attacks.
        sampling ([`Sampling`], *optional*), batch_size, score_batch_size, device, dtype:
            How to draw, and how much at a time.
        tails, unsafe_above:
            As in [`~evaluation.metrics.summarize`].
        certificate ([`CertificateSettings`], *optional*):
            Certifies a budget on the records, and writes certificate.json beside them.
        drift ([`DriftSettings`], *optional*):
            The reference that drift is measured from.
        nested ([`NestedSettings`], *optional*):
            Continues the models' answers from places within them, for the risk of one wrong token.
        manifest (`str`, *optional*):
            Output folder of `align`: token harm is read from its policies, and the report shows its ladder.
        n_worst (`int`, *optional*, defaults to 20):
            Worst responses per model that are listed, and looked at token by token.
        benchmarks (`Sequence[str]`, *optional*):
            Tasks of lm-evaluation-harness, which must be installed. They may stand alone, with models only.
        pressure ([`~evaluation.pressure.settings.PressureSettings`], *optional*):
            What the models are put under, to see how much worse their responses become.
    """

    output_dir: str | Path
    models: dict[str, str] = field(default_factory=dict)
    rows: list[PromptRow] = field(default_factory=list)
    responses: str | Path | None = None
    rows_are_prompts: bool = False
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
    certificate: CertificateSettings | None = None
    drift: DriftSettings | None = None
    nested: NestedSettings | None = None
    manifest: str | None = None
    n_worst: int = 20
    benchmarks: Sequence[str] = ()
    pressure: PressureSettings | None = None

    def __post_init__(self) -> None:
        self._check_inputs()
        self._check_numbers()
        # A wrong name would otherwise come to light after the folder's settings are pinned.
        _check_device(self.device)
        if self.dtype is not None:
            pick_dtype(self.dtype)
        if self.sampling.template not in TEMPLATES:
            raise ValueError(
                f"You set template={self.sampling.template!r}, but the templates are {', '.join(TEMPLATES)}. Set one."
            )

    def _check_inputs(self) -> None:
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
        if self.pressure is not None and (not self.rows or self.cost is None):
            raise ValueError(
                "You set pressures, but they are put on models that answer prompts, and judged by a cost. Give "
                "models, prompts and a cost, or leave the pressures out."
            )
        if self.nested is not None:
            self._check_nested()
        if self.certificate is not None:
            self._check_certificate(self.certificate)

    def _check_nested(self) -> None:
        if self.responses is not None or not self.rows:
            raise ValueError(
                "You set nested_branches, but continuing answers needs the model that gave them. Give models and "
                "prompts."
            )
        if self.cost is None:
            raise ValueError("You set nested_branches, but nothing that scores the cost of a response. Set a cost.")
        if self.sampling.engine != "transformers" or self.sampling.temperature == 0:
            raise ValueError(
                f"You set nested_branches with engine={self.sampling.engine!r} and temperature="
                f"{self.sampling.temperature:g}, but branches are drawn by transformers, and not greedily. Set engine "
                "to transformers and a temperature above 0."
            )

    def _check_certificate(self, certificate: CertificateSettings) -> None:
        if self.responses is None and self.cost is None:
            raise ValueError("You set a budget, but nothing that scores the cost of a response. Set a cost.")
        if self.responses is not None:
            return  # the models are in the file
        if certificate.model is None and len(self.models) > 1:
            raise ValueError(
                f"You set a budget for {len(self.models)} models ({', '.join(self.models)}), but a certificate is "
                "about one. Set certify_model to its name."
            )
        if certificate.model is not None and certificate.model not in self.models:
            raise ValueError(
                f"You set certify_model to {certificate.model!r}, but the models are {', '.join(self.models)}. Set it "
                "to one of them."
            )

    def _check_numbers(self) -> None:
        if not self.tails:
            raise ValueError("You set no tails, but a risk is that of a tail. Set, say, 0.05.")
        for tail in self.tails:
            check_tail(tail, "a tail")
        if not math.isfinite(self.unsafe_above):
            raise ValueError(
                f"You set unsafe_above={self.unsafe_above}, but it is the cost above which a response is unsafe. Set "
                "it to, for example, 0."
            )
        if self.sampling.seed < 0:
            raise ValueError(f"You set seed={self.sampling.seed}, but a seed is a whole number from 0 on. Set one.")
        for name in ("batch_size", "score_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"You set {name}={getattr(self, name)}, but at least one goes at a time. Set 1 or more."
                )
        if self.n_worst < 1:
            raise ValueError(f"You set n_worst={self.n_worst}, but at least one is looked at. Set 1 or more.")


def _check_device(name: str | None) -> None:
    if name is None:
        return
    import torch

    device = pick_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"You set device={name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here. Set cpu, or one "
            "that it sees."
        )
