"""`trl-rsa evaluate`: samples, scores and compares models, or a file of responses."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from trl_rsa.evaluation.prompt_sets import PromptRow
    from trl_rsa.evaluation.request import Evaluation
    from trl_rsa.evaluation.scores import ScorerSpec


INTERRUPTED = "Started again with the same arguments it goes on where it was."

_EPILOG = """\
examples:

  trl-rsa evaluate --model before=my-org/sft --model after=runs/aligned/02-safe \\
      --prompts prompts.jsonl --reward hf:my-org/reward-model --cost beaver:PKU-Alignment/beaver-7b-v1.0-cost

  trl-rsa evaluate --responses answers.jsonl --cost my_scorers:harm

SPEC is hf:PATH, beaver:PATH, guard:PATH, guard-endpoint:URL#MODEL, judge:URL#MODEL, module:function or
file.py:function. What --cost gives is a cost: higher is worse, above 0 unsafe. If its raw score is higher for a better
response, say --cost_higher_is better.
Killed and started again with the same arguments, the command goes on: nothing is sampled or scored twice.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-rsa evaluate",
        description="Sample models on prompts (or take a file of responses), score, and report the tail of harm.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_scorers(parser)
    _add_sampling(parser)
    _add_outputs(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is evaluated")
    group.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="folder or Hub id; several times to compare",
    )
    group.add_argument("--prompts", metavar="FILE|DATASET", help=".txt, .csv, .jsonl, .json, .parquet, folder, Hub id")
    group.add_argument("--prompts_split", metavar="SPLIT", help="split of the prompts, where there are several")
    group.add_argument("--prompt_column", metavar="NAME", help="column of the prompts, if it has an unusual name")
    group.add_argument("--max_prompts", type=int, metavar="N", help="keep N prompts, drawn by --seed")
    group.add_argument(
        "--attack",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also ask every prompt under these attacks; an unknown name lists them; module:function for your own",
    )
    group.add_argument("--responses", metavar="FILE", help="evaluate the responses in this .jsonl file instead")


def _add_scorers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is scored")
    for kind, default in (("reward", "better"), ("cost", "worse")):
        group.add_argument(f"--{kind}", metavar="SPEC", help=f"the {kind} model")
        group.add_argument(
            f"--{kind}_higher_is",
            choices=("better", "worse"),
            help=f"what a higher raw score of the {kind} model means (default: {default})",
        )
        group.add_argument(
            f"--{kind}_zero", type=float, default=0.0, metavar="X", help="raw score that becomes 0 (default: 0)"
        )
        group.add_argument(
            f"--{kind}_option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an option of the scorer, such as batch_size=8 or label=1",
        )
    group.add_argument(
        "--score_base_prompts", action="store_true", help="show the scorers the prompts before the attacks"
    )
    group.add_argument("--score_batch_size", type=int, default=256, metavar="N", help="responses per call (256)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how responses are drawn")
    group.add_argument("--draws", type=int, default=1, help="responses per prompt (default: 1)")
    group.add_argument("--seed", type=int, default=0, help="seed of draws, attacks and intervals (default: 0)")
    group.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help="longest response (default: 256)")
    group.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    group.add_argument("--top_p", type=float, default=1.0, help="nucleus (default: 1, all)")
    group.add_argument("--top_k", type=int, default=0, help="tokens kept (default: 0, all)")
    group.add_argument("--batch_size", type=int, default=16, metavar="N", help="responses at a time (default: 16)")
    group.add_argument(
        "--template", default="auto", help="auto (the tokenizer's, if it has one), chat, safe-rlhf or none"
    )
    group.add_argument("--engine", default="transformers", help="transformers (default) or vllm")
    group.add_argument("--dtype", help="such as bfloat16 (default: as saved)")
    group.add_argument("--device", help="such as cuda:1 (default: the first one, or the CPU)")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is reported")
    group.add_argument("--output_dir", default="runs/evaluation", metavar="FOLDER", help="default: runs/evaluation")
    group.add_argument(
        "--tails", type=float, nargs="+", default=[0.05, 0.01], metavar="T", help="tails of VaR and CVaR (0.05 0.01)"
    )
    group.add_argument("--threshold", type=float, default=0.0, help="a cost above this is unsafe (default: 0)")
    group.add_argument("--n_worst", type=int, default=20, metavar="N", help="worst responses per model (default: 20)")
    group.add_argument("--reference", metavar="MODEL", help="measure drift from this model, in all and token by token")
    group.add_argument(
        "--drift_tail", type=float, default=0.1, metavar="T", help="tail of the CVaR in drift risk (default: 0.1)"
    )
    group.add_argument("--manifest", metavar="FOLDER", help="of an align run: show token harm and the ladder")
    group.add_argument(
        "--benchmarks", metavar="TASK,…", help="tasks of lm-evaluation-harness: truthfulqa_mc2,toxigen,bbq,wmdp"
    )
    group.add_argument(
        "--update_model_cards",
        action="store_true",
        help="put the headline table into the README.md of every model that is a folder",
    )


def main(args: argparse.Namespace) -> int:
    from trl_rsa.evaluation.run import evaluate
    from trl_rsa.scripts._bars import Bars

    evaluation = _evaluation(args)
    with Bars() as bars:
        metrics = evaluate(evaluation, report=bars.report, progress=bars.progress)
    for line in _headline(metrics):
        print(line)
    _write_report(args.output_dir, metrics)
    if args.update_model_cards:
        _update_model_cards(evaluation.models.values(), metrics)
    return 0


def _update_model_cards(models: Iterable[str], metrics: dict[str, Any]) -> None:
    from trl_rsa.report import update_model_card

    for folder in (model for model in models if Path(model).is_dir()):
        print(f"Model card: {update_model_card(folder, metrics)}")


def _evaluation(args: argparse.Namespace) -> "Evaluation":
    from trl_rsa.evaluation.request import DriftSettings, Evaluation
    from trl_rsa.sampling.response import Sampling

    sampling = Sampling(
        **{name: getattr(args, name) for name in ("draws", "seed", "max_new_tokens", "temperature", "top_p", "top_k")},
        template=args.template,
        engine=args.engine,
    )
    return Evaluation(
        args.output_dir,
        models=_models(args.model),
        rows=_rows(args),
        responses=args.responses,
        reward=_scorer(args, "reward"),
        cost=_scorer(args, "cost"),
        base_prompts=args.score_base_prompts,
        sampling=sampling,
        **{
            name: getattr(args, name)
            for name in (
                "batch_size",
                "score_batch_size",
                "device",
                "dtype",
                "tails",
                "threshold",
                "manifest",
                "n_worst",
            )
        },
        drift=None if args.reference is None else DriftSettings(args.reference, args.drift_tail),
        benchmarks=[task for task in (args.benchmarks or "").split(",") if task],
    )


def _models(given: Sequence[str]) -> dict[str, str]:
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


def _rows(args: argparse.Namespace) -> "list[PromptRow]":
    from trl_rsa.evaluation.prompt_sets import load_prompts
    from trl_rsa.evaluation.stress import attack_prompts

    if args.prompts is None:
        if args.attack:
            raise ValueError("You set attack, but attacks transform prompts. Set prompts too.")
        return []
    prompts = load_prompts(
        args.prompts, split=args.prompts_split, column=args.prompt_column, limit=args.max_prompts, seed=args.seed
    )
    print(prompts)
    return attack_prompts(prompts.rows, args.attack, args.seed) if args.attack else prompts.rows


def _scorer(args: argparse.Namespace, kind: Any) -> "ScorerSpec | None":
    import yaml

    from trl_rsa.evaluation.scores import ScorerSpec

    spec, higher_is, zero, given = (getattr(args, f"{kind}{end}") for end in ("", "_higher_is", "_zero", "_option"))
    if spec is None:
        if higher_is is not None or zero or given:
            raise ValueError(f"You set how {kind} scores are read, but no {kind} model. Set {kind} too.")
        return None
    options = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise ValueError(f"You set {kind}_option to {option!r}, but an option is NAME=VALUE. Write it so.")
        options[name] = yaml.safe_load(value)
    return ScorerSpec(spec, kind, higher_is, zero, options)


def _headline(metrics: dict[str, Any]) -> list[str]:
    """One line per model, and one per benchmark."""
    lines = []
    for name, model in metrics.get("models", {}).items():
        cost = model["cost"]
        parts = [_shown("reward", model["reward"]["mean"]), _shown("cost", cost["mean"])]
        parts += [_shown("unsafe", cost["unsafe_rate"], ".1%")]
        parts += [_shown(f"CVaR({tail})", estimate) for tail, estimate in cost["cvar"].items()]
        lines.append(f"{name}: {', '.join(part for part in parts if part)} ({model['n']} responses)")
    for name, tasks in metrics.get("benchmarks", {}).items():
        for task, numbers in (part for parts in tasks.values() for part in parts.items()):
            shown = [f"{k.removesuffix(',none')} {v:.3f}" for k, v in numbers.items() if isinstance(v, float)]
            lines.append(f"{name}, {task}: {', '.join(shown)}")
    return lines


def _shown(name: str, estimate: dict[str, Any] | None, style: str = ".3g") -> str:
    if estimate is None:
        return ""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = "" if low is None else f" [{low:{style}}, {high:{style}}]"
    return f"{name} {value:{style}}{interval}"


def _write_report(output_dir: str, metrics: dict[str, Any]) -> None:
    if any(model["cost"]["n"] for model in metrics.get("models", {}).values()):
        from trl_rsa.report import write_report

        print(f"\nReport: {write_report(output_dir)['html']}")
    else:
        print(f"\nWritten to {output_dir}; a report needs a cost.")
