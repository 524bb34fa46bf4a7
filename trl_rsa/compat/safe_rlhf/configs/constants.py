"""`safe_rlhf.configs.constants`: the prompt template in pieces, and the values that its trainers share."""

from trl_rsa.data.templates import PROMPT_BEGIN, PROMPT_TURN


IGNORE_INDEX = -100
DEFAULT_BOS_TOKEN = "<s>"
DEFAULT_EOS_TOKEN = "</s>"
DEFAULT_PAD_TOKEN = "<pad>"
DEFAULT_UNK_TOKEN = "<unk>"

PROMPT_ASSISTANT = "ASSISTANT:"  # no space follows: the tokens would be others
PROMPT_USER = PROMPT_TURN.removesuffix(PROMPT_ASSISTANT).replace("{}", "{input}")
PROMPT_INPUT = PROMPT_BEGIN + PROMPT_USER + PROMPT_ASSISTANT
PROMPT_DICT = {
    "prompt_begin": PROMPT_BEGIN,
    "prompt_user": PROMPT_USER,
    "prompt_assistant": PROMPT_ASSISTANT,
    "prompt_input": PROMPT_INPUT,
}

ADAM_BETAS = (0.9, 0.95)

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
