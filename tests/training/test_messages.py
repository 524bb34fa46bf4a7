"""Requests to launched processes: JSON, there and back, and a sentence for what cannot be sent."""

import json
import threading
from collections import Counter, OrderedDict, defaultdict

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, SchedulerType

from trl_rsa.risk import CVaR, Entropic, Spectral
from trl_rsa.sampling.response import Sampling
from trl_rsa.training.anchor import ModelSettings
from trl_rsa.training.messages import decode, encode
from trl_rsa.training.worker import SampleRequest, TrainRequest, read_request, write_request


def there_and_back(value):
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 2.5, "a", [1, [2]], {"a": {"b": 1}}, (1, "x"), {3, 1}, frozenset({(0, 1), (2, 0)})),
        *({0: "a", 1: "b"}, {"$tuple": 1}, torch.bfloat16, SchedulerType.COSINE, CVaR, torch.nn.functional.relu),
        *(Sampling(draws=3, top_p=0.5), CVaR(0.3), Entropic(2.0), Spectral([0.1, 1.0], [0.5, 0.5])),
    ],
    ids=lambda value: type(value).__name__,  # an address in a name would differ between workers
)
def test_a_value_comes_back_as_it_was(value):
    back = there_and_back(value)
    assert type(back) is type(value) and back == value


class Rows(list):
    """A list of a class of its own."""


class Words(str):
    """A text of a class of its own."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (OrderedDict(b=1, a=[OrderedDict(c=2)]), {"b": 1, "a": [{"c": 2}]}),
        (Counter({3: 2}), {3: 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Rows([1, Rows([2])]), [1, [2]]),
    ],
    ids=["ordered", "counter", "default", "list"],
)
def test_a_list_or_dict_of_another_class_keeps_its_content(value, plain):
    back = there_and_back({"value": value})["value"]
    assert type(back) is type(plain) and back == plain and list(back) == list(plain)


@pytest.mark.parametrize("value", [Words("a"), torch.nn.Parameter(torch.ones(1))], ids=["text", "parameter"])
def test_what_would_lose_its_content_is_refused(value):
    with pytest.raises(ValueError, match="whose content is not in its attributes: it cannot be sent"):
        encode(value)


def test_a_tensor_comes_back():
    tensor = torch.tensor([[0.1, 2.0]], dtype=torch.bfloat16)
    assert torch.equal(there_and_back(tensor), tensor) and there_and_back(tensor).dtype is torch.bfloat16


def test_configurations_come_back():
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    assert there_and_back(lora).to_dict() == lora.to_dict()
    bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")
    assert there_and_back(bits).to_dict() == bits.to_dict()


def test_requests_come_back():
    models = ModelSettings({"dtype": torch.float32}, {"r": 2}, True)
    train = TrainRequest("t", {"beta": 0.1}, CVaR(0.2), {"n": 1}, {"a": 1.0}, "rsa", {}, "start", models)
    assert read_request(write_request(train, "t")) == train
    sample = SampleRequest("m", models, ["a", [{"role": "user", "content": "b"}]], Sampling(), 4, frozenset({(0, 0)}))
    assert read_request(write_request(sample, "t")) == sample


def test_what_cannot_be_sent_is_named():
    class Local:
        pass

    for value in (Local(), lambda: 0, threading.Lock(), {"a": [Local]}):
        with pytest.raises(ValueError, match=r"\[1\] safe.*cannot be sent.* Give it by name"):
            encode(value, "[1] safe")


def test_reading_runs_no_code_of_the_class():
    """A pickle would call what it names; here attributes are set, whatever the class would say to them."""
    assert decode({"$object": "trl_rsa.risk:CVaR", "state": {"tail": 7.0}}).tail == 7.0
    with pytest.raises(ValueError, match="tail"):
        CVaR(7.0)
