"""Other libraries' bars and warnings do not fill the screen of a benchmark."""

import datasets
import transformers


def be_quiet() -> None:
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
