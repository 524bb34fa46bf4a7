"""What other libraries say that a user of the commands can do nothing about: the one place that silences anything.

Only the messages below are dropped, by their logger and their beginning; whatever else these libraries say, and all
that we say ourselves, is seen. In a Python program that uses the package nothing is silenced.
"""

import logging


# Logger: beginnings of its messages.
UNHELPFUL: dict[str, tuple[str, ...]] = {
    # On import, which transformers and peft do unasked, on CPUs with bfloat16 instructions: an optional kernel for
    # 4-bit weights on the CPU is not installed. Seen in bitsandbytes 0.50.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm",),
}


def hush() -> None:
    """Drops the messages in [`UNHELPFUL`] from now on. It imports none of the libraries, and may be called again."""
    for name, beginnings in UNHELPFUL.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Drop) for known in logger.filters):
            logger.addFilter(_Drop(beginnings))


class _Drop(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)
