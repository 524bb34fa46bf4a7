"""`safe_rlhf.configs`: its constants. Its DeepSpeed templates are not needed, as `Trainer` makes its own."""

from trl_rsa.compat.safe_rlhf.configs.constants import (
    ADAM_BETAS,
    DEFAULT_BOS_TOKEN,
    DEFAULT_EOS_TOKEN,
    DEFAULT_PAD_TOKEN,
    DEFAULT_UNK_TOKEN,
    IGNORE_INDEX,
    PROMPT_ASSISTANT,
    PROMPT_BEGIN,
    PROMPT_DICT,
    PROMPT_INPUT,
    PROMPT_USER,
)


__all__ = [
    "ADAM_BETAS",
    "DEFAULT_BOS_TOKEN",
    "DEFAULT_EOS_TOKEN",
    "DEFAULT_PAD_TOKEN",
    "DEFAULT_UNK_TOKEN",
    "IGNORE_INDEX",
    "PROMPT_ASSISTANT",
    "PROMPT_BEGIN",
    "PROMPT_DICT",
    "PROMPT_INPUT",
    "PROMPT_USER",
]
