"""Where the rows come from: files in a folder, or the public sets on the Hub at fixed revisions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trl_rsa.data import DatasetSpec, load_preferences
from trl_rsa.data.schema import Row, RowError
from trl_rsa.data.sources import open_source
from trl_rsa.evaluation.prompt_sets import load_prompts


@dataclass(frozen=True)
class Source:
    """
    One file, or one split on the Hub.

    Args:
        place (`str`):
            File or folder, or Hub id.
        kind (`str`):
            `"prompts"`, `"pairs"`, `"judged"`: responses with a grade, a score or a label, or `"sides"`: pairs whose
            chosen response is safe and whose other one is not, read as labels.
        split, revision, data_dir (`str`, *optional*):
            On the Hub.
    """

    place: str
    kind: str
    split: str | None = None
    revision: str | None = None
    data_dir: str | None = None

    def prompts(self) -> list[Row]:
        """Rows with `prompt`, `category` and `benign`."""
        return load_prompts([row for row in self._rows() if not isinstance(row, RowError)]).rows

    def pairs(self) -> list[Row]:
        """Rows with `prompt`, `chosen` and `rejected`, as messages."""
        options: dict[str, Any] = {"template": "chat"}
        if self.data_dir is not None and not Path(self.place).exists():
            spec = DatasetSpec(self.place, "hh-rlhf", self.split or "train", self.revision, self.data_dir)
            return list(load_preferences(spec, **options).dataset)
        place, split = self._local()
        return list(load_preferences(place, split=split, revision=self.revision, **options).dataset)

    def judged(self) -> list[Row]:
        """Rows as they are, those with a prompt in text; of sides a row for each response."""
        rows = [row for row in self._rows() if not isinstance(row, RowError) and isinstance(row.get("prompt"), str)]
        if self.kind != "sides":
            return rows
        return [
            {"prompt": row["prompt"], "response": row[side], "is_safe": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]

    def _rows(self) -> Iterator[Row | RowError]:
        place, split = self._local()
        data_dir = None if place != self.place else self.data_dir
        return (row for _, row in open_source(place, split, self.revision, data_dir=data_dir))

    def _local(self) -> tuple[str, str | None]:
        """A local copy of a Hub repository may keep its parts in folders, as the Hub does."""
        inner = Path(self.place) / (self.data_dir or "")
        return (str(inner), self.split) if self.data_dir is not None and inner.is_dir() else (self.place, self.split)


Sources = dict[str, list[Source]]


def folder_sources(folder: Path) -> Sources:
    """The sets by their names in a folder of files.

    Raises:
        FileNotFoundError: if one of them is missing.
    """
    sources = {
        "safety": [("beavertails_eval_prompts.json", "prompts")],
        "harmless": [("eval_prompts/cyberseceval_mitre_frr.jsonl.gz", "prompts")],
        "helpful": [
            *((f"hh_rlhf_helpful_test/helpful-{part}_test.jsonl.gz", "pairs") for part in HH_PARTS),
            ("alpaca_eval_helpful_pairs.jsonl.gz", "pairs"),
        ],
        "a": [
            ("strongreject_scored/rubric_scored_responses.jsonl.gz", "judged"),
            ("pku_saferlhf/safer_pairs_test.jsonl.gz", "sides"),
        ],
        "b": [("pku_saferlhf/qa_unsafe_labels.jsonl.gz", "judged"), ("hh_harmless_pairs.jsonl.gz", "pairs")],
        "r": [
            (f"helpfulness_pairs/{name}.jsonl.gz", "pairs")
            for name in ("autoj_pairwise_human", "llmbar", "mtbench_human_200", "pandalm_human")
        ],
    }
    missing = sorted(name for files in sources.values() for name, _ in files if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"You set --data to {folder}, but it has no {', '.join(missing)}. Give the folder that has them, or leave "
            "it out for the public sets on the Hub."
        )
    return {role: [Source(str(folder / name), kind) for name, kind in files] for role, files in sources.items()}


HH_PARTS = ("base", "online", "rejection-sampled")
HH, HH_REVISION = "Anthropic/hh-rlhf", "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
PKU, PKU_REVISION = "PKU-Alignment/PKU-SafeRLHF", "9421ffafec3fa40a1f1a7d567b4d525079477ecb"
# The same roles as in a folder, filled by sets of their own: severity levels in place of rubric scores, for example.
HUB: Sources = {
    "safety": [Source("PKU-Alignment/BeaverTails-Evaluation", "prompts", "test", "main")],
    "harmless": [Source("natolambert/xstest-v2-copy", "prompts", "prompts", "main")],
    "helpful": [Source(HH, "pairs", "test", HH_REVISION, f"helpful-{part}") for part in ("base", "online")],
    "a": [Source(PKU, "judged", "test", PKU_REVISION)],
    "b": [
        Source("PKU-Alignment/BeaverTails", "judged", "30k_test", "8401fe609d288129cc684a9b3be6a93e41cfe678"),
        Source(HH, "pairs", "test", HH_REVISION, "harmless-base"),
    ],
    "r": [Source(HH, "pairs", "test", HH_REVISION, "helpful-rejection-sampled")],
}


def hub_sources(mirror: Path | None = None) -> Sources:
    """The public sets; with `mirror`, from copies of their repositories, in folders named OWNER/NAME there."""
    if mirror is None:
        return HUB
    missing = sorted({one.place for several in HUB.values() for one in several if not (mirror / one.place).is_dir()})
    if missing:
        raise FileNotFoundError(
            f"You set --mirror to {mirror}, but it has no folders {', '.join(missing)}. Copy these datasets there."
        )
    return {
        role: [replace(one, place=str(mirror / one.place), revision=None) for one in several]
        for role, several in HUB.items()
    }
