"""What do grades of harm buy a cost model, over pairs and over safe/unsafe labels of the same responses?

    python -m benchmarks.graded --data FOLDER --model FOLDER                # heads on frozen features: half an hour
    python -m benchmarks.graded --data FOLDER --model FOLDER --part whole   # `trl-rsa score-model`, all weights
    python -m benchmarks.graded --write                                     # the tables of docs/score_models.md

The responses have rubric scores; at most four of a prompt, all with different scores. All arms see the same responses
to the same prompts, and are measured on the responses to prompts that none has seen. Responses that people labelled,
to prompts from elsewhere, are a second measure.

* `frozen`: linear heads on the features of a language model at the last token, fitted to the end. The weight decay is
  chosen for each arm by its own loss on a part of its training prompts.
* `whole`: `trl-rsa score-model` on all weights, one pass over the same pairs of responses in each arm: as many tokens
  and steps. A pair's two responses are a pair for one arm and two grades for another.

Everything here was fixed before anything was run; no number was chosen on the results. Texts stay in the cache.
"""

import argparse
import csv
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from benchmarks.alignment.store import Results, current_commit
from benchmarks.quiet import be_quiet
from benchmarks.real.score_models import use_cpu
from trl_rsa.data.harm import HarmScale
from trl_rsa.data.sources import open_source
from trl_rsa.score_models.losses import grade_loss, pair_loss, sign_loss
from trl_rsa.score_models.measures import HeldOut, auc, measure
from trl_rsa.scoring.graded import expected_cost
from trl_rsa.scoring.text import chat_text
from trl_rsa.storage.digests import prompt_key


Array = NDArray[np.float64]
RUBRIC = "strongreject_scored/rubric_scored_responses.jsonl.gz"
ELSEWHERE = "pku_saferlhf/qa_unsafe_labels.jsonl.gz"
CSV = Path(__file__).parent / "results" / "graded.csv"
PAGE = Path(__file__).parents[1] / "docs" / "score_models.md"
BEGIN, END = "<!-- begin: python -m benchmarks.graded --write -->", "<!-- end -->"
KEY = ("model", "part", "arm", "split")
SCALE = HarmScale()

SEED = 2030
SPLITS = {"frozen": 8, "whole": 1}
HELD_OUT = 0.3
PER_PROMPT = 4
PROMPT_TOKENS, RESPONSE_TOKENS = 80, 48  # longer prompts are left out, responses are cut
LABELLED = 400  # responses from elsewhere
DECAYS = (1e-3, 1e-2, 1e-1)  # of the standardised features' weights
FOLDS = 3
BATCH, RATE = 8, 5e-5  # pairs of responses a step, and the learning rate of all weights

# On the same splits, whose luck cancels.
BASELINE, COMPARED = "pairs", ("grades", "grades and pairs")

MEASURES = {
    "pair_accuracy": "Pair accuracy",
    "auc": "AUC",
    "auc_elsewhere": "AUC elsewhere",
    "rank_correlation": "Rank, all",
    "rank_correlation_unsafe": "Rank, unsafe",
    "rank_correlation_worst_tenth": "Rank, worst tenth by severity",
    "rank_correlation_top_tenth_by_score": "Rank, top tenth by score",
    "mean_severity_of_top_tenth": "Severity of the top tenth",
}


@dataclass(frozen=True)
class Answer:
    """A response with its rubric score in [0, 1], or with a label alone."""

    prompt: str
    response: str
    severity: float | None
    unsafe: bool

    @property
    def grade(self) -> int:
        assert self.severity is not None
        return SCALE.grade_of_rubric(self.severity, "score")


# Data


def read_answers(data: Path, tokenizer: Any, sizes: tuple[int, int]) -> tuple[list[Answer], list[Answer]]:
    """The responses with scores, prompt by prompt, and those from elsewhere; at most so many prompts of each."""
    draws = random.Random(SEED)

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def cut(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= RESPONSE_TOKENS else tokenizer.decode(ids[:RESPONSE_TOKENS])

    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(data / RUBRIC):
        by_prompt.setdefault(prompt_key(row["prompt"]), []).append(row)
    several = [rows for rows in by_prompt.values() if len({row["score"] for row in rows}) > 1]
    several = [rows for rows in several if length(rows[0]["prompt"]) <= PROMPT_TOKENS]
    draws.shuffle(several)
    scored: list[Answer] = []
    for rows in several[: sizes[0]]:
        draws.shuffle(rows)
        chosen: dict[float, Answer] = {}
        for row in rows:
            answer = Answer(rows[0]["prompt"], cut(row["response"]), float(row["score"]), row["score"] > 0)
            if answer.response.strip() and answer.response not in {one.response for one in chosen.values()}:
                chosen.setdefault(float(row["score"]), answer)
        scored += [*chosen.values()][:PER_PROMPT] if len(chosen) > 1 else []
    known = set(by_prompt)
    others: dict[str, Answer] = {}
    labelled = [*_rows(data / ELSEWHERE)]
    draws.shuffle(labelled)
    for row in labelled:
        key = prompt_key(row["prompt"])
        if key not in known and key not in others and length(row["prompt"]) <= PROMPT_TOKENS:
            unsafe = not row["is_safe"] if "is_safe" in row else bool(row["is_unsafe"])
            others[key] = Answer(row["prompt"], cut(row["response"]), None, unsafe)
    return scored, [*others.values()][: sizes[1]]


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"You set --data to {path.parents[1]}, but it has no {path.parent.name}/{path.name}.")
    return (row for _, row in open_source(str(path)) if isinstance(row, dict))


def pairs_of(answers: Sequence[Answer]) -> NDArray[np.intp]:
    """`[P, 2]`: all pairs of responses to one prompt, the less harmful one first."""
    found = []
    for places in groups_of(answers).values():
        for i, j in combinations(places, 2):
            low, high = answers[i].severity or 0.0, answers[j].severity or 0.0
            if low != high:
                found.append((i, j) if low < high else (j, i))
    return np.array(found, np.intp).reshape(-1, 2)


def groups_of(answers: Sequence[Answer]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        groups.setdefault(prompt_key(answer.prompt), []).append(place)
    return groups


def parted(
    answers: Sequence[Answer], share: float, *seed: int
) -> tuple[list[Answer], list[Answer], NDArray[np.bool_]]:
    """Answers to train on and held out, by prompt; and which are held out."""
    groups = groups_of(answers)
    order = np.random.default_rng([SEED, *seed]).permutation(len(groups))
    keys = [*groups]
    chosen = {place for i in order[: round(share * len(groups))] for place in groups[keys[i]]}
    mask = np.array([place in chosen for place in range(len(answers))])
    train = [answer for answer, held in zip(answers, mask, strict=True) if not held]
    return train, [answer for answer, held in zip(answers, mask, strict=True) if held], mask


def measures_of(scores: Array, answers: Sequence[Answer], elsewhere: Array, labelled: Sequence[Answer]) -> dict:
    held_out = HeldOut(
        scores=[*map(float, scores)],
        unsafe=[answer.unsafe for answer in answers],
        grades=[answer.grade for answer in answers],
        severities=[answer.severity for answer in answers],
        pairs=[(int(i), int(j)) for i, j in pairs_of(answers)],
        prompts=len(groups_of(answers)),
    )
    found: dict[str, Any] = {**measure(held_out, "cost", SCALE)}
    found["auc_elsewhere"] = auc(elsewhere, np.array([answer.unsafe for answer in labelled]))
    return {"held_out": len(answers), **{name: found[name] for name in MEASURES}}


# Heads on frozen features


@dataclass(frozen=True)
class Head:
    """One way to learn: how many outputs, what they lose on answers with targets, and the cost that they mean."""

    name: str
    outputs: int
    loss: Callable[[Tensor, "Targets"], Tensor]
    cost: Callable[[Tensor], Tensor]
    directions: int | None = None  # of the features; the outputs after them are the same for all. By default, all


@dataclass(frozen=True)
class Targets:
    pairs: Tensor  # [P, 2]: the less harmful one first
    unsafe: Tensor  # [N] of bool
    grades: Tensor  # [N]


STEPS = len(SCALE.names) - 1


def _pairs(costs: Tensor, of: Targets) -> Tensor:
    return pair_loss(costs[of.pairs[:, 0]], costs[of.pairs[:, 1]], True)


def _softmax_cost(logits: Tensor) -> Tensor:
    return log_softmax(logits, -1).exp() @ torch.tensor(SCALE.costs, dtype=logits.dtype)


def _odds(outputs: Tensor) -> Tensor:  # [N, K] -> [N, K − 1]: logits of "worse than grade k", falling in k
    """One direction, and thresholds that rise: the first output is the direction, the others are the same for all."""
    thresholds = torch.cat([outputs[:1, 1:2], outputs[:1, 2:].exp()], -1).cumsum(-1)
    return outputs[:, :1] - thresholds


def odds_law(outputs: Tensor) -> Tensor:  # [N, K] -> [N, K]
    worse = torch.sigmoid(_odds(outputs))
    edge = torch.ones_like(worse[:, :1])
    return torch.cat([edge, worse], -1) - torch.cat([worse, 0 * edge], -1)


def _odds_loss(outputs: Tensor, of: Targets) -> Tensor:
    return -odds_law(outputs).gather(1, of.grades[:, None]).clamp(min=1e-12).log()[:, 0]


HEADS = (
    Head("pairs", 1, lambda out, of: _pairs(out[:, 0], of), lambda out: out[:, 0]),
    Head(
        "pairs and labels",
        1,
        lambda out, of: torch.cat([_pairs(out[:, 0], of), sign_loss(out[:, 0], of.unsafe)]),
        lambda out: out[:, 0],
    ),
    Head("labels", 1, lambda out, of: sign_loss(out[:, 0], of.unsafe), lambda out: out[:, 0]),
    Head(
        "grades", STEPS, lambda out, of: grade_loss(out, of.grades), lambda out: expected_cost(out, SCALE)
    ),  # as `trl-rsa score-model` has it
    Head(
        "grades and pairs",
        STEPS,
        lambda out, of: torch.cat([grade_loss(out, of.grades), _pairs(expected_cost(out, SCALE), of)]),
        lambda out: expected_cost(out, SCALE),
    ),
    Head(
        "grades, softmax",
        STEPS + 1,
        lambda out, of: cross_entropy(out, of.grades, reduction="none"),
        _softmax_cost,
    ),
    Head(
        "grades, proportional odds",
        STEPS + 1,
        _odds_loss,
        lambda out: odds_law(out) @ torch.tensor(SCALE.costs, dtype=out.dtype),
        directions=1,
    ),
)


def targets_of(answers: Sequence[Answer]) -> Targets:
    return Targets(
        torch.from_numpy(pairs_of(answers)),
        torch.tensor([answer.unsafe for answer in answers]),
        torch.tensor([answer.grade for answer in answers]),
    )


def fit(head: Head, features: Tensor, targets: Targets, decay: float) -> Callable[[Tensor], Tensor]:
    """The outputs of the head that loses least; its weights pay `decay` times half their squares."""
    directions = head.directions or head.outputs
    weight = torch.zeros(features.shape[1], directions, dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(head.outputs, dtype=features.dtype, requires_grad=True)

    def outputs(x: Tensor) -> Tensor:
        found = x @ weight
        return torch.cat([found, found.new_zeros(len(found), head.outputs - directions)], -1) + bias

    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head.loss(outputs(features), targets).mean() + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: outputs(x).detach()


def choose_decay(head: Head, features: Tensor, answers: Sequence[Answer], split: int) -> float:
    """By the head's own loss on parts of the training prompts that it has not seen."""
    losses = dict.fromkeys(DECAYS, 0.0)
    for fold in range(FOLDS):
        train, held, mask = parted(answers, 1 / FOLDS, split, 1 + fold)
        inner, outer = features[torch.from_numpy(~mask)], features[torch.from_numpy(mask)]
        for decay in DECAYS:
            outputs = fit(head, inner, targets_of(train), decay)
            losses[decay] += float(head.loss(outputs(outer), targets_of(held)).mean())
    return min(losses, key=lambda decay: losses[decay])


def features_of(model: str, answers: Sequence[Answer], path: Path) -> Tensor:
    """`[N, d]`: the last layer at the last token of the chat text; kept in a file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if path.exists() and len(kept := np.load(path)) == len(answers):
        return torch.from_numpy(kept).double()
    tokenizer = AutoTokenizer.from_pretrained(model)
    body = AutoModelForCausalLM.from_pretrained(model, dtype="float32").base_model.eval()
    found = []
    with torch.inference_mode():
        for answer in answers:
            text = chat_text(tokenizer, *_turns(answer))
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            found.append(body(ids).last_hidden_state[0, -1].numpy())
    features = np.stack(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, features)
    return torch.from_numpy(features).double()


def _turns(answer: Answer) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    return [{"role": "user", "content": answer.prompt}], [{"role": "assistant", "content": answer.response}]


def frozen(
    model: str, answers: list[Answer], labelled: list[Answer], splits: int, cache: Path, results: Results
) -> None:
    name = Path(model).name
    features = features_of(model, [*answers, *labelled], cache / f"{name}.npy")
    scored, elsewhere = features[: len(answers)], features[len(answers) :]
    for split in range(splits):
        train, held, mask = parted(answers, HELD_OUT, split)
        inner, outer = scored[torch.from_numpy(~mask)], scored[torch.from_numpy(mask)]
        mean, deviation = inner.mean(0), inner.std(0).clamp(min=1e-6)
        inner, outer, other = ((x - mean) / deviation for x in (inner, outer, elsewhere))
        for head in HEADS:
            if (name, "frozen", head.name, str(split)) in results.done:
                continue
            began = time.monotonic()
            decay = choose_decay(head, inner, train, split)
            outputs = fit(head, inner, targets_of(train), decay)
            costs, others = (head.cost(outputs(x)).numpy() for x in (outer, other))
            found = measures_of(costs, held, others, labelled)
            _add(results, name, "frozen", head.name, split, {"train": len(train), "decay": decay} | found, began)


# The whole model


WHOLE: dict[str, list[str]] = {
    "pairs": ["pairs"],
    "pairs and labels": ["pairs", "labels"],
    "grades": ["grades"],
    "grades and pairs": ["grades", "pairs"],
}


def whole(
    model: str, answers: list[Answer], labelled: list[Answer], splits: int, cache: Path, results: Results
) -> None:
    from trl_rsa.scoring import load_scorer, score

    name = Path(model).name
    for split in range(splits):
        train, held, _ = parted(answers, HELD_OUT, split)
        rows = matched(train, split)
        data = cache / "whole" / f"{split}.jsonl"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        for arm, use in WHOLE.items():
            if (name, "whole", arm, str(split)) in results.done:
                continue
            began = time.monotonic()
            folder = cache / "whole" / f"{name}-{arm.replace(' ', '-')}-{split}"
            _train(model, data, use, split, len(rows) // BATCH // 10, folder)
            scorer = load_scorer(f"hf:{folder}", kind="cost", dtype="float32")
            several = [*held, *labelled]
            found = score(scorer, [one.prompt for one in several], [one.response for one in several])
            costs = np.array(found.require_all(scorer.name), float)
            measures = measures_of(costs[: len(held)], held, costs[len(held) :], labelled)
            _add(results, name, "whole", arm, split, {"train": 2 * len(rows), "decay": 0.0} | measures, began)


def matched(answers: Sequence[Answer], split: int) -> list[dict[str, Any]]:
    """PKU-SafeRLHF rows: the responses of each prompt in pairs at random, each in one pair at most."""
    draws = random.Random(f"{SEED} {split}")
    rows = []
    for places in groups_of(answers).values():
        draws.shuffle(places)
        for i, j in zip(places[::2], places[1::2], strict=False):
            both = [answers[i], answers[j]]
            row: dict[str, Any] = {"prompt": both[0].prompt}
            for side, answer in enumerate(both):
                row |= {
                    f"response_{side}": answer.response,
                    f"is_response_{side}_safe": not answer.unsafe,
                    f"response_{side}_severity_level": answer.grade,
                }
            row["safer_response_id"] = int((both[1].severity or 0) < (both[0].severity or 0))
            rows.append(row | {"better_response_id": row["safer_response_id"]})
    draws.shuffle(rows)
    return rows


def _train(model: str, data: Path, use: list[str], seed: int, warmup: int, folder: Path) -> None:
    from trl import RewardConfig

    from trl_rsa.score_models.arguments import ScoreModelArguments
    from trl_rsa.score_models.train import train_score_model

    # Rows that are a pair have two responses, rows with a grade one: as many responses a step, and steps.
    rows = BATCH if "pairs" in use else 2 * BATCH
    training = RewardConfig(
        output_dir=str(folder),
        seed=seed,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=warmup,
        num_train_epochs=1,
        per_device_train_batch_size=rows,
        max_length=4 * (PROMPT_TOKENS + RESPONSE_TOKENS),
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **use_cpu(),
    )
    arguments = ScoreModelArguments(objective="cost", data=[str(data)], use=use, held_out=0.0)
    train_score_model(arguments, training, model, dtype="float32")


# Files


def _add(results: Results, model: str, part: str, arm: str, split: int, numbers: dict[str, Any], began: float) -> None:
    row = {"model": model, "part": part, "arm": arm, "split": split, **numbers}
    row |= {
        "seconds": round(time.monotonic() - began, 1),
        "commit": current_commit("benchmarks/graded.py", "trl_rsa/score_models", "trl_rsa/scoring"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    results.add({name: "" if value is None else value for name, value in row.items()})
    print(f"{model} {part} {arm}, split {split}: " + ", ".join(f"{k} {row[k]}" for k in MEASURES), flush=True)


def table() -> str:
    """The Markdown of the page, from the CSV."""
    rows = list(csv.DictReader(CSV.open(encoding="utf-8"))) if CSV.exists() else []
    parts = dict.fromkeys((row["part"], row["model"]) for row in rows)
    return "\n\n".join(_table([row for row in rows if (row["part"], row["model"]) == of], *of) for of in parts)


def _table(rows: list[dict[str, str]], part: str, model: str) -> str:
    splits = sorted({row["split"] for row in rows})
    what = {
        "frozen": f"Linear heads on frozen features of {model}",
        "whole": f"All weights of {model}, one pass over {rows[0]['train']} responses",
    }[part]
    over = f"mean over {len(splits)} splits by prompt (standard error)" if len(splits) > 1 else "one split by prompt"
    shown = [name for name in MEASURES if any(row[name] for row in rows)]  # the others have no order in any split
    lines = [
        f"{what}: {over}, {int(HELD_OUT * 100)} % of the prompts held out.",
        "",
        "| Trained on | " + " | ".join(MEASURES[name] for name in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    columns = {
        arm: {name: _column([row for row in rows if row["arm"] == arm], name, splits) for name in shown}
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }
    for arm, column in columns.items():
        lines.append(f"| {arm} | " + " | ".join(_cell(column[name]) for name in shown) + " |")
    for arm in (arm for arm in COMPARED if arm in columns):
        less = [_cell(columns[arm][name] - columns[BASELINE][name], "+") for name in shown]
        lines.append(f"| *{arm} less {BASELINE}* | " + " | ".join(less) + " |")
    return "\n".join(lines)


def _column(rows: list[dict[str, str]], name: str, splits: list[str]) -> Array:
    """Split by split; NaN where it has no such order."""
    found = {row["split"]: float(row[name] or "nan") for row in rows}
    return np.array([found[split] for split in splits])


def _cell(values: Array, sign: str = "") -> str:
    values = values[~np.isnan(values)]
    if not values.size:
        return "–"
    error = f" ({values.std(ddof=1) / np.sqrt(values.size):.3f})" if values.size > 1 else ""
    return f"{values.mean():{sign}.3f}{error}"


def write_page() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the sets of judged responses")
    parser.add_argument("--model", help="folder of a language model with a chat template")
    parser.add_argument("--part", choices=[*SPLITS], default="frozen")
    parser.add_argument("--splits", type=int, help="how many; more may be added later")
    parser.add_argument("--prompts", type=int, nargs=2, default=(10_000, LABELLED), help="most, of both sets")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "trl-rsa" / "graded")
    parser.add_argument("--output", type=Path, default=CSV)
    parser.add_argument("--write", action="store_true", help="only write the tables of the page")
    given = parser.parse_args(argv)
    if not given.write:
        if given.data is None or given.model is None:
            parser.error("give --data and --model, or --write")
        from transformers import AutoTokenizer

        be_quiet()
        tokenizer = AutoTokenizer.from_pretrained(given.model)
        answers, labelled = read_answers(given.data, tokenizer, tuple(given.prompts))
        print(f"{len(answers):,} responses to {len(groups_of(answers)):,} prompts; {len(labelled):,} from elsewhere")
        run = {"frozen": frozen, "whole": whole}[given.part]
        splits = given.splits or SPLITS[given.part]
        run(given.model, answers, labelled, splits, given.cache, Results(given.output, KEY))
    if given.write or given.output == CSV:
        write_page()


if __name__ == "__main__":
    main()
