"""The ladder: rungs at growing multipliers, each anchored at the last, until the bounds of all constraints hold.

Everything is written down when it is done: sampled and scored answers, observations, models. Started again after a
kill, the ladder reads them and goes on; draws are a function of seed, prompt and number, so it ends the same.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.alignment.plan import Plan
from trl_rsa.config import RSAConfig
from trl_rsa.data import fingerprint
from trl_rsa.evaluation.certificate import certify
from trl_rsa.ladder.card import add_certificates, start_card
from trl_rsa.ladder.constraint import SPLITS, prompt_key
from trl_rsa.ladder.human import load_human_pairs
from trl_rsa.ladder.joint import JointDecision, JointScheduler
from trl_rsa.ladder.live import LiveReport
from trl_rsa.ladder.observe import Answers
from trl_rsa.ladder.paired import Comparison, compare_with_chosen, in_words
from trl_rsa.ladder.pairs import with_tokens
from trl_rsa.ladder.prompts import prompt_groups, prompt_text
from trl_rsa.ladder.rounds import (
    FILE_NAME,
    Round,
    append_round,
    line_of,
    metrics_of,
    numbers_of,
    read_rounds,
    with_numbers,
)
from trl_rsa.ladder.rung import rung_arguments, rung_pairs
from trl_rsa.ladder.walk_back import interpolate
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import now
from trl_rsa.training.anchor import init_kwargs, is_adapter
from trl_rsa.training.runner import StageRunner
from trl_rsa.training.stage import ReadyStage


@dataclass
class Ladder:
    """
    Climbs from one policy to one that meets the constraints, or to the best within the allowed rungs.

    Prompts and human pairs are read when it is made, scorers when it climbs.

    Args:
        plan ([`Plan`]):
            For its constraints, output folder, seed, arguments and adapters.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        runner ([`StageRunner`]):
            Trains the rungs and samples from the policies.
        report (`Callable[[str], None]` or [`LiveReport`]):
            Where the lines about progress go.
        trained (`Iterable`, *optional*):
            The prompts of the pairs that the stages before it train on.

    Raises:
        ValueError: if prompts or human pairs cannot be used, or the engine cannot sample from what is trained.
    """

    plan: Plan
    processing_class: PreTrainedTokenizerBase
    runner: StageRunner
    report: Callable[[str], None]
    trained: InitVar[Iterable[Any]] = ()

    def __post_init__(self, trained: Iterable[Any]) -> None:
        self.output_dir = Path(self.plan.output_dir)
        self.folder = self.output_dir / "ladder"
        self.live = LiveReport(self.report)
        self.constraints = {constraint.name: constraint for constraint in self.plan.constraints}
        self.names = list(self.constraints)
        self.groups = prompt_groups(self.plan.constraints, self.plan.seed)
        self.human = self._load_human_pairs()
        self.scheduler = JointScheduler({name: c.scheduler() for name, c in self.constraints.items()})
        self.template = self.plan.constraints[0].sampling_of("train", 0).template
        self.rounds: list[Round] = []
        self.start = ""
        self.also_trained = self._count_also_trained(trained)
        _refuse_adapters_with_vllm(self.plan)
        # A wrong argument is found now, not after the first observation.
        RSAConfig(**rung_arguments(self.plan, self.plan.constraints[0], 1.0, self.folder / "rung-01", self.plan.seed))

    def describe(self) -> list[str]:
        """What it is to meet, on how many prompts, in a line per constraint."""
        return [
            f"[ladder] {name}: CVaR {c.tail:g} of cost at most {c.threshold:g}, clipped to {list(c.clip)}, in up to "
            f"{c.max_rungs} rungs; prompts: "
            + ", ".join(f"{split} {of['n']}" for split, of in self._describe_prompts(name).items())
            + (f"; {len(self.human[name].rows)} human pairs" if name in self.human else "")
            for name, c in self.constraints.items()
        ]

    def warnings(self) -> list[str]:
        """What a careful reader should know of the prompts before anything is run."""
        return [
            f"[ladder] {name}: {n} of the {len(self._prompts(name)[split])} prompts for {split!r} are also in the "
            "training pairs of a stage; on prompts that it has not seen the model may do worse. Give others."
            for name, counts in self.also_trained.items()
            for split, n in counts.items()
            if n
        ]

    def climb(self, start: str) -> dict[str, Any]:
        """
        Observes and acts until the scheduler stops, then certifies once.

        Args:
            start (`str`):
                Folder (or Hub id) of the policy to start from.

        Returns:
            `dict`: for the manifest: `rounds`, `rungs`, `model` (the folder of the result), `met`, `reason`,
            `certified`, and by constraint its budget, multiplier, scorer and prompts.
        """
        self.start = start
        self.folder.mkdir(parents=True, exist_ok=True)
        constraints = list(self.constraints.values())
        sample, seed = self.runner.sample, self.plan.seed
        self.answers = Answers(self.folder, self.groups, constraints, sample, seed, self.live)
        self._take_in_recorded()
        while (decision := self.scheduler.decision) is None or decision.action != "stop":
            self._observe(self._model_to_observe(decision))
        final = self._folder_of(decision.start.rung, decision.start.fraction)
        comparisons = {} if decision.met else self._compare(decision)
        certificates = self._certify(final)
        self._write_card(final, certificates, decision.reason)
        return self._summary(final, decision, certificates, comparisons)

    # Observations

    def _take_in_recorded(self) -> None:
        """The observations of an earlier start: the scheduler's state follows from them."""
        for entry in read_rounds(self.output_dir / FILE_NAME):
            multipliers = self._multipliers()
            numbers = numbers_of(entry, self.names)
            decision = self._decide(numbers)
            if decision.action != entry["action"] or any(
                numbers[name]["multiplier"] != multipliers[name] for name in self.names
            ):
                raise ValueError(
                    f"You resume a ladder whose {FILE_NAME} has decisions that this version does not make, but its "
                    "models were made by them. Use the version of trl-rsa that wrote it, or another output_dir."
                )
            self.rounds.append(entry)
            self._say(entry, " (done already)")

    def _observe(self, model: str) -> None:
        number, observed = len(self.rounds), {}
        for group, records in self.answers.to("decide", model, number, self.names):
            prompts = [record["prompt"] for record in records]
            cut = sum(not record["finished"] for record in records)
            for name in group.names:
                costs = [record["costs"][name] for record in records]
                observed[name] = self.constraints[name].estimate(costs, prompts, among=len(self.names)) | {"cut": cut}
        multipliers = self._multipliers()
        decision = self._decide(observed)
        trial = self.scheduler.trials[-1]
        entry = {"number": number, "model": model, "rung": trial.rung, "fraction": trial.fraction}
        numbers = {
            name: {"multiplier": multipliers[name], **observed[name]}
            | {"violation": observed[name]["upper_bound"] - self.constraints[name].threshold}
            for name in self.names
        }
        entry = with_numbers(entry, numbers) | {"action": decision.action, "reason": decision.reason, "time": now()}
        append_round(self.output_dir / FILE_NAME, entry)
        self.rounds.append(entry)
        self._say(entry)

    def _decide(self, numbers: Any) -> JointDecision:
        return self.scheduler.observe(
            estimates={name: numbers[name]["estimate"] for name in self.names},
            upper_bounds={name: numbers[name]["upper_bound"] for name in self.names},
        )

    def _multipliers(self) -> dict[str, float]:
        """Of the model that is observed next."""
        decision = self.scheduler.decision
        return dict.fromkeys(self.names, 0.0) if decision is None else decision.multipliers

    def _say(self, entry: Round, more: str = "") -> None:
        numbers = numbers_of(entry, self.names)
        met = all(numbers[name]["violation"] <= 0 for name in self.names)
        self.live(line_of(entry, list(self.constraints.values())) + more, style="green" if met else "yellow")

    # Models

    def _folder_of(self, rung: int, fraction: float = 1.0) -> str:
        if rung == 0:
            return self.start
        return str(self.folder / (f"rung-{rung:02d}" + ("" if fraction == 1.0 else f"-at-{fraction:.6f}")))

    def _model_to_observe(self, decision: JointDecision | None) -> str:
        if decision is None:
            return self.start
        folder = Path(self._folder_of(decision.rung, decision.fraction))
        if not (folder / "done.json").exists():
            made = (
                self._train(decision, folder) if decision.action == "next_rung" else self._walk_back(decision, folder)
            )
            write_json(folder / "done.json", {"multipliers": decision.multipliers, **made, "saved": now()})
        return str(folder)

    def _walk_back(self, decision: JointDecision, folder: Path) -> dict[str, Any]:
        # The ends of the last rung: nothing is trained after a walk-back.
        ends = self._folder_of(decision.rung - 1), self._folder_of(decision.rung)
        interpolate(*ends, decision.fraction, folder, init_kwargs(self.plan))
        self.processing_class.save_pretrained(str(folder))
        start_card(folder, Path(ends[1]), decision.fraction)
        return {"rung": decision.rung, "fraction": decision.fraction}

    def _train(self, decision: JointDecision, folder: Path) -> dict[str, Any]:
        start = self._folder_of(decision.start.rung, decision.start.fraction)
        raised = {name: delta for name, delta in decision.delta_multipliers.items() if delta > 0}
        answered = self.answers.to("train", start, decision.start.number, list(raised))
        observed = numbers_of(self.rounds[decision.start.number], self.names)
        etas, seed = {name: observed[name]["eta"] for name in self.names}, self.plan.seed + decision.rung
        pairs, counts = rung_pairs(answered, self.constraints, self.human, decision.delta_multipliers, etas, seed)
        settings = self.constraints[self.names[0]]
        if counts["cut"]:
            self.live(
                f"[rung {decision.rung}] {counts['cut']} of {counts['responses']} responses were cut"
                + (" and make no pairs" if settings.cut == "drop" else "")
            )
        dataset = Dataset.from_list(with_tokens(pairs, ConversationEncoder(self.processing_class, self.template)))
        ready = ReadyStage(
            f"[rung {decision.rung}] λ += {self._in_words(raised)}",
            rung_arguments(self.plan, settings, sum(raised.values()), folder, seed),
            None if isinstance(settings.risk_measure, str) else settings.risk_measure,
            dataset,
            None,
            {"pairs": len(dataset), **counts, "fingerprint": fingerprint(dataset)},
            metrics_of(self.rounds[-1], list(self.constraints.values()), decision.multipliers)
            | {"stage/rung": float(decision.rung)},
        )
        result = self.runner.train(ready, start)
        return {"rung": decision.rung, "delta_multipliers": raised, "data": ready.data, **result}

    def _in_words(self, numbers: dict[str, float]) -> str:
        if len(self.names) == 1:
            return f"{numbers[self.names[0]]:.3g}"
        return ", ".join(f"{name} {number:.3g}" for name, number in numbers.items())

    def _load_human_pairs(self) -> dict[str, Any]:
        unseen = {
            prompt_key(prompt)
            for split in ("decide", "certify")
            for group in self.groups[split]
            for prompt in group.prompts
        }
        own = self.groups["train"][0].prompts
        return {
            name: load_human_pairs(constraint, own, unseen, self.plan.seed)
            for name, constraint in self.constraints.items()
            if constraint.human_pairs is not None
        }

    # The end

    def _compare(self, decision: JointDecision) -> dict[str, list[Comparison]]:
        """By constraint: the model that is handed out against the others, paired. Said where no bound holds."""
        chosen, found = decision.best.number, {}
        costs: dict[str, dict[int, list[float]]] = {name: {} for name in self.names}
        prompts: dict[str, list[str]] = {}
        for entry in self.rounds:
            for group, records in self.answers.to("decide", entry["model"], entry["number"], self.names):
                for name in group.names:
                    costs[name][entry["number"]] = [record["costs"][name] for record in records]
                    prompts[name] = [prompt_key(record["prompt"]) for record in records]
        for name, c in self.constraints.items():
            found[name] = compare_with_chosen(costs[name], prompts[name], chosen, c.tail, c.clip, self.plan.seed)
            if found[name]:
                which = f"{name}: " if len(self.names) > 1 else ""
                self.live(f"[ladder] {which}{in_words(chosen, found[name][0], c.tail)}")
        return found

    def _certify(self, model: str) -> dict[str, Path]:
        """One bound per constraint on prompts that nothing has seen; together they spend the allowed error."""
        alone = len(self.names) == 1
        paths = {n: self.output_dir / ("certificate.json" if alone else f"certificate-{n}.json") for n in self.names}
        missing = [name for name in self.names if not paths[name].exists()]
        for group, records in self.answers.to("certify", model, len(self.rounds), missing):
            for name in (name for name in group.names if name in missing):
                constraint = self.constraints[name]
                certificate = certify(
                    [record["costs"][name] for record in records],
                    constraint.threshold,
                    prompts=[record["prompt"] for record in records],
                    tail=constraint.tail,
                    confidence=constraint.confidence_among(len(self.names)),
                    bounds=constraint.clip,
                    scorer=self.answers.scorers[name].name,
                    model=model,
                    ledger_path=paths[name],
                    n_trained=self.also_trained[name]["certify"],
                    max_new_tokens=constraint.sampling_of("certify", 0).max_new_tokens,
                    n_cut=sum(not record["finished"] for record in records),
                    seed=self.plan.seed,
                )
                self.live(certificate.statement, style="green" if certificate.certified else "red")
        return paths

    def _write_card(self, model: str, certificates: dict[str, Path], reason: str) -> None:
        folder = Path(model).resolve()
        if self.output_dir.resolve() in folder.parents:
            content = {name: _read(path) for name, path in certificates.items()}
            add_certificates(folder, certificates, content, reason)
        # Otherwise nothing was trained: the model is the user's, and its folder is left alone.

    def _summary(
        self,
        final: str,
        decision: JointDecision,
        certificates: dict[str, Path],
        comparisons: dict[str, list[Comparison]],
    ) -> dict[str, Any]:
        certified = {name: _read(path)["certified"] for name, path in certificates.items()}
        by_constraint = {
            name: {
                "threshold": constraint.threshold,
                "tail": constraint.tail,
                "multiplier": decision.multipliers[name],
                "confidence": constraint.confidence_among(len(self.names)),
                "certified": certified[name],
                "scorer": self.answers.scorers[name].describe(),
                "prompts": self._describe_prompts(name),
            }
            | ({"human_pairs": self.human[name].counts} if name in self.human else {})
            | ({"compared": comparisons[name]} if comparisons else {})
            for name, constraint in self.constraints.items()
        }
        rungs = [_read(self.folder / f"rung-{i:02d}" / "done.json") for i in range(1, self._trained() + 1)]
        summary = {"rounds": self.rounds, "rungs": rungs, "model": final, "met": decision.met}
        summary |= {"reason": decision.reason, "certified": all(certified.values())}
        return with_numbers(summary, by_constraint)

    def _trained(self) -> int:
        return max(entry["rung"] for entry in self.rounds)

    def _describe_prompts(self, name: str) -> dict[str, dict[str, Any]]:
        """Counts and fingerprints of the constraint's prompts, by set."""
        return {
            split: {"n": len(several), "fingerprint": fingerprint({"prompt": prompt} for prompt in several)}
            | ({"also_trained": self.also_trained[name][split]} if split in self.also_trained[name] else {})
            for split, several in self._prompts(name).items()
        }

    def _prompts(self, name: str) -> dict[str, Sequence[Any]]:
        return {split: next(g.prompts for g in self.groups[split] if name in g.names) for split in SPLITS}

    def _count_also_trained(self, trained: Iterable[Any]) -> dict[str, dict[str, int]]:
        """By constraint: how many of the prompts that are to judge the result the earlier stages train on."""
        seen = set(map(prompt_text, trained))
        return {
            name: {
                split: sum(prompt_text(prompt) in seen for prompt in self._prompts(name)[split])
                for split in ("decide", "certify")
            }
            for name in self.names
        }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _refuse_adapters_with_vllm(plan: Plan) -> None:
    adapter = plan.peft_config is not None or (isinstance(plan.model, str) and is_adapter(plan.model))
    if adapter and plan.constraints[0].sampling.get("engine") == "vllm":
        raise ValueError(
            "You set sampling={'engine': 'vllm'} for a plan that trains an adapter, but vLLM is given whole models "
            "here. Leave the engine out, or train all weights."
        )
