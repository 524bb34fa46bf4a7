"""Raw samples to tokens, under the keys of Safe RLHF's trainers. A sample that cannot be used is counted."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from trl_rsa.compat.safe_rlhf.configs.constants import IGNORE_INDEX, PROMPT_ASSISTANT, PROMPT_BEGIN, PROMPT_USER
from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset, RawSample, split_indices
from trl_rsa.data.schema import Pair, RowError, check_pair, read_flag, read_text


logger = logging.get_logger(__name__)

Collator = Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]


class TokenizedDataset(Dataset):
    """
    Args:
        dataset_names_and_attributes (`dict` or iterable of pairs):
            From a dataset's name to a proportion or to `{"proportion": …, "path": …}`, as `parse_dataset` gives it.
            Other keys are arguments of the user's class. A whole negative fraction −N draws N samples.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Texts are cut on the right to its `model_max_length`.
        lazy_tokenization (`bool`, *optional*, defaults to `True`):
            Whether a sample is tokenized when it is asked for.
        seed (`int`, *optional*, defaults to 42):
            Of the draw. With equal rows, Safe RLHF draws the same ones.

    `left_out` counts the samples that cannot be used, by reason; they are warned of.
    """

    def __init__(
        self,
        dataset_names_and_attributes: Mapping[str, Any] | Iterable[tuple[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        lazy_tokenization: bool = True,
        seed: int = 42,
    ):
        given = dataset_names_and_attributes
        pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
        names = [name for name, _ in pairs]
        if len(names) != len(set(names)):
            raise ValueError(
                f"You gave a dataset twice ({', '.join(names)}), but each is drawn from once. Remove one."
            )
        self.tokenizer, self.seed = tokenizer, seed
        self.left_out: Counter[str] = Counter()
        drawn: list[RawSample] = []
        for (name, attributes), draw_seed in zip(pairs, np.random.SeedSequence(seed).spawn(len(pairs)), strict=True):
            options = dict(attributes) if isinstance(attributes, Mapping) else {"proportion": attributes}
            proportion = options.pop("proportion", 1.0)
            raw = RawDataset.load(name, **options)
            self.left_out["damaged row"] += getattr(raw, "left_out", 0)
            drawn += [raw[i] for i in draw(len(raw), proportion, name, draw_seed)]
        self.rawdata = [sample for sample in self._merge(drawn) if self._is_usable(sample)]
        self.left_out = +self.left_out
        if self.left_out:
            reasons = "; ".join(f"{count} × {reason}" for reason, count in self.left_out.most_common())
            logger.warning(f"{type(self).__name__} of {', '.join(names)} leaves samples out: {reasons}.")
            if not self.rawdata:
                raise ValueError(f"No sample of {', '.join(names)} can be used: {reasons}. Correct the dataset.")
        self.data: list[dict[str, Tensor] | None] = [None] * len(self.rawdata)
        if not lazy_tokenization:
            self.data = [self.preprocess(sample) for sample in self.rawdata]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        found = self.data[index]
        if found is None:
            found = self.data[index] = self.preprocess(self.rawdata[index])
        return found

    def __len__(self) -> int:
        return len(self.rawdata)

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        """A sample's tensors."""
        raise NotImplementedError

    def get_collator(self) -> Collator:
        """What makes a batch of samples."""
        raise NotImplementedError

    def check(self, raw_sample: RawSample) -> None:
        """Raises [`RowError`] if the sample cannot be used."""

    def tokenize(self, text: str, add_special_tokens: bool = True) -> Tensor:  # [L]
        """Token ids of a text, at most the tokenizer's `model_max_length`."""
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens, truncation=True, return_tensors="pt")
        return encoded["input_ids"][0]

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple["TokenizedDataset", "TokenizedDataset"]:
        """A share of the samples is held out."""
        places = split_indices(len(self), split_ratio, shuffle, self.seed if seed is None else seed)
        train, test = copy.copy(self), copy.copy(self)
        for part, chosen in zip((train, test), places, strict=True):
            part.rawdata, part.data = [self.rawdata[i] for i in chosen], [self.data[i] for i in chosen]
        return train, test

    def _merge(self, samples: list[RawSample]) -> list[RawSample]:
        return samples

    def _is_usable(self, sample: RawSample) -> bool:
        try:
            self.check(sample)
        except RowError as error:
            self.left_out[str(error)] += 1
            return False
        return True

    def _padded(self, sequences: list[Tensor], value: float, side: str = "right") -> Tensor:  # [B, L]
        return pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=side)

    def _ids_and_mask(self, sequences: list[Tensor], side: str = "right") -> tuple[Tensor, Tensor]:  # [B, L], [B, L]
        pad = self.tokenizer.pad_token_id
        if pad is None:
            raise ValueError(
                "Your tokenizer has no padding token, but rows of a batch are padded. Set tokenizer.pad_token, or "
                "load it with load_pretrained_models."
            )
        mask = self._padded([torch.ones_like(ids, dtype=torch.bool) for ids in sequences], False, side)
        return self._padded(sequences, pad, side), mask


class PromptOnlyDataset(TokenizedDataset):
    """Prompts, each once. Samples: `input_ids`; batches: `input_ids`, `attention_mask`, padded on the left."""

    def check(self, raw_sample: RawSample) -> None:
        _prompt(raw_sample, "")

    def _merge(self, samples: list[RawSample]) -> list[RawSample]:
        last = {str(sample.get("input")): i for i, sample in enumerate(samples)}
        return [samples[i] for i in sorted(last.values())]

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        return {"input_ids": self.tokenize(_prompt(raw_sample, self.tokenizer.eos_token))}

    def get_collator(self) -> Collator:
        def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            ids, mask = self._ids_and_mask([sample["input_ids"] for sample in samples], "left")
            return {"input_ids": ids, "attention_mask": mask}

        return collate


class _PairDataset(TokenizedDataset):
    """Two answers to a prompt, the first of them judged to be `_flag` or not."""

    _flag: str
    _names: tuple[str, str]

    def check(self, raw_sample: RawSample) -> None:
        prompt = _prompt(raw_sample, "")
        check_pair(Pair(prompt, read_text(raw_sample, "answer"), read_text(raw_sample, "other_answer")))
        read_flag(raw_sample, self._flag)

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        eos = self.tokenizer.eos_token
        prompt = _prompt(raw_sample, eos)
        texts = [prompt + raw_sample[name] + eos for name in ("answer", "other_answer")]
        first, second = self._names if read_flag(raw_sample, self._flag) else self._names[::-1]
        ids = {first: self.tokenize(texts[0]), second: self.tokenize(texts[1])}
        return {f"{name}_input_ids": ids[name] for name in self._names}

    def get_collator(self) -> Collator:
        def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            sequences = [sample[f"{name}_input_ids"] for name in self._names for sample in samples]
            ids, mask = (part.chunk(2) for part in self._ids_and_mask(sequences))
            batch: dict[str, Tensor] = {}
            for i, name in enumerate(self._names):
                batch |= {f"{name}_input_ids": ids[i], f"{name}_attention_mask": mask[i]}
            return batch | self._more(samples)

        return collate

    def _more(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {}


class PreferenceDataset(_PairDataset):
    """Samples: `{better,worse}_input_ids`; batches: these and `{better,worse}_attention_mask`, padded on the right."""

    _flag, _names = "better", ("better", "worse")


class SafetyPreferenceDataset(_PairDataset):
    """Samples: `{safer,unsafer}_input_ids`, `{safer,unsafer}_sign` (+1 safe, −1 unsafe); batches: the ids,
    `{safer,unsafer}_attention_mask` and `{safer,unsafer}_safety_sign [B]`, padded on the right.
    """

    _flag, _names = "safer", ("safer", "unsafer")

    def check(self, raw_sample: RawSample) -> None:
        super().check(raw_sample)
        safer, other = _signs(raw_sample)
        if safer < other:
            raise RowError("the safer response is labelled unsafe while the other is safe")

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        safer, other = _signs(raw_sample)
        signs = {"safer_sign": torch.tensor(safer), "unsafer_sign": torch.tensor(other)}
        return super().preprocess(raw_sample) | signs

    def _more(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {f"{name}_safety_sign": torch.stack([s[f"{name}_sign"] for s in samples]) for name in self._names}


class SupervisedDataset(TokenizedDataset):
    """Samples: `input_ids`, `labels` (−100 at what the user says); batches: these and `attention_mask`, padded on the
    right.
    """

    def check(self, raw_sample: RawSample) -> None:
        turns = _turns(raw_sample)
        if len(turns) % 2:
            raise RowError("the dialogue does not end with the assistant")
        if not all(turn.strip() for turn in turns):
            raise RowError("empty turn")

    def preprocess(self, raw_sample: RawSample) -> dict[str, Tensor]:
        text, begins = PROMPT_BEGIN, 0
        labels: list[Tensor] = []
        ids = torch.empty(0, dtype=torch.long)
        for i, turn in enumerate(_turns(raw_sample)):
            by_user = i % 2 == 0
            text += PROMPT_USER.format(input=turn) + PROMPT_ASSISTANT if by_user else turn + self.tokenizer.eos_token
            ids = self.tokenize(text)
            part = ids[begins:]
            labels.append(torch.full_like(part, IGNORE_INDEX) if by_user else part)
            begins = len(ids)
        return {"input_ids": ids, "labels": torch.cat(labels)}

    def get_collator(self) -> Collator:
        def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            ids, mask = self._ids_and_mask([sample["input_ids"] for sample in samples])
            labels = self._padded([sample["labels"] for sample in samples], IGNORE_INDEX)
            return {"input_ids": ids, "labels": labels, "attention_mask": mask}

        return collate


def draw(size: int, proportion: Any, name: str, seed: Any) -> list[int]:
    """Places of the samples that a proportion, or a fraction −N, asks for: whole repetitions, then a random draw
    without replacement.
    """
    is_count = isinstance(proportion, Fraction) and proportion < 0
    try:
        wanted = abs(int(proportion)) if is_count else round(size * float(proportion))
    except (TypeError, ValueError, OverflowError):
        wanted = -1
    if wanted < 0:
        raise ValueError(f"You set the proportion of {name} to {proportion!r}, but it is a share. Set it above 0.")
    if not size:
        raise ValueError(f"The dataset {name} is empty. Give one with at least one sample.")
    repetitions, rest = divmod(wanted, size)
    places = list(range(size)) * repetitions
    if rest:
        places += np.random.default_rng(seed).choice(size, size=rest, replace=False).tolist()
    return places


def _prompt(sample: RawSample, eos_token: str) -> str:
    """`BEGINNING OF CONVERSATION: USER: … ASSISTANT:`, with the earlier turns of a dialogue before it."""
    given = sample.get("input")
    turns = [given] if isinstance(given, str) else given
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise RowError("field `input` is neither text nor a list of texts")
    if len(turns) % 2 == 0:
        raise RowError("the dialogue does not end with the user")
    if not all(turn.strip() for turn in turns):
        raise RowError("empty prompt")
    text = PROMPT_BEGIN
    for i, turn in enumerate(turns):
        text += turn + eos_token if i % 2 else PROMPT_USER.format(input=turn) + PROMPT_ASSISTANT
    return text


def _turns(sample: RawSample) -> list[str]:
    """The dialogue of a supervised sample."""
    if ("dialogue" in sample) == ("input" in sample):
        raise RowError("give either `input` and `answer`, or `dialogue`")
    if "dialogue" in sample:
        if not all(isinstance(turn, str) for turn in sample["dialogue"]):
            raise RowError("field `dialogue` is not a list of texts")
        return list(sample["dialogue"])
    return [read_text(sample, "input"), read_text(sample, "answer")]


def _signs(sample: RawSample) -> tuple[int, int]:
    """+1 for safe, −1 for unsafe: of the safer answer, and of the other one."""
    signs = [2 * int(read_flag(sample, name)) - 1 for name in ("is_safe", "is_other_safe")]
    return (signs[0], signs[1]) if read_flag(sample, "safer") else (signs[1], signs[0])
