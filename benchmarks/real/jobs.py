"""The rows of the track, one after the other or side by side in processes.

Two cores are busy with one run. A GPU is not: a run there waits for Python most of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import partial
from typing import Any

from benchmarks.alignment.store import current_commit
from benchmarks.quiet import be_quiet
from benchmarks.real.arms import Workshop
from benchmarks.real.judge import answers_of_start, judge
from benchmarks.real.processes import pool_for
from benchmarks.real.settings import HELPFUL, Arm


Row = dict[str, Any]
WATCHED = ("benchmarks/real/*.py", "trl_rsa")


def rows_of(make_shop: Callable[[], Workshop], runs: Sequence[tuple[Arm, int]], jobs: int) -> Iterator[Row]:
    """The row of each run, as it is known.

    Args:
        make_shop (`Callable`):
            Makes the workshop, in each process once more.
        runs (`Sequence[tuple[Arm, int]]`):
            Arms with their seeds.
        jobs (`int`):
            How many run at a time.
    """
    if jobs == 1:
        shop = make_shop()
        yield from (row_of(lambda: shop, *run) for run in runs)
        return
    _ = make_shop().budget  # with the start, that all have in common
    with pool_for(jobs) as pool:
        # What the others of a seed start from and are compared with.
        list(pool.map(partial(_prepare, make_shop), dict.fromkeys(seed for _, seed in runs)))
        for done in as_completed([pool.submit(row_of, make_shop, *run) for run in runs]):
            yield done.result()


def row_of(make_shop: Callable[[], Workshop], arm: Arm, seed: int) -> Row:
    be_quiet()
    shop = make_shop()
    return judge(shop, arm, seed, shop.make(arm, seed)) | {"commit": current_commit(*WATCHED)}


def _prepare(make_shop: Callable[[], Workshop], seed: int) -> None:
    be_quiet()
    shop = make_shop()
    shop.make(HELPFUL, seed)
    answers_of_start(shop, seed)
