"""What was merged, in a file and in the card of the merged model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from trl_rsa.merging.sources import Source
from trl_rsa.storage.files import write_json
from trl_rsa.storage.folders import model_fingerprint
from trl_rsa.storage.names import MERGE
from trl_rsa.storage.provenance import now, versions


class MergedModel(TypedDict):
    """One of the models of a merge."""

    model: str
    weight: float
    digest: str
    base: NotRequired[str]


class MergeFile(TypedDict):
    """merge.json in a merged model's folder."""

    schema_version: int
    created: str
    versions: dict[str, str]
    models: list[MergedModel]
    combination: Literal["weights", "cat", "svd", "full"]
    rank: int | None
    dtype: str
    error: float


def describe_merge(
    sources: Sequence[Source], weights: Sequence[float], combination: Any, rank: int | None, dtype: str | None
) -> MergeFile:
    models: list[MergedModel] = []
    for source, weight in zip(sources, weights, strict=True):
        entry: MergedModel = {
            "model": source.name,
            "weight": float(weight),
            "digest": model_fingerprint(source.folder),
        }
        if source.base:
            entry["base"] = source.base
        models.append(entry)
    return {
        "schema_version": 1,
        "created": now(),
        "versions": versions(),
        "models": models,
        "combination": combination,
        "rank": rank,
        "dtype": dtype or "",
        "error": 0.0,
    }


def read_merge(folder: Path) -> MergeFile | None:
    try:
        content: MergeFile = json.loads((folder / MERGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def same_merge(done: MergeFile, wanted: MergeFile) -> bool:
    """Whether a folder holds what is asked for. A dtype that is not asked for is whatever came of the models."""

    def key(content: MergeFile) -> Any:
        models = [(entry["digest"], entry["weight"]) for entry in content["models"]]
        return models, content["combination"], content["rank"]

    return key(done) == key(wanted) and wanted["dtype"] in ("", done["dtype"])


def write_merge(folder: Path, content: MergeFile) -> None:
    write_json(folder / MERGE, content)
    (folder / "README.md").write_text(_card(content), encoding="utf-8")


_HOW = {
    "weights": "The weights are averaged",
    "cat": "The adapters' updates are averaged, with their factors side by side (rank: the sum of their ranks)",
    "svd": "The adapters' updates are averaged, and cut to the nearest adapter of one rank",
    "full": "The adapters' updates are added to their bases, and the weights averaged",
}


def _card(content: MergeFile) -> str:
    rows = [f"| `{one['model']}` | {one['weight']:g} | `{one['digest']}` |" for one in content["models"]]
    bases = sorted({one["base"] for one in content["models"] if "base" in one})
    adapter = content["combination"] in ("cat", "svd")
    head = ["---", *([f"base_model: {json.dumps(bases[0])}", "library_name: peft"] if adapter else []), "tags:"]
    rank = f" Rank: {content['rank']}." if content["rank"] else ""
    return "\n".join(
        [
            *(*head, "- trl-rsa", "- merge", "---", "", "# A merge", ""),
            *("| Model | Weight | Digest of its files |", "|---|---|---|", *rows, ""),
            f"{_HOW[content['combination']]}.{rank} Saved in {content['dtype']}. The saved weights are "
            f"{content['error']:.2g} from the exact average, relative to how far that is from the first model.",
            "",
            "Nothing that was shown of one of these models is shown of this one: a budget, a certificate or a score "
            "belongs to the weights that were measured. Evaluate the merge itself.",
            "",
            f"Made by trl-rsa {content['versions']['trl-rsa']} on {content['created']}.",
            "",
        ]
    )
