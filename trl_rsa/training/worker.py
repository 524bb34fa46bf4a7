"""What every process of a launched group does: it reads a request, and trains or samples."""

import json
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from accelerate import PartialState
from datasets import load_from_disk
from transformers import AutoTokenizer

from trl_rsa.risk import RiskMeasure
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling
from trl_rsa.storage.files import write_json
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.launcher import end_with_parent
from trl_rsa.training.messages import decode, encode
from trl_rsa.training.stage import ReadyStage, train_stage


REQUEST, RESULT = "request.json", "result.json"


class RequestFile(TypedDict):
    """request.json. `kind` is "train" or "sample", `fields` those of the request as messages.py encodes them."""

    kind: str
    fields: dict[str, Any]


class ErrorFile(TypedDict):
    """error-RANK.json: what a process of the group failed with."""

    type: str
    message: str


@dataclass
class TrainRequest:
    """A stage to train. Its pairs lie beside the request, in `train` and `eval`.

    Args:
        title, arguments, risk_measure, data, metrics, method, options:
            As in [`ReadyStage`].
        start (`str`):
            The policy to start from.
        models ([`ModelSettings`]):
            How models are loaded.
    """

    title: str
    arguments: dict[str, Any]
    risk_measure: RiskMeasure | None
    data: Mapping[str, Any]
    metrics: dict[str, float]
    method: str
    options: dict[str, Any]
    start: str
    models: ModelSettings

    def run(self, folder: Path) -> None:
        # The configuration first: it tells `from_pretrained` about ZeRO-3, and picks this process's device.
        ready = ReadyStage(
            self.title,
            self.arguments,
            self.risk_measure,
            load_from_disk(str(folder / "train")),
            load_from_disk(str(folder / "eval")) if (folder / "eval").exists() else None,
            self.data,
            self.metrics,
            self.method,
            self.options,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
        result = train_stage(ready, self.start, self.models, tokenizer, (), _say)
        state = PartialState()
        if state.is_main_process:
            write_json(folder / RESULT, result)
        # DeepSpeed: a group that is left while others are still in it aborts now and then.
        state.wait_for_everyone()
        state.destroy_process_group()


@dataclass
class SampleRequest:
    """Responses to draw: every process draws those of its share of the prompts, into a file of its own.

    Args:
        model (`str`):
            The policy.
        models ([`ModelSettings`]):
            How it is loaded.
        prompts (`Sequence`), sampling ([`Sampling`]), batch_size (`int`):
            As in [`~trl_rsa.sampling.generation.generate`].
        skip (`frozenset[tuple[int, int]]`):
            Pairs (prompt, draw) that are not drawn.
        beginnings (`list[list[int]]`, *optional*):
            As there.
    """

    model: str
    models: ModelSettings
    prompts: Sequence[Any]
    sampling: Sampling
    batch_size: int
    skip: frozenset[tuple[int, int]]
    beginnings: list[list[int]] | None = None

    def run(self, folder: Path) -> None:
        rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
        others = {
            (prompt, draw)
            for prompt in range(len(self.prompts))
            if prompt % processes != rank
            for draw in range(self.sampling.draws)
        }
        batches = generate(
            self.models.load_policy(self.model),
            tokenizer,
            self.prompts,
            self.sampling,
            batch_size=self.batch_size,
            skip=self.skip | others,
            beginnings=self.beginnings,
        )
        with open(folder / f"responses-{rank}.jsonl", "w", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(json.dumps(vars(response)) + "\n" for response in batch)
                file.flush()  # the parent takes them in at once


_REQUESTS: dict[str, type[TrainRequest] | type[SampleRequest]] = {"train": TrainRequest, "sample": SampleRequest}


def write_request(request: TrainRequest | SampleRequest, where: str) -> str:
    """The request as JSON.

    Raises:
        ValueError: if it holds something that cannot be sent; `where` says whose.
    """
    (kind,) = (kind for kind, one in _REQUESTS.items() if one is type(request))
    fields = {name: encode(value, f"{where} ({name})") for name, value in vars(request).items()}
    content: RequestFile = {"kind": kind, "fields": fields}
    return json.dumps(content)


def read_request(text: str) -> TrainRequest | SampleRequest:
    """What [`write_request`] wrote."""
    content = json.loads(text)
    return _REQUESTS[content["kind"]](**{name: decode(value) for name, value in content["fields"].items()})


def _say(line: str) -> None:
    print(line, flush=True)


def main(folder: Path) -> int:
    end_with_parent()
    try:
        read_request((folder / REQUEST).read_text(encoding="utf-8")).run(folder)
    except Exception as error:
        # For the parent, which says it in one sentence; the traceback is for whoever finds that it is a bug.
        said: ErrorFile = {"type": type(error).__name__, "message": " ".join(str(error).split())}
        write_json(folder / f"error-{os.environ.get('RANK', '0')}.json", said)
        traceback.print_exc()
        return 1
    return 0
