"""Answers of every row to the test prompts, scored by the truth: records.jsonl, metrics.json and front.json."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_rsa.demo.methods import TAIL, Method
from trl_rsa.demo.phases import Phase
from trl_rsa.demo.quiet import quiet
from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.drift import drift_summary, sequential_kl
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.front_measures import Spot, front_table, measure_front
from trl_rsa.evaluation.intervals import EstimateJSON
from trl_rsa.evaluation.metrics import summarize_models
from trl_rsa.evaluation.metrics_file import DemoSettings, Metrics
from trl_rsa.storage.files import replacing, write_json
from trl_rsa.storage.names import FRONT, METRICS, RECORDS
from trl_rsa.storage.records import RecordWriter, read_records


TAILS = (TAIL, 0.01)


@dataclass(frozen=True)
class Exam:
    """What all rows are asked, and how their answers are scored.

    Args:
        world (`World`):
            Knows the truth.
        sft (`str`):
            Folder of the SFT policy and its tokenizer.
        prompts (`Sequence[Prompt]`), draws (`int`), seed (`int`):
            Test prompts, answers to each, and the seed of these.
        output_dir (`Path`):
            Gets a file per row in `records`, until all are there.
    """

    world: Any
    sft: str
    prompts: Sequence[Any]
    draws: int
    seed: int
    output_dir: Path

    def file_of(self, method: Method) -> Path:
        return self.output_dir / "records" / f"{method.folder}.jsonl"

    def answer(self, method: Method, folder: str, running: Phase) -> EstimateJSON:
        """Samples from the model in a folder, and writes the scored answers down.

        Returns:
            [`EstimateJSON`]: the estimate of the model's sequential KL from the SFT policy.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from trl_rsa.sandbox import sample_responses

        running.show(f"{self.draws} answers to each of {len(self.prompts)} prompts")
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(self.sft)
            model, sft = (AutoModelForCausalLM.from_pretrained(where).eval() for where in (folder, self.sft))
            answers = sample_responses(model, tokenizer, self.prompts, k=self.draws, seed=self.seed)
            asked = [prompt for prompt in self.prompts for _ in range(self.draws)]
            flat = [answer for several in answers for answer in several]
            self._write(method, asked, flat)
            return divergence(model, sft, tokenizer, asked, flat)["mean"]

    def _write(self, method: Method, prompts: Sequence[Any], answers: Sequence[str]) -> None:
        texts = [prompt.text for prompt in prompts]
        rewards, costs = self.world.reward(texts, answers), self.world.cost(texts, answers)
        path = self.file_of(method)
        path.unlink(missing_ok=True)
        with RecordWriter(path) as writer:
            for prompt, answer, reward, cost in zip(prompts, answers, rewards, costs, strict=True):
                writer.write(
                    {
                        "prompt": prompt.text,
                        "response": answer,
                        "reward": reward,
                        "cost": cost,
                        "model": method.name,
                        "seed": self.seed,
                        "category": prompt.kind,
                        "topic": prompt.category,
                        "benign": prompt.kind == "benign",
                    }
                )


def measure_methods(
    methods: Sequence[Method], exam: Exam, divergences: dict[str, EstimateJSON]
) -> tuple[Metrics, FrontFile]:
    """Summarises the answers of all rows to the same prompts.

    Args:
        methods (`Sequence[Method]`):
            The rows, which have answered.
        exam ([`Exam`]):
            What they have answered. Its folder gets `records.jsonl`, `metrics.json`, `front.json` and `front.csv`.
        divergences (`dict[str, EstimateJSON]`):
            Estimates of each row's KL from the SFT policy, by name.

    Returns:
        `tuple`: what `metrics.json` holds, with `kl` and the demo's settings, and what `front.json` holds.
    """
    output_dir, path = exam.output_dir, exam.output_dir / RECORDS
    with replacing(path) as partial, partial.open("wb") as file:
        for method in methods:
            file.write(exam.file_of(method).read_bytes())
    shutil.rmtree(output_dir / "records")
    columns, bootstrap = read_columns(read_records(path)), Bootstrap(seed=exam.seed)
    metrics = summarize_models(columns, TAILS, bootstrap=bootstrap)
    for name, kl in divergences.items():
        metrics["models"][name]["kl"] = kl
    settings: DemoSettings = {
        "world": exam.world.name,
        "seed": exam.seed,
        "prompts": len(exam.prompts),
        "draws": exam.draws,
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
