"""Do drift risk and token harm show where the harm is? Both against the exact nested cost-to-go of a sandbox world.

    python -m benchmarks.token_risk

Per seed and method: the SFT policy is aligned with helpful and then with safe pairs; on answers drawn from the
grammar two numbers are read from the policies for each token, *token harm* −(β/λ)(log π_safe − log π_helpful) and
*drift risk* (CVaR with tail 0.1 of log π_helpful − log π_safe). They are compared with V(s), the nested risk of the
true cost of all that the grammar may go on with: with its value after the token, and with its increase by the token.
V belongs to the grammar, which the SFT policy was taught, not to the policies themselves.

Most tokens of a phrase have no alternative, and V does not move there: the correlation is given over all tokens, and
over those where the grammar has a choice. Intervals: percentiles of 500 resamples of the prompts, the ranks of
Spearman's correlation taken once.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation_speed import provenance
from trl_rsa.risk import CVaR
from trl_rsa.sandbox import PrefixTree, tail_mean
from trl_rsa.sandbox.exact import EOS, tokens
from trl_rsa.sandbox.streams import generator


Array = NDArray[np.float64]

# The safe stage. The helpful stage is one, plain DPO, so that the methods differ in one thing.
NEUTRAL = {"loss_type": ["rsa2"], "risk_alpha": 0.0}
MULTIPLIER = 2.0  # λ of the safe stage, fixed before this was measured
METHODS: dict[str, dict[str, Any]] = {
    "DPO (SACPO)": {"args": NEUTRAL},
    "RSA-1 entropic": {"args": {"loss_type": ["rsa1"]}, "risk_measure": "entropic"},
    "RSA-1 CVaR 0.1": {"args": {"loss_type": ["rsa1"], "risk_tail": 0.1}, "risk_measure": "cvar"},
}
# The tails of the nested cost-to-go: the expectation, and the tail of the drift risk.
TAILS = (1.0, 0.1)
DRIFT_TAIL = 0.1


@dataclass
class Tokens:
    """One entry per token of all answers."""

    prompt: NDArray[np.int64]
    choice: NDArray[np.bool_]  # whether the grammar could have gone on differently
    before: dict[float, Array]  # V before the token, by tail
    after: dict[float, Array]


def cost_to_go(tree: PrefixTree, tail: float) -> dict[int, float]:
    """V of every node, by its `id`: what `tree.cost_to_go` gives for one, in one pass."""
    values: dict[int, float] = {}

    def visit(node: PrefixTree) -> float:
        if node.cost is None:
            below = [visit(child) for child in node.children.values()]
            value = tail_mean(below, list(node.next_law().values()), tail)
        else:
            value = node.cost
        values[id(node)] = value
        return value

    visit(tree)
    return values


def draw_answers(sandbox: Any, prompts: Sequence[Any], draws: int, seed: int) -> tuple[list[list[str]], Tokens]:
    """Answers drawn from the grammar's exact law, and V along them."""
    rng = generator(seed, "token risk")
    answers, number, choice = [], [], []
    before: dict[float, list[float]] = {tail: [] for tail in TAILS}
    after: dict[float, list[float]] = {tail: [] for tail in TAILS}
    for i, prompt in enumerate(prompts):
        law = sandbox.world.law(prompt)
        tree = PrefixTree.of(law)
        values = {tail: cost_to_go(tree, tail) for tail in TAILS}
        p = np.array(law.probabilities)
        answers.append([law.texts[k] for k in rng.choice(len(p), draws, p=p / p.sum())])
        for answer in answers[-1]:
            node = tree
            for token in [*tokens(answer), EOS]:
                child = node.children[token]
                number.append(i)
                choice.append(len(node.children) > 1)
                for tail in TAILS:
                    before[tail].append(values[tail][id(node)])
                    after[tail].append(values[tail][id(child)])
                node = child
    arrays = ({tail: np.array(column) for tail, column in columns.items()} for columns in (before, after))
    return answers, Tokens(np.array(number), np.array(choice), *arrays)


def read_policies(
    tokenizer: Any, manifest: Path, prompts: Sequence[Any], answers: Sequence[Sequence[str]]
) -> dict[str, Array]:
    """Token harm and drift risk of every token, in the order of [`draw_answers`]."""
    from transformers import AutoModelForCausalLM

    from trl_rsa.evaluation.token_risk import HarmModels, encode_response, token_drift, token_harm
    from trl_rsa.sampling.encoding import encode_prompt

    found = HarmModels.from_manifest(manifest)
    safe, helpful = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (found.safe, found.helpful))
    pairs = [(p.messages, answer) for p, several in zip(prompts, answers, strict=True) for answer in several]
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt, _ in pairs]
    completion_ids = [encode_response(tokenizer, answer)[0] for _, answer in pairs]
    harm = token_harm(safe, helpful, prompt_ids, completion_ids, found.temperature, batch_size=64)
    drift = token_drift(safe, helpful, prompt_ids, completion_ids, CVaR(DRIFT_TAIL), batch_size=64)
    return {name: np.array([v for row in rows for v in row]) for name, rows in (("harm", harm), ("drift", drift))}


def correlation(
    x: Array, y: Array, prompt: NDArray[np.int64], seed: int = 0, resamples: int = 500
) -> dict[str, float]:
    """Pearson's and Spearman's correlation with 95 % intervals, prompts resampled."""
    from scipy.stats import rankdata

    _, group = np.unique(prompt, return_inverse=True)
    n = int(group.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    result: dict[str, float] = {}
    for name, (a, b) in (("pearson", (x, y)), ("spearman", (rankdata(x), rankdata(y)))):
        a, b = a - a.mean(), b - b.mean()
        moments = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], -1)
        sums = np.stack([np.bincount(group, column, n) for column in moments.T], -1)  # per prompt
        value, low, high = _pearson(sums.sum(0)), *np.nanpercentile(_pearson(counts.astype(float) @ sums), [2.5, 97.5])
        result |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def _pearson(sums: Array) -> Array:
    total, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant has no correlation
        return (ab - a * b / total) / np.sqrt((aa - a * a / total) * (bb - b * b / total))


def compare(policies: dict[str, Array], exact: Tokens) -> list[dict[str, Any]]:
    """A row per view (harm, drift), tail of V, comparison and set of tokens."""
    rows = []
    for view, x in policies.items():
        for tail in TAILS:
            for against, y in (("increase", exact.after[tail] - exact.before[tail]), ("after", exact.after[tail])):
                for which, kept in (("all", np.ones_like(exact.choice)), ("choices", exact.choice)):
                    rows.append(
                        {"view": view, "tail": tail, "against": against, "tokens": which, "n": int(kept.sum())}
                        | correlation(x[kept], y[kept], exact.prompt[kept])
                    )
    return rows


def measure(
    sandbox: Any,
    folder: Path,
    n_prompts: int,
    draws: int,
    max_steps: int,
    log: Callable[[str], None] = print,
    training: dict[str, Any] | None = None,
    methods: dict[str, dict[str, Any]] = METHODS,
) -> list[dict[str, Any]]:
    """Trains the methods (finished ones are not trained again) and compares."""
    from trl_rsa.alignment.plan import Stage
    from trl_rsa.demo.methods import BETA

    prompts = sandbox.prompts["test"][:n_prompts]
    answers, exact = draw_answers(sandbox, prompts, draws, sandbox.seed)
    rows = []
    run = partial(_align, sandbox, max_steps=max_steps, log=log, training=training or {})
    helpful = run(
        folder / "helpful", str(sandbox.sft_path), Stage("helpful", sandbox.helpful, beta=BETA, args=NEUTRAL)
    )
    for name, settings in methods.items():
        safe = Stage(
            "safe", sandbox.safe, preferred_by="safer", beta=BETA, constraint_multiplier=MULTIPLIER, **settings
        )
        manifest = folder / name.replace(" ", "-")
        run(manifest, helpful, safe)
        policies = read_policies(sandbox.tokenizer, manifest, prompts, answers)
        made = {"world": sandbox.world.name, "seed": sandbox.seed, "method": name, "steps": max_steps}
        rows += [made | {"prompts": len(prompts), "draws": draws} | row for row in compare(policies, exact)]
    return rows


def _align(
    sandbox: Any,
    folder: Path,
    start: str,
    stage: Any,
    max_steps: int,
    log: Callable[[str], None],
    training: dict[str, Any],
) -> str:
    """One stage with the demo's settings, which were settled before this was measured. Returns the policy's folder."""
    from trl_rsa.alignment.plan import Plan
    from trl_rsa.alignment.run import align
    from trl_rsa.demo.methods import TRAINING

    steps = {"max_steps": max_steps, "warmup_steps": max_steps // 10}
    args = {**TRAINING, **steps, **training}
    return align(Plan([stage], model=start, output_dir=str(folder), args=args, seed=sandbox.seed), log=log).model


def main(argv: list[str] | None = None) -> None:
    from trl_rsa.sandbox import build_sandbox

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tail")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps per stage")
    parser.add_argument("--models", default="runs/token_risk", help="folder of the policies")
    parser.add_argument("--output", default="benchmarks/results/token_risk.csv")
    args = parser.parse_args(argv)
    made = provenance() | {"torch": version("torch"), "trl": version("trl")}
    rows = []
    for seed in args.seeds:
        sandbox = build_sandbox(args.world, seed, progress=True)
        folder = Path(args.models) / f"{args.world}-{seed}-{args.steps}"
        rows += [row | made for row in measure(sandbox, folder, args.prompts, args.draws, args.steps)]
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _print(rows)


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print("seed\tmethod\tview\ttail\tagainst\ttokens\tPearson\tSpearman")
    for row in rows:
        names = ("seed", "method", "view", "tail", "against", "tokens")
        shown = (f"{row[n]:.2f} [{row[n + '_low']:.2f}, {row[n + '_high']:.2f}]" for n in ("pearson", "spearman"))
        print(*(row[name] for name in names), *shown, sep="\t")


if __name__ == "__main__":
    main()
