"""The ladder: rungs at growing multipliers, each anchored at the last, until the constraint's bound holds.

Everything is written down when it is done: sampled and scored responses, observations, models. Started again after a
kill, the ladder reads them and goes on; draws are a function of seed, prompt and number, so it ends the same.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.data import fingerprint
from trl_rsa.evaluation.certify import certify
from trl_rsa.evaluation.records import RecordWriter, read_records
from trl_rsa.scoring import load_scorer, score
from trl_rsa.stages.anchor import init_kwargs
from trl_rsa.stages.constraint import RiskConstraint
from trl_rsa.stages.decision import Decision
from trl_rsa.stages.interpolate import interpolate
from trl_rsa.stages.manifest import now, write_json
from trl_rsa.stages.plan import Plan
from trl_rsa.stages.runner import StageRunner
from trl_rsa.stages.stage_run import ReadyStage


@dataclass
class Ladder:
    """
    Climbs from one policy to one that meets the constraint, or to the best within the allowed rungs.

    Args:
        plan ([`Plan`]):
            For its output folder, seed, arguments and adapters.
        constraint ([`RiskConstraint`]):
            The budget.
        start (`str`):
            Folder (or Hub id) of the policy to start from.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        runner ([`StageRunner`]):
            Trains the rungs and samples from the policies.
        report (`Callable[[str], None]`):
            Where the lines about progress go.
    """

    plan: Plan
    constraint: RiskConstraint
    start: str
    processing_class: PreTrainedTokenizerBase
    runner: StageRunner
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.folder = Path(self.plan.output_dir) / "ladder"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prompts = self.constraint.split_prompts(self.plan.seed)
        options = {"kind": "cost", **self.constraint.scorer_options}
        self.scorer = load_scorer(self.constraint.scorer, **options)
        self.scheduler = self.constraint.scheduler()
        self.rounds: list[dict[str, Any]] = []

    def climb(self) -> dict[str, Any]:
        """
        Observes and acts until the scheduler stops, then certifies once.

        Returns:
            `dict`: for the manifest: `rounds`, `model` (the folder of the result), `met`, `reason`, `certified`.
        """
        self.rounds = rounds = self._recorded()
        while self.scheduler.decision is None or self.scheduler.decision.action != "stop":
            number = len(self.scheduler.trials)
            model = self._model_to_observe(self.scheduler.decision)
            records = self._respond(model, "decide", number)
            costs = [record["cost"] for record in records]
            observed = self.constraint.estimate(costs, [record["prompt"] for record in records])
            decision = self.scheduler.observe(estimate=observed["estimate"], upper_bound=observed["upper_bound"])
            rounds.append(
                {"number": number, "model": model, **asdict(self.scheduler.trials[-1]), **observed, "time": now()}
                | {"action": decision.action, "reason": decision.reason}
            )
            write_json(self.folder / "rounds.json", rounds)
            self.report(self._line(rounds[-1]))
        decision = self.scheduler.decision
        final = self._folder_of(decision.start.rung, decision.start.fraction)
        certified = self._certify(final)
        return {
            "rounds": rounds,
            "model": final,
            "multiplier": decision.best.multiplier,
            "met": decision.met,
            "reason": decision.reason,
            "certified": certified,
            "scorer": self.scorer.describe(),
            "prompts": {
                name: {"n": len(prompts), "fingerprint": fingerprint({"prompt": prompt} for prompt in prompts)}
                for name, prompts in self.prompts.items()
            },
        }

    def _recorded(self) -> list[dict[str, Any]]:
        """The observations of an earlier start, taken in again: the scheduler's state follows from them."""
        path = self.folder / "rounds.json"
        rounds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for entry in rounds:
            self.scheduler.observe(estimate=entry["estimate"], upper_bound=entry["upper_bound"])
            self.report(f"{self._line(entry)} (done already)")
        return rounds

    def _line(self, entry: dict[str, Any]) -> str:
        return (
            f"[ladder {entry['number']}] λ={entry['multiplier']:.3g}  CVaR {self.constraint.tail:g} of cost: "
            f"{entry['estimate']:.3g}, bound {entry['upper_bound']:.3g}, budget {self.constraint.threshold:g}. "
            f"{entry['reason']}"
        )

    # Models

    def _folder_of(self, rung: int, fraction: float = 1.0) -> str:
        if rung == 0:
            return self.start
        return str(self.folder / (f"rung-{rung:02d}" + ("" if fraction == 1.0 else f"-at-{fraction:.6f}")))

    def _model_to_observe(self, decision: Decision | None) -> str:
        if decision is None:
            return self.start
        folder = Path(self._folder_of(decision.rung, decision.fraction))
        if not (folder / "done.json").exists():
            if decision.action == "next_rung":
                self._train(decision, folder)
            else:
                self._walk_back(decision, folder)
            write_json(folder / "done.json", {"multiplier": decision.multiplier, "saved": now()})
        return str(folder)

    def _walk_back(self, decision: Decision, folder: Path) -> None:
        # The ends of the last rung: nothing is trained after a walk-back.
        ends = self._folder_of(decision.rung - 1), self._folder_of(decision.rung)
        interpolate(*ends, decision.fraction, folder, init_kwargs(self.plan))
        self.processing_class.save_pretrained(str(folder))

    def _train(self, decision: Decision, folder: Path) -> None:
        start = self._folder_of(decision.start.rung, decision.start.fraction)
        records = self._respond(start, "train", decision.start.number)
        eta = self.rounds[decision.start.number]["eta"]
        pairs = self.constraint.pairs(_by_prompt(records), eta, self.plan.seed + decision.rung)
        cut = sum(not record["finished"] for record in records)
        if not pairs:
            raise ValueError(
                f"You ask for another rung, but of {len(records)} responses to the train prompts {cut} were cut and "
                "the others give nothing to compare. Raise max_new_tokens, or draw more responses per prompt."
            )
        if cut:
            self.report(f"[rung {decision.rung}] {cut} of {len(records)} responses were cut and make no pairs")
        dataset = Dataset.from_list(pairs)
        title = f"[rung {decision.rung}] λ += {decision.delta_multiplier:.3g}"
        ready = ReadyStage(
            title,
            self._arguments(decision, folder),
            None if isinstance(self.constraint.risk_measure, str) else self.constraint.risk_measure,
            dataset,
            None,
            {"pairs": len(dataset), "fingerprint": fingerprint(dataset)},
        )
        self.runner.train(ready, start)

    def _arguments(self, decision: Decision, folder: Path) -> dict[str, Any]:
        measure, args = self.constraint.risk_measure, self.plan.args | self.constraint.args
        if isinstance(measure, str):
            args = args | {"risk_measure": measure}
            if measure == "entropic":
                # Constant risk aversion per unit of cost: θ_i/β_i stays, with β_i = β/Δλ.
                args = args | {"risk_theta": (args.get("risk_theta") or 1.0) / decision.delta_multiplier}
        own = {
            "beta": self.constraint.beta,
            "constraint_multiplier": decision.delta_multiplier,
            "output_dir": str(folder),
            "run_name": f"{Path(self.plan.output_dir).name}/{folder.name}",
            "seed": self.plan.seed + decision.rung,
        }
        return args | own

    # Responses

    def _respond(self, model: str, split: str, number: int) -> list[dict[str, Any]]:
        """The responses of `model` to a prompt set with their costs; those recorded before are not made again."""
        path = self.folder / f"{number:02d}-{split}.jsonl"
        prompts = self.prompts[split]
        sampling = self.constraint.sampling_of(split, self.plan.seed)
        records = list(read_records(path, scores=("cost",))) if path.exists() else []
        done = {(record["prompt_number"], record["draw"]) for record in records if record["cost"] is not None}
        if len(done) < len(prompts) * sampling.draws:
            batches = self.runner.sample(model, prompts, sampling, batch_size=self.constraint.batch_size, skip=done)
            with RecordWriter(path) as writer:
                for batch in batches:
                    for record in self._scored(batch, prompts, model):
                        writer.write(record)
                        records.append(record)
        kept = {(r["prompt_number"], r["draw"]): r for r in records if r["cost"] is not None}
        # In the order of prompts and draws, however the batches came: what follows must not depend on a kill.
        return [kept[key] for key in sorted(kept)]

    def _scored(self, batch: Sequence[Any], prompts: Sequence[Any], model: str) -> Iterator[dict[str, Any]]:
        texts = [response.text for response in batch]
        costs = score(self.scorer, [prompts[response.prompt] for response in batch], texts).require_all()
        for response, cost in zip(batch, costs, strict=True):
            yield {
                "prompt": prompts[response.prompt],
                "response": response.text,
                "cost": cost,
                "model": model,
                "seed": self.plan.seed,
                "prompt_number": response.prompt,
                "draw": response.draw,
                "finished": response.finished,
            }

    def _certify(self, model: str) -> bool:
        """One bound on prompts that nothing has seen, written beside the model."""
        path = Path(self.plan.output_dir) / "certificate.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["certified"]
        records = self._respond(model, "certify", len(self.scheduler.trials))
        certificate = certify(
            [record["cost"] for record in records],
            self.constraint.threshold,
            prompts=[record["prompt"] for record in records],
            tail=self.constraint.tail,
            confidence=self.constraint.confidence,
            bounds=self.constraint.clip,
            scorer=self.scorer.name,
            model=model,
            ledger_path=path,
            seed=self.plan.seed,
        )
        self.report(certificate.statement)
        return certificate.certified


def _by_prompt(records: Sequence[dict[str, Any]]) -> list[tuple[Any, list[tuple[str, float]]]]:
    """Finished responses by prompt. A cut one has no end, and its risk means nothing."""
    groups: dict[int, tuple[Any, list[tuple[str, float]]]] = {}
    for record in records:
        if record["finished"]:
            group = groups.setdefault(record["prompt_number"], (record["prompt"], []))
            group[1].append((record["response"], record["cost"]))
    return list(groups.values())
