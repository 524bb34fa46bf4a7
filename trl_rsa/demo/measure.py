"""Answers of every method to the test prompts, scored by the truth: records.jsonl and metrics.json."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.demo.methods import METHODS
from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.drift import drift_summary, sequential_kl
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.metrics_file import DemoSettings
from trl_rsa.storage.files import write_json
from trl_rsa.storage.names import METRICS, RECORDS
from trl_rsa.storage.records import RecordWriter, read_records


TAILS = (0.05, 0.01)


def measure_methods(
    sandbox: Any,
    folders: dict[str, str],
    output_dir: Path,
    n_prompts: int,
    draws: int,
    budget: float,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Samples, scores and summarises.

    Args:
        sandbox (`Sandbox`):
            The world, its tokenizer and its test prompts.
        folders (`dict[str, str]`):
            Folder of each method's model.
        output_dir (`Path`):
            Gets `records.jsonl` and `metrics.json`.
        n_prompts (`int`), draws (`int`):
            Test prompts, and answers to each.
        budget (`float`):
            For the settings.
        log (`Callable[[str], None]`):
            Where the lines about progress go.

    Returns:
        `dict`: what `metrics.json` holds, with `kl` and the demo's settings.
    """
    from transformers import AutoModelForCausalLM

    from trl_rsa.sandbox import sample_responses

    prompts = sandbox.prompts["test"][:n_prompts]
    sft = AutoModelForCausalLM.from_pretrained(folders["SFT"]).eval()
    path = output_dir / RECORDS
    path.unlink(missing_ok=True)
    divergences = {}
    for method in METHODS:
        log(f"{method.name}: {draws} answers to each of {len(prompts)} test prompts")
        model = AutoModelForCausalLM.from_pretrained(folders[method.name]).eval()
        answers = sample_responses(model, sandbox.tokenizer, prompts, k=draws, seed=sandbox.seed)
        repeated = [prompt for prompt in prompts for _ in range(draws)]
        flat = [answer for several in answers for answer in several]
        _write(path, sandbox, method.name, repeated, flat)
        divergences[method.name] = divergence(model, sft, sandbox.tokenizer, repeated, flat)
    read = read_records(path)
    metrics: Any = summarize_models(read, TAILS, bootstrap=Bootstrap(seed=sandbox.seed))
    for name, kl in divergences.items():
        metrics["models"][name]["kl"] = kl["mean"]
    settings: DemoSettings = {
        "world": sandbox.world.name,
        "seed": sandbox.seed,
        "prompts": len(prompts),
        "draws": draws,
        "budget": budget,
    }
    metrics["demo"] = settings
    write_json(output_dir / METRICS, metrics)
    return metrics


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
