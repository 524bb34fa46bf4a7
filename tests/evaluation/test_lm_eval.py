"""lm-evaluation-harness: how it is called (its signature of 0.4.13), what comes back, and its absence."""

import math
import sys
from types import SimpleNamespace

import pytest

from trl_rsa.evaluation.lm_eval import run_benchmarks


def test_missing_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"not installed. Install it: pip install 'trl-rsa\[eval\]'"):
        run_benchmarks("folder", ["wmdp"])


def test_an_adapter_is_loaded_onto_its_base(tiny_model_path, tmp_path, monkeypatch):
    """The harness loads no folder that holds an adapter alone; its class for such models, HFLM, has an argument."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path), settings).save_pretrained(tmp_path)
    calls = []

    def simple_evaluate(model, model_args, **options):
        calls.append(model_args)
        return {"results": {}}

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    for model in (str(tmp_path), tiny_model_path):
        run_benchmarks(model, ["wmdp"], device="cpu", dtype="bfloat16")
    assert calls == [
        {"pretrained": tiny_model_path, "peft": str(tmp_path), "dtype": "bfloat16"},
        {"pretrained": tiny_model_path, "dtype": "bfloat16"},
    ]


def test_call_and_results(monkeypatch):
    import numpy as np

    calls = []

    def simple_evaluate(
        model,
        model_args=None,
        tasks=None,
        num_fewshot=None,
        batch_size=None,
        max_batch_size=None,
        device=None,
        limit=None,
        log_samples=True,
        apply_chat_template=False,
        random_seed=0,
        numpy_random_seed=1234,
        torch_random_seed=1234,
        fewshot_random_seed=1234,
    ):
        calls.append(locals())
        return {
            "results": {"wmdp_bio": {"alias": "bio", "acc,none": np.float64(0.5), "acc_stderr,none": math.nan}},
            "groups": {"wmdp": {"acc,none": 0.25, "acc_stderr,none": "N/A"}},
        }

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    found = run_benchmarks("folder", ("wmdp",), batch_size=2, device="cpu", seed=7)
    assert found == {
        "wmdp_bio": {"alias": "bio", "acc,none": 0.5, "acc_stderr,none": None},
        "wmdp": {"acc,none": 0.25, "acc_stderr,none": "N/A"},
    }
    (call,) = calls
    assert call["model"] == "hf" and call["model_args"] == {"pretrained": "folder", "dtype": "auto"}
    assert call["tasks"] == ["wmdp"] and call["batch_size"] == 2 and call["device"] == "cpu"
    assert {call[f"{name}_seed"] for name in ("random", "numpy_random", "torch_random", "fewshot_random")} == {7}


def test_no_task():
    with pytest.raises(ValueError, match="You set benchmarks to nothing"):
        run_benchmarks("folder", [])
