"""Processes that share the machine's cores, as quiet as the first one."""

import os
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import datasets
import torch
import transformers


def pool_of(jobs: int) -> Executor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(jobs,))


def _begin(jobs: int) -> None:
    be_quiet()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def be_quiet() -> None:
    """Other libraries' bars and deprecations do not fill the screen."""
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
