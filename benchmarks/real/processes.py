"""The machine's cores, shared by processes that run side by side."""

from concurrent.futures import Executor
from contextlib import AbstractContextManager

from trl_rsa.demo.processes import cores, pool_of


def pool_for(jobs: int) -> AbstractContextManager[Executor]:
    return pool_of(jobs, threads=max(1, cores() // jobs))
