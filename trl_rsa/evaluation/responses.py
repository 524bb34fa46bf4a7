"""The sampling phase: every draw is drawn once, and appended to responses.jsonl at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.evaluation.prompt_sets import PromptRow
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.policies import free_memory, load_policy, load_tokenizer
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.storage.digests import digest
from trl_rsa.storage.records import RecordWriter, read_records


def drawn(path: Path, name: str, rows: Sequence[PromptRow]) -> set[tuple[int, int]]:
    """Which draws of the model `name` are in the file, as (index of the row, draw)."""
    places = {_row_key(row): i for i, row in enumerate(rows)}
    if not path.exists():
        return set()
    found: set[tuple[int, int]] = set()
    for record in read_records(path, scores=()):
        place = places.get(_row_key(record))
        if record["model"] == name and place is not None and isinstance(record.get("draw"), int):
            found.add((place, record["draw"]))
    return found


def _row_key(row: PromptRow) -> tuple[bytes, str | None]:
    return digest(row["prompt"]), row.get("attack")


def sample_responses(
    path: Path,
    name: str,
    model_path: str,
    rows: Sequence[PromptRow],
    sampling: Sampling,
    *,
    batch_size: int = 16,
    device: str | None = None,
    dtype: str | None = None,
    load: Callable[[], Any] | None = None,
    beginnings: Callable[[Any], list[list[int]] | None] = lambda tokenizer: None,
    more: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Draws what is missing, and appends a record without scores for every response, batch by batch.

    The records are in a fixed order (the longest prompts first), interrupted or not.

    Args:
        path (`Path`):
            responses.jsonl.
        name (`str`), model_path (`str`):
            What the model is called in the records, and its folder or repository. It is loaded only if a draw is
            missing.
        rows (`Sequence[dict]`):
            Prompts, as [`~evaluation.prompt_sets.load_prompts`] and [`~evaluation.stress.attack_prompts`] make them.
        load (`Callable`, *optional*):
            Loads the policy where it is not simply the one in `model_path`.
        beginnings (`Callable`, *optional*):
            From the model's tokenizer, the tokens that the responses to each row are made to begin with, if any.
        more (`Mapping`, *optional*):
            Further keys of the records.
        progress (`Callable`, *optional*):
            Called with the number of draws that are there.
    """
    done = drawn(path, name, rows)
    count = len(done)
    progress(count)
    if count >= len(rows) * sampling.draws:
        return
    tokenizer = load_tokenizer(model_path)
    forced = beginnings(tokenizer)
    model: Any = model_path
    if sampling.engine == "transformers":
        model = load_policy(model_path, device, dtype=dtype) if load is None else load()
    options: dict[str, Any] = {"batch_size": batch_size, "skip": done, "beginnings": forced}
    if sampling.engine != "server":  # which has a dtype of its own; other parts of an evaluation take this one
        options["model_options"] = {"dtype": dtype}
    batches = generate(model, tokenizer, [row["prompt"] for row in rows], sampling, **options)
    with RecordWriter(path) as writer:
        for batch in _named(batches, name):
            for response in batch:
                row = rows[response.prompt]
                writer.write(
                    {
                        "prompt": row["prompt"],
                        "response": response.text,
                        "model": name,
                        "seed": sampling.seed,
                        "draw": response.draw,
                        "category": row.get("category"),
                        "attack": row.get("attack"),
                        **{key: row[key] for key in ("base_prompt", "benign") if row.get(key) is not None},
                        "finished": response.finished,
                        "n_tokens": len(response.token_ids),
                        "token_ids": list(response.token_ids),
                        **({} if forced is None else {"n_forced": response.n_forced}),
                        **(more or {}),
                    }
                )
            count += len(batch)
            progress(count)
    del model, batches
    free_memory()


def _named(batches: Iterable[list[Response]], name: str) -> Iterator[list[Response]]:
    """Of several models, an error says which it was."""
    try:
        yield from batches
    except ValueError as error:
        raise ValueError(f"You sampled from {name!r}, but no more could be drawn. {error}") from error
