"""Where the rows come from: files in a folder, or the public sets on the Hub at fixed revisions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from trl_rsa.data import DatasetSpec, load_preferences
from trl_rsa.data.schema import Row, RowError
from trl_rsa.data.sources import open_source
from trl_rsa.evaluation.prompt_sets import load_prompts
from trl_rsa.storage.digests import prompt_key


@dataclass(frozen=True)
class Source:
    """
    One file, or one split on the Hub.

    Args:
        place (`str`):
            File or folder, or Hub id.
        kind (`str`):
            `"prompts"`, `"pairs"`, `"judged"`: responses with a grade, a score or a label; or `"safe"`: responses to
            imitate.
        split, revision, data_dir (`str`, *optional*):
            On the Hub.
        half (`int`, *optional*):
            0 or 1: only the rows of this half of the prompts.
        share (`float`):
            Of its role's rows, beside the shares of the role's other sources.
    """

    place: str
    kind: str
    split: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    half: int | None = None
    share: float = 1.0

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
        """Rows as they are, those with a prompt in text."""
        rows = [row for row in self._rows() if not isinstance(row, RowError) and isinstance(row.get("prompt"), str)]
        return [row for row in rows if self.half is None or _half_of(row["prompt"]) == self.half]

    def safe(self) -> list[Row]:
        """Rows with `prompt` and `completion`, as messages: the responses that no label calls unsafe."""
        rows = [row for row in self.judged() if row.get("is_safe", True)]
        return [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
            }
            for row in rows
            if isinstance(row.get("response"), str)
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

    def of(name: str, kind: str, half: int | None = None, share: float = 1.0) -> Source:
        return Source(str(folder / name), kind, half=half, share=share)

    helpful = [f"hh_rlhf_helpful_test/helpful-{part}_test.jsonl.gz" for part in HH_PARTS]
    judged = ["autoj_pairwise_human", "llmbar", "mtbench_human_200", "pandalm_human"]
    sources = {
        "safety": [of("beavertails_eval_prompts.json", "prompts")],
        "harmless": [of("eval_prompts/cyberseceval_mitre_frr.jsonl.gz", "prompts")],
        "helpful": [of(name, "pairs") for name in helpful],
        # Grades of refusals and of answers that a jailbreak had: a small part, beside answers as models give them.
        "a": [
            of("strongreject_scored/rubric_scored_responses.jsonl.gz", "judged", share=GRADED),
            of(PKU_LABELS, "judged", half=0),
        ],
        "b": [of(PKU_LABELS, "judged", half=1), of("hh_harmless_pairs.jsonl.gz", "pairs")],
        "r": [
            of("alpaca_eval_helpful_pairs.jsonl.gz", "pairs"),
            *(of(f"helpfulness_pairs/{name}.jsonl.gz", "pairs", share=0.25) for name in judged),
        ],
    }
    sources["safe"] = [of("pku_saferlhf/safe_answers_sft.jsonl.gz", "safe")]
    missing = sorted(one.place for several in sources.values() for one in several if not Path(one.place).is_file())
    if missing:
        raise FileNotFoundError(
            f"You set --data to {folder}, but it has no {', '.join(missing)}. Give the folder that has them, or leave "
            "it out for the public sets on the Hub."
        )
    return sources


def _half_of(prompt: Any) -> int:
    """0 or 1, by the prompt alone."""
    return crc32(prompt_key(prompt).encode()) % 2


PKU_LABELS = "pku_saferlhf/qa_unsafe_labels.jsonl.gz"
GRADED = 0.5  # rows of A with grades, for each with a label
HH_PARTS = ("base", "online", "rejection-sampled")
HH, HH_REVISION = "Anthropic/hh-rlhf", "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
PKU, PKU_REVISION = "PKU-Alignment/PKU-SafeRLHF", "9421ffafec3fa40a1f1a7d567b4d525079477ecb"
BEAVERTAILS, BEAVERTAILS_REVISION = "PKU-Alignment/BeaverTails", "8401fe609d288129cc684a9b3be6a93e41cfe678"
# The same roles as in a folder, filled by sets of their own: severity levels in place of rubric scores, for example.
HUB: Sources = {
    "safety": [Source("PKU-Alignment/BeaverTails-Evaluation", "prompts", "test", "main")],
    "harmless": [Source("natolambert/xstest-v2-copy", "prompts", "prompts", "main")],
    "helpful": [Source(HH, "pairs", "test", HH_REVISION, f"helpful-{part}") for part in ("base", "online")],
    "a": [Source(PKU, "judged", "test", PKU_REVISION)],
    "b": [
        Source(BEAVERTAILS, "judged", "30k_test", BEAVERTAILS_REVISION),
        Source(HH, "pairs", "test", HH_REVISION, "harmless-base"),
    ],
    "r": [Source(HH, "pairs", "test", HH_REVISION, "helpful-rejection-sampled")],
    "safe": [Source(BEAVERTAILS, "safe", "30k_train", BEAVERTAILS_REVISION)],
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
