"""Answers of every row to the test prompts, scored by the truth: records.jsonl, metrics.json and front.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_rsa.demo.methods import TAIL, Method
from trl_rsa.demo.phases import Phase
from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.drift import drift_summary, sequential_kl
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.front_measures import Spot, front_table, measure_front
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.metrics_file import DemoSettings, Metrics
from trl_rsa.storage.files import write_json
from trl_rsa.storage.names import FRONT, METRICS, RECORDS
from trl_rsa.storage.records import RecordWriter, read_records


TAILS = (TAIL, 0.01)


def measure_methods(
    methods: Sequence[Method],
    sandbox: Any,
    folders: dict[str, str],
    output_dir: Path,
    n_prompts: int,
    draws: int,
    running: Phase,
) -> tuple[Metrics, FrontFile]:
    """Samples, scores and summarises. All rows answer the same prompts.

    Args:
        methods (`Sequence[Method]`):
            The rows.
        sandbox (`Sandbox`):
            The world, its tokenizer and its test prompts.
        folders (`dict[str, str]`):
            Folder of each row's model.
        output_dir (`Path`):
            Gets `records.jsonl`, `metrics.json`, `front.json` and `front.csv`.
        n_prompts (`int`), draws (`int`):
            Test prompts, and answers to each.
        running ([`Phase`]):
            Shows whose answers are sampled.

    Returns:
        `tuple`: what `metrics.json` holds, with `kl` and the demo's settings, and what `front.json` holds.
    """
    from transformers import AutoModelForCausalLM

    from trl_rsa.sandbox import sample_responses

    prompts = sandbox.prompts["test"][:n_prompts]
    sft = AutoModelForCausalLM.from_pretrained(folders["SFT"]).eval()
    path = output_dir / RECORDS
    path.unlink(missing_ok=True)
    divergences = {}
    for method in methods:
        running.show(f"{draws} of {method.name} to each of {len(prompts)} prompts")
        model = AutoModelForCausalLM.from_pretrained(folders[method.name]).eval()
        answers = sample_responses(model, sandbox.tokenizer, prompts, k=draws, seed=sandbox.seed)
        repeated = [prompt for prompt in prompts for _ in range(draws)]
        flat = [answer for several in answers for answer in several]
        _write(path, sandbox, method.name, repeated, flat)
        divergences[method.name] = divergence(model, sft, sandbox.tokenizer, repeated, flat)
    columns, bootstrap = read_columns(read_records(path)), Bootstrap(seed=sandbox.seed)
    metrics = summarize_models(columns, TAILS, bootstrap=bootstrap)
    for name, kl in divergences.items():
        metrics["models"][name]["kl"] = kl["mean"]
    settings: DemoSettings = {
        "world": sandbox.world.name,
        "seed": sandbox.seed,
        "prompts": len(prompts),
        "draws": draws,
        "budgets": [method.budget for method in methods if method.budget is not None],
    }
    metrics["demo"] = settings
    write_json(output_dir / METRICS, metrics)
    parts = {str(name): columns.take(indices) for name, indices in columns.model}
    front = measure_front(curves(methods), parts, TAIL, bootstrap=bootstrap)
    write_json(output_dir / FRONT, front)
    (output_dir / "front.csv").write_text(front_table(front), encoding="utf-8")
    return metrics, front


def curves(methods: Sequence[Method]) -> dict[str, list[Spot]]:
    """SACPO's λ-curve, which begins with DPO at λ = 0, and RSA's budgets."""
    found: dict[str, list[Spot]] = {"SACPO": [], "RSA": []}
    for method in methods:
        if method.family == "DPO":
            found["SACPO"].append(Spot(method.name, {"λ": 0.0}))
        elif method.family in found:
            found[method.family].append(Spot(method.name, method.settings, method.budget))
    return found


def _write(path: Path, sandbox: Any, method: str, prompts: Sequence[Any], answers: Sequence[str]) -> None:
    texts = [prompt.text for prompt in prompts]
    rewards, costs = sandbox.world.reward(texts, answers), sandbox.world.cost(texts, answers)
    with RecordWriter(path) as writer:
        for prompt, answer, reward, cost in zip(prompts, answers, rewards, costs, strict=True):
            writer.write(
                {
                    "prompt": prompt.text,
                    "response": answer,
                    "reward": reward,
                    "cost": cost,
                    "model": method,
                    "seed": sandbox.seed,
                    "category": prompt.kind,
                    "topic": prompt.category,
                    "benign": prompt.kind == "benign",
                }
            )


def divergence(model: Any, sft: Any, tokenizer: Any, prompts: Sequence[Any], answers: Sequence[str]) -> dict[str, Any]:
    """The sequential KL from the SFT policy along the model's own answers."""
    prompt_ids, completion_ids = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        opening = tokenizer.apply_chat_template(
            prompt.messages, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        prompt_ids.append(opening)
        completion_ids.append([*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    sums = sequential_kl(model, sft, prompt_ids, completion_ids, batch_size=256)
    return drift_summary([[value] for value in sums], prompts=[prompt.text for prompt in prompts])
