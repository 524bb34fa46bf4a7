"""Hugging Face sequence classifiers as scorers: TRL's reward models, and any other classifier."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trl_rsa.data.schema import Text
from trl_rsa.scoring.batches import (
    Truncation,
    check_batching,
    check_batching_of,
    longest,
    pick_device,
    pick_dtype,
    score_batches,
    tokenize,
)
from trl_rsa.scoring.graded import CONFIG_FIELD, Readout
from trl_rsa.scoring.scorer import Direction, Kind, NotScored, Scorer
from trl_rsa.scoring.text import chat_text, end_of_reply, plain_text, safe_rlhf_text
from trl_rsa.scoring.weights import (
    folder_digest,
    model_folder,
    model_format,
    quiet_loading,
    read_tensors,
    short_name,
    weights_folder,
)


Output = Literal["logit", "probability"]
Template = Literal["chat", "safe-rlhf"] | None


class ClassifierScorer(Scorer):
    """
    A sequence classifier, such as TRL's RewardTrainer makes.

    The text is what RewardTrainer trains on: a conversation in the tokenizer's chat template; for plain strings,
    prompt + completion + the end-of-sequence token. One conversational half makes the other one conversational.

    A folder of `trl-rsa score-model` says in its config.json (`score_model`) how its logits become a score, in which
    template it was trained, and at which length; these are then the defaults here.

    Args:
        path (`str`):
            Folder, or repository on the Hub. It may be a PEFT adapter.
        kind, higher_is, zero, name:
            As [`Scorer`]. For a safety classifier that gives the probability of harm: `kind="cost"`,
            `output="probability"`, `zero=0.5`.
        label (`int` or `str`, *optional*):
            Which class's score is read, by number or by name. Needed when there are several.
        output (`str`, *optional*, defaults to `"logit"`):
            The logit as it is, or `"probability"` (sigmoid of one label or of independent ones, softmax of others).
        template (`str`, *optional*):
            `"chat"` puts plain strings into the chat template too; `"safe-rlhf"` uses Safe RLHF's template for all.
        pessimism (`float`, *optional*):
            For a score model with several heads: so many of their standard deviations are added to a cost, or taken
            off a reward, in place of those that its config.json says.
        batch_size, max_length, truncation, device, dtype, revision:
            As [`~scoring.beaver.BeaverScorer`].
    """

    def __init__(
        self,
        path: str,
        kind: Kind,
        higher_is: Direction | None = None,
        zero: float = 0.0,
        name: str | None = None,
        *,
        label: int | str | None = None,
        output: Output = "logit",
        template: Template = None,
        pessimism: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        truncation: Truncation = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ):
        super().__init__(kind, higher_is, zero, name or f"hf:{short_name(path)}")
        check_batching(batch_size, max_length, truncation)
        _check_reading(output, template)
        from transformers import AutoTokenizer

        self.folder = model_folder(path, revision)
        self.batch_size, self.truncation, self.device = batch_size, truncation, pick_device(device)
        self.output, self.template = output, template
        self._base = _base_folder(self.folder)
        self.model = _load_classifier(self.folder, self._base, pick_dtype(dtype)).to(self.device).eval()
        self.readout = _readout(self.model.config, path, pessimism)
        if self.readout is not None:
            settings = getattr(self.model.config, CONFIG_FIELD)
            _check_own(self.readout, path, kind, higher_is, label, output)
            self.template = template or settings.get("template")
            self.truncation = truncation or settings.get("truncation")
            max_length = max_length or settings.get("max_length")
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.max_length = max_length or longest(self.tokenizer, self.model.config)
        self.label = None if self.readout is not None else _label_index(self.model.config, label, path)
        self._pad_token_id = _set_padding(self.model.config, self.tokenizer)
        self._check_template(path)
        # RewardTrainer appends EOS to plain text; where the tokenizer does so by itself (RoBERTa), one is enough.
        # Not seen in an empty text: the EOS of OPT's is its BOS too, which stands in front.
        ends_by_itself = self.tokenizer("a")["input_ids"][-1:] == [self.tokenizer.eos_token_id]
        self._plain_eos = None if ends_by_itself else self.tokenizer.eos_token

    def _check_template(self, path: str) -> None:
        if self.template == "chat" and not self.tokenizer.chat_template:
            raise ValueError(
                f'You set template="chat" for the scorer {path!r}, but its tokenizer has no chat template. Leave the '
                "option out, or add the template to the tokenizer."
            )
        if self.template == "safe-rlhf" and end_of_reply(self.tokenizer) is None:
            raise ValueError(
                f'You set template="safe-rlhf" for the scorer {path!r}, but its tokenizer has no end-of-sequence '
                "token. Leave the option out."
            )

    @classmethod
    def check(cls, rest: str, options: Mapping[str, object], kind: Kind) -> None:
        super().check(rest, options, kind)
        check_batching_of(options)
        _check_reading(options.get("output", "logit"), options.get("template"))

    def identity(self) -> dict[str, object]:
        names = ("label", "output", "template", "max_length", "truncation")
        settings = {name: getattr(self, name) for name in names}
        if self.readout is not None:  # the folder's digest stands for the rest of it
            settings["pessimism"] = self.readout.pessimism
        if self._base is not None:  # an adapter does not hold its weights
            settings["base"] = folder_digest(self._base)
        return {"format": "hf", "model": folder_digest(self.folder), "dtype": str(self.model.dtype), **settings}

    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | NotScored]:
        return self._through(self._forward, prompts, completions)

    def all_logits(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[list[float] | NotScored]:
        """The logits of every class for each completion."""
        return self._through(self._logits, prompts, completions)

    def _through(
        self, forward: Callable[[Any, Any], Any], prompts: Sequence[Text], completions: Sequence[Text]
    ) -> list[Any]:
        texts = [self._text(*pair) for pair in zip(prompts, completions, strict=True)]
        rows = tokenize(
            self.tokenizer,
            [text for text, _ in texts],
            [special for _, special in texts],
            self.max_length,
            self.truncation,
        )
        return score_batches(rows, forward, self._pad_token_id, self.batch_size, self.device)

    def _text(self, prompt: Text, completion: Text) -> tuple[str | NotScored, bool]:
        """The text, and whether the tokenizer is to add its special tokens."""
        if self.template == "safe-rlhf":
            return safe_rlhf_text(prompt, completion, end_of_reply(self.tokenizer)), True
        if self.template is None and isinstance(prompt, str) and isinstance(completion, str):
            return plain_text(prompt, completion, self._plain_eos), True
        if not self.tokenizer.chat_template:
            return NotScored("it is a conversation, and the scorer's tokenizer has no chat template"), False
        return chat_text(self.tokenizer, prompt, completion), False

    def _logits(self, input_ids: Any, attention_mask: Any) -> Any:  # [B, T], [B, T] -> [B, C]
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()

    def _forward(self, input_ids: Any, attention_mask: Any) -> Any:  # [B, T], [B, T] -> [B]
        logits = self._logits(input_ids, attention_mask)
        if self.readout is not None:
            return self.readout.scores(logits)
        if self.output == "probability":
            independent = logits.shape[-1] == 1 or self.model.config.problem_type == "multi_label_classification"
            logits = logits.sigmoid() if independent else logits.softmax(-1)
        return logits[:, self.label]


def _check_reading(output: Any, template: Any) -> None:
    for option, value, known in (
        ("output", output, ("logit", "probability")),
        ("template", template, (None, "chat", "safe-rlhf")),
    ):
        if value not in known:
            raise ValueError(f"You set {option}={value!r}, but it is one of {[*known]}. Choose one of them.")


def _readout(config: Any, path: str, pessimism: float | None) -> Readout | None:
    """What a folder of `trl-rsa score-model` says about its logits; None for any other classifier."""
    settings = getattr(config, CONFIG_FIELD, None)
    if settings is None:
        if pessimism is not None:
            raise ValueError(
                f"You set pessimism={pessimism} for the scorer {path!r}, but only a model of `trl-rsa score-model` "
                "has several heads. Remove the option."
            )
        return None
    readout = Readout.from_config(settings)
    if readout.logits != config.num_labels:
        raise ValueError(
            f"You set the scorer {path!r}, but its config.json says {readout.logits} logits and its head has "
            f"{config.num_labels}. Restore the file."
        )
    if pessimism is not None:
        if isinstance(pessimism, bool) or not isinstance(pessimism, int | float) or not 0 <= pessimism < math.inf:
            raise ValueError(f"You set pessimism={pessimism!r}, but it is a number of at least 0. Set such a one.")
        readout.pessimism = float(pessimism)
    return readout


def _check_own(
    readout: Readout, path: str, kind: Kind, higher_is: Direction | None, label: int | str | None, output: Output
) -> None:
    """Our own folders say whether they give a reward or a cost. It is never guessed, and never passed over."""
    if label is not None or output != "logit":
        raise ValueError(
            f"You set label or output for the scorer {path!r}, but its config.json says how its logits become a "
            "score. Remove the option."
        )
    readout.check_kind(path, kind, higher_is)


def _base_folder(folder: Path) -> Path | None:
    """Of the model that a PEFT adapter stands on; None for a model that is none."""
    if not (folder / "adapter_config.json").is_file():
        return None
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    base = str(config.base_model_name_or_path)
    try:
        return model_folder(base, config.revision)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"You set the scorer hf:{folder}, but that is an adapter, and its base model {base!r} is not there. Put "
            "it back, or correct base_model_name_or_path in adapter_config.json."
        ) from error


def _load_classifier(folder: Path, base: Path | None, dtype: Any) -> Any:
    if model_format(folder) == "beaver":
        raise ValueError(
            f"You set the scorer hf:{folder}, but that is a *ForScore model of Safe RLHF. Use beaver:{folder}."
        )
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if base is not None:
        return _load_adapter(folder, base, dtype)
    with quiet_loading():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            weights_folder(folder),
            config=AutoConfig.from_pretrained(folder, local_files_only=True),
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"You set the scorer hf:{folder}, but {len(missing)} weights of its {type(model).__name__} are missing "
            f"(such as {missing[0]}) and would be random. Give a complete sequence classifier."
        )
    return model


def _load_adapter(folder: Path, base: Path, dtype: Any) -> Any:
    """A PEFT adapter of a classifier on its base model, merged: the adapter holds the trained head."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    heads = read_tensors(folder, ("base_model.model.score.", "base_model.model.classifier."))
    labels = min((tensor.shape[0] for name, tensor in heads.items() if name.endswith(".weight")), default=1)
    with quiet_loading():  # the base model's head is random here, and replaced by the adapter's
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=dtype)
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def _label_index(config: Any, label: int | str | None, path: str) -> int:
    count, names = config.num_labels, config.id2label or {}
    if label is None and count == 1:
        return 0
    known = {str(name).lower(): int(index) for index, name in names.items()}
    index = known.get(label.lower(), int(label) if label.isdecimal() else -1) if isinstance(label, str) else label
    if index is None or not 0 <= index < count:
        raise ValueError(
            f"You set label={label!r} for the scorer {path!r}, but it has {count} classes, {[*names.values()]}. Set "
            "label to the one whose score is meant, by name or by number."
        )
    return index


def _set_padding(config: Any, tokenizer: Any) -> int:
    """The padding token, which the model's own choice, as in training, decides: a decoder reads the last token that
    is *not* padding, and thereby skips a final EOS where EOS is the padding too."""
    text_config = config.get_text_config()
    candidates = (text_config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    chosen = next(candidate for candidate in candidates if candidate is not None)
    text_config.pad_token_id = chosen
    return chosen
