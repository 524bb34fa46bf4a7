"""Trains and samples in process groups: one is launched for each stage, by a parent that is in none of them."""

import json
import shutil
import textwrap
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.launcher import Launcher
from trl_rsa.training.runner import model_options
from trl_rsa.training.stage import ReadyStage, StageResult
from trl_rsa.training.worker import REQUEST, RESULT, SampleRequest, TrainRequest, write_request


FOLDER = ".launch"
WORKER = "trl_rsa.training"
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Launched:
    """A group of processes does it; a [`StageRunner`].

    The request is written to `<output_dir>/.launch`, with the data, and the result is read from there. A group that is
    gone leaves nothing that matters: what it has written to the stage's folder is resumed.

    Args:
        models ([`ModelSettings`]):
            How models are loaded.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        launcher ([`Launcher`]):
            How the processes are started.
        output_dir (`Path`):
            The plan's.
    """

    models: ModelSettings
    processing_class: PreTrainedTokenizerBase
    launcher: Launcher
    output_dir: Path

    def check(self, ready: ReadyStage) -> None:
        """
        Raises:
            ValueError: if the stage holds something that cannot be sent to another process.
        """
        write_request(self._request(ready, ""), ready.title)

    def train(self, ready: ReadyStage, start: str) -> StageResult:
        self.check(ready)
        folder = self._write(self._request(ready, start))
        ready.train_dataset.save_to_disk(str(folder / "train"))
        if ready.eval_dataset is not None:
            ready.eval_dataset.save_to_disk(str(folder / "eval"))
        check_status(self.launcher.run(WORKER, [str(folder)]), folder, ready.title)
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        shutil.rmtree(folder)
        return result

    def sample(
        self,
        model: str,
        prompts: Sequence[Any],
        sampling: Sampling,
        *,
        batch_size: int,
        skip: Container[tuple[int, int]],
        beginnings: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[list[Response]]:
        if sampling.engine != "transformers":  # it brings its own processes
            options: dict[str, Any] = {"batch_size": batch_size, "skip": skip, "beginnings": beginnings}
            options["model_options"] = model_options(self.models, sampling.engine)
            yield from generate(model, self.processing_class, prompts, sampling, **options)
            return
        pairs = ((prompt, draw) for prompt in range(len(prompts)) for draw in range(sampling.draws))
        done = frozenset(pair for pair in pairs if pair in skip)
        forced = None if beginnings is None else [list(beginning) for beginning in beginnings]
        folder = self._write(SampleRequest(model, self.models, list(prompts), sampling, batch_size, done, forced))
        written = _ResponseFiles(folder)
        with self.launcher.start(WORKER, [str(folder)]) as process:
            while process.poll() is None:
                yield from written.read_new()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield from written.read_new()
        check_status(process.returncode, folder, f"sampling from {model}")
        shutil.rmtree(folder)

    def _request(self, ready: ReadyStage, start: str) -> TrainRequest:
        return TrainRequest(
            ready.title,
            ready.arguments,
            ready.risk_measure,
            ready.data,
            ready.metrics,
            ready.method,
            ready.options,
            start,
            self.models,
        )

    def _write(self, request: TrainRequest | SampleRequest) -> Path:
        folder = self.output_dir / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / REQUEST).write_text(write_request(request, "the request"), encoding="utf-8")
        self.processing_class.save_pretrained(str(folder / "tokenizer"))
        return folder


class _ResponseFiles:
    """The responses that the processes have written so far: what the parent has taken in outlives them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}  # bytes

    def read_new(self) -> Iterator[list[Response]]:
        """What has come since the last look, a list per process."""
        for path in sorted(self._folder.glob("responses-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            if whole:
                yield [Response(**json.loads(line)) for line in whole.splitlines()]


def check_status(status: int, folder: Path, what: str) -> None:
    """Raises what a group that has worked in `folder` ended with, unless it ended well."""
    if status == 0:
        return
    errors = sorted(folder.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    # The first to fail is the cause: the others lose their peer.
    error = json.loads(errors[0].read_text(encoding="utf-8")) if errors else {"type": "a process was killed"}
    if error["type"] == "ValueError":  # what one process would have raised
        raise ValueError(error["message"])
    said = textwrap.shorten(": ".join(error.values()), 300, placeholder="…")
    raise ChildProcessError(
        f"The processes launched for {what} ended with status {status} ({said}). Started again with the same "
        "plan, the run goes on from the newest complete checkpoint, or the last answer."
    )


def check_launch(
    args: Mapping[str, Mapping[str, Any]], callbacks: Sequence[TrainerCallback], launcher: Launcher
) -> None:
    """
    Args:
        args (`Mapping[str, Mapping[str, Any]]`):
            [`RSAConfig`] arguments by the place where they were set, those of the whole run first.
        callbacks (`Sequence[TrainerCallback]`), launcher ([`Launcher`]):
            As `align` was given them.

    Raises:
        ValueError: if the run cannot be launched in processes as it would go in one.
    """
    launcher.check(bool(next(iter(args.values())).get("use_cpu")))
    if callbacks:
        raise ValueError(
            f"You gave callbacks ({', '.join(type(callback).__name__ for callback in callbacks)}) and a launcher, but "
            "the launched processes do not share this one's objects. Set report_to in args, or leave out the launcher."
        )
    if launcher.machines > 1:
        raise ValueError(
            f"You launch on {launcher.machines} machines, but align drives the processes of one. Train stage by stage "
            "with `accelerate launch -m trl_rsa.scripts.train`, giving each stage the last one's folder as its model."
        )
    for where, given in args.items():
        for name in ("deepspeed", "fsdp"):
            if given.get(name):
                raise ValueError(
                    f"You set {name!r} in the args of {where} and a launcher, but both choose the engine. Remove it, "
                    "and launch with accelerate_config; a DeepSpeed file goes there as deepspeed_config_file."
                )
