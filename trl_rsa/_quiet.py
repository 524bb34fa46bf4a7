"""What other libraries say that a user of the commands can do nothing about: the one place that silences anything.

Only the messages below are dropped, by where they come from and how they begin. Whatever else these libraries say, and
all that we say ourselves, is seen. In a Python program that uses the package nothing is silenced.
"""

import logging
import re
import warnings


# Logger: beginnings of its messages.
MESSAGES: dict[str, tuple[str, ...]] = {
    # bitsandbytes 0.50, on import, which transformers and peft do unasked, on CPUs with bfloat16 instructions: an
    # optional kernel for 4-bit weights on the CPU is not installed.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm",),
    # DeepSpeed 0.18, on import, which accelerate does unasked: there is no GPU, as `trl-rsa doctor` says too.
    "DeepSpeed": ("Setting accelerator to CPU",),
}
# Beginnings of warnings. transformers 5.23, of the name under which TRL 1.16 sets its own default: it can go when TRL
# sets the new one.
WARNINGS: tuple[str, ...] = ("`gradient_checkpointing` is deprecated", "`is_gradient_checkpointing` is deprecated")


def hush() -> None:
    """Drops them from now on. It imports none of the libraries, and may be called again."""
    for name, beginnings in MESSAGES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Drop) for known in logger.filters):
            logger.addFilter(_Drop(beginnings))
    for beginning in WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(beginning), category=FutureWarning)


class _Drop(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)
