"""The ladder: rungs at growing multipliers, each anchored at the last, until the bounds of all constraints hold.

    Ladder.climb(start)
    ├── _take_in_recorded            observations of an earlier start: the scheduler's state follows from them
    ├── until the scheduler says stop:
    │   ├── _model_to_observe        what the last decision asks for
    │   │   ├── _train               ScoredResponses.collect("train")   observe.py     sample and score
    │   │   │                        rung_pairs, rung_arguments         rung.py        label, choose the temperature
    │   │   │                        runner.train                       training/      re-anchor and train
    │   │   └── _walk_back           interpolate                        merging/       between the last two rungs
    │   └── _observe                 ScoredResponses.collect("decide")  observe.py
    │                                RiskConstraint.estimate            constraint.py  estimate and bound
    │                                surprise_of                         language.py    is it language still?
    │                                LadderAudit.ask, observe           audit.py       labels for a part, if set
    │                                JointScheduler.observe             joint.py, scheduler.py   what comes next
    ├── _compare                     if nothing holds: models against the chosen one, paired by prompt
    ├── _certify                     one bound per constraint on prompts that nothing has seen
    └── _write_card, _summary

Everything is written down when it is done: sampled and scored responses, observations, models. Started again after a
kill, the ladder reads them and goes on; draws are a function of seed, prompt and number, so it ends the same.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trl_rsa.data import fingerprint
from trl_rsa.data.templates import untemplated_key
from trl_rsa.evaluation.certificate import Certificate, certify
from trl_rsa.evaluation.ledger import costs_fingerprint, prompt_sketch
from trl_rsa.ladder.audit import LadderAudit, label_cost, raise_if_waiting
from trl_rsa.ladder.card import add_certificates, start_card
from trl_rsa.ladder.constraint import RiskConstraint
from trl_rsa.ladder.done import DONE, is_done, write_done
from trl_rsa.ladder.feasibility import too_few_prompts
from trl_rsa.ladder.human import HumanPairs, load_human_pairs
from trl_rsa.ladder.joint import JointDecision, JointScheduler
from trl_rsa.ladder.language import surprise_of, warning_of
from trl_rsa.ladder.observations import (
    FILE_NAME,
    CostNumbers,
    ObservationRecord,
    append_observation,
    line_of,
    metrics_of,
    read_observations,
)
from trl_rsa.ladder.observe import ResponseRecord, ScoredResponses, given_beginnings
from trl_rsa.ladder.paired import Comparison, compare_with_chosen, in_words
from trl_rsa.ladder.pairs import with_tokens
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.prompts import PromptGroup, prompt_groups
from trl_rsa.ladder.rung import rung_arguments, rung_pairs
from trl_rsa.ladder.settings import SPLITS, RungSettings
from trl_rsa.ladder.slack import in_words as slack_in_words
from trl_rsa.ladder.slack import slack_of
from trl_rsa.ladder.summary import (
    ConstraintSummary,
    LadderSummary,
    PromptSetSummary,
    RungData,
    TrainedRungFile,
    WalkedBackFile,
)
from trl_rsa.merging.interpolation import interpolate
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import now
from trl_rsa.storage.records import prompt_of
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.configuration import make_config
from trl_rsa.training.runner import InProcess, StageRunner
from trl_rsa.training.stage import ReadyStage


@dataclass
class Ladder:
    """
    Climbs from one policy to one that meets the constraints, or to the best within the allowed rungs.

    Prompts and human pairs are read when it is made, scorers when it climbs.

    Args:
        constraints (`Sequence[RiskConstraint]`):
            What is to be met; each has a name of its own.
        settings ([`RungSettings`]):
            How the rungs are sampled, labelled and trained.
        output_dir (`Path`):
            Gets constraint.jsonl, the certificates, and the folder `ladder` with everything else.
        args (`Mapping[str, Any]`):
            [`RSAConfig`] arguments of the whole run.
        models ([`ModelSettings`]):
            How models are loaded, and what of them is trained.
        seed (`int`):
            Of the split of prompts, the draws, the labels and the trainings.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        runner ([`StageRunner`]):
            Trains the rungs and samples from the policies.
        log (`Callable[[str], None]` or [`ProgressLog`]):
            Where the lines about progress go.
        trained (`Collection[str]`, *optional*):
            [`~data.templates.untemplated_key`] of the prompts that the stages before it train on.

    Raises:
        ValueError: if prompts or human pairs cannot be used, or the engine cannot sample from what is trained.
    """

    constraints: Sequence[RiskConstraint]
    settings: RungSettings
    output_dir: Path
    args: Mapping[str, Any]
    models: ModelSettings
    seed: int
    processing_class: PreTrainedTokenizerBase
    runner: StageRunner
    log: Callable[[str], None]
    trained: InitVar[Collection[str]] = frozenset()

    def __post_init__(self, trained: Collection[str]) -> None:
        self.folder = self.output_dir / "ladder"
        self.progress = ProgressLog(self.log)
        self.by_name = {constraint.name: constraint for constraint in self.constraints}
        self.names = list(self.by_name)
        self.groups = prompt_groups(self.constraints, self.seed)
        # A prompt without the beginning that it should have is found before anything is sampled.
        for group in (group for several in self.groups.values() for group in several):
            given_beginnings(group, self.encoder())
        self._check_form()
        self._check_reward()
        self.human = self._load_human_pairs()
        self.scheduler = JointScheduler(
            {c.name: self.settings.scheduler(c.budget, c.allowed_margin) for c in self.constraints}
        )
        self.observations: list[ObservationRecord] = []
        self.start = ""
        self.also_trained = self._count_also_trained(trained)
        # A wrong argument is found now, not after the first observation.
        make_config("the rungs", self._arguments(1.0, self.folder / "rung-01", self.seed))

    def _check_form(self) -> None:
        """
        Raises:
            ValueError: if some train prompts are texts and others messages, which no rung could be trained on.
        """
        names: dict[bool, str] = {}
        for group in self.groups["train"]:
            for prompt in group.asked:
                names.setdefault(isinstance(prompt, str), group.names[0])
        if len(names) > 1:
            raise ValueError(
                f"You set train prompts of two forms, texts (of {names[True]!r}) and messages (of {names[False]!r}), "
                "but a rung has one form. Write all of them as texts, or all as messages."
            )

    def _check_reward(self) -> None:
        """
        Raises:
            ValueError: if the rungs have a reward that would never decide.
        """
        if self.settings.reward is not None and all(c.labels == "raw" for c in self.constraints):
            raise ValueError(
                "You set a reward of the rungs with labels='raw', but raw costs tell almost any two responses apart, "
                "and the reward decides between those that they do not. Set labels to 'unsafe' or 'truncated'."
            )

    def describe(self) -> list[str]:
        """What it is to meet, on how many prompts, in a line per constraint; and what decides beside cost."""
        reward = "" if self.settings.reward is None else "; of two harmless responses the reward decides"
        return [
            f"[ladder] {name}: CVaR {c.tail:g} of cost{_under(c)} at most {c.budget:g}, clipped to {list(c.bounds)}, "
            f"in up to {self.settings.max_rungs} rungs; prompts: "
            + ", ".join(f"{split} {of['n']}" for split, of in self.describe_prompts(name).items())
            + (f"; {len(self.human[name].rows)} human pairs" if name in self.human else "")
            + ("" if c.condition is None or c.condition.train else "; train prompts are answered as usual")
            + ("" if c.labels == "raw" else reward)
            for name, c in self.by_name.items()
        ]

    def warnings(self) -> list[str]:
        """What a careful reader should know of the prompts before anything is run."""
        few = [
            f"[ladder] {name}: {sentence}"
            for name, constraint in self.by_name.items()
            for split in ("decide", "certify")
            if (sentence := too_few_prompts(constraint, split, len(self.prompts_of(name)[split]), len(self.names)))
        ]
        left_out = [f"[ladder] {name}: {line}" for name, c in self.by_name.items() for line in c.left_out()]
        trained = [
            f"[ladder] {name}: {n} of the {len(self.prompts_of(name)[split])} prompts for {split!r} are also in the "
            "training pairs of a stage; on prompts that it has not seen the model may do worse. Give others."
            for name, counts in self.also_trained.items()
            for split, n in counts.items()
            if n
        ]
        return [*left_out, *few, *trained]

    def climb(self, start: str) -> LadderSummary:
        """
        Observes and acts until the scheduler stops, then certifies once.

        Args:
            start (`str`):
                Folder (or Hub id) of the policy to start from.

        Returns:
            [`LadderSummary`]: for the manifest.
        """
        self.start = start
        self.folder.mkdir(parents=True, exist_ok=True)
        self.responses = ScoredResponses(
            *(self.folder, self.groups, self.constraints, self.settings, self.runner.sample, self.seed, self.progress),
            start,
            self.encoder(),
        )
        self.audits = {
            name: LadderAudit(c, self.folder, self.progress) for name, c in self.by_name.items() if c.audit is not None
        }
        self._take_in_recorded()
        while (decision := self.scheduler.decision) is None or decision.action != "stop":
            self._observe(self._model_to_observe(decision))
        decision = self._with_later_labels(decision)
        final = self._folder_of(decision.start.rung, decision.start.fraction)
        comparisons = {} if decision.met else self._compare(decision)
        certificates = self._certify(final)
        self._write_card(final, certificates, decision.reason)
        return self._summary(final, decision, certificates, comparisons)

    # Observations

    def _take_in_recorded(self) -> None:
        """The observations of an earlier start: the scheduler's state follows from them."""
        for entry in read_observations(self.output_dir / FILE_NAME):
            multipliers, numbers = self._multipliers(), entry["constraints"]
            decision = self._decide(numbers)
            # A stop may be followed by more once max_rungs was raised.
            if entry["action"] == "stop" != decision.action:
                entry = {**entry, "action": decision.action, "reason": decision.reason}
            if decision.action != entry["action"] or any(
                numbers[name]["multiplier"] != multipliers[name] for name in self.names
            ):
                raise ValueError(
                    f"You resume a ladder whose {FILE_NAME} has decisions that this version does not make, but its "
                    "models were made by them. Use the version of trl-rsa that wrote it, or another output_dir."
                )
            self.observations.append(entry)
            self._say(entry, " (done already)")
            self._keep_done(entry["rung"])

    def _observe(self, model: str) -> None:
        number, multipliers = len(self.observations), self._multipliers()
        observed: dict[str, CostNumbers] = {}
        collected = self.responses.collect("decide", model, number, self.names)
        self._ask("decide", model, number, collected)
        for group, records in collected:
            prompts = [prompt_of(record) for record in records]
            cut = sum(not record["finished"] for record in records)
            for name in group.names:
                constraint = self.by_name[name]
                among = len(self.names)
                estimate = constraint.estimate([record["costs"][name] for record in records], prompts, among)
                audited = None
                if name in self.audits:
                    confidence = constraint.confidence_among(among)
                    estimate, audited = self.audits[name].observe(number, records, confidence, estimate)
                observed[name] = {
                    "multiplier": multipliers[name],
                    "cut": cut,
                    "violation": estimate["upper_bound"] - constraint.budget,
                    "under": constraint.under_in_words,
                    **estimate,
                }
                if audited is not None:
                    observed[name]["audit"] = audited
        decision = self._decide(observed)
        latest = self.scheduler.observations[-1]
        entry: ObservationRecord = {
            "number": number,
            "model": model,
            "rung": latest.rung,
            "fraction": latest.fraction,
            "constraints": {name: observed[name] for name in self.names},
            "surprise": self._surprise(collected),
            "action": decision.action,
            "reason": decision.reason,
            "time": now(),
        }
        append_observation(self.output_dir / FILE_NAME, entry)
        self.observations.append(entry)
        self._say(entry)

    def _surprise(self, collected: Sequence[tuple[PromptGroup, list[ResponseRecord]]]) -> float | None:
        """Of the model that the ladder starts from, where this process can load it."""
        if not isinstance(self.runner, InProcess):
            return None
        return surprise_of(collected, self.start, self.models, self.encoder(), self.settings.batch_size)

    def _ask(
        self, split: str, model: str, number: int, collected: Sequence[tuple[PromptGroup, list[ResponseRecord]]]
    ) -> None:
        """Labels for the responses of all constraints that are audited, before anything is made of them."""
        missing = {
            name: self.audits[name].ask(number, split, model, records)
            for group, records in collected
            for name in group.names
            if name in self.audits and (split == "decide" or self.audits[name].certifies)
        }
        raise_if_waiting(missing, self.audits, split, self.output_dir, number)

    def _decide(self, numbers: Mapping[str, CostNumbers]) -> JointDecision:
        return self.scheduler.observe(
            estimates={name: numbers[name]["estimate"] for name in self.names},
            upper_bounds={name: numbers[name]["upper_bound"] for name in self.names},
        )

    def _multipliers(self) -> dict[str, float]:
        """Of the model that is observed next."""
        decision = self.scheduler.decision
        return dict.fromkeys(self.names, 0.0) if decision is None else decision.multipliers

    def _say(self, entry: ObservationRecord, more: str = "") -> None:
        met = all(numbers["violation"] <= 0 for numbers in entry["constraints"].values())
        self.progress(line_of(entry, self.constraints) + more, style="green" if met else "yellow")
        warning = warning_of(entry.get("surprise"), self.observations[0].get("surprise"))
        if warning is not None:
            self.progress(f"[ladder {entry['number']}] warning: {warning}", style="red")

    # Models

    def _folder_of(self, rung: int, fraction: float = 1.0) -> str:
        if rung == 0:
            return self.start
        return str(self.folder / (f"rung-{rung:02d}" + ("" if fraction == 1.0 else f"-at-{fraction:.6f}")))

    def _model_to_observe(self, decision: JointDecision | None) -> str:
        if decision is None:
            return self.start
        folder = Path(self._folder_of(decision.rung, decision.fraction))
        if not is_done(folder):
            make = self._train if decision.action == "next_rung" else self._walk_back
            write_done(folder, make(decision, folder))
        self._keep_done(decision.rung)
        return str(folder)

    def _keep_done(self, rung: int) -> None:
        """What is said of a trained rung, beside its folder: the weights of earlier rungs may be deleted."""
        folder = Path(self._folder_of(rung))
        if rung > 0 and (folder / DONE).exists():
            content, kept = _read(folder / DONE), _kept(folder)
            if not kept.exists() or _read(kept) != content:
                write_json(kept, content)

    def _walk_back(self, decision: JointDecision, folder: Path) -> WalkedBackFile:
        # The ends of the last rung: nothing is trained after a walk-back.
        ends = self._folder_of(decision.rung - 1), self._folder_of(decision.rung)
        interpolate(*ends, decision.fraction, folder, self.models.init_kwargs, self.processing_class)
        start_card(folder, Path(ends[1]), decision.fraction)
        return {
            "rung": decision.rung,
            "multipliers": decision.multipliers,
            "fraction": decision.fraction,
        }

    def _train(self, decision: JointDecision, folder: Path) -> TrainedRungFile:
        start = self._folder_of(decision.start.rung, decision.start.fraction)
        raised = {name: delta for name, delta in decision.delta_multipliers.items() if delta > 0}
        collected = self.responses.collect("train", start, decision.start.number, list(raised))
        observed, seed = self.observations[decision.start.number]["constraints"], self.seed + decision.rung
        number, known = decision.start.number, dict.fromkeys(self.names)
        for name, audit in self.audits.items():
            known[name] = audit.labelled_cost(number)
            collected = [
                (group, audit.refreshed(number, records) if name in group.scored else records)
                for group, records in collected
            ]
        label_costs = {name: label_cost(c, observed[name]["eta"], known[name]) for name, c in self.by_name.items()}
        pairs, counts = rung_pairs(
            collected, self.by_name, self.settings, self.human, decision.delta_multipliers, label_costs, seed
        )
        if counts["cut"]:
            self.progress(
                f"[rung {decision.rung}] {counts['cut']} of {counts['responses']} responses were cut"
                + (" and make no pairs" if self.settings.cut == "drop" else "")
            )
        dataset = Dataset.from_list(with_tokens(pairs, self.encoder()))
        delta = ", ".join(f"{name} {number:.3g}" for name, number in raised.items())
        data: RungData = {"pairs": len(dataset), **counts, "fingerprint": fingerprint(dataset)}
        ready = ReadyStage(
            f"[rung {decision.rung}] λ += {delta}",
            self._arguments(sum(raised.values()), folder, seed),
            None if isinstance(self.settings.risk_measure, str) else self.settings.risk_measure,
            dataset,
            None,
            data,
            metrics_of(self.observations[-1], self.constraints, decision.multipliers)
            | {"stage/rung": float(decision.rung)},
        )
        result = self.runner.train(ready, start)
        return {
            "rung": decision.rung,
            "multipliers": decision.multipliers,
            "delta_multipliers": raised,
            "data": data,
            **result,
        }

    def _arguments(self, delta: float, folder: Path, seed: int) -> dict[str, Any]:
        return rung_arguments(self.args, self.settings, delta, folder, f"{self.output_dir.name}/{folder.name}", seed)

    def encoder(self) -> ConversationEncoder:
        """Writes prompts and responses as the policies see and write them."""
        return ConversationEncoder(self.processing_class, self.settings.sampling_of("train", self.seed).template)

    def _load_human_pairs(self) -> dict[str, HumanPairs]:
        unseen = {
            self._key(prompt)
            for split in ("decide", "certify")
            for group in self.groups[split]
            for prompt in group.prompts
        }
        own = self.groups["train"][0].prompts
        return {
            name: load_human_pairs(constraint, own, unseen, self.seed, self.processing_class.eos_token)
            for name, constraint in self.by_name.items()
            if constraint.human_pairs is not None
        }

    # The end

    def _with_later_labels(self, decision: JointDecision) -> JointDecision:
        """A bound that is audited rests on the labels that there were; those since may speak against it."""
        number, latest = decision.start.number, len(self.observations) - 1
        if not decision.met or number == latest:
            return decision
        broken: dict[str, float] = {}
        collected = self.responses.collect("decide", self.observations[number]["model"], number, list(self.audits))
        for name, records in ((name, records) for group, records in collected for name in group.names):
            constraint = self.by_name[name]
            confidence = constraint.confidence_among(len(self.names))
            bound = self.audits[name].bound_by_now(latest, records, confidence) if name in self.audits else None
            if bound is not None and bound > constraint.budget:
                broken[name] = bound
        if not broken:
            return decision
        bounds = ", ".join(
            f"{name} {bound:.4g} (budget {self.by_name[name].budget:g})" for name, bound in broken.items()
        )
        reason = (
            f"NOT met: the bounds of observation {number} held when it was made, but by the labels that came since "
            f"they do not: {bounds}. {decision.reason}"
        )
        self.progress(f"[ladder] {reason}", style="red")
        return replace(decision, met=False, unmet=tuple(broken), reason=reason)

    def _compare(self, decision: JointDecision) -> dict[str, list[Comparison]]:
        """By constraint: the model that is handed out against the others, paired. Said where no bound holds."""
        chosen, found = decision.best.number, {}
        costs: dict[str, dict[int, list[float]]] = {name: {} for name in self.names}
        prompts: dict[str, list[str]] = {}
        for entry in self.observations:
            for group, records in self.responses.collect("decide", entry["model"], entry["number"], self.names):
                for name in group.names:
                    costs[name][entry["number"]] = [record["costs"][name] for record in records]
                    prompts[name] = [prompt_key(prompt_of(record)) for record in records]
        # Not those that are audited: of their responses mostly the learned cost is known, and that is not the claim.
        for name, c in ((name, c) for name, c in self.by_name.items() if name not in self.audits):
            found[name] = compare_with_chosen(costs[name], prompts[name], chosen, c.tail, c.bounds, self.seed)
            if found[name]:
                self.progress(f"[ladder] {name}: {in_words(chosen, found[name][0], c.tail, len(set(prompts[name])))}")
        return found

    def _certify(self, model: str) -> dict[str, Path]:
        """One bound per constraint on prompts that nothing has seen; together they spend the allowed error."""
        paths = {name: self.output_dir / f"certificate-{name}.json" for name in self.names}
        number = len(self.observations)
        collected = self.responses.collect("certify", model, number, self.names)
        self._ask("certify", model, number, collected)
        for group, records in collected:
            costs = {name: [record["costs"][name] for record in records] for name in group.names}
            prompts = [prompt_of(record) for record in records]
            for name in group.names:
                constraint = self.by_name[name]
                if paths[name].exists() and self._is_certificate_of(paths[name], name, model, costs[name], records):
                    continue
                about: dict[str, Any] = {
                    "tail": constraint.tail,
                    "confidence": constraint.confidence_among(len(self.names)),
                    "bounds": constraint.bounds,
                    "scorer": self.responses.scorers[name].name,
                    "model": model,
                    "ledger_path": paths[name],
                    # After more rungs the same prompts are looked at again: at a stricter confidence, and said so.
                    "again": True,
                    "n_trained": self.also_trained[name]["certify"],
                    "max_new_tokens": self.settings.sampling_of("certify", 0).max_new_tokens,
                    "n_cut": sum(not record["finished"] for record in records),
                    "under": constraint.under_in_words,
                    "notes": self._sampling_limits(group),
                }
                if self._is_audited(name):
                    certificate: Certificate = self.audits[name].certify(number, records, **about)
                else:
                    certificate = certify(costs[name], constraint.budget, prompts=prompts, **about)
                self.progress(certificate.statement, style="green" if certificate.certified else "red")
        return paths

    def _sampling_limits(self, group: PromptGroup) -> list[str]:
        """How responses are drawn; a temperature that the budget must hold under is in the statement."""
        sampling = self.settings.sampling_of("certify", self.seed)
        if group.under is not None and group.under.temperature is not None:
            sampling = replace(sampling, temperature=1.0)
        return sampling.limits

    def _is_certificate_of(
        self, path: Path, name: str, model: str, costs: Sequence[float], records: Sequence[ResponseRecord]
    ) -> bool:
        """Whether the file is what this run made of these responses, and not one that lay there before."""
        constraint, found, prompts = self.by_name[name], _read(path), [prompt_of(record) for record in records]
        expected = {
            "scorer": self.responses.scorers[name].name,
            "budget": constraint.budget,
            "tail": constraint.tail,
            "confidence": constraint.confidence_among(len(self.names)),
            "bounds": list(constraint.bounds),
            "under": constraint.under_in_words,
            "prompt_fingerprint": prompt_sketch(prompts)[0],
            "costs_fingerprint": costs_fingerprint(map(prompt_key, prompts), costs),
        }
        same = all(found.get(key) == value for key, value in expected.items())
        same = same and self._is_same_model(found.get("model"), model)
        if not same or not self._is_audited(name):
            return same and "audit" not in found
        # Labels may have been corrected since.
        now = self.audits[name].fingerprints(len(self.observations), records)
        return "audit" in found and all(found["audit"].get(key) == value for key, value in now.items())

    def _is_same_model(self, found: Any, model: str) -> bool:
        """Also after the run's folder was moved or copied: another look would spend a share of the error."""
        if found == model or not Path(model).is_relative_to(self.output_dir):
            return bool(found == model)
        return Path(str(found)).as_posix().endswith(f"/{Path(model).relative_to(self.output_dir).as_posix()}")

    def _is_audited(self, name: str) -> bool:
        return name in self.audits and self.audits[name].certifies

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
    ) -> LadderSummary:
        certified = {name: bool(_read(path)["certified"]) for name, path in certificates.items()}
        summaries: dict[str, ConstraintSummary] = {}
        for name, constraint in self.by_name.items():
            summaries[name] = {
                "budget": constraint.budget,
                "tail": constraint.tail,
                "multiplier": decision.multipliers[name],
                "confidence": constraint.confidence_among(len(self.names)),
                "certified": certified[name],
                "scorer": self.responses.scorers[name].describe(),
                "prompts": self.describe_prompts(name),
                "under": constraint.under_in_words,
            }
            numbers = self.observations[decision.start.number]["constraints"][name]
            summaries[name]["slack"] = slack_of(constraint.budget, numbers, _read(certificates[name]))
            # With too few labels an observation is of the learned cost, too.
            labelled = (numbers["audit"]["calibrated"], self._is_audited(name)) if "audit" in numbers else None
            self.progress(slack_in_words(name, constraint.budget, summaries[name]["slack"], labelled))
            if name in self.human:
                summaries[name]["human_pairs"] = self.human[name].counts
            if name in comparisons:
                summaries[name]["compared"] = comparisons[name]
            if name in self.audits:
                summaries[name]["audit"] = self.audits[name].summary(len(self.observations) - 1)
        trained = max(entry["rung"] for entry in self.observations)
        kept = [_kept(Path(self._folder_of(rung))) for rung in range(1, trained + 1)]
        return {
            "observations": self.observations,
            "rungs": [_read(path) for path in kept if path.exists()],
            "model": final,
            "met": decision.met,
            "reason": decision.reason,
            "certified": all(certified.values()),
            "constraints": summaries,
        }

    # Prompts

    def prompts_of(self, name: str) -> dict[str, Sequence[Any]]:
        """The prompts of a constraint, by set."""
        return {split: [p for g in self.groups[split] if name in g.names for p in g.prompts] for split in SPLITS}

    def describe_prompts(self, name: str) -> dict[str, PromptSetSummary]:
        """Counts and fingerprints of the constraint's prompts, by set."""
        summaries: dict[str, PromptSetSummary] = {}
        for split, several in self.prompts_of(name).items():
            prints = fingerprint({"prompt": prompt} for prompt in several)
            summaries[split] = {"n": len(several), "fingerprint": prints}
            if split in self.also_trained[name]:
                summaries[split]["also_trained"] = self.also_trained[name][split]
        return summaries

    def _count_also_trained(self, trained: Collection[str]) -> dict[str, dict[str, int]]:
        """By constraint: how many of the prompts that are to judge the result the earlier stages train on."""
        return {
            name: {
                split: sum(self._key(prompt) in trained for prompt in self.prompts_of(name)[split])
                for split in ("decide", "certify")
            }
            for name in self.names
        }

    def _key(self, prompt: Any) -> str:
        """What tells whether the prompt is also trained on: the pairs may be in a template."""
        return untemplated_key(prompt, self.processing_class.eos_token)


def _under(constraint: RiskConstraint) -> str:
    """The condition, where one reads on."""
    return "" if constraint.under_in_words is None else f" {constraint.under_in_words}"


def _kept(folder: Path) -> Path:
    """Where a copy of a rung's done.json lies."""
    return folder.with_name(f"{folder.name}.json")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
