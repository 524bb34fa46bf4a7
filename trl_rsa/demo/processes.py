"""Rows of the demo side by side, in processes of their own."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context, parent_process
from typing import Any

from trl_rsa._quiet import hush
from trl_rsa.ladder.progress import ProgressLog


MOST = 4  # processes, each of which loads torch


def side_by_side(
    call: Callable[..., Any], work: Sequence[tuple[Any, ...]], log: ProgressLog
) -> Iterator[tuple[Any, Any, float]]:
    """
    Calls with each of the arguments, as many at a time as there are cores; on one core, one after the other, here.

    Args:
        call (`Callable`):
            A function of a module, which other processes can import.
        work (`Sequence[tuple]`):
            The arguments of each call, the first of which says what it is.
        log ([`ProgressLog`]):
            Shows on a terminal what still runs.

    Yields:
        `tuple`: the first argument, the result and its seconds, as they come.
    """
    workers = min(cores(), len(work), MOST)
    if workers < 2:
        for arguments in work:
            yield arguments[0], *_timed(call, arguments)
        return
    said = f"{len(work)} rows, {workers} at a time"
    with pool_of(workers) as pool, nullcontext() if log.console is None else log.console.status(said):
        running = {pool.submit(_timed, call, arguments): arguments[0] for arguments in work}
        for future in as_completed(running):
            yield running[future], *future.result()


@contextmanager
def pool_of(workers: int, threads: int = 1) -> Iterator[ProcessPoolExecutor]:
    """Processes that say no more than a command does, each with so many of torch's threads. They end with this one;
    at an error, what has not begun is left."""
    # Not forked: torch has threads by now.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(threads,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(threads: int) -> None:
    hush()  # as the command does in its own process

    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed demo leaves nothing behind that trains on."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _timed(call: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return call(*arguments), time.monotonic() - began
