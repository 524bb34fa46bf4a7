"""How large a step each loss bears: drift from the SFT policy against the learning rate, in the sandbox.

    python -m benchmarks.alignment.step_size          # about ten minutes on two cores

The demo's two stages (helpful, then safe), at β = 1 and λ = 1 (the labels' own scale), else as in the demo, at
two learning rates. Writes `results/step_size.csv`.
"""

import argparse
import csv
import io
import os
import platform
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path

from transformers import AutoModelForCausalLM

from benchmarks.alignment.store import current_commit
from trl_rsa import Plan, Stage, align
from trl_rsa.demo.measure import divergence
from trl_rsa.demo.methods import NEUTRAL, TRAINING
from trl_rsa.evaluation.metrics import cvar
from trl_rsa.sandbox import build_sandbox, sample_responses


LOSSES = {
    "DPO": ({**NEUTRAL}, "expectation"),
    "RSA-1 expectation (TDPO1)": ({"loss_type": ["rsa1"]}, "expectation"),
    "RSA-1 entropic 1": ({"loss_type": ["rsa1"]}, "entropic"),
    "RSA-1 CVaR 0.1": ({"loss_type": ["rsa1"]}, "cvar"),
    "RSA-2 entropic 1": ({"loss_type": ["rsa2"]}, "entropic"),
}
LEARNING_RATES = (1e-4, 5e-4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment.step_size", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps per stage (default: 120)")
    parser.add_argument("--prompts", type=int, default=400, help="test prompts, one answer each (default: 400)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_size.csv")
    args = parser.parse_args()
    sandbox = build_sandbox("tail", 0, progress=True)
    rows = [
        row
        for rate in LEARNING_RATES
        for name in LOSSES
        for row in measure(sandbox, name, rate, args.steps, args.prompts)
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(args.out)


def measure(sandbox, name: str, learning_rate: float, steps: int, n_prompts: int) -> list[dict]:
    loss, risk_measure = LOSSES[name]
    stages = [
        Stage("helpful", sandbox.helpful, beta=1.0, risk_measure=risk_measure, args=loss),
        Stage("safe", sandbox.safe, beta=1.0, risk_measure=risk_measure, args=loss),
    ]
    training = {**TRAINING, "learning_rate": learning_rate, "max_steps": steps, "warmup_steps": steps // 10}
    sft = AutoModelForCausalLM.from_pretrained(sandbox.sft_path).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(stages, str(sandbox.sft_path), folder, args={**training, "disable_tqdm": True}, seed=sandbox.seed)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            align(plan)
        for stage in ("01-helpful", "02-safe"):
            model = AutoModelForCausalLM.from_pretrained(Path(folder) / stage).eval()
            prompts = sandbox.prompts["test"][:n_prompts]
            answers = [several[0] for several in sample_responses(model, sandbox.tokenizer, prompts, k=1, seed=0)]
            texts = [prompt.text for prompt in prompts]
            rewards, costs = sandbox.world.reward(texts, answers), sandbox.world.cost(texts, answers)
            kl = divergence(model, sft, sandbox.tokenizer, prompts, answers)["mean"]["value"]
            row = {
                "loss": name,
                "learning_rate": learning_rate,
                "stage": stage,
                "kl_to_sft": round(kl, 3),
                "reward": round(sum(rewards) / len(rewards), 3),
                "cvar_0.05": round(cvar(costs, 0.05), 3),
            }
            print(row, flush=True)
            rows.append(row | {"steps": steps, "prompts": n_prompts, **provenance()})
    return rows


def provenance() -> dict:
    return {
        "commit": current_commit(),
        "torch": version("torch"),
        "trl": version("trl"),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()
