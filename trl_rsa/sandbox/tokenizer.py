"""The sandbox's tokenizer: one token per word or punctuation mark, and a chat template."""

from functools import cache
from typing import TYPE_CHECKING

from trl_rsa.sandbox.exact import EOS
from trl_rsa.sandbox.prompts import all_prompts
from trl_rsa.sandbox.worlds import WORLDS


if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast


PAD, BOS, UNK = "<|pad|>", "<|bos|>", "<|unk|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# An answer ends with EOS, so that a policy learns to stop; a prompt renders to a prefix of prompt and answer, token
# by token, as TRL requires. `{% generation %}` serves TRL's `assistant_only_loss`.
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|eos|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@cache
def _vocabulary() -> tuple[str, ...]:
    """Every token of every prompt and of every phrase of every world, in alphabetical order."""
    splitter = _splitter()
    texts = {prompt.text for prompt in all_prompts()}
    slots = {prompt.category: prompt.slots for prompt in all_prompts()}.values()
    for world in WORLDS.values():
        phrases = [variant for phrase in world.grammar.phrases for variant in phrase.variants()]
        texts |= {phrase.format(**values) for phrase in phrases for values in slots}
    return tuple(sorted({token for text in texts for token, _ in splitter.pre_tokenize_str(text)}))


def _splitter() -> "PreTokenizer":
    from tokenizers import pre_tokenizers

    # Words carry their leading space as "▁", so that decoding restores the text to the letter.
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer of all worlds, a `PreTrainedTokenizerFast`. It has no randomness and needs no training."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS, UNK, *ROLES]
    vocabulary = {token: i for i, token in enumerate([*special, *_vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=list(ROLES),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
