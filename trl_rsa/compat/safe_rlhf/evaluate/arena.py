"""
`safe_rlhf.evaluate.arena`: two policies answer the same prompts, a reward and a cost model judge them.

```bash
python -m trl_rsa.compat.safe_rlhf.evaluate.arena --red_corner_model_name_or_path before \
    --blue_corner_model_name_or_path after --reward_model_name_or_path rm --cost_model_name_or_path cm \
    --datasets PKU-SafeRLHF/test --output_dir arena
```

writes arena/before_vs_after/table.csv, and beside it the records, metrics.json, summary.json and our page.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from trl_rsa.compat.safe_rlhf.command_line import add_switch, check_counts, run
from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset
from trl_rsa.compat.safe_rlhf.datasets.tokenized import draw
from trl_rsa.compat.safe_rlhf.evaluate.table import Match, analysis, read_matches, summary, write_table
from trl_rsa.compat.safe_rlhf.pairs import import_datasets
from trl_rsa.data.spec import KNOWN_SPECS, split_spec
from trl_rsa.evaluation.prompt_sets import PromptRow, load_prompts
from trl_rsa.evaluation.request import Evaluation
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.sampling.encoding import TEMPLATES
from trl_rsa.sampling.policies import base_of, is_adapter, load_tokenizer
from trl_rsa.sampling.response import Sampling
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.files import write_json


PROG = "trl_rsa.compat.safe_rlhf.evaluate.arena"

_KNOWN_AS = {
    "--model_name_or_path": "an arena has two: --red_corner_model_name_or_path and --blue_corner_model_name_or_path",
    "--train_datasets": "here it is --datasets NAME[:PROPORTION[:PATH]]",
    "--eval_datasets": "here it is --datasets NAME[:PROPORTION[:PATH]]",
    "--model": "trl-rsa evaluate takes any number of models so; here they are the red and the blue corner's",
}
# Taken, so that a script goes on working, and said to do nothing.
_WITHOUT_EFFECT = ("deepspeed", "zero_stage", "offload", "tf32", "trust_remote_code")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    group = parser.add_argument_group("models")
    for name, what in (
        ("red_corner", "policy that is there, by which the other is measured: folder, adapter or Hub id"),
        ("blue_corner", "policy that challenges it"),
        ("reward", "reward model: *ForScore or sequence classifier, or any scorer of trl-rsa evaluate"),
        ("cost", "cost model, higher is worse, above 0 unsafe"),
    ):
        group.add_argument(f"--{name}_model_name_or_path", required=True, help=what)
    group.add_argument("--max_length", type=int, default=512, help="length that answers get three quarters of")
    add_switch(group, "--trust_remote_code", "without effect: a model's own code is not run", default=None)
    group.add_argument("--cost_higher_is", choices=["worse", "better"], help="sign of the raw cost (worse)")

    group = parser.add_argument_group("prompts")
    group.add_argument("--datasets", nargs="+", required=True, metavar="NAME[:PROPORTION[:PATH]]", help="prompts")
    group.add_argument("--dataset_module", metavar="FILE.py", help="where your RawDataset classes are")

    group = parser.add_argument_group("answers")
    group.add_argument("--template", default="safe-rlhf", choices=TEMPLATES, help="of the policies, not the scorers")
    group.add_argument("--max_new_tokens", type=int, help="longest answer (default: 3/4 of max_length)")
    group.add_argument("--temperature", type=float, help="0 is greedy (default: 1)")
    group.add_argument("--top_p", type=float, help="nucleus (default: 1)")
    group.add_argument("--top_k", type=int, help="0 keeps all (default: 50, as transformers has it)")

    group = parser.add_argument_group("evaluation")
    group.add_argument("--per_device_eval_batch_size", type=int, default=16, help="answers at a time")
    group.add_argument("--seed", type=int, default=42, help="seed of the answers and of the draw of prompts")
    for name in ("fp16", "bf16"):
        add_switch(group, f"--{name}", f"policies in {name} (default: as they were saved)")
    add_switch(group, "--tf32", "without effect", default=None)
    group.add_argument("--output_dir", required=True, help="folder of the evaluations")

    group = parser.add_argument_group("DeepSpeed")
    group.add_argument("--local_rank", type=int, default=-1, help="set by the launcher; the first process does it all")
    add_switch(group, "--deepspeed", "without effect", default=None)
    group.add_argument("--zero_stage", type=int, choices=[0, 1, 2, 3], help="without effect")
    group.add_argument("--offload", choices=["none", "parameter", "optimizer", "all"], help="without effect")
    return parser


def main(args: argparse.Namespace) -> int:
    """Evaluates, writes the table and prints the analysis. Raises `ValueError` and its kin for users."""
    if os.environ.get("RANK", "0") != "0":
        return 0  # one model is loaded after the other, in the first process
    if args.fp16 and args.bf16:
        raise ValueError("You set fp16 and bf16, but a policy answers in one of them. Set one to False.")
    check_counts(args, "max_length", "max_new_tokens", "per_device_eval_batch_size")
    given = [name for name in _WITHOUT_EFFECT if getattr(args, name) is not None]
    if given:
        _say(f"taken, and without effect here: {', '.join(f'--{name}' for name in given)}")
    if args.dataset_module:
        import_datasets(args.dataset_module)
    policies = {"red": args.red_corner_model_name_or_path, "blue": args.blue_corner_model_name_or_path}
    names = {corner: Path(os.path.normpath(path)).name for corner, path in policies.items()}
    _warn_of_template(policies, args.template)
    _warn_of_law(policies, args)
    rows = read_prompts(args.datasets, args.seed)
    folder = Path(args.output_dir) / f"{names['red']}_vs_{names['blue']}"
    # Records tell the policies apart by name, where two folders may be called alike.
    models = names if names["red"] != names["blue"] else {c: f"{name} ({c})" for c, name in names.items()}
    _evaluate(args, folder, {models[corner]: path for corner, path in policies.items()}, rows)
    matches = read_matches(folder / "records.jsonl", rows, models["red"], models["blue"])
    write_table(folder / "table.csv", matches, names["red"], names["blue"], args.template)
    write_json(folder / "summary.json", summary(matches, models["red"], models["blue"]))
    for line in analysis(matches, models["red"], models["blue"]):
        print(line)
    _say_what_is_missing(matches)
    print(f"Table: {folder / 'table.csv'}\nReport: {folder / 'report.html'}")
    return 0


def _evaluate(args: argparse.Namespace, folder: Path, models: dict[str, str], rows: list[PromptRow]) -> None:
    """All that is asked of the evaluation: records.jsonl, metrics.json and the page, in the folder."""
    from trl_rsa.evaluation.run import EvaluationRun
    from trl_rsa.report import write_report

    dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    sampling = Sampling(
        draws=1,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens or max(1, args.max_length * 3 // 4),
        **{name: _asked(args, name) for name in _LAW},
        template=args.template,
    )
    evaluation = Evaluation(
        folder,
        models=models,
        rows=rows,
        reward=ScorerSpec(args.reward_model_name_or_path, "reward"),
        cost=ScorerSpec(args.cost_model_name_or_path, "cost", args.cost_higher_is),
        sampling=sampling,
        batch_size=args.per_device_eval_batch_size,
        dtype=dtype,
    )
    EvaluationRun(evaluation, log=_say, write_page=write_report).run()


def _warn_of_template(policies: dict[str, str], template: str) -> None:
    if template != "safe-rlhf":
        return
    for path in dict.fromkeys(policies.values()):
        if load_tokenizer(path).chat_template:
            _say(
                f"{path} has a chat template, and is asked in Safe RLHF's, as always in this arena: a policy "
                "may never end its answers in a template that it does not know. Set --template chat to ask in its own."
            )


# How an answer is drawn where no flag says it: both policies alike, as `generate(do_sample=True)` does by default.
_LAW: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}


def _asked(args: argparse.Namespace, name: str) -> Any:
    return _LAW[name] if getattr(args, name) is None else getattr(args, name)


def _warn_of_law(policies: dict[str, str], args: argparse.Namespace) -> None:
    """Safe RLHF left each policy to its own generation_config.json: names what that says and is not done here."""
    from transformers import GenerationConfig

    for path in dict.fromkeys(policies.values()):
        try:
            own = GenerationConfig.from_pretrained(base_of(path) if is_adapter(path) else path)
        except (OSError, ValueError):
            continue  # it has none
        here = {name: _asked(args, name) for name in _LAW if getattr(args, name) is None} | {"repetition_penalty": 1.0}
        other = {name: value for name in here if (value := getattr(own, name, None)) not in (None, here[name])}
        if other:
            _say(
                f"{path} has {', '.join(f'{name} {value:g}' for name, value in other.items())} in its "
                f"generation_config.json; asked at {', '.join(f'{name} {here[name]:g}' for name in other)}."
            )


def _say_what_is_missing(matches: Sequence[Match]) -> None:
    missing = sum(None in (m.red.reward, m.red.cost, m.blue.reward, m.blue.cost) for m in matches)
    if missing:
        _say(f"{missing} of {len(matches)} prompts have an answer without a score, and are left out of the analysis")


def _say(text: Any) -> None:
    print(text, file=sys.stderr)


def read_prompts(specs: Sequence[str], seed: int) -> list[PromptRow]:
    """The distinct prompts of all datasets, in their order.

    A name is that of a [`RawDataset`] that a user has defined, one of Safe RLHF's, or a file or folder.
    """
    rows: dict[str, PromptRow] = {}
    for spec in specs:
        for row in _read_spec(spec, seed):
            rows.setdefault(prompt_key(row["prompt"]), row)
    return list(rows.values())


def _read_spec(spec: str, seed: int) -> list[PromptRow]:
    name, share, count, path = split_spec(spec)
    if RawDataset.is_defined(name):
        raw = RawDataset.load(name, **({} if path is None else {"path": path}))
        places = draw(len(raw), share if count is None else Fraction(count, -1), name, seed)
        return [{"prompt": _prompt(raw[int(i)]), "category": None, "benign": None} for i in sorted(places)]
    if name in KNOWN_SPECS:
        return load_prompts(spec, seed=seed).rows
    if (share, count, path) == (1.0, None, None) and Path(name).exists():
        return load_prompts(name, seed=seed).rows
    RawDataset.load(name)  # raises, and names the datasets that there are
    return []


def _prompt(sample: Any) -> Any:
    turns = sample["input"]
    if isinstance(turns, str):
        return turns
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


if __name__ == "__main__":
    sys.exit(run(make_parser(), main, None, _KNOWN_AS))
