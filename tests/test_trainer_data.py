"""What RSATrainer takes, what it drops and says so, and what it refuses."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from accelerate import ParallelismConfig
from datasets import Dataset
from transformers import AutoModelForCausalLM, ProcessorMixin
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from trl_rsa import RSAConfig, RSATrainer
from trl_rsa.collator import DataCollatorForWeightedPreference
from trl_rsa.risk import CVaR


@pytest.fixture
def make_trainer(tiny_model_path, preference_dataset, tiny_args):
    def make(dataset=preference_dataset, trainer=None, **arguments):
        return RSATrainer(
            model=tiny_model_path,
            args=RSAConfig(**tiny_args(**arguments)),
            train_dataset=dataset,
            **(trainer or {}),
        )

    return make


def token_ids(trainer):
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{name: list(row[name]) for name in names} for row in trainer.train_dataset]


# Formats


def test_explicit_and_implicit_prompt_are_the_same_pairs(make_trainer, preference_dataset, implicit_prompt_dataset):
    """TRL finds an implicit prompt as the longest common beginning, so pairs may share one more word."""
    explicit, implicit = (token_ids(make_trainer(dataset=d)) for d in (preference_dataset, implicit_prompt_dataset))
    for a, b in zip(explicit, implicit, strict=True):
        assert a["prompt_ids"] + a["chosen_ids"] == b["prompt_ids"] + b["chosen_ids"]
        assert a["prompt_ids"] + a["rejected_ids"] == b["prompt_ids"] + b["rejected_ids"]


def test_conversational(make_trainer, conversational_preference_dataset, tiny_tokenizer):
    trainer = make_trainer(dataset=conversational_preference_dataset, max_steps=1)
    row, raw = token_ids(trainer)[0], conversational_preference_dataset[0]
    assert tiny_tokenizer.decode(row["prompt_ids"]) == f"user {raw['prompt'][0]['content']} <eos> assistant"
    assert tiny_tokenizer.decode(row["chosen_ids"]) == f"{raw['chosen'][0]['content']} <eos>"
    trainer.train()
    assert trainer.state.global_step == 1


def test_eos_is_part_of_the_answer(make_trainer, tiny_tokenizer):
    """The risk is summed up to the end of the answer, its end-of-sequence token included."""
    trainer = make_trainer()
    batch = trainer.data_collator([trainer.train_dataset[0]])
    eos = batch["input_ids"] == tiny_tokenizer.eos_token_id
    assert eos.sum() == 2 and (batch["completion_mask"][eos] == 1).all()


def test_streaming_equals_in_memory(make_trainer, make_preference_dataset):
    """Without shuffling, a stream gives the same steps; its weights and labels come along."""
    pairs = make_preference_dataset(16, pair_weight=[0.5, 2.0] * 8, pair_label=[1.0, 0.9, 0.2, 0.5] * 4)
    memory = make_trainer(dataset=pairs, train_sampling_strategy="sequential")
    stream = make_trainer(dataset=pairs.to_iterable_dataset())
    memory.train()
    stream.train()
    losses = [[x["loss"] for x in t.state.log_history if "loss" in x] for t in (memory, stream)]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# Truncation


def cut_pairs(lengths):
    """Pairs with a prompt of two words and a chosen answer of `length` words; with EOS it is length + 3 tokens."""
    rows = [{"prompt": "the cat", "chosen": " sat" * n + " ", "rejected": " ran "} for n in lengths]
    return Dataset.from_list(rows)


@pytest.fixture
def warnings_of_trainer(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trl_rsa.trainer"]


def test_pairs_that_do_not_fit_are_dropped_aloud(make_trainer, warnings_of_trainer):
    """max_length 6 holds answers of up to 3 words: 2 + 3 + EOS. Two of five pairs are longer."""
    pairs = cut_pairs([1, 3, 4, 2, 9])
    trainer = make_trainer(dataset=pairs, max_length=6)
    assert [len(row["chosen_ids"]) for row in token_ids(trainer)] == [2, 4, 3]
    (message,) = warnings_of_trainer()
    assert "Dropped 2 of 5 pairs of the train dataset" in message and "max_length=6" in message


def test_a_prompt_that_fills_max_length_is_counted_too(make_trainer, preference_dataset, warnings_of_trainer):
    """TRL itself drops those, silently."""
    long = {"prompt": "the " * 9, "chosen": " cat ", "rejected": " dog "}
    trainer = make_trainer(dataset=Dataset.from_list([*preference_dataset.select(range(4)), long]), max_length=9)
    dropped = 5 - len(trainer.train_dataset)
    assert dropped >= 1
    assert f"Dropped {dropped} of 5 pairs" in warnings_of_trainer()[0]


def test_nothing_dropped_is_not_mentioned(make_trainer, warnings_of_trainer):
    make_trainer()
    assert warnings_of_trainer() == []


@pytest.mark.parametrize("max_length", [1, 4])
def test_dropping_every_pair_is_refused(make_trainer, max_length):
    """At 1 not even a prompt fits, and TRL leaves nothing; at 4 no answer of 4 words does."""
    with pytest.raises(ValueError, match=f"You set max_length={max_length}, but that would drop 3 of 3 pairs"):
        make_trainer(dataset=cut_pairs([4, 4, 4]), max_length=max_length)


@pytest.mark.parametrize("options", [{"drop_truncated": False, "max_length": 6}, {"max_length": None}], ids=str)
def test_truncation_may_be_kept_or_impossible(make_trainer, options):
    assert len(make_trainer(dataset=cut_pairs([1, 9]), **options).train_dataset) == 2


def test_stream_drops_too(make_trainer):
    stream = cut_pairs([1, 9, 2]).to_iterable_dataset()
    trainer = make_trainer(dataset=stream, max_length=6)
    assert [len(row["chosen_ids"]) for row in trainer.train_dataset] == [2, 3]


def test_dataset_given_to_evaluate_is_treated_alike(make_trainer, warnings_of_trainer):
    trainer = make_trainer(max_length=32)
    trainer.args.max_length = 6
    trainer.evaluate(cut_pairs([1, 9]))
    assert "Dropped 1 of 2 pairs of the eval dataset" in warnings_of_trainer()[0]


# Collators


def test_collator_carries_weight_and_label(make_trainer, make_preference_dataset):
    pairs = make_preference_dataset(4, pair_weight=[1.0, 2.0, 0.0, 0.5], pair_label=[1.0, 0.0, 0.5, 0.25])
    trainer = make_trainer(dataset=pairs, train_sampling_strategy="sequential")
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pair_weight"].tolist() == [1.0, 2.0, 0.0, 0.5]
    assert batch["pair_label"].tolist() == [1.0, 0.0, 0.5, 0.25]
    plain = next(iter(make_trainer().get_train_dataloader()))
    assert set(plain) == {"input_ids", "attention_mask", "completion_mask"}


def test_trls_collator_is_replaced_with_its_options(make_trainer):
    given = DataCollatorForPreference(pad_token_id=2, max_length=17, pad_to_multiple_of=8)
    collator = make_trainer(trainer={"data_collator": given}).data_collator
    assert type(collator) is DataCollatorForWeightedPreference
    assert (collator.pad_token_id, collator.max_length, collator.pad_to_multiple_of) == (2, 17, 8)


@dataclass
class OwnCollator(DataCollatorForPreference):
    """A user's collator, which knows nothing of RSA's columns."""


@dataclass
class OwnCollatorWithWeights(DataCollatorForPreference):
    def torch_call(self, examples):
        weights = torch.tensor([example["pair_weight"] for example in examples])
        return {**super().torch_call(examples), "pair_weight": weights}


def test_own_collator_is_used(make_trainer):
    own = OwnCollator(pad_token_id=0)
    trainer = make_trainer(trainer={"data_collator": own}, max_steps=1)
    trainer.train()
    assert trainer.data_collator.collator is own


@pytest.mark.parametrize("column", ["pair_weight", "pair_label"])
def test_own_collator_that_drops_a_column_is_refused(make_trainer, make_preference_dataset, column):
    pairs = make_preference_dataset(4, **{column: [1.0] * 4})
    trainer = make_trainer(dataset=pairs, trainer={"data_collator": OwnCollator(pad_token_id=0)})
    with pytest.raises(ValueError, match=f"Your dataset has a column '{column}', but your data_collator drops it"):
        trainer.train()


def test_own_collator_may_carry_the_column(make_trainer, make_preference_dataset):
    pairs = make_preference_dataset(4, pair_weight=[0.0] * 4)
    own = OwnCollatorWithWeights(pad_token_id=0)
    trainer = make_trainer(dataset=pairs, trainer={"data_collator": own}, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == 0  # all weights are 0


# Refusals


@pytest.mark.parametrize("name", ["pair_weight", "pair_label"])
@pytest.mark.parametrize("streaming", [False, True])
def test_trls_losses_refuse_the_columns_that_they_would_ignore(make_trainer, make_preference_dataset, name, streaming):
    pairs = make_preference_dataset(4, **{name: [0.5] * 4})
    sentence = rf"Your train dataset has a column '{name}', but loss_type=\['ipo'\] is TRL's and does not know it"
    with pytest.raises(ValueError, match=sentence):
        make_trainer(dataset=pairs.to_iterable_dataset() if streaming else pairs, loss_type="ipo")
    trainer = make_trainer(loss_type="ipo")
    with pytest.raises(ValueError, match=sentence.replace("train", "eval", 1)):
        trainer.evaluate(pairs)


def test_trls_losses_refuse_a_measure(make_trainer):
    with pytest.raises(ValueError, match=r"You gave risk_measure=CVaR\(tail=0.1\), but loss_type=\['ipo'\] is TRL's"):
        make_trainer(trainer={"risk_measure": CVaR(0.1)}, loss_type="ipo")


def test_dpo_config_is_refused(tiny_model_path, preference_dataset, tiny_args):
    with pytest.raises(TypeError, match="You gave args of type DPOConfig, but RSATrainer needs the options of RSAC"):
        RSATrainer(model=tiny_model_path, args=DPOConfig(**tiny_args()), train_dataset=preference_dataset)


@pytest.mark.parametrize("measure", ["cvar", CVaR, lambda x, log_p: x.mean(-1)], ids=["name", "class", "function"])
def test_what_is_no_measure_is_refused(make_trainer, measure):
    with pytest.raises(TypeError, match="it must be an object with the methods"):
        make_trainer(trainer={"risk_measure": measure})


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_are_refused(make_trainer, preference_dataset, column):
    with pytest.raises(ValueError, match="RSATrainer's own losses have been tested with text only"):
        make_trainer(dataset=preference_dataset.add_column(column, ["a.png"] * 16))


def test_processor_is_refused(make_trainer):
    class Processor(ProcessorMixin):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match="RSATrainer's own losses have been tested with text only"):
        make_trainer(trainer={"processing_class": Processor()})


@pytest.mark.parametrize("name", ["cp_size", "sp_size", "tp_size"])
def test_parallelism_other_than_of_data_is_refused(tiny_model_path, preference_dataset, tiny_args, name):
    args = RSAConfig(**tiny_args())
    assert hasattr(ParallelismConfig(), name)
    # The real object needs as many processes.
    args.parallelism_config = SimpleNamespace(**{"cp_size": 1, "sp_size": 1, "tp_size": 1, name: 2})
    with pytest.raises(ValueError, match=f"You set parallelism_config.{name}=2, but RSATrainer has not been tested"):
        RSATrainer(model=tiny_model_path, args=args, train_dataset=preference_dataset)


def test_reference_with_another_vocabulary_is_refused(make_trainer, save_tiny_llama):
    reference = AutoModelForCausalLM.from_pretrained(save_tiny_llama(vocab_size=30))
    with pytest.raises(ValueError, match="a policy with 24 tokens and a reference with 30"):
        make_trainer(trainer={"ref_model": reference})
