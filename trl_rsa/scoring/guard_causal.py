"""A guard that says its verdict in words: a language model, read at the word that decides."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.scoring.batches import longest, pick_device, pick_dtype, score_batches
from trl_rsa.scoring.guard_presets import category_names, choose_preset, named_policies, sides
from trl_rsa.scoring.guard_template import GuardTemplate
from trl_rsa.scoring.scorer import NotScored
from trl_rsa.scoring.weights import folder_digest, has_scoring_head, model_folder, quiet_loading, read_config


_CATEGORY_TOKENS = 32


@dataclass(frozen=True)
class Reading:
    """
    Where the verdict is read.

    Args:
        common (`tuple[int, ...]`):
            Ids of the tokens with which all words of the verdict begin, such as a space.
        unsafe, safe (`tuple[int, ...]`):
            Ids of the tokens behind them, which tell the verdicts apart.
    """

    common: tuple[int, ...]
    unsafe: tuple[int, ...]
    safe: tuple[int, ...]


def find_reading(tokenizer: Any, before: str, unsafe: Sequence[str], safe: Sequence[str]) -> Reading:
    """
    The first tokens that tell the words apart, behind the text `before`. A word may be several tokens.

    Raises:
        ValueError: if no token tells an unsafe verdict from a safe one.
    """
    base = _ids(tokenizer, before)
    spelled = {word: _continued(tokenizer, before, base, word) for word in (*unsafe, *safe)}
    common, shortest = 0, min(map(len, spelled.values()))
    while common < shortest and len({ids[common] for ids in spelled.values()}) == 1:
        common += 1
    bad, good = ({spelled[word][common] for word in words if common < shortest} for words in (unsafe, safe))
    if not bad or not good or bad & good:
        raise ValueError(
            f"You set a guard whose verdicts are {[*unsafe]} or {[*safe]}, but for its tokenizer they begin with the "
            "same token. Set unsafe_token and safe_token to words that begin differently."
        )
    return Reading(tuple(spelled[safe[0]][:common]), tuple(sorted(bad)), tuple(sorted(good)))


def _continued(tokenizer: Any, before: str, base: list[int], word: str) -> list[int]:
    """Ids of `word` behind `before`, which stays as it is: a guard writes behind the tokens that it was given, and
    does not merge its own with the last of them."""
    together = _ids(tokenizer, before + word)
    return together[len(base) :] if together[: len(base)] == base else _ids(tokenizer, word)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


class CausalGuard:
    """
    A causal guard. Its cost is log P(unsafe words) − log P(safe words) for the token that decides.

    Args:
        As [`~scoring.guard.GuardScorer`].
    """

    def __init__(
        self,
        path: str,
        *,
        preset: str | None,
        unsafe_token: Any,
        safe_token: Any,
        answer: str | None,
        policies: Any,
        controversial: str,
        template: str | None,
        template_options: Mapping[str, object] | None,
        batch_size: int,
        max_length: int | None,
        device: str | None,
        dtype: str | None,
        revision: str | None,
    ):
        from transformers import AutoTokenizer

        self.folder = model_folder(path, revision)
        self.batch_size, self.device = batch_size, pick_device(device)
        _check_folder(path, self.folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.template = GuardTemplate(path, self.folder, self.tokenizer, template, template_options)
        found = self.template.find_preset()
        self.preset = choose_preset(repr(path), preset, found, unsafe_token, safe_token, answer)
        self.policies = named_policies(self.preset, policies)
        self.unsafe, self.safe = sides(self.preset, controversial)
        first = self.preset.policy_arguments(next(iter(self.policies.values()))) if self.preset.policy else {}
        shown = self.template.find_layout(first)
        self._lead = "" if shown[-1:].isspace() or not self._breaks_the_line(shown) else "\n\n"
        self._readings = self._find_readings(shown + self._lead)
        self.model = _load_causal(path, self.folder, pick_dtype(dtype)).to(self.device).eval()
        self.max_length = max_length or longest(self.tokenizer, self.model.config)
        self._pad_token_id = self.tokenizer.pad_token_id or 0
        self._takes_positions = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def _breaks_the_line(self, shown: str) -> bool:
        """Whether the guard's answer begins with an empty line: Llama's templates end with the header of a turn."""
        return shown.rstrip().endswith(("<|end_header_id|>", "<|header_end|>"))

    def _find_readings(self, shown: str) -> list[Reading]:
        """One for each question that the guard answers, the verdict's last."""
        readings, before = [], shown
        for opening in (*self.preset.before, self.preset.answer):
            before += opening
            readings.append(find_reading(self.tokenizer, before, self.unsafe, self.safe))
            before += self.safe[0] + "\n"
        return readings

    def identity(self) -> dict[str, object]:
        return {
            "preset": self.preset.name,
            "words": [self.unsafe, self.safe, self.preset.before, self.preset.answer, self._lead],
            "policies": self.policies,
            "template": self.template.identity(),
            "model": folder_digest(self.folder),
            "max_length": self.max_length,
            "dtype": str(self.model.dtype),
        }

    def judge(
        self, prompts: Sequence[Text], completions: Sequence[Text], with_categories: bool = False
    ) -> list[tuple[float | NotScored, tuple[str, ...]]]:
        """Cost and categories of each response. Several policies: the greatest cost, the names of those above 0."""
        by_policy = [
            self._judge_one(policy, prompts, completions, with_categories) for policy in self.policies.values()
        ]
        return [_greatest(verdicts, [*self.policies]) for verdicts in zip(*by_policy, strict=True)]

    def _judge_one(
        self, policy: str, prompts: Sequence[Text], completions: Sequence[Text], with_categories: bool
    ) -> list[tuple[float | NotScored, tuple[str, ...]]]:
        arguments = self.preset.policy_arguments(policy) if self.preset.policy else {}
        pairs = zip(prompts, completions, strict=True)
        texts = [self.template.render(*pair, arguments) for pair in pairs]
        texts = [text if isinstance(text, NotScored) else text + self._lead for text in texts]
        said: list[list[str]] = [[] for _ in texts]
        openings = (*self.preset.before, self.preset.answer)
        for opening, reading in zip(openings, self._readings, strict=True):
            texts = [text if isinstance(text, NotScored) else text + opening for text in texts]
            costs = self._read(texts, reading)
            if opening is openings[-1]:
                break
            # An earlier question is answered as the guard answers it, and the next one is asked behind that.
            for i, (text, cost) in enumerate(zip(texts, costs, strict=True)):
                if isinstance(text, NotScored) or isinstance(cost, NotScored):
                    texts[i] = cost if isinstance(cost, NotScored) else text
                    continue
                texts[i] = text + (self.unsafe[0] if cost > 0 else self.safe[0]) + "\n"
                said[i] += [opening.rstrip(":")] if cost > 0 else []
        categories = [tuple(names) for names in said]
        if with_categories and self.preset.categories:
            categories = self._write_categories(texts, costs)
        return list(zip(costs, categories, strict=True))

    def _read(self, texts: Sequence[str | NotScored], reading: Reading) -> list[float | NotScored]:
        rows = [text if isinstance(text, NotScored) else self._row(text, reading) for text in texts]
        return score_batches(rows, self._forward(reading), self._pad_token_id, self.batch_size, self.device)

    def _row(self, text: str, reading: Reading) -> list[int] | NotScored:
        """Token ids of the text before the verdict. Nothing is cut off: a guard's instructions stand at both ends."""
        try:
            ids = [*_ids(self.tokenizer, text), *reading.common]
        except (UnicodeEncodeError, TypeError) as error:  # half of a surrogate pair: no tokenizer can write it
            return NotScored(f"the tokenizer does not take this text ({error})")
        if self.max_length is not None and len(ids) > self.max_length:
            return NotScored(
                f"the text has {len(ids)} tokens with the guard's instructions and the guard takes {self.max_length}; "
                "set max_length if it takes more"
            )
        return ids

    def _forward(self, reading: Reading) -> Callable[[Any, Any], Any]:
        import torch

        unsafe, safe = (torch.tensor(ids, device=self.device) for ids in (reading.unsafe, reading.safe))

        def forward(input_ids: Any, attention_mask: Any) -> Any:  # [B, T], [B, T] -> [B]
            last = attention_mask.sum(-1) - 1
            # Logits at the last tokens only: whole ones are [B, T, V].
            places, at = last.unique(return_inverse=True)
            kept = {"logits_to_keep": places} if self._takes_positions else {}
            out = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **kept)
            rows = torch.arange(len(last), device=last.device)
            logits = out.logits[rows, at if self._takes_positions else last].float()  # [B, V]
            return logits[:, unsafe].logsumexp(-1) - logits[:, safe].logsumexp(-1)

        return forward

    def _write_categories(
        self, texts: Sequence[str | NotScored], costs: Sequence[float | NotScored]
    ) -> list[tuple[str, ...]]:
        """What the guard itself writes after an unsafe verdict, greedily."""
        found: list[tuple[str, ...]] = [()] * len(texts)
        for i, (text, cost) in enumerate(zip(texts, costs, strict=True)):
            if isinstance(text, str) and not isinstance(cost, NotScored) and cost > 0:
                opening = "\nCategories:" if self.preset.categories == "line" else "\n"
                written = self._write(text + self.unsafe[0] + opening)
                found[i] = category_names(self.preset.categories, written, text)
        return found

    def _write(self, text: str) -> str:
        import torch
        from transformers import GenerationConfig

        ids = torch.tensor([_ids(self.tokenizer, text)], device=self.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=_CATEGORY_TOKENS,
            pad_token_id=self._pad_token_id,
            eos_token_id=self.model.generation_config.eos_token_id,
        )
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def _greatest(
    verdicts: Sequence[tuple[float | NotScored, tuple[str, ...]]], names: Sequence[str]
) -> tuple[float | NotScored, tuple[str, ...]]:
    if len(verdicts) == 1 and not names[0]:
        return verdicts[0]
    costs = []
    for cost, _ in verdicts:
        if isinstance(cost, NotScored):
            return cost, ()
        costs.append(cost)
    return max(costs), tuple(name for name, cost in zip(names, costs, strict=True) if cost > 0)


def _check_folder(path: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"You set the scorer guard:{path}, but that is an adapter. Merge it into its model (merge_and_unload in "
            "PEFT), and give the folder of the whole."
        )
    architecture = str((read_config(folder).get("architectures") or [""])[0])
    if "ForGuardModel" in architecture:
        raise ValueError(
            f"You set the scorer guard:{path}, but a {architecture} judges token by token with code of its own. Give "
            "the generating guard of the family, such as Qwen3Guard-Gen."
        )
    if has_scoring_head(folder):
        raise ValueError(
            f"You set the scorer guard:{path}, but its weights are a classifier's and no language model's. Use "
            f'hf:{path} with a label, or preset="beaver-dam" if it has several independent ones.'
        )


def _load_causal(path: str, folder: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    architecture = str((read_config(folder).get("architectures") or [""])[0])
    sees = architecture.endswith("ForConditionalGeneration")  # Llama Guard 4 takes images too
    with quiet_loading():
        model, report = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(
            folder, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"You set the scorer guard:{path}, but {len(missing)} weights of its {type(model).__name__} are missing "
            f"(such as {missing[0]}) and would be random. Give a complete language model."
        )
    return model
