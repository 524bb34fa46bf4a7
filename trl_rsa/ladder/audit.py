"""The audit of one constraint on the ladder: labels for a part of the responses, and what the cost means then.

    LadderAudit.ask        draws responses of an observation and gets their labels: from a labeller, or from people
    LadderAudit.observe    refits the calibration to all labels so far, and estimates the tail of labelled harm
    LadderAudit.refreshed  the cost of responses to train prompts, as the labels have made it
    label_cost             what the pairs of a rung compare, by the calibration of the observation that it starts from
    LadderAudit.certify    one attempt at a certificate about the labels of certify prompts

Everything is on disk before the next begins, in `ladder/audit-NAME`: a start after a kill asks for nothing again.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_rsa.audits.bound import audited_cvar_bound
from trl_rsa.audits.calibration import Calibration
from trl_rsa.audits.certificate import AuditedCertificate, certify_labels, combined, fingerprints, seen_harm
from trl_rsa.audits.combine import agreement, combined_cost, wanted
from trl_rsa.audits.label_files import labels_of
from trl_rsa.audits.labelled_cost import Grades, LabelledCost
from trl_rsa.audits.load import load_labeller
from trl_rsa.audits.queue import AUDIT, AuditFile, AuditQueue, NewLabel, Request, RequestsFile
from trl_rsa.audits.refresh import Features, Labelled
from trl_rsa.audits.selection import Selection, choose
from trl_rsa.audits.steer import Foretold, foretell, foretold_cvar
from trl_rsa.evaluation.ledger import prompt_sketch, seed_of_prompts
from trl_rsa.ladder.audit_files import AuditNumbers, AuditSummary, CalibrationFile, Rated
from trl_rsa.ladder.constraint import CostEstimate, RiskConstraint
from trl_rsa.ladder.observe import ResponseRecord
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.scoring.functions import import_function
from trl_rsa.storage.digests import digest, prompt_key, response_key
from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import now
from trl_rsa.storage.records import prompt_of


# With fewer labels than this a score is taken as it is: a calibration would rest on nothing.
LEAST_LABELS = 10
_BATCH = 32  # labels that a function or a judge is asked for at a time


class WaitingForLabels(ValueError):
    """The ladder cannot go on before people have labelled. The run is as it should be: start it again then."""


class LadderAudit:
    """
    Args:
        constraint ([`RiskConstraint`]):
            Has an `audit`.
        folder (`Path`):
            The ladder's. The audit gets a folder in it.
        log ([`ProgressLog`]):
            Counts labels while they come.

    Raises:
        ValueError: if there is no such labeller.
    """

    def __init__(self, constraint: RiskConstraint, folder: Path, log: ProgressLog):
        assert constraint.audit is not None
        self.constraint, self.settings, self.log = constraint, constraint.audit, log
        self.folder = folder / f"audit-{constraint.name}"
        of = self.settings
        self.queue = AuditQueue(self.folder, of.scale, of.second, of.budget, of.seed)
        self.labeller = None if of.asks_people else load_labeller(of.labeller, of.scale, of.labeller_options)
        self.features: Features | None = import_function(of.refresh) if isinstance(of.refresh, str) else None
        self._known: tuple[Rated, LabelledCost] | None = None
        self._write_settings()

    def _write_settings(self) -> None:
        of = self.settings
        content: AuditFile = {
            "constraint": self.constraint.name,
            "labeller": "people" if self.labeller is None else self.labeller.name,
            "harm_scale": of.scale.to_dict(),
            "budget": of.budget,
            "certify_labels": of.certify_labels,
            "second": str(of.second),
            "combine": of.combine,
            "seed": of.seed,
        }
        path = self.folder / AUDIT
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != content:
            write_json(path, content)

    # Labels

    def ask(self, number: int, split: str, model: str, records: Sequence[ResponseRecord]) -> int:
        """Draws responses once, and gets the labels that are missing where a labeller is at hand.

        Returns:
            `int`: how many labels are missing still.
        """
        missing = 0
        for round_number in self._rounds(number, split, records):
            if self.queue.draw(number, split, round_number) is None:
                self._draw(number, split, round_number, model, records)
            draws = self._decide_draws() if split == "decide" else self._draws_to_certify(number)
            if self.labeller is not None:
                self._label(draws)
            missing = len(self.queue.missing(draws))
            if missing and self.waits(split):
                return missing
        return missing

    def _rounds(self, number: int, split: str, records: Sequence[ResponseRecord]) -> Iterator[int]:
        """The draws of an observation by number, from 1. Whether there is one to confirm depends on those before."""
        if split == "certify":
            yield 1
            return
        yield from range(1, self.settings.rounds + 1)
        confirming = self.settings.rounds + 1
        if self.settings.kept_back and (
            self.queue.draw(number, split, confirming) is not None or self._may_be_met(number, confirming, records)
        ):
            yield confirming

    def _may_be_met(self, number: int, round_number: int, records: Sequence[ResponseRecord]) -> bool:
        """Whether the estimate is within the budget by the labels so far."""
        known = self._known_so_far(number, round_number)
        if known is None:
            return False
        scores, tail = self._scores(known, records), self.constraint.tail
        return foretold_cvar(known.calibration, scores, _prompts(records), tail) <= self.constraint.budget

    @property
    def certifies(self) -> bool:
        """Whether the certificate is about labels."""
        return self.settings.certify_labels > 0

    def waits(self, split: str) -> bool:
        """Whether the ladder ends its run for labels that are missing. A certificate without them would be lost."""
        return self.labeller is None and (self.settings.wait or split == "certify")

    def _draw(self, number: int, split: str, round_number: int, model: str, records: Sequence[ResponseRecord]) -> None:
        labels, uniform = self.settings.drawn_of(split, number, round_number)
        if split != "certify":
            labels = min(labels, self._affordable(round_number))
        seed = self._seed(number, round_number) if split == "decide" else seed_of_prompts(_sketch(records))
        requests, drawn = list[Request](), None
        if labels > 0:
            scores = self._scores(self._known_so_far(number, round_number), records)
            drawn = choose(_names(records), scores, labels, uniform, seed, _prompts(records))
            for place in map(int, np.flatnonzero(drawn.chosen)):
                record = records[place]
                requests.append(
                    {
                        "id": response_key(prompt_of(record), record["response"]),
                        "prompt": prompt_of(record),
                        "response": record["response"],
                        "score": float(record["costs"][self.constraint.name]),
                        "probability": float(drawn.probabilities[place]),
                        "prompt_number": record["prompt_number"],
                        "draw": record["draw"],
                    }
                )
        content: RequestsFile = {
            "observation": number,
            "split": split,
            "round": round_number,
            "model": model,
            "seed": seed,
            "least": 0.0 if drawn is None else drawn.least,
            "probabilities": [] if drawn is None else drawn.probabilities.tolist(),
            "time": now(),
            "requests": requests,
        }
        self.queue.add_draw(content)

    def _known_so_far(self, number: int, round_number: int) -> LabelledCost | None:
        """What a draw knows: the labels of the observation before, and with several rounds those that came since."""
        if round_number == 1:
            return self.labelled_cost(number - 1) if number else None
        rated = self._rated(number)
        return self._fit(rated) if len(rated["ids"]) >= LEAST_LABELS else None

    def _scores(self, known: LabelledCost | None, records: Sequence[ResponseRecord]) -> NDArray[np.float64]:
        """What responses are ranked by: their learned cost, refreshed by labels."""
        learned = np.array([record["costs"][self.constraint.name] for record in records])
        if known is None:
            return learned
        return known.scores([prompt_of(r) for r in records], [r["response"] for r in records], learned)

    def _seed(self, number: int, round_number: int) -> int:
        """Each draw has its own: the same prompts are drawn from again."""
        return int.from_bytes(digest(f"{self.settings.seed} {number} {round_number}")[:4], "big")

    def _affordable(self, round_number: int) -> int:
        """Responses whose labels the budget pays for, with the second and third ones that they are likely to need.

        A disagreement that is never settled counts as the worse label, and one wrong label in a twentieth of the
        responses is a tail. So the last labels are for settling. A draw has a few responses more or less than it is
        asked for: two standard deviations are left. And what `confirm` keeps back is left until it has been drawn.
        """
        draws = self._decide_draws()
        confirming = round_number > self.settings.rounds
        confirmed = any(draw["round"] > self.settings.rounds and draw["requests"] for draw in draws)
        kept = 0 if confirming or confirmed else self.settings.kept_back
        most = max(0, self._left(draws) - kept) / self._labels_of_each(draws)
        return int((math.sqrt(most + 1) - 1) ** 2)

    def _labels_of_each(self, draws: Sequence[RequestsFile]) -> float:
        """How many labels a response takes on average, at most: three, or by the latest draw of which all first labels
        are there (two standard errors)."""
        if not self.settings.second:
            return 1.0
        grades, of = self.queue.grades(), self.settings
        for requests in (draw["requests"] for draw in reversed(draws) if draw["requests"]):
            own = [(request["id"], grades.get(request["id"], [])) for request in requests]
            if all(labels for _, labels in own):
                several = sum(wanted(key, labels, of.scale, of.second, of.seed) > 1 for key, labels in own)
                share = (several + 1) / (len(own) + 1)
                return 1 + 2 * min(1.0, share + 2 * math.sqrt(share * (1 - share) / (len(own) + 1)))
        return 3.0

    def _left(self, draws: Sequence[RequestsFile]) -> int:
        """Labels that are neither there nor may be asked for of what was drawn."""
        grades, most = self.queue.grades(), 3 if self.settings.second else 1
        pending = (most - len(grades.get(r["id"], ())) for r in self.queue.missing(draws))
        return self.settings.budget - self._spent() - sum(pending)

    def _decide_draws(self) -> list[RequestsFile]:
        return [draw for draw in self.queue.draws() if draw["split"] != "certify"]

    def _draws_to_certify(self, number: int) -> list[RequestsFile]:
        """Those of this observation: after "NOT met" and more rungs, an earlier one's certificate is never made."""
        draws = self.queue.draws()
        return [draw for draw in draws if draw["split"] == "certify" and draw["observation"] == number]

    def _spent(self) -> int:
        return self.queue.spent() - self.queue.spent("certify")

    def _label(self, draws: Sequence[RequestsFile]) -> None:
        assert self.labeller is not None
        silent: set[str] = set()
        while missing := [request for request in self.queue.missing(draws) if request["id"] not in silent]:
            grades = self.queue.grades()
            # First labels before second ones: a start after a kill spends the budget on the same labels.
            fewest = min(len(grades.get(request["id"], ())) for request in missing)
            missing = [request for request in missing if len(grades.get(request["id"], ())) == fewest]
            with self.log.counting(f"[audit] {self.constraint.name}: labels", 0, len(missing)) as advance:
                for start in range(0, len(missing), _BATCH):
                    batch = missing[start : start + _BATCH]
                    numbers = [len(grades.get(request["id"], ())) + 1 for request in batch]
                    found = self.labeller.grades(
                        [request["prompt"] for request in batch], [request["response"] for request in batch], numbers
                    )
                    silent |= {r["id"] for r, grade in zip(batch, found, strict=True) if grade is None}
                    labels: list[NewLabel] = [
                        {"id": request["id"], "grade": grade, "labeller": f"{self.labeller.name} {n}"}
                        for request, grade, n in zip(batch, found, numbers, strict=True)
                        if grade is not None
                    ]
                    self.queue.add_labels(labels, "ladder")
                    advance(len(batch))
        if silent:
            self.log(f"[audit] {self.constraint.name}: {self.labeller.name} gave no grade for {len(silent)} responses")

    # What follows from them

    def observe(
        self, number: int, records: Sequence[ResponseRecord], confidence: float, learned: CostEstimate
    ) -> tuple[CostEstimate, AuditNumbers]:
        """The estimates of labelled harm in place of those of the learned cost, once there are labels enough.

        Args:
            number (`int`), records (`Sequence[dict]`):
                The observation, and its responses to the decide prompts.
            confidence (`float`):
                Of the bound.
            learned (`CostEstimate`):
                Of the learned cost.
        """
        grades, rated = self.queue.grades(), self._rated(number)
        numbers: AuditNumbers = {
            "drawn": sum(len(draw["requests"]) for draw in self._decide_draws() if draw["observation"] == number),
            "labels": self._spent(),
            "missing": len(self.queue.missing(self._decide_draws())),
            "rated": len(rated["ids"]),
            "calibrated": len(rated["ids"]) >= LEAST_LABELS,
            "agreement": agreement(grades),
            "learned_estimate": learned["estimate"],
            "learned_upper_bound": learned["upper_bound"],
        }
        content: CalibrationFile = {"observation": number, "numbers": numbers, "rated": rated}
        write_json(self._calibration_path(number), content)
        known = self.labelled_cost(number)
        if known is None:
            return learned, numbers
        found = self._foretold(known, records, confidence)
        estimate, bound = found.estimate, found.upper_bound
        if self.settings.bound == "betting":
            estimate, bound = self._bet(number, records, confidence)
        return {
            **learned,
            "mean_cost": found.mean,
            "unsafe_rate": found.unsafe_rate,
            "eta": found.eta,
            "estimate": estimate,
            "upper_bound": bound,
        }, numbers

    def bound_by_now(self, latest: int, records: Sequence[ResponseRecord], confidence: float) -> float | None:
        """The bound for the responses of an earlier observation by the labels that there were at the `latest` one.
        None where it would be no other: it rests on no labels, or on those of one policy alone."""
        known = self.labelled_cost(latest)
        if known is None or self.settings.bound == "betting":
            return None
        return self._foretold(known, records, confidence).upper_bound

    def _foretold(self, known: LabelledCost, records: Sequence[ResponseRecord], confidence: float) -> Foretold:
        scores, tail = self._scores(known, records), self.constraint.tail
        return foretell(
            known.calibration,
            scores,
            _prompts(records),
            tail,
            confidence,
            self.settings.seed,
            self.settings.scale.costs,
        )

    def _bet(self, number: int, records: Sequence[ResponseRecord], confidence: float) -> tuple[float, float]:
        """Estimate and bound from the labels of this observation alone. Labels of earlier ones only help to predict:
        what predicts must not have seen the labels that the bound rests on."""
        draw, high = self.queue.draw(number, "decide", 1), self.constraint.bounds[1]
        if draw is None or not draw["requests"]:  # the budget of labels is spent
            return high, high
        before = self.labelled_cost(number - 1) if number else None
        drawn, labels = self._drawn(draw, records)
        harm, _ = combined(labels, self.settings.combine)
        found = audited_cvar_bound(
            self._scores(before, records),
            seen_harm(harm, drawn, high),
            drawn.probabilities,
            tail=self.constraint.tail,
            bounds=self.constraint.bounds,
            confidence=confidence,
            keys=_prompts(records),
            seed=draw["seed"],
            least=drawn.least,
            pilot=None if before is None else before.calibration,
        )
        return found.estimate, found.upper_bound

    def _drawn(self, draw: RequestsFile, records: Sequence[ResponseRecord]) -> tuple[Selection, NDArray[np.float64]]:
        """A draw as it was made, and the labels `[n, k]` of all responses, NaN where there is none."""
        costs, names = self.settings.scale.costs, _names(records)
        drawn = {f"{request['id']}-{request['draw']}" for request in draw["requests"]}
        labels = labels_of(names, {key: [costs[g] for g in own] for key, own in self.queue.grades().items()})
        chosen = np.array([name in drawn for name in names])
        return Selection(np.asarray(draw["probabilities"]), chosen, draw["least"]), labels

    def _rated(self, number: int) -> Rated:
        """Every response with a label, once, as the latest draw has it. Labels of earlier observations count less.

        A draw prefers responses whose learned cost is high. What it hardly looks at stands for more: a label weighs
        one by its probability, or the harm among low costs would be averaged away by their neighbours.
        """
        grades, found = self.queue.grades(), dict[str, tuple[float, float, float]]()
        for draw in self._decide_draws():
            several = draw["requests"]
            # Within a draw the weights have the mean `memory` to its power: as many labels count for as much.
            each = len(several) / sum(1 / request["probability"] for request in several) if several else 0.0
            each *= self.settings.memory ** (number - draw["observation"])
            for request in several:
                own = grades.get(request["id"])
                if own:
                    cost = combined_cost(own, self.settings.scale, self.settings.combine)
                    found[request["id"]] = request["score"], cost, each / request["probability"]
        return {
            "ids": list(found),
            "scores": [score for score, _, _ in found.values()],
            "labels": [cost for _, cost, _ in found.values()],
            "weights": [weight for _, _, weight in found.values()],
            "grades": [grades[key] for key in found],
        }

    def _calibration_path(self, number: int) -> Path:
        return self.folder / f"calibration-{number:02d}.json"

    def labelled_cost(self, number: int) -> LabelledCost | None:
        """What the observation was judged by; None where there were too few labels."""
        content = json.loads(self._calibration_path(number).read_text(encoding="utf-8"))
        if not content["numbers"]["calibrated"]:
            return None
        return self._fit(content["rated"])

    def _fit(self, rated: Rated) -> LabelledCost:
        if self._known is None or self._known[0] != rated:
            texts = {request["id"]: request for draw in self.queue.draws() for request in draw["requests"]}
            labelled = Labelled(
                [texts[key]["prompt"] for key in rated["ids"]],
                [texts[key]["response"] for key in rated["ids"]],
                rated["scores"],
                rated["labels"],
            )
            # A calibration of an earlier version knows no grades: its labels are taken as they are.
            several = rated.get("grades") if self.settings.errors else None
            grades = None if several is None else Grades(several, self.settings.scale.costs)
            fitted = LabelledCost.fit(labelled, rated["weights"], bool(self.settings.refresh), self.features, grades)
            self._known = rated, fitted
        return self._known[1]

    def refreshed(self, number: int, records: Sequence[ResponseRecord]) -> list[ResponseRecord]:
        """The records with what the observation's labels make of the cost, where it is refreshed."""
        name, scores = self.constraint.name, self._scores(self.labelled_cost(number), records)
        return [
            {**record, "costs": {**record["costs"], name: float(score)}}
            for record, score in zip(records, scores, strict=True)
        ]

    def summary(self, number: int) -> AuditSummary:
        """After the ladder's last observation."""
        summary: AuditSummary = {
            "labels": self._spent(),
            "certify_labels": self.queue.spent("certify"),
            "budget": self.settings.budget,
            "labeller": "people" if self.labeller is None else self.labeller.name,
            "agreement": agreement(self.queue.grades()),
        }
        known = self.labelled_cost(number)
        if known is not None:
            if known.error_rate is not None:
                summary["error_rate"] = known.error_rate
            knots = np.unique(known.calibration.scores)
            assert self._known is not None  # what `known` was fitted to
            rated = self._known[0]
            summary["calibration"] = Calibration.fit(known.own, rated["labels"], rated["weights"]).to_dict()
            summary["curve"] = {"scores": knots.tolist(), "expected": known.calibration.predict(knots).tolist()}
        return summary

    def fingerprints(self, number: int, records: Sequence[ResponseRecord]) -> dict[str, str]:
        """What stands for the draw and the labels of the certify prompts, as they are now."""
        _, drawn, labels = self._certify_draw(number, records)
        harm, _ = combined(labels, self.settings.combine)
        return fingerprints(seen_harm(harm, drawn, self.constraint.bounds[1]), drawn, _names(records))

    def _certify_draw(
        self, number: int, records: Sequence[ResponseRecord]
    ) -> tuple[int, Selection, NDArray[np.float64]]:
        """Its seed, the draw as it was made, and the labels."""
        draw = self.queue.draw(number, "certify", 1)
        assert draw is not None
        return draw["seed"], *self._drawn(draw, records)

    def certify(self, number: int, records: Sequence[ResponseRecord], **about: Any) -> AuditedCertificate:
        """One attempt at a certificate about the labels of the certify prompts.

        The learned cost as it is predicts labels: with the labels and the draw the certificate can be checked from the
        records (`trl-rsa certify --verify`).

        Args:
            number (`int`), records (`Sequence[dict]`):
                As they were asked about, under "certify".
            about:
                Further arguments of [`~audits.certificate.certify_labels`].
        """
        seed, drawn, labels = self._certify_draw(number, records)
        return certify_labels(
            labels,
            self.constraint.budget,
            drawn=drawn,
            scores=[record["costs"][self.constraint.name] for record in records],
            prompts=[prompt_of(record) for record in records],
            responses=_names(records),
            seed=seed,
            combine=self.settings.combine,
            **about,
        )


def _names(records: Sequence[ResponseRecord]) -> list[str]:
    return [f"{response_key(prompt_of(record), record['response'])}-{record['draw']}" for record in records]


def _sketch(records: Sequence[ResponseRecord]) -> str:
    return prompt_sketch([prompt_key(prompt_of(record)) for record in records])[0]


def _prompts(records: Sequence[ResponseRecord]) -> list[str]:
    return [str(prompt_key(prompt_of(record))) for record in records]


def label_cost(
    constraint: RiskConstraint, eta: float, known: LabelledCost | None
) -> Callable[[float], tuple[float, float]]:
    """From a cost, refreshed if it is, to what a pair compares and to the cost that breaks ties.

    Calibrated, it is the expected excess of the label over η given the cost: the label itself is known of few
    responses, and its expectation leads to the same optimum of what is compared.
    """
    if known is None:
        return lambda cost: (constraint.label_cost(cost, eta), cost)
    knots = np.unique(known.calibration.scores)
    expected = known.calibration.predict(knots)
    if constraint.labels == "raw":
        compared = expected
    else:
        compared = known.calibration.excess(knots, constraint.label_eta(eta)) / constraint.tail
    return lambda cost: (float(np.interp(cost, knots, compared)), float(np.interp(cost, knots, expected)))


def raise_if_waiting(
    missing: Mapping[str, int], audits: Mapping[str, LadderAudit], split: str, run: Path, number: int
) -> None:
    """
    Raises:
        WaitingForLabels: if labels are missing of a constraint that is set to wait for them.
    """
    waiting = {name: n for name, n in missing.items() if n and audits[name].waits(split)}
    if not waiting:
        return
    counts = " and ".join(f"{n} labels of {name!r}" for name, n in waiting.items())
    of = f" --constraint {next(iter(waiting))}" if len(audits) > 1 else ""
    what = "for the certificate" if split == "certify" else f"of observation {number}"
    raise WaitingForLabels(
        f"The ladder waits for {counts}, {what}. Write the responses out with `trl-rsa audit next {run}{of} --output "
        f"tasks.csv`, read the labels in with `trl-rsa audit import {run}{of} tasks.csv`, and start this command "
        "again: it goes on from here."
    )
