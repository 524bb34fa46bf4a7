"""Writes a world of the sandbox as plain files, for the plans in this folder: a model, pairs, prompts.

    python examples/sweep/make_world.py --output runs/world

It makes what `trl-rsa align` and `trl-rsa evaluate` are given elsewhere: the folder `sft`, `helpful.jsonl` and
`safe.jsonl` with preference pairs, `budget_prompts.jsonl` for a budget, and `test_prompts.jsonl` for the evaluation.
The true reward and cost are in `scores.py` beside this script. The first start trains the model, in some minutes on
two CPU cores; it is cached.
"""

import argparse
import json
import shutil
from pathlib import Path

from trl_rsa.sandbox import build_sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/world")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    sandbox = build_sandbox("tail", args.seed, progress=True)
    folder = Path(args.output)
    shutil.copytree(sandbox.sft_path, folder / "sft", dirs_exist_ok=True)
    for name in ("helpful", "safe"):
        getattr(sandbox, name).to_json(folder / f"{name}.jsonl")
    sets = {"budget_prompts": [*sandbox.prompts["decide"], *sandbox.prompts["certify"]]}
    sets["test_prompts"] = sandbox.prompts["test"][:600]
    for name, prompts in sets.items():
        rows = [{"prompt": prompt.messages, "benign": prompt.kind == "benign"} for prompt in prompts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"Written to {folder}")


if __name__ == "__main__":
    main()
