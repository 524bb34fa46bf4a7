"""The methods of the literature in the constraint track: SafeDPO's transform and offset, the rule of choice."""

import math

import pytest
import torch

from benchmarks.alignment.constraint_baselines import RLOO_TRIED, chosen_rloo, reordered
from benchmarks.alignment.constraint_trainers import OffsetTrainer
from trl_rsa import RSAConfig
from trl_rsa.metrics import PairStatistics


def pair(chosen, rejected):
    said = {
        side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": [{"role": "user", "content": "p"}], "pair_label": 0.7, **said}


def test_safedpo_reorders_by_safety():
    costs = {("p", "safe"): -1.0, ("p", "calm"): 0.0, ("p", "bad"): 1.0, ("p", "worse"): 9.0}
    assert reordered(pair("bad", "worse"), costs) is None
    kept = reordered(pair("safe", "calm"), costs)
    assert (kept["pair_label"], kept["pair_weight"]) == (0.7, 0.0) and kept["chosen"] == pair("safe", "calm")["chosen"]
    swapped = reordered(pair("bad", "safe"), costs)
    assert swapped["chosen"][0]["content"] == "safe" and swapped["rejected"][0]["content"] == "bad"
    assert (swapped["pair_label"], swapped["pair_weight"]) == (1.0, 1.0)
    assert reordered(pair("safe", "bad"), costs)["chosen"][0]["content"] == "safe"


def test_the_offset_lowers_the_logit(tiny_model_path, make_preference_dataset, tiny_args):
    """β = .5, log-ratios 3 and 1, Δ = 2: −log σ(.5·(3 − 1) − 2) = log(1 + e)."""
    args = RSAConfig(**tiny_args(beta=0.5, risk_alpha=0.0, risk_measure="expectation"))
    trainer = OffsetTrainer(tiny_model_path, args=args, train_dataset=make_preference_dataset(4))
    zero = torch.zeros(1)
    statistics = PairStatistics(zero, zero, torch.tensor([3.0]), torch.tensor([1.0]), zero, zero, zero, zero)
    loss = trainer._loss(statistics, torch.zeros(2, 3), torch.ones(2, 4), torch.tensor([2.0]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(math.log(1 + math.e))


def test_the_settings_are_chosen_by_the_rule():
    def row(method, met, reward, bound):
        return {"part": "baselines, tuning", "method": method.name, "met": met, "reward": reward, "bound": bound}

    first, second, third = RLOO_TRIED
    rows = [row(first, 1, 1.0, 1.5), row(second, 1, 1.2, 1.9)]
    assert chosen_rloo(rows) is None, "one has not been tried"
    assert chosen_rloo([*rows, row(third, 0, 1.9, 3.0)]).loss == second.loss
    none = [row(first, 0, 1.0, 2.5), row(second, 0, 1.2, 2.9), row(third, 0, 1.9, 2.4)]
    assert chosen_rloo(none).loss == third.loss
