"""Our own decoding loop: a batch whose rows are refilled, so that no response waits for a longer one.

Against `model.generate`, batch by batch, three things are saved: a prompt is read once for all its draws; a row whose
response is done takes the next draw at once; and towards the end, when nothing waits any more, rows that are done
leave. What is drawn is the same (tests/sampling/test_decoding.py compares token for token).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from trl_rsa.sampling.noise import TokenDraw
from trl_rsa.sampling.slots import SlotCache, read_prompts


@dataclass(eq=False)
class Wanted:
    """A response to draw.

    Args:
        prompt (`int`):
            Which of the prompts.
        draw (`int`):
            Which of its draws.
        key (`int`):
            Of its noise, from [`~sampling.noise.draw_key`].
        first_step (`int`, *optional*, defaults to 0):
            Place of its first token in the response: after the beginning that was forced upon it, if any.
        tokens (`list[int]`):
            What has been drawn of it.
    """

    prompt: int
    draw: int
    key: int
    first_step: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass
class _Read:
    """A prompt that has been read: the scores of the first token, [V], and its row in a cache."""

    scores: Tensor
    cache: DynamicCache
    row: int


@dataclass
class _Slot:
    """A row of the batch: the response that is in it, if any, and the column at which its prompt begins."""

    response: Wanted | None = None
    start: int = 0


class Decoder:
    """
    Draws responses, as many at a time as there are rows.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            For which [`~sampling.slots.has_plain_cache`] holds.
        prompts (`Sequence[Sequence[int]]`):
            Token ids.
        draw ([`~sampling.noise.TokenDraw`]):
            Chooses the next tokens.
        ends (`set[int]`):
            Tokens that end a response.
        max_new_tokens (`int`):
            Longest response.
        n_rows (`int`):
            Responses drawn at a time.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        draw: TokenDraw,
        ends: set[int],
        max_new_tokens: int,
        n_rows: int,
    ):
        self.model, self.prompts, self.draw, self.ends = model, prompts, draw, ends
        self.max_new_tokens, self.n_rows = max_new_tokens, n_rows
        # Reading prompts costs a forward of its own: it is done for a few rows at a time.
        self.enough_free = max(1, n_rows // 16)
        # The noise is made there: not every accelerator has float64.
        self.noise_device = model.device if model.device.type == "cuda" else torch.device("cpu")
        self.waiting: deque[Wanted] = deque()
        self.read: dict[int, _Read] = {}
        self.slots: list[_Slot] = []
        self.cache: SlotCache | None = None
        self.width = 0  # columns of the cache

    def run(self, wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
        """Draws the responses, in whose order the prompts must not grow longer.

        Yields:
            `list[Wanted]`: those that are done, as soon as they are.
        """
        self.waiting.extend(wanted)
        while self.waiting or self._live():
            done = self._fill()
            if not done and self._live():
                done = self._step()
            if done:
                yield done

    def _live(self) -> list[int]:
        return [row for row, slot in enumerate(self.slots) if slot.response is not None]

    # Rows are filled

    @torch.no_grad()
    def _fill(self) -> list[Wanted]:
        """Gives free rows to what waits, and draws its first token. Returns the responses that end with it."""
        live = self._live()
        n_free = min(self.n_rows, len(live) + len(self.waiting)) - len(live)
        taken = [self.waiting[i] for i in range(n_free)]
        unread = list(dict.fromkeys(one.prompt for one in taken if one.prompt not in self.read))
        if unread and live and n_free < self.enough_free and n_free < len(self.waiting):
            taken = [one for one in taken if one.prompt in self.read]
        elif unread:
            self._read(unread)
        if not taken:
            return []
        for _ in taken:
            self.waiting.popleft()
        read = [self.read[one.prompt] for one in taken]
        scores = torch.stack([prompt.scores for prompt in read])
        done = self._append(taken, scores)
        self._place([(one, prompt) for one, prompt in zip(taken, read, strict=True) if one not in done], live)
        ahead = self.waiting[0].prompt if self.waiting else None
        self.read = {prompt: read for prompt, read in self.read.items() if prompt == ahead}
        return done

    def _read(self, prompts: list[int]) -> None:
        scores, cache = read_prompts(self.model, [list(self.prompts[prompt]) for prompt in prompts])
        for row, prompt in enumerate(prompts):
            self.read[prompt] = _Read(scores[row], cache, row)

    def _place(self, new: list[tuple[Wanted, _Read]], live: list[int]) -> None:
        if not new:
            return
        lengths = [len(self.prompts[one.prompt]) for one, _ in new]
        if not live:
            self.width = max(lengths)
            self.slots = [_Slot() for _ in range(min(self.n_rows, len(new) + len(self.waiting)))]
            self.cache = SlotCache(new[0][1].cache, len(self.slots), self.width)
        assert self.cache is not None
        free = [row for row, slot in enumerate(self.slots) if slot.response is None][: len(new)]
        for row, length, (one, _) in zip(free, lengths, new, strict=True):
            self.slots[row] = _Slot(one, self.width - length)
        for cache in {id(read.cache): read.cache for _, read in new}.values():
            which = [i for i, (_, read) in enumerate(new) if read.cache is cache]
            rows, theirs = torch.tensor([free[i] for i in which]), torch.tensor([new[i][1].row for i in which])
            self.cache.place(rows, cache, theirs, max(lengths[i] for i in which))

    # Rows go on

    @torch.no_grad()
    def _step(self) -> list[Wanted]:
        """Draws the next token of every response. Returns the responses that end with it."""
        self._tidy()
        live = self._live()
        device = self.model.device
        responses = [slot.response for slot in self.slots]
        starts = torch.tensor([slot.start for slot in self.slots], device=device)
        ids = [0 if one is None else one.tokens[-1] for one in responses]
        self.width += 1
        padded = len(live) < len(self.slots) or any(slot.start > 0 for slot in self.slots)
        output = self.model(
            input_ids=torch.tensor(ids, device=device)[:, None],
            attention_mask=(torch.arange(self.width, device=device) >= starts[:, None]).long() if padded else None,
            position_ids=(self.width - 1 - starts)[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        scores = output.logits[:, -1]
        if len(live) < len(self.slots):
            scores = scores[torch.tensor(live, device=scores.device)]
        return self._append([one for one in responses if one is not None], scores)

    def _tidy(self) -> None:
        """Lets columns go that no response uses, and, when nothing waits for them, rows."""
        assert self.cache is not None
        live = self._live()
        n_idle = len(self.slots) - len(live)
        if not self.waiting and n_idle >= max(1, len(self.slots) // 8):
            self.slots = [self.slots[row] for row in live]
            self.cache.keep(torch.tensor(live))
        first = min(slot.start for slot in self.slots if slot.response is not None)
        if first > 0:
            self.cache.trim(first)
            self.width -= first
            for slot in self.slots:
                slot.start = max(0, slot.start - first)

    def _append(self, responses: list[Wanted], scores: Tensor) -> list[Wanted]:  # scores: [N, V]
        """Draws a token for each response. Those that are done leave their rows, and are returned."""
        keys = torch.tensor([one.key for one in responses], device=self.noise_device)
        steps = torch.tensor([one.first_step + len(one.tokens) for one in responses], device=self.noise_device)
        for one, token in zip(responses, self.draw(scores, keys, steps).tolist(), strict=True):
            one.tokens.append(token)
        done = [one for one in responses if one.tokens[-1] in self.ends or len(one.tokens) == self.max_new_tokens]
        for slot in self.slots:
            if slot.response in done:
                slot.response, slot.start = None, 0
        return done
