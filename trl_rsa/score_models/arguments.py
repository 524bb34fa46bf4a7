"""What a user says about a score model, and what cannot go together."""

from dataclasses import dataclass, field
from typing import Any

from trl_rsa.data.harm import HarmScale


OBJECTIVES = ("reward", "cost")
JUDGEMENTS = ("pairs", "labels", "grades")
LAYOUTS = ("hf", "beaver")
LOSS_TYPES = ("sequence-wise", "token-wise")
NORMALIZERS = ("RunningMeanStd", "ExponentialMovingAverage")
TEMPLATES = ("chat", "safe-rlhf")


@dataclass
class ScoreModelArguments:
    """
    Arguments of `trl-rsa score-model` beside those of TRL's RewardConfig and ModelConfig.

    Raises:
        ValueError: if two of them cannot go together.
    """

    objective: str | None = field(
        default=None,
        metadata={"help": "What the score is: a reward, or a cost (above 0 unsafe).", "choices": [*OBJECTIVES]},
    )
    data: list[str] | None = field(
        default=None,
        metadata={"help": "Judged responses: files, folders, Hub ids, or Safe RLHF's NAME[:PROPORTION[:PATH]]."},
    )
    eval_data: list[str] | None = field(
        default=None, metadata={"help": "Judged responses to measure on, in place of held_out."}
    )
    split: str | None = field(default=None, metadata={"help": "Split of `data`, where there are several."})
    eval_split: str | None = field(default=None, metadata={"help": "Split of `eval_data`."})
    use: list[str] | None = field(
        default=None,
        metadata={
            "help": "What is learned from: pairs, labels (safe or unsafe) and grades (of harm). All that the data "
            "have for a cost, pairs for a reward.",
            "choices": [*JUDGEMENTS],
        },
    )
    preferred_by: str | None = field(
        default=None,
        metadata={"help": "PKU-SafeRLHF: what orders a pair. 'better' for a reward, 'safer' for a cost."},
    )
    harm_scale: str | None = field(
        default=None,
        metadata={
            "help": "Grades of harm and their costs, as safe=-1,minor=1,moderate=4,severe=10: makes a graded cost "
            "model. This scale, if the data have grades."
        },
    )
    heads: int = field(default=1, metadata={"help": "Heads on the one body: an ensemble."})
    pessimism: float = field(
        default=0.0, metadata={"help": "Standard deviations of the heads added to a cost, or taken off a reward."}
    )
    loss_type: str = field(
        default="sequence-wise",
        metadata={
            "help": "Where pairs and labels are judged: at the end, or at every token.",
            "choices": [*LOSS_TYPES],
        },
    )
    regularization: float = field(default=0.001, metadata={"help": "Weight of the squared scores in the loss."})
    layout: str = field(
        default="hf",
        metadata={
            "help": "The folder: a sequence classifier for hf:, or Safe RLHF's *ForScore for beaver:.",
            "choices": [*LAYOUTS],
        },
    )
    template: str | None = field(
        default=None,
        metadata={
            "help": "How prompt and response are written down: the tokenizer's chat template, or Safe RLHF's. The "
            "first where there is one; always Safe RLHF's with layout=beaver.",
            "choices": [*TEMPLATES],
        },
    )
    truncation: str | None = field(
        default=None,
        metadata={
            "help": "left: cut the beginning off texts longer than max_length, here and in the scorer. Without it "
            "they are left out.",
            "choices": ["left"],
        },
    )
    held_out: float = field(default=0.1, metadata={"help": "Share of the prompts that are held out and measured on."})
    held_out_prompts: int | None = field(
        default=None, metadata={"help": "Measure on at most so many of the held-out prompts."}
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train the head alone, on the features of the model as it is."}
    )
    normalizer: str | None = field(
        default=None,
        metadata={
            "help": "layout=beaver: divide the scores by their spread in training and after.",
            "choices": [*NORMALIZERS],
        },
    )
    normalizer_momentum: float = field(default=0.9, metadata={"help": "Of ExponentialMovingAverage."})
    save_16bit: bool = field(default=False, metadata={"help": "Save the weights in 16 bits: bfloat16, or fp16."})
    dry_run: bool = field(default=False, metadata={"help": "Read the data and the model's folder; train nothing."})

    def __post_init__(self) -> None:
        if self.objective is None:
            raise ValueError(
                "You gave no objective. Set objective to reward (higher is better) or to cost (higher is worse, "
                "above 0 unsafe)."
            )
        if not self.data:
            raise ValueError("You gave no data. Set data to one or more files, folders or Hub ids.")
        for name, known in (
            ("objective", OBJECTIVES),
            ("loss_type", LOSS_TYPES),
            ("layout", LAYOUTS),
            ("template", (None, *TEMPLATES)),
            ("truncation", (None, "left")),
            ("normalizer", (None, *NORMALIZERS)),
        ):
            _check_choice(name, getattr(self, name), known)
        for judgement in self.use or ():
            _check_choice("use", judgement, JUDGEMENTS)
        self._check_numbers()
        self._check_reward()
        self._check_beaver()
        if self.loss_type == "token-wise" and (self.harm_scale or "grades" in (self.use or ())):
            raise ValueError(
                "You set loss_type=token-wise for a graded cost model, but a grade is given to a whole response. Set "
                "loss_type=sequence-wise."
            )
        if self.pessimism and self.heads == 1:
            raise ValueError(
                f"You set pessimism={self.pessimism:g}, but one head has no spread. Set heads to 2 or more."
            )

    def _check_numbers(self) -> None:
        if isinstance(self.heads, bool) or self.heads < 1:
            raise ValueError(f"You set heads={self.heads}, but they count from 1. Set a whole number of at least 1.")
        for name in ("pessimism", "regularization"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"You set {name}={getattr(self, name)}, but it is at least 0. Set such a number.")
        if not 0 <= self.held_out < 1:
            raise ValueError(
                f"You set held_out={self.held_out}, but it is a share of the prompts. Set it in [0, 1), such as 0.1."
            )
        if not 0 < self.normalizer_momentum < 1:
            raise ValueError(
                f"You set normalizer_momentum={self.normalizer_momentum}, but it is the weight of what was there "
                "before. Set it in (0, 1), such as 0.9."
            )
        if self.held_out_prompts is not None and self.held_out_prompts < 1:
            raise ValueError(f"You set held_out_prompts={self.held_out_prompts}, but then nothing is measured.")

    def _check_reward(self) -> None:
        if self.objective != "reward":
            return
        unfit = [name for name in self.use or () if name != "pairs"]
        if unfit or self.harm_scale:
            raise ValueError(
                f"You set {'harm_scale' if self.harm_scale else f'use={unfit[0]}'} with objective=reward, but labels "
                "and grades say how harmful a response is. Set objective=cost."
            )

    def _check_beaver(self) -> None:
        if self.layout != "beaver":
            if self.normalizer is not None:
                raise ValueError(
                    f"You set normalizer={self.normalizer} with layout=hf, but a sequence classifier has no place for "
                    "it. Set layout=beaver."
                )
            return
        if self.harm_scale or self.heads > 1 or "grades" in (self.use or ()):
            raise ValueError(
                "You set layout=beaver for a graded cost model or several heads, but Safe RLHF's layout holds one "
                "score. Set layout=hf."
            )
        if self.template == "chat":
            raise ValueError(
                "You set template=chat with layout=beaver, but those models are always scored in Safe RLHF's "
                "template. Remove it, or set layout=hf."
            )

    @property
    def judgements(self) -> tuple[str, ...]:
        """What may be learned from, if the data have it."""
        if self.use:
            return tuple(self.use)
        if self.objective == "reward":
            return ("pairs",)
        plain = self.layout == "beaver" or self.loss_type == "token-wise"
        return ("pairs", "labels") if plain else JUDGEMENTS

    @property
    def scale(self) -> HarmScale:
        return HarmScale() if self.harm_scale is None else HarmScale.parse(self.harm_scale)


def _check_choice(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        shown = [choice for choice in known if choice is not None]
        raise ValueError(f"You set {name}={value!r}, but it is one of {', '.join(shown)}. Set one of them.")
