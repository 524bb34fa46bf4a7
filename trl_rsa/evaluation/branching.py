"""One wrong token: trees of continuations from sampled places of a model's answers, for [`~evaluation.nested`].

Of the first draw to each prompt one place is taken, uniform over its tokens. From there `branches` responses are
drawn: their first tokens are the branches. Each branch is continued until it has `continuations` of them. All are as
long as the model's answers may be, and scored by the same cost model.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NotRequired, TypedDict

from trl_rsa.evaluation.bootstrap import Bootstrap
from trl_rsa.evaluation.metrics_file import Metrics
from trl_rsa.evaluation.nested import summarize_nested
from trl_rsa.evaluation.request import Evaluation, NestedSettings, Progress
from trl_rsa.evaluation.scores import StoredScores, score_responses
from trl_rsa.evaluation.workspace import Workspace
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.endings import end_tokens
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.policies import free_memory, load_policy, load_tokenizer
from trl_rsa.storage.digests import prompt_key
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.records import Record, prompt_of, read_records, score_of, text_of


class NestedHeader(TypedDict):
    """The first line of nested.jsonl: next tokens at a place, and continuations of each."""

    branches: int
    continuations: int


class NestedLine(TypedDict):
    """A line of nested.jsonl below the first, which holds the settings: one continuation of one branch."""

    index: int  # of the record whose answer is continued
    model: str
    position: int  # tokens of the answer that were kept
    branch: int
    continuation: int
    prompt: Any  # text or messages
    base_prompt: NotRequired[Any]  # before the attack
    response: str  # whole: what was kept and how it went on


Place = tuple[int, Record, list[int], int]  # index, record, its tokens, and how many of them are kept

_CHUNK = 32  # places whose trees are drawn, and written down, at a time
# The noise of branches and of their continuations is not that of the answers.
_BRANCH_NOISE, _CONTINUATION_NOISE = 2**32, 2**33


def add_nested(evaluation: Evaluation, workspace: Workspace, metrics: Metrics, progress: Progress) -> None:
    """Adds `nested` of every model to the metrics. What nested.jsonl has is neither drawn nor scored again."""
    settings = evaluation.nested
    assert settings is not None and evaluation.cost is not None
    header: NestedHeader = {"branches": settings.branches, "continuations": settings.continuations}
    if next(read_lines(workspace.nested), header) != header:
        workspace.nested.unlink()  # of other settings
        workspace.scores("nested").unlink(missing_ok=True)
    if not workspace.nested.exists():
        with LineWriter(workspace.nested) as writer:
            writer.write(header)
    for name, path in evaluation.models.items():
        _draw_missing(evaluation, settings, workspace, name, path, progress)
    total = sum(1 for _ in _lines(workspace))
    score = partial(
        score_responses,
        lambda: _lines(workspace),
        workspace.scores("nested"),
        batch_size=evaluation.score_batch_size,
        base_prompts=evaluation.base_prompts,
        progress=lambda done: progress("scoring continuations", done, total),
    )
    scores = evaluation.cost.use(score)
    for name in evaluation.models:
        metrics["models"][name]["nested"] = _summary(evaluation, settings, workspace, name, scores)


def _key(line: NestedLine) -> tuple[int, int, int]:
    return line["index"], line["branch"], line["continuation"]


def _lines(workspace: Workspace) -> Iterator[Any]:
    return (line for line in read_lines(workspace.nested) if "index" in line)


def _draw_missing(
    evaluation: Evaluation, settings: NestedSettings, workspace: Workspace, name: str, path: str, progress: Progress
) -> None:
    done = {_key(line) for line in _lines(workspace) if line["model"] == name}
    size = settings.branches * settings.continuations
    encoder = ConversationEncoder(load_tokenizer(path), evaluation.sampling.template)
    places = list(_places(evaluation, workspace, name, encoder))
    drawn = Counter(index for index, _, _ in done)
    missing = [place for place in places if drawn[place[0]] < size]
    if not missing:
        return
    model = load_policy(path, evaluation.device, dtype=evaluation.dtype)
    with LineWriter(workspace.nested) as writer:
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for place, trees in zip(chunk, _trees(evaluation, settings, model, encoder.tokenizer, chunk), strict=True):
                for line in _as_lines(name, place, trees):
                    if _key(line) not in done:
                        writer.write(line)
            progress(f"branching {name}", start + len(chunk), len(missing))
    del model
    free_memory()


def _places(evaluation: Evaluation, workspace: Workspace, name: str, encoder: ConversationEncoder) -> Iterator[Place]:
    """A place in the first answer to every prompt. The last one is before its last token."""
    for index, record in enumerate(read_records(workspace.records, scores=())):
        if record["model"] != name or record.get("draw") != 0:
            continue
        ids = encoder.recorded(record)
        if ids is None:
            ids = encoder.completion(text_of(record["response"]), record.get("finished") is not False)
        if ids:
            chosen = draw_key(evaluation.sampling.seed, ["place", record["prompt"]], 0) % len(ids)
            yield index, record, ids, chosen


def _trees(
    evaluation: Evaluation, settings: NestedSettings, model: Any, tokenizer: Any, places: Sequence[Place]
) -> list[list[list[str]]]:
    """Texts [branch][continuation] of every place."""
    longest, seed = evaluation.sampling.max_new_tokens, evaluation.sampling.seed
    prompts = [record["prompt"] for _, record, _, _ in places]

    def draw(which: Sequence[int], beginnings: Sequence[list[int]], draws: int, noise: int) -> list[list[list[int]]]:
        """Tokens [beginning][draw], cut where the model's own answers would be."""
        sampling = replace(evaluation.sampling, draws=draws, seed=seed + noise)
        found: list[list[list[int]]] = [[[]] * draws for _ in which]
        asked = [prompts[i] for i in which]
        for batch in generate(
            model, tokenizer, asked, sampling, batch_size=evaluation.batch_size, beginnings=beginnings
        ):
            for one in batch:
                found[one.prompt][one.draw] = list(one.token_ids[:longest])
        return found

    branches = draw(range(len(places)), [ids[:kept] for _, _, ids, kept in places], settings.branches, _BRANCH_NOISE)
    ends = end_tokens(model, tokenizer)
    open_branches = [
        (i, b)
        for i, (_, _, _, kept) in enumerate(places)
        for b, ids in enumerate(branches[i])
        if ids[kept] not in ends and kept + 1 < longest
    ]
    more = draw(
        [i for i, _ in open_branches],
        [branches[i][b][: places[i][3] + 1] for i, b in open_branches],
        settings.continuations - 1,
        _CONTINUATION_NOISE,
    )
    # A branch that ends the answer has one way to go on.
    trees = [[[ids] * settings.continuations for ids in row] for row in branches]
    for (i, b), rest in zip(open_branches, more, strict=True):
        trees[i][b] = [branches[i][b], *rest]

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids[:-1] if ids[-1] in ends else ids, skip_special_tokens=True)

    return [[[text(ids) for ids in branch] for branch in tree] for tree in trees]


def _as_lines(name: str, place: Place, tree: list[list[str]]) -> Iterator[NestedLine]:
    index, record, _, kept = place
    for b, branch in enumerate(tree):
        for c, response in enumerate(branch):
            line: NestedLine = {
                "index": index,
                "model": name,
                "position": kept,
                "branch": b,
                "continuation": c,
                "prompt": record["prompt"],
                "response": response,
            }
            if record.get("base_prompt") is not None:
                line["base_prompt"] = record["base_prompt"]
            yield line


def _summary(
    evaluation: Evaluation, settings: NestedSettings, workspace: Workspace, name: str, scores: StoredScores
) -> Any:
    costs: dict[int, list[list[float]]] = {}
    for number, line in enumerate(_lines(workspace)):
        if line["model"] != name:
            continue
        empty = [[math.nan] * settings.continuations for _ in range(settings.branches)]
        value = scores.get(number)
        tree = costs.setdefault(line["index"], empty)
        tree[line["branch"]][line["continuation"]] = math.nan if value is None else value
    records = enumerate(read_records(workspace.records, scores=()))
    found = [(costs[i], record) for i, record in records if i in costs]
    return summarize_nested(
        [tree for tree, _ in found],
        settings.tail,
        answer_costs=[score_of(record, "cost") for _, record in found],
        prompts=[prompt_key(prompt_of(record)) for _, record in found],
        unsafe_above=evaluation.unsafe_above,
        bootstrap=Bootstrap(seed=evaluation.sampling.seed),
    )
