"""`trl-rsa evaluate`: samples, scores and compares models, or a file of responses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trl_rsa.scripts._parser import Extend, ScreenParser


if TYPE_CHECKING:
    from trl_rsa.evaluation.metrics_file import GroupMetrics, Metrics
    from trl_rsa.evaluation.pressure.settings import PressureSettings
    from trl_rsa.evaluation.prompt_sets import PromptRow
    from trl_rsa.evaluation.request import CertificateSettings, Evaluation
    from trl_rsa.evaluation.scores import ScorerSpec


IMPORTS = ("trl_rsa.evaluation.run",)

INTERRUPTED = "Started again with the same arguments it goes on where it was."

_EXAMPLE = """\
trl-rsa evaluate --model before=my-org/sft --model after=runs/aligned/02-safe --prompts prompts.jsonl \\
    --reward hf:my-org/reward-model --cost beaver:PKU-Alignment/beaver-7b-v1.0-cost
trl-rsa evaluate --responses responses.jsonl --cost my_scorers:harm

SPEC is hf:PATH, beaver:PATH, guard:PATH, guard-endpoint:URL#MODEL, module:function or file.py:function. What --cost
gives is a cost: higher is worse, above 0 unsafe. If its raw score is higher for a better response, say
--cost_higher_is better.
Killed and started again with the same arguments, the command goes on: nothing is sampled or scored twice."""


@dataclass
class InputArguments:
    """What is evaluated."""

    model: list[str] = field(
        default_factory=list,
        metadata={"action": Extend, "help": "[NAME=]MODEL, a folder or Hub id; several to compare them"},
    )
    prompts: str | None = field(
        default=None, metadata={"help": ".txt, .csv, .jsonl, .json or .parquet file, folder, or Hub id"}
    )
    prompts_split: str | None = field(default=None, metadata={"help": "split of the prompts, where there are several"})
    prompt_column: str | None = field(default=None, metadata={"help": "column of the prompts, if it is another"})
    max_prompts: int | None = field(default=None, metadata={"help": "keep so many prompts, drawn by --seed"})
    attack: list[str] = field(
        default_factory=list,
        metadata={"action": Extend, "help": "ask each prompt under these attacks too; an unknown name lists them"},
    )
    responses: str | None = field(
        default=None, metadata={"help": "evaluate the responses in this .jsonl, .csv or .parquet file instead"}
    )
    rows_are_prompts: bool = field(
        default=False, metadata={"help": "a table without a column prompt: each row answers a prompt of its own"}
    )


@dataclass
class ScorerArguments:
    """How it is scored."""

    reward: str | None = field(default=None, metadata={"help": "SPEC of the reward model"})
    reward_higher_is: Literal["better", "worse"] | None = field(
        default=None, metadata={"help": "what a higher raw score of the reward model means; better if unset"}
    )
    reward_zero: float = field(default=0.0, metadata={"help": "raw score of the reward model that becomes 0"})
    reward_option: list[str] = field(
        default_factory=list, metadata={"action": Extend, "help": "NAME=VALUE, an option of the reward model"}
    )
    cost: str | None = field(default=None, metadata={"help": "SPEC of the cost model"})
    cost_higher_is: Literal["better", "worse"] | None = field(
        default=None, metadata={"help": "what a higher raw score of the cost model means; worse if unset"}
    )
    cost_zero: float = field(default=0.0, metadata={"help": "raw score of the cost model that becomes 0"})
    cost_option: list[str] = field(
        default_factory=list,
        metadata={"action": Extend, "help": "NAME=VALUE, an option such as batch_size=8 or label=1"},
    )
    score_base_prompts: bool = field(
        default=False, metadata={"help": "show the scorers the prompts before the attacks"}
    )
    score_batch_size: int = field(default=256, metadata={"help": "responses per call of a scorer"})


@dataclass
class SamplingArguments:
    """How responses are drawn."""

    draws: int = field(default=1, metadata={"help": "responses per prompt"})
    seed: int = field(default=0, metadata={"help": "seed of draws, attacks and intervals"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest response"})
    temperature: float = field(default=1.0, metadata={"help": "softmax temperature; 0 is greedy"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus; 1 is all"})
    top_k: int = field(default=0, metadata={"help": "tokens kept; 0 is all"})
    batch_size: int = field(default=16, metadata={"help": "responses at a time"})
    template: str = field(
        default="auto", metadata={"help": "auto (the tokenizer's, if it has one), chat, safe-rlhf or none"}
    )
    engine: str = field(
        default="transformers", metadata={"help": "transformers, vllm, or server: one that is running"}
    )
    server_url: str | None = field(default=None, metadata={"help": "address of a running server, for engine server"})
    server_model: str | None = field(default=None, metadata={"help": "which of its models, if several"})
    server_key_env: str | None = field(default=None, metadata={"help": "environment variable with its key"})
    dtype: str | None = field(default=None, metadata={"help": "such as bfloat16; as saved if unset"})
    device: str | None = field(default=None, metadata={"help": "such as cuda:1; the first one or the CPU if unset"})


@dataclass
class ReportArguments:
    """What is reported."""

    output_dir: str = field(default="runs/evaluation", metadata={"help": "where everything is written"})
    tails: list[float] = field(default_factory=lambda: [0.05, 0.01], metadata={"help": "tails of VaR and CVaR"})
    unsafe_above: float = field(default=0.0, metadata={"help": "a response with a cost above this is unsafe"})
    n_worst: int = field(default=20, metadata={"help": "worst responses per model that are listed"})
    reference: str | None = field(
        default=None, metadata={"help": "measure drift from this model, in all and token by token"}
    )
    drift_tail: float = field(default=0.1, metadata={"help": "tail of the CVaR in drift risk"})
    nested_branches: int = field(
        default=0, metadata={"help": "next tokens drawn within each first answer, for the risk of one wrong token"}
    )
    nested_continuations: int = field(default=2, metadata={"help": "ways in which each of them goes on"})
    nested_tail: float = field(default=0.25, metadata={"help": "tail of the CVaR over those next tokens"})
    manifest: str | None = field(
        default=None, metadata={"help": "output_dir of an align run: show token harm and the ladder"}
    )
    benchmarks: str | None = field(
        default=None, metadata={"help": "TASK,… of lm-evaluation-harness: truthfulqa_mc2,toxigen,bbq,wmdp"}
    )
    update_model_cards: bool = field(
        default=False, metadata={"help": "put the headline table into the README.md of every model in a folder"}
    )


@dataclass
class PressureArguments:
    """How it is pushed."""

    pressure: list[str] = field(
        default_factory=list,
        metadata={
            "action": Extend,
            "help": "show how much worse the models become: heat, worst_of, prefill, attack, half_way, benign, "
            "quantised, anti_safe, with a strength as heat:1.6; or all",
        },
    )
    pressure_prompts: int | None = field(
        default=None, metadata={"help": "ask so many of the prompts under pressure, drawn by --seed; all if unset"}
    )
    beginnings: str | None = field(
        default=None,
        metadata={"help": "file of responses whose beginnings prefill forces; those of --reference if unset"},
    )
    safer: str | None = field(default=None, metadata={"help": "safer policy, away from which anti_safe decodes"})
    helpful: str | None = field(
        default=None, metadata={"help": "file of helpful responses, or of pairs, on which benign fine-tunes"}
    )


@dataclass
class CertificateArguments:
    """What is certified."""

    budget: float | None = field(
        default=None, metadata={"help": "certify that the CVaR of the cost is at most this, A < budget < B"}
    )
    bounds: list[float] | None = field(
        default=None, metadata={"help": "A B: costs are clipped to [A, B]; choose them before you see the costs"}
    )
    budget_tail: float = field(default=0.05, metadata={"help": "tail of that CVaR, in (0, 1]"})
    confidence: float = field(default=0.95, metadata={"help": "of all attempts in the folder's certificate together"})
    certify_model: str | None = field(default=None, metadata={"help": "name of the model, if there are several"})
    again: bool = field(default=False, metadata={"help": "allow prompts that an earlier attempt has used"})


Arguments = tuple[
    InputArguments, ScorerArguments, SamplingArguments, ReportArguments, PressureArguments, CertificateArguments
]
_CLASSES = (
    *(InputArguments, ScorerArguments, SamplingArguments, ReportArguments, PressureArguments, CertificateArguments),
)


def make_parser() -> ScreenParser:
    return ScreenParser(
        _CLASSES,
        description="Sample models on prompts (or take a file of responses), score, and report the tail of harm.",
        shown={str(cls.__doc__).rstrip(".").lower(): [f.name for f in fields(cls)] for cls in _CLASSES},
        example=_EXAMPLE,
        renamed={"threshold": "unsafe_above"},
    )


def main(arguments: Arguments) -> int:
    from trl_rsa.evaluation.run import EvaluationRun
    from trl_rsa.scripts._bars import Bars
    from trl_rsa.storage.printable import printable

    evaluation, reported = evaluation_of(*arguments), arguments[3]
    with Bars() as bars:
        run = EvaluationRun(evaluation, bars.log, bars.progress, _write_page)
        metrics = run.run()
    for line in _headline(metrics):
        print(printable(line))
    if run.page is None:
        print(f"\nWritten to {reported.output_dir}; a report needs a cost.")
    else:
        print(f"\nReport: {run.page['html']}")
    if reported.update_model_cards:
        _update_model_cards(evaluation.models.values(), metrics)
    return 0


def _write_page(folder: Path) -> dict[str, Path]:
    from trl_rsa.report import write_report

    return write_report(folder)


def _update_model_cards(models: Iterable[str], metrics: "Metrics") -> None:
    from trl_rsa.report import update_model_card

    for folder in (model for model in models if Path(model).is_dir()):
        print(f"Model card: {update_model_card(folder, metrics)}")


def evaluation_of(
    given: InputArguments,
    scorers: ScorerArguments,
    sampling: SamplingArguments,
    reported: ReportArguments,
    pressed: PressureArguments,
    certified: CertificateArguments,
) -> "Evaluation":
    from trl_rsa.evaluation.request import DriftSettings, Evaluation, NestedSettings
    from trl_rsa.sampling.response import Sampling

    if given.responses is not None:
        _refuse_what_samples(given, scorers, sampling)
    nested = None
    if reported.nested_branches:
        nested = NestedSettings(reported.nested_branches, reported.nested_continuations, reported.nested_tail)
    return Evaluation(
        reported.output_dir,
        models=named_models(given.model),
        rows=_rows(given, sampling.seed),
        responses=given.responses,
        rows_are_prompts=given.rows_are_prompts,
        reward=_scorer(scorers, "reward"),
        cost=_scorer(scorers, "cost"),
        base_prompts=scorers.score_base_prompts,
        sampling=Sampling(**{f.name: getattr(sampling, f.name) for f in fields(Sampling)}),
        batch_size=sampling.batch_size,
        score_batch_size=scorers.score_batch_size,
        device=sampling.device,
        dtype=sampling.dtype,
        tails=reported.tails,
        unsafe_above=reported.unsafe_above,
        certificate=_certificate(certified),
        drift=None if reported.reference is None else DriftSettings(reported.reference, reported.drift_tail),
        nested=nested,
        manifest=reported.manifest,
        n_worst=reported.n_worst,
        benchmarks=[task for task in (reported.benchmarks or "").split(",") if task],
        pressure=_pressure(pressed, reported.reference),
    )


def _refuse_what_samples(given: InputArguments, scorers: ScorerArguments, sampling: SamplingArguments) -> None:
    """
    Raises:
        ValueError: if an argument is set that has no effect on a file of responses.
    """
    kept = ("seed", "batch_size", "dtype", "device")  # of intervals and scorers too
    now, before = vars(sampling) | vars(given), vars(SamplingArguments()) | vars(InputArguments())
    asked = [each.name for each in fields(SamplingArguments) if each.name not in kept]
    changed = [name for name in (*asked, "prompts_split", "prompt_column", "max_prompts") if now[name] != before[name]]
    changed += ["score_base_prompts"] if scorers.score_base_prompts else []
    if changed:
        raise ValueError(
            f"You set {' and '.join(changed)} with responses, but such a file is evaluated as it is: nothing is "
            "drawn. Leave it out."
        )


def named_models(given: Sequence[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            name = path = text
        if not name or not path:
            raise ValueError(f"You set model to {text!r}, but it is MODEL or NAME=MODEL. Write it so.")
        if name in models:
            raise ValueError(f"You gave two models the name {name!r}. Give each its own: NAME=MODEL.")
        models[name] = path
    return models


def _rows(given: InputArguments, seed: int) -> "list[PromptRow]":
    from trl_rsa.evaluation.prompt_sets import load_prompts
    from trl_rsa.evaluation.stress import attack_prompts

    if given.prompts is None:
        if given.attack:
            raise ValueError("You set attack, but attacks transform prompts. Set prompts too.")
        return []
    prompts = load_prompts(
        given.prompts, split=given.prompts_split, column=given.prompt_column, limit=given.max_prompts, seed=seed
    )
    print(prompts)
    return attack_prompts(prompts.rows, given.attack, seed) if given.attack else prompts.rows


def _scorer(scorers: ScorerArguments, kind: Literal["reward", "cost"]) -> "ScorerSpec | None":
    import yaml

    from trl_rsa.evaluation.scores import ScorerSpec

    spec, higher_is, zero, given = (getattr(scorers, f"{kind}{end}") for end in ("", "_higher_is", "_zero", "_option"))
    if spec is None:
        if higher_is is not None or zero or given:
            raise ValueError(f"You set how {kind} scores are read, but no {kind} model. Set {kind} too.")
        return None
    options: dict[str, Any] = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise ValueError(f"You set {kind}_option to {option!r}, but an option is NAME=VALUE. Write it so.")
        options[name] = yaml.safe_load(value)
    return ScorerSpec(spec, kind, higher_is, zero, options)


def _pressure(pressed: PressureArguments, reference: str | None) -> "PressureSettings | None":
    from trl_rsa.evaluation.pressure.base import Sources
    from trl_rsa.evaluation.pressure.settings import PressureSettings

    sources = {name: getattr(pressed, name) for name in ("beginnings", "safer", "helpful")}
    if not pressed.pressure:
        idle = next(
            (
                name
                for name, value in (sources | {"pressure_prompts": pressed.pressure_prompts}).items()
                if value is not None
            ),
            None,
        )
        if idle is not None:
            raise ValueError(f"You set {idle}, but no pressure that it is for. Set pressure too.")
        return None
    return PressureSettings(pressed.pressure, Sources(reference=reference, **sources), pressed.pressure_prompts)


def _certificate(certified: CertificateArguments) -> "CertificateSettings | None":
    from trl_rsa.evaluation.request import CertificateSettings

    bounds = certified.bounds
    if certified.budget is None:
        if bounds is not None or certified.certify_model is not None or certified.again:
            raise ValueError("You set how a budget is certified, but no budget. Set budget too.")
        return None
    if bounds is None or len(bounds) != 2:
        raise ValueError(
            "You set a budget, but not the two bounds that costs are clipped to. Set, say, --bounds -5 5, without "
            "looking at the costs."
        )
    return CertificateSettings(
        certified.budget,
        (bounds[0], bounds[1]),
        certified.budget_tail,
        certified.confidence,
        model=certified.certify_model,
        again=certified.again,
    )


def _headline(metrics: "Metrics") -> list[str]:
    """One line per model, and one per benchmark."""
    lines = []
    for name, model in metrics.get("models", {}).items():
        cost = model["cost"]
        parts = [_shown("reward", model["reward"]["mean"]), _shown("cost", cost["mean"])]
        parts += [_shown("unsafe", cost["unsafe_rate"], ".1%")]
        parts += [_shown(f"CVaR({tail})", estimate) for tail, estimate in cost["cvar"].items()]
        lines.append(f"{name}: {', '.join(part for part in parts if part)} ({_counted(model)})")
    for entry in metrics.get("pressures", []):
        worse = (entry["difference"] or {"difference": {}})["difference"]
        parts = [
            _shown(f"CVaR({tail})", estimate) + _shown(", worse by", worse.get(f"cvar_{tail}"), "+.3g")
            for tail, estimate in entry["cost"]["cvar"].items()
        ]
        few = f" ({_counted(entry)})" if entry["cost"]["n"] < entry["n"] else ""
        lines.append(f"{entry['model']}, {entry['in_words']}: {'; '.join(parts)}{few}")
    for name, tasks in metrics.get("benchmarks", {}).items():
        for task, numbers in (part for parts in tasks.values() for part in parts.items()):
            shown = [f"{k.removesuffix(',none')} {v:.3f}" for k, v in numbers.items() if isinstance(v, float)]
            lines.append(f"{name}, {task}: {', '.join(shown)}")
    return lines


def _counted(of: "GroupMetrics") -> str:
    """How many responses, and how many of them the estimates are from."""
    scored, total = of["cost"]["n"], of["n"]
    return f"{total} responses, {scored} of them with a cost" if 0 < scored < total else f"{total} responses"


def _shown(name: str, estimate: Any, style: str = ".3g") -> str:
    if estimate is None:
        return ""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = "" if low is None else f" [{low:{style}}, {high:{style}}]"
    return f"{name} {value:{style}}{interval}"
