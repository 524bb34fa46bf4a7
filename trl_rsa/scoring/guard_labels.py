"""A guard that gives several labels, each by itself: beaver-dam, and what is made like it."""

from collections.abc import Sequence

from trl_rsa.data.schema import Text
from trl_rsa.scoring.classifier import ClassifierScorer
from trl_rsa.scoring.scorer import NotScored


_BEAVER_DAM = 14  # labels


class LabelGuard:
    """
    A sequence classifier with independent labels, each a kind of harm, on Safe RLHF's template.

    The cost is the greatest of their log-odds. It is above 0 exactly if some label has more than probability ½: the
    guard's own "any". Its code flags from 0.4 on, which is `zero=-0.405`. The labels go together, so that a
    probability of "any" as if they were independent would be too high.

    Args:
        As [`~scoring.guard.GuardScorer`].
    """

    def __init__(
        self,
        path: str,
        *,
        batch_size: int,
        max_length: int | None,
        device: str | None,
        dtype: str | None,
        revision: str | None,
    ):
        self.classifier = ClassifierScorer(
            path,
            "cost",
            label=0,
            template="safe-rlhf",
            batch_size=batch_size,
            max_length=max_length,
            device=device,
            dtype=dtype,
            revision=revision,
        )
        config = self.classifier.model.config
        # beaver-dam itself may not say it: its 14 labels are known.
        count, problem = config.num_labels, config.problem_type
        if not (problem == "multi_label_classification" or (problem is None and count in (1, _BEAVER_DAM))):
            raise ValueError(
                f'You set preset="beaver-dam" for the scorer {path!r}, but its config.json does not say that its '
                f"{count} classes are independent (multi_label_classification): 'safe' would be a kind of harm. "
                f"Use hf:{path} with label."
            )
        self.names = [str(config.id2label[i]) for i in range(count)]

    def identity(self) -> dict[str, object]:
        identity = self.classifier.identity()
        return {"preset": "beaver-dam", **{key: value for key, value in identity.items() if key != "label"}}

    def judge(
        self, prompts: Sequence[Text], completions: Sequence[Text], with_categories: bool = False
    ) -> list[tuple[float | NotScored, tuple[str, ...]]]:
        """Cost of each response, and the labels above ½."""
        rows = self.classifier.all_logits(prompts, completions)
        return [(row, ()) if isinstance(row, NotScored) else (max(row), self._above(row)) for row in rows]

    def _above(self, logits: Sequence[float]) -> tuple[str, ...]:
        return tuple(name for name, logit in zip(self.names, logits, strict=True) if logit > 0)
