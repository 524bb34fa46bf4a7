"""benchmarks/memory.py: the prediction against arithmetic by hand, and the example plans against their machines."""

import csv
import re

import pytest

from benchmarks import memory
from benchmarks.memory import Job


SHAPE = {
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
}
# Per layer 4·8·8 for attention, 3·8·16 for the rest, two norms of 8; the last norm; embeddings and head of 100·8.
LINEAR, OTHER = 2 * (256 + 384), 2 * 16 + 8 + 2 * 800


def job(**changes):
    return Job(**{"name": "", "shape": SHAPE, "engine": "single", "processes": 1, "pairs": 2, "tokens": 16, **changes})


def test_full_fine_tuning_in_float32():
    parts = memory.predict(job())
    weights = 4 * (LINEAR + OTHER)
    assert (parts.weights, parts.reference, parts.gradients) == (weights, weights, weights)
    assert parts.optimizer == 2 * weights and parts.engine == 0


def test_four_bits_leave_embeddings_norms_and_head():
    parts = memory.predict(job(four_bits=True, half=True, lora={"r": 2, "target_modules": ["q_proj"]}))
    adapter = 2 * (2 * 2 * 8)  # two layers, A and B of 2·8
    assert parts.weights == LINEAR * 0.5625 + 2 * OTHER + 2 * adapter
    assert (parts.gradients, parts.optimizer, parts.reference) == (2 * adapter, 4 * adapter, 2 * adapter)


def test_each_zero_stage_shares_more():
    one, *zero = (memory.predict(job(engine=f"zero{n}", processes=4, on_cpu=True)) for n in (1, 1, 2, 3))
    assert [parts.optimizer for parts in zero] == [12 * (LINEAR + OTHER) / 4] * 3
    assert [one.gradients / parts.gradients for parts in zero] == [1, 4, 4]
    assert [one.weights / parts.weights for parts in zero] == [1, 1, 4]


def test_checkpointing_keeps_one_layer_and_a_state_per_layer():
    deep = SHAPE | {"num_hidden_layers": 12}
    layer, rest = memory.kept_by_autograd(job(shape=deep), memory.torch.float32)
    assert memory.activations(job(shape=deep), 4) == rest + 12 * layer
    assert memory.activations(job(shape=deep, checkpointing=True), 4) == rest + layer + 12 * (4 * 16 * 8 * 4)


def test_memory_of_a_layer_grows_with_the_tokens():
    """Linearly: attention keeps no matrix of tokens by tokens."""
    short, long = (memory.kept_by_autograd(job(tokens=n), memory.torch.float32)[0] for n in (64, 128))
    assert long == pytest.approx(2 * short, rel=0.05)


@pytest.mark.parametrize("planned", memory.plan_jobs(), ids=lambda planned: planned.name)
def test_an_example_plan_fits_its_machine(planned):
    devices, gigabytes = re.search(r"_(\d+)x(\d+)gb", planned.name).groups()
    assert planned.processes == int(devices)
    assert memory.predict(planned).total() < 0.8 * int(gigabytes) * 1e9, "leave a fifth for what is not predicted"


def test_predicted_and_measured_are_not_mixed():
    with memory.RESULTS.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["predicted"] and not row["measured"] for row in rows if ".yaml" in row["name"])
    assert all(row["measured"] and row["device"] for row in rows if row["name"].startswith("small"))
