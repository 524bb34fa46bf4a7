"""Guard models as scorers: `guard:PATH`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.scoring.batches import check_batching, check_batching_of
from trl_rsa.scoring.guard_causal import CausalGuard
from trl_rsa.scoring.guard_labels import LabelGuard
from trl_rsa.scoring.guard_presets import check_controversial, check_preset
from trl_rsa.scoring.scorer import Direction, Kind, NotScored, Scorer
from trl_rsa.scoring.weights import model_folder, read_config, short_name


@dataclass(frozen=True)
class Verdict:
    """
    What a guard says of a response.

    Args:
        cost (`float`, *optional*):
            Log-odds of unsafe against safe, as the guard gives it: above 0 it says unsafe.
        categories (`tuple[str, ...]`):
            The kinds of harm that it names, where it names any.
        reason (`str`, *optional*):
            Why there is no cost.
    """

    cost: float | None
    categories: tuple[str, ...] = ()
    reason: str | None = None


class GuardScorer(Scorer):
    """
    A guard model. The raw score is the log-odds of its verdict: unbounded, higher is worse, and 0 where the guard
    itself changes from safe to unsafe.

    The conversation is put to it by its own chat template. How the verdict is read is found out from the template
    ([`~scoring.guard_presets.PRESETS`]), or set. A classifier with independent labels (beaver-dam) gives the greatest
    log-odds of its labels.

    Args:
        path (`str`):
            Folder, or repository on the Hub.
        kind, zero, name:
            As [`Scorer`].
        higher_is (`str`, *optional*, defaults to `"worse"`):
            Whichever kind is made of it: a guard's log-odds are those of harm.
        preset (`str`, *optional*):
            Which guard it is, if its template does not tell.
        unsafe_token, safe_token (`str` or `list[str]`, *optional*):
            Words with which an unsafe and a safe verdict begin, for a guard that we do not know.
        answer (`str`, *optional*):
            What the guard writes before its verdict, such as `"Safety:"`; by default what the preset says.
        policies (`str`, `list[str]` or `dict[str, str]`, *optional*):
            For guards that are asked about one policy at a time: guidelines of ShieldGemma, risks or criteria of
            Granite Guardian, possibly by name. The cost is the greatest of them.
        controversial (`str`, *optional*, defaults to `"unsafe"`):
            As what a verdict between the two counts (Qwen3Guard).
        template (`str`, *optional*):
            A text with `{prompt}` and `{response}`, or a file with it, for a guard without a chat template. Where its
            README.md quotes one, as WildGuard's does, that one is used.
        template_options (`dict`, *optional*):
            Further arguments of the chat template.
        batch_size, max_length, device, dtype, revision:
            As [`~scoring.beaver.BeaverScorer`]. A text that is too long is not scored: a guard's instructions stand at
            both ends.
    """

    def __init__(
        self,
        path: str,
        kind: Kind,
        higher_is: Direction | None = None,
        zero: float = 0.0,
        name: str | None = None,
        *,
        preset: str | None = None,
        unsafe_token: str | Iterable[str] | None = None,
        safe_token: str | Iterable[str] | None = None,
        answer: str | None = None,
        policies: str | Iterable[str] | Mapping[str, str] | None = None,
        controversial: str = "unsafe",
        template: str | None = None,
        template_options: Mapping[str, object] | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ):
        super().__init__(kind, higher_is or "worse", zero, name or f"guard:{short_name(path)}")
        check_batching(batch_size, max_length, None)
        check_controversial(controversial)
        loading: dict[str, Any] = {
            "batch_size": batch_size,
            "max_length": max_length,
            "device": device,
            "dtype": dtype,
            "revision": revision,
        }
        asking: dict[str, Any] = {
            "unsafe_token": unsafe_token,
            "safe_token": safe_token,
            "answer": answer,
            "policies": policies,
            "template": template,
            "template_options": template_options,
        }
        self.guard: CausalGuard | LabelGuard
        if preset == "beaver-dam" or (preset is None and _gives_labels(path, revision)):
            given = [option for option, value in asking.items() if value is not None]
            if given:
                raise ValueError(
                    f"You set {', '.join(given)} for the scorer {self.name!r}, but that guard gives labels and no "
                    "words, on Safe RLHF's template. Leave it out."
                )
            self.guard = LabelGuard(path, **loading)
        else:
            self.guard = CausalGuard(path, preset=preset, controversial=controversial, **asking, **loading)

    @classmethod
    def check(cls, rest: str, options: Mapping[str, object], kind: Kind) -> None:
        super().check(rest, options, kind)
        check_batching_of(options)
        check_preset(options.get("preset"))
        check_controversial(options.get("controversial", "unsafe"))

    def identity(self) -> dict[str, object]:
        return {"format": "guard", **self.guard.identity()}

    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | NotScored]:
        return [cost for cost, _ in self.guard.judge(prompts, completions)]

    def verdicts(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Verdict]:
        """What the guard says of each response, with categories. Some guards have to write them: that is slower."""
        return as_verdicts(self.guard.judge(prompts, completions, with_categories=True))


def as_verdicts(judged: Iterable[tuple[float | NotScored, tuple[str, ...]]]) -> list[Verdict]:
    return [
        Verdict(None, (), cost.reason) if isinstance(cost, NotScored) else Verdict(cost, names)
        for cost, names in judged
    ]


def _gives_labels(path: str, revision: str | None) -> bool:
    """Whether the folder is a sequence classifier with independent labels, by its configuration."""
    folder = model_folder(path, revision)
    if not (folder / "config.json").is_file():
        return False
    config = read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    return (
        architecture.endswith("ForSequenceClassification")
        and config.get("problem_type") == "multi_label_classification"
    )
