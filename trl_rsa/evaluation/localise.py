"""Where the risk is: drift of all responses from a reference, and the worst responses token by token."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.drift import drift_summary
from trl_rsa.evaluation.metrics_file import DriftMetrics, DriftReference, Metrics
from trl_rsa.evaluation.request import Evaluation, Progress
from trl_rsa.evaluation.scores import StoredScores
from trl_rsa.evaluation.token_risk import (
    HarmModels,
    encode_response,
    token_drift,
    token_drift_and_kl,
    token_harm,
    token_pieces,
)
from trl_rsa.evaluation.workspace import Workspace
from trl_rsa.risk import CVaR
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import free_memory, load_policy, load_tokenizer
from trl_rsa.scoring.weights import folder_digest
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.files import replacing
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.records import Record, prompt_of, read_records, text_of


class TokenLine(TypedDict):
    """A line of tokens.jsonl: one of a model's worst responses, token by token. `tokens` join to the response."""

    index: int  # of the record, from 0
    model: str | None
    prompt: Any  # text or messages
    response: Any
    reward: float | None
    cost: float
    category: str | None
    attack: str | None
    finished: bool | None
    tokens: list[str] | None
    drift: list[float] | None  # drift risk, in nats
    harm: list[float] | None  # token harm, in units of cost


class DriftLine(TypedDict):
    """A line of drift.jsonl below the first, which names the reference: sums over one response, in nats."""

    index: int
    kl: float
    drift: float


# Responses whose drift is computed, and written down, at a time.
_CHUNK = 64


def add_drift(evaluation: Evaluation, workspace: Workspace, metrics: Metrics, progress: Progress) -> None:
    """Adds `kl` (sequential KL of the model from the reference) and `drift` (ρ summed over the tokens) per model."""
    settings = evaluation.drift
    assert settings is not None
    content = folder_digest(Path(settings.reference)) if Path(settings.reference).is_dir() else None
    header: DriftReference = {"reference": settings.reference, "sha256": content, "tail": settings.tail}
    if next(read_lines(workspace.drift), header) != header:
        workspace.drift.unlink()  # of another reference
    if not workspace.drift.exists():
        with LineWriter(workspace.drift) as writer:
            writer.write(header)
    found = {"kl": StoredScores(), "drift": StoredScores()}
    for line in read_lines(workspace.drift):
        for name in found:
            if "index" in line:
                found[name].set(line["index"], line[name])
    bootstrap = Bootstrap(seed=evaluation.sampling.seed)
    for name, path in evaluation.models.items():
        _complete(evaluation, workspace, name, path, found, progress)
        every = enumerate(read_records(workspace.records, scores=()))
        records = [(i, int(prompt_key(prompt_of(record)), 16)) for i, record in every if record["model"] == name]
        groups = [group for _, group in records]
        kl, drift = (
            drift_summary([[values.number(i)] for i, _ in records], None, evaluation.tails, groups, bootstrap)
            for values in found.values()
        )
        metrics["models"][name]["kl"] = kl.get("mean")
        # The sums are over whole responses: a mean per token would be of one "token" each.
        drift.pop("mean_per_token", None)
        metrics["models"][name]["drift"] = cast(DriftMetrics, drift | header)


def _complete(
    evaluation: Evaluation,
    workspace: Workspace,
    name: str,
    path: str,
    found: dict[str, StoredScores],
    progress: Progress,
) -> None:
    """Computes what is missing of a model's responses, and writes it down chunk by chunk."""
    records = enumerate(read_records(workspace.records, scores=()))
    missing = {i for i, record in records if record["model"] == name and found["kl"].get(i) is None}
    if not missing:
        return
    settings, size = evaluation.drift, evaluation.batch_size
    assert settings is not None
    encode = partial(_encode, ConversationEncoder(load_tokenizer(path), evaluation.sampling.template))
    model, reference = _load_pair(evaluation, path, settings.reference)
    done = 0
    with LineWriter(workspace.drift) as writer:
        for chunk in _chunks(read_records(workspace.records, scores=()), missing):
            prompts, completions = zip(*(encode(record) for _, record in chunk), strict=True)
            rows = token_drift_and_kl(model, reference, prompts, completions, CVaR(settings.tail), size)
            for (index, _), tokens in zip(chunk, rows, strict=True):
                drift, kl = (sum(token[column] for token in tokens) for column in (0, 1))
                found["kl"].set(index, kl)
                found["drift"].set(index, drift)
                line: DriftLine = {"index": index, "kl": kl, "drift": drift}
                writer.write(line)
            done += len(chunk)
            progress(f"drift of {name}", done, len(missing))
    del model, reference
    free_memory()


def _chunks(records: Iterator[Record], wanted: set[int]) -> Iterator[list[tuple[int, Record]]]:
    chunk = []
    for index, record in enumerate(records):
        if index in wanted:
            chunk.append((index, record))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _encode(encoder: ConversationEncoder, record: Record) -> tuple[list[int], list[int]]:
    """Prompt ids and response ids of a record: those that were sampled, where it has them."""
    ids = encoder.recorded(record)
    if ids is None:
        ids = encoder.completion(text_of(record["response"]), record.get("finished") is not False)
    return encoder.prompt(record["prompt"]), ids


def _encode_with_pieces(encoder: ConversationEncoder, record: Record) -> tuple[list[int], list[int], list[str]]:
    """As [`_encode`], and the piece of text that each token of the response stands for."""
    prompt, response, ids = encoder.prompt(record["prompt"]), text_of(record["response"]), encoder.recorded(record)
    if ids is not None:
        return prompt, ids, token_pieces(encoder.tokenizer, ids, response)
    finished = record.get("finished") is not False
    return prompt, *encode_response(encoder.tokenizer, response, finished, encoder.end)


def write_tokens(evaluation: Evaluation, workspace: Workspace, metrics: Metrics, harm: HarmModels | None) -> None:
    """Writes tokens.jsonl: the worst responses of every model, with drift risk and token harm per token (or null)."""
    wanted = {entry["index"]: name for name, m in metrics["models"].items() for entry in m["cost"]["worst"]}
    lines = {i: _line(i, r) for i, r in enumerate(read_records(workspace.records, scores=())) if i in wanted}
    size = evaluation.batch_size
    if evaluation.drift is not None:
        measure = CVaR(evaluation.drift.tail)
        for name, path in evaluation.models.items():
            chosen = [line for i, line in lines.items() if wanted[i] == name]
            pair = path, evaluation.drift.reference
            _fill(evaluation, chosen, "drift", pair, partial(token_drift, measure=measure, batch_size=size))
    if harm is not None:
        pair, temperature = (harm.safe, harm.helpful), harm.temperature
        _fill(
            evaluation, [*lines.values()], "harm", pair, partial(token_harm, temperature=temperature, batch_size=size)
        )
    with replacing(workspace.tokens) as partial_file, LineWriter(partial_file) as writer:
        for line in sorted(lines.values(), key=lambda line: -line["cost"]):
            del line["token_ids"]
            writer.write(line)


def _line(index: int, record: Record) -> dict[str, Any]:
    kept = ("model", "prompt", "response", "reward", "cost", "category", "attack", "finished")
    # `token_ids` for the encoder only: they are not written.
    return {name: record.get(name) for name in (*kept, "token_ids")} | {
        "index": index,
        "tokens": None,
        "drift": None,
        "harm": None,
    }


def _fill(
    evaluation: Evaluation,
    lines: Sequence[dict[str, Any]],
    name: str,
    paths: tuple[str, str],
    measure: Callable[..., Any],
) -> None:
    if not lines:
        return
    encoder = ConversationEncoder(load_tokenizer(paths[0]), evaluation.sampling.template)
    encode = partial(_encode_with_pieces, encoder)
    prompts, completions, pieces = ([*column] for column in zip(*map(encode, lines), strict=True))
    model, ref_model = _load_pair(evaluation, *paths)
    values = measure(model, ref_model, prompts, completions)
    del model, ref_model
    free_memory()
    for line, tokens, value in zip(lines, pieces, values, strict=True):
        if line["tokens"] in (None, tokens):  # else the tokenizers cut it differently, and one view must do
            line["tokens"], line[name] = tokens, value


def _load_pair(evaluation: Evaluation, path: str, ref_path: str) -> list[Any]:
    return [load_policy(p, evaluation.device, dtype=evaluation.dtype) for p in (path, ref_path)]
