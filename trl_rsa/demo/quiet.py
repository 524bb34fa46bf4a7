"""What other libraries print while the demo runs: bars, training logs and deprecations that nobody here can act on."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Within it the datasets and transformers libraries show no bars, trainers print no logs, and nobody is warned of
    what a later version will do. Errors are seen, and so is what goes to a console that was opened before."""
    import datasets
    from transformers.utils import logging

    bars = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            logging.enable_progress_bar()
