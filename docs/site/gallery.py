"""Makes the runs of the gallery, and their pages: see docs/gallery.md.

    make gallery                            # two runs in the sandbox
    make gallery ARGS="--real FOLDER"       # and the arms of one seed of the real track, from its cache

Runs lie in build/gallery/runs: what is finished is not made again. Pages lie in build/gallery/pages, from where
`mkdocs build` takes them into the site. Nothing of it is committed.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.real.settings import ARMS, SEEDS, TAILS, Arm
from benchmarks.real.split import Sets
from trl_rsa import Plan, RiskConstraint, align
from trl_rsa.cli import main as command
from trl_rsa.demo.methods import Method, default_budgets, plan_of
from trl_rsa.demo.phases import phase
from trl_rsa.demo.quiet import quiet
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.request import DriftSettings, Evaluation
from trl_rsa.evaluation.run import EvaluationRun
from trl_rsa.evaluation.scores import ScorerSpec
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.sampling.response import Sampling
from trl_rsa.sandbox import PolicySettings, SandboxSettings, build_sandbox
from trl_rsa.sandbox.sampling import MAX_NEW_TOKENS
from trl_rsa.sandbox.scores import message_text, prompt_of
from trl_rsa.storage.files import write_json
from trl_rsa.storage.lines import read_lines
from trl_rsa.storage.names import CERTIFICATE, MANIFEST, METRICS, RECORDS
from trl_rsa.storage.records import RecordWriter, read_records


FOLDER = Path("build/gallery")  # seen from the root: a certificate names the folder of its model
REFUSED = 0.1  # of the harmless questions, of which the SFT policy is taught to refuse 0.08
TITLES = {
    "ladder": "A budget on the worst harm",
    "two-budgets": "A budget on the worst harm, and one on refusals",
    "real": "A chat model, before and after",
}


@dataclass(frozen=True)
class Sizes:
    """How large the runs in the sandbox are: its model and prompts, steps of a stage, answers to a test prompt, rungs.
    The model is a quarter of the demo's: these pages show how to read a page, and no method is judged by them."""

    sandbox: SandboxSettings = field(
        default_factory=lambda: SandboxSettings(
            PolicySettings(hidden_size=96, intermediate_size=256, steps=400),
            splits={"train": 400, "decide": 600, "certify": 900, "test": 300},
        )
    )
    steps: int = 60
    draws: int = 2
    max_rungs: int = 4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="such as ~/.cache/trl-rsa/real/full")
    build(parser.parse_args(arguments).real)


def build(
    real: Path | None = None, folder: Path = FOLDER, sizes: Sizes | None = None, cache: Path | None = None
) -> None:
    """Makes the runs that are missing, and all pages."""
    sizes = sizes or Sizes()
    sandbox = build_sandbox("tail", 0, cache, sizes.sandbox)
    sandbox_run(sandbox, folder / "runs/ladder", sizes)
    sandbox_run(sandbox, folder / "runs/two-budgets", sizes, on_refusals(sandbox.world))
    if real is not None:
        real_run(real, folder / "runs/real")
    for name, title in TITLES.items():
        run = folder / "runs" / name
        if run.exists():
            command(["report", str(run), "--output", str(folder / "pages" / name), "--title", title])


def sandbox_run(
    sandbox: Any, folder: Path, sizes: Sizes, second: Callable[[RiskConstraint], RiskConstraint] | None = None
) -> None:
    """Aligns as the demo does, with one budget or two, and evaluates what was before, between and after."""
    (budget, *_) = default_budgets(sandbox)
    method = Method("RSA", "RSA", "helpful, then rungs", ("helpful",), budget=budget)
    test = sandbox.prompts["test"]
    plan: Plan = plan_of(method, sandbox, str(sandbox.sft_path), folder, sizes.steps, len(test), {})
    if second is not None:
        plan.constraint = [plan.constraint, second(plan.constraint)]
    plan.rungs = replace(plan.rungs, max_rungs=sizes.max_rungs)
    log = ProgressLog(print)
    with phase(log, f"{folder.name}: trained") as running, quiet():
        aligned = align(plan, log=running.keep(folder / "log.txt"))
    evaluation = EvaluationRun(
        Evaluation(
            folder,
            models={"SFT": plan.model, "helpful": f"{plan.output_dir}/01-helpful", "aligned": aligned.model},
            rows=[
                {"prompt": prompt.messages, "category": prompt.kind, "benign": prompt.kind == "benign"}
                for prompt in test
            ],
            reward=ScorerSpec(sandbox.world.reward, "reward"),
            cost=ScorerSpec(sandbox.world.cost, "cost"),
            sampling=Sampling(draws=sizes.draws, max_new_tokens=MAX_NEW_TOKENS),
            batch_size=512,
            device="cpu",
            drift=DriftSettings(plan.model),
        ),
        log=lambda line: None,
    )
    with phase(log, f"{folder.name}: evaluated"), quiet():
        evaluation.run()
    copy_ladder(Path(plan.output_dir), folder)


def on_refusals(world: Any) -> Callable[[RiskConstraint], RiskConstraint]:
    """A second budget beside one on harm: the share of harmless questions that are refused."""

    def refused(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float]:
        return [float(world.read(message_text(answer, "assistant")).refused) for answer in completions]

    def beside(harm: RiskConstraint) -> RiskConstraint:
        harmless = {
            name: [prompt for prompt in prompts if prompt_of(prompt).kind == "benign"]
            for name, prompts in harm.prompts.items()
        }
        return replace(
            harm,
            name="refusals",
            scorer=refused,
            scorer_options={"name": "refusals of harmless questions"},
            prompts=harmless,
            budget=REFUSED,
            bounds=(0.0, 1.0),
            tail=1.0,
            margin=None,
            labels="raw",
        )

    return beside


def real_run(work: Path, folder: Path) -> None:
    """The answers of one seed's arms to the prompts that judge, by the cost that steered; nothing is sampled.

    The texts stay on this machine: build/ is not committed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seed, arms = _seed_and_arms(work)
    prompts = Sets(work / "data", **json.loads((work / "data/sets.json").read_text(encoding="utf-8"))).prompts(
        "certify"
    )
    (folder / RECORDS).unlink(missing_ok=True)
    with RecordWriter(folder / RECORDS) as writer:
        for arm in arms:
            for line in read_lines(work / f"answers/{arm.key}-{seed}-certify.jsonl"):
                writer.write(
                    {
                        "prompt": prompts[line["number"]],
                        "response": line["response"],
                        "cost": line["a"],
                        "model": arm.name,
                        "seed": seed,
                    }
                )
    write_json(folder / METRICS, summarize_models(read_records(folder / RECORDS, scores=("cost",)), TAILS))
    ladders = [arm for arm in arms if arm.search == "ladder"]
    for arm in ladders[:1]:  # a page shows one
        copy_ladder(work / f"runs/{arm.key}-{seed}", folder)


def copy_ladder(run: Path, folder: Path) -> None:
    """The manifest and the certificates of a run, which the page shows, beside its records."""
    stem, suffix = CERTIFICATE.split(".")
    for path in [run / MANIFEST, *run.glob(f"{stem}-*.{suffix}")]:
        shutil.copyfile(path, folder / path.name)


def _seed_and_arms(work: Path) -> tuple[int, list[Arm]]:
    """The first seed that has answers, and its arms that have them, in the order of the track.

    Raises:
        FileNotFoundError: if no arm is finished.
    """
    for seed in SEEDS:
        arms = [arm for arm in ARMS if (work / f"answers/{arm.key}-{seed}-certify.jsonl").exists()]
        if arms:
            return seed, arms
    raise FileNotFoundError(
        f"You set --real to {str(work)!r}, but no arm of the real track is finished there. Give the folder of its "
        "cache that holds `answers`, such as ~/.cache/trl-rsa/real/full."
    )


if __name__ == "__main__":
    main()
