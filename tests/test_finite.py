"""What `check_finite` looks at where an engine has divided the weights."""

import math

import pytest
import torch

from trl_rsa._finite import check_finite


def divided(values, whole, rank, monkeypatch):
    """A module with a parameter as ZeRO-3 leaves it: nothing in it, and this process's part beside it."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: rank)
    module = torch.nn.Module()
    module.head = torch.nn.Parameter(torch.empty(0))
    module.head.ds_tensor, module.head.ds_numel, module.head.ds_process_group = torch.tensor(values), whole, None
    module.head.ds_tensor.ds_numel = len(values)
    return module


def test_weights_are_looked_at_and_what_fills_up_a_part_is_not(monkeypatch):
    check_finite(divided([1.0, math.nan], 3, 1, monkeypatch), "a stage")  # the third weight, and filling
    check_finite(divided([math.nan, math.nan], 2, 1, monkeypatch), "a stage")  # filling alone
    with pytest.raises(ValueError, match=r"You ran a stage, but it left weights that are not numbers \(in head\)"):
        check_finite(divided([1.0, math.nan], 4, 1, monkeypatch), "a stage")


def test_a_fault_in_another_process_ends_this_one_too(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "cpu:gloo,cuda:nccl")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, op: tensor.fill_(1.0))
    with pytest.raises(ValueError, match="in another process's part"):
        check_finite(torch.nn.Linear(2, 2), "a stage")
