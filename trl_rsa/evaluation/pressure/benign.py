"""Benign: some steps of ordinary fine-tuning on helpful data, as a model's users do them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trl_rsa.data import load_preferences
from trl_rsa.evaluation.pressure.base import Load, Pressure, Work, made_model, read_number
from trl_rsa.evaluation.tables import is_table, read_responses
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.policies import free_memory, is_adapter, load_policy, load_tokenizer, whole_model
from trl_rsa.scoring.batches import pick_device
from trl_rsa.scoring.weights import quiet_loading
from trl_rsa.storage.records import text_of


Example = tuple[Any, str]  # a prompt and a helpful response
# At a time; the rest of a batch is accumulated.
_AT_ONCE = 2


@dataclass(frozen=True)
class Benign(Pressure):
    """
    `steps` steps of supervised fine-tuning with TRL's `SFTTrainer`. That harmless data wears safety down was shown by
    Qi et al., *Fine-tuning Aligned Language Models Compromises Safety, Even When Users Do Not Intend To!* (2023),
    whose learning rate for whole weights is the default.

    Args:
        steps (`int`, *optional*, defaults to 50):
            Optimizer steps.
        batch_size (`int`, *optional*, defaults to 8):
            Responses per step.
        learning_rate (`float`, *optional*):
            Peak of a constant rate; by default 2e-5, and 2e-4 for an adapter.
        max_length (`int`, *optional*, defaults to 1024):
            Longest conversation, in tokens; longer ones are cut.
    """

    steps: int = 50
    batch_size: int = 8
    learning_rate: float | None = None
    max_length: int = 1024
    kind = "benign"

    @property
    def name(self) -> str:
        return f"benign:{self.steps}"

    @property
    def in_words(self) -> str:
        return f"after {self.steps} steps of harmless fine-tuning"

    @classmethod
    def read(cls, strength: str) -> Self:
        return cls(int(read_number(strength, cls.kind, 1, True, "benign:50")))

    def needs(self) -> tuple[str, ...]:
        return ("helpful",)

    def check(self, models: Sequence[str], work: Work) -> None:
        assert work.sources.helpful is not None
        read_helpful(work.sources.helpful)

    @contextmanager
    def policy(self, path: str, work: Work) -> Iterator[tuple[str, Load]]:
        assert work.sources.helpful is not None
        examples = read_helpful(work.sources.helpful)

        def make(folder: Path) -> None:
            work.log(f"{self.name}: fine-tuning {path} on {len(examples)} helpful responses")
            self.fine_tune(path, examples, folder, work)

        with made_model(work, path, make) as folder:
            yield folder, lambda: work.load(folder)

    def fine_tune(self, path: str, examples: Sequence[Example], folder: Path, work: Work) -> None:
        """Saves to `folder` what the steps make of the model in `path`."""
        from transformers import PrinterCallback
        from trl import SFTTrainer

        tokenizer = load_tokenizer(path)
        dataset = as_tokens(examples, ConversationEncoder(tokenizer, work.sampling.template))
        with _no_bars(), quiet_loading():
            trainer = SFTTrainer(
                model=_trainable(path, work.device),
                args=self._arguments(path, folder, work),
                train_dataset=dataset,
                processing_class=tokenizer,
                callbacks=[_progress(f"{self.name}: fine-tuning", self.steps, work)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.model.save_pretrained(str(folder))
            tokenizer.save_pretrained(str(folder))
        del trainer
        free_memory()

    def _arguments(self, path: str, folder: Path, work: Work) -> Any:
        import torch
        from trl import SFTConfig

        on_cpu = pick_device(work.device).type == "cpu"
        return SFTConfig(
            output_dir=str(folder),
            max_steps=self.steps,
            learning_rate=self.learning_rate or (2e-4 if is_adapter(path) else 2e-5),
            lr_scheduler_type="constant",
            per_device_train_batch_size=min(_AT_ONCE, self.batch_size),
            gradient_accumulation_steps=max(1, self.batch_size // _AT_ONCE),
            max_length=self.max_length,
            completion_only_loss=True,
            gradient_checkpointing=not on_cpu,
            use_cpu=on_cpu,
            bf16=not on_cpu and torch.cuda.is_bf16_supported(),
            seed=work.sampling.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )


def _progress(phase: str, steps: int, work: Work) -> Any:
    """Tells how many steps are done."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            work.progress(phase, state.global_step, steps)

    return Steps()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of `datasets`: there is one of our own."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _trainable(path: str, device: str | None) -> Any:
    """In float32: small steps would be rounded away in fewer bits."""
    if not is_adapter(path):
        return load_policy(path, device, dtype="float32")
    from peft import PeftModel

    whole, options = whole_model(path, {"dtype": "float32"})
    return PeftModel.from_pretrained(load_policy(whole, device, **options), path, is_trainable=True)


def as_tokens(examples: Sequence[Example], encoder: ConversationEncoder) -> Any:
    """The conversations as the policy sees and writes them, with a mask on what it writes."""
    from datasets import Dataset

    rows = []
    for prompt, response in examples:
        before, after = encoder.prompt(prompt), encoder.completion(response)
        rows.append({"input_ids": [*before, *after], "completion_mask": [0] * len(before) + [1] * len(after)})
    return Dataset.from_list(rows)


def read_helpful(path: str) -> list[Example]:
    """Prompts with helpful responses: a file of responses, or the chosen ones of preference pairs.

    Raises:
        ValueError, FileNotFoundError: if there are none.
    """
    if is_table(path) or Path(path).is_file():
        try:
            records = read_responses(path, None, (), ("response",))
            found = [(record["prompt"], text_of(record["response"]).strip()) for record in records]
        except ValueError:
            found = []
        if found := [example for example in found if example[1]]:
            return found
    pairs = load_preferences(path, preferred_by="better").dataset
    return [(row["prompt"], text_of(row["chosen"]).strip()) for row in pairs]
