"""The same data, seed and global batch on every engine: the same losses, metrics and weights as on one process.

Each engine is launched once and runs all its cases (engine_cases.py); the tests read what it has left.
"""

import json
import math
from pathlib import Path

import pytest
from engine_cases import CASES, ENGINES, PAIRS_PER_STEP, STEPS, cases_of
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


pytestmark = [pytest.mark.slow, pytest.mark.engines]

# |difference| ≤ tolerance · (1 + |value on one process|). Sums over ranks have another order than sums over a batch,
# and four steps of Adam divide by small gradients. Seen at most: metrics 4e-6, weights 2e-5.
METRICS_FP32 = 5e-5
WEIGHTS_FP32 = 1e-4
# In bf16 the engines round at different places: ZeRO and FSDP2 keep the weights themselves in bf16 for the forward,
# autocast the products only. Compared is the first step, where nothing has been learnt yet.
METRICS_BF16 = 5e-2
# Clocks, a rough estimate by padded lengths, and TRL's count of tokens, which starts again at a resume.
NOT_COMPARED = ("runtime", "per_second", "preparation_time", "total_flos")

RUNS = [(engine, case) for engine in ENGINES for case in cases_of(engine)]
FP32 = [(engine, case) for engine, case in RUNS if not CASES[case].in_bf16]
BF16 = [(engine, case) for engine, case in RUNS if CASES[case].in_bf16]


def others(runs):
    return [(engine, case) for engine, case in runs if engine != "single"]


def read(folder, case):
    return json.loads((folder / case / "result.json").read_text())


def numbers(entry):
    return {name: value for name, value in entry.items() if not name.endswith(NOT_COMPARED)}


def load(folder: Path, case: str, name: str = "final"):
    """The saved policy as a user loads it: all its tensors, by name."""
    path = folder / case / name
    tied = CASES[case].model == "tied"
    if not (path / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(path).state_dict()
    base = AutoModelForCausalLM.from_pretrained(folder.parent / ("tied" if tied else "untied"))
    state = PeftModel.from_pretrained(base, path).state_dict()
    return {name: tensor for name, tensor in state.items() if ".default." in name}


def distance(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize(("engine", "case"), others(FP32))
def test_metrics_are_those_of_one_process(launched, engine, case):
    one, many = (read(launched(e), case)["log"] for e in ("single", engine))
    assert len(one) == len(many) >= STEPS
    for expected, entry in zip(one, many, strict=True):
        assert entry.keys() == expected.keys()
        for name, value in numbers(expected).items():
            assert math.isclose(entry[name], value, rel_tol=METRICS_FP32, abs_tol=METRICS_FP32), (
                name,
                expected.get("step"),
            )


@pytest.mark.parametrize(("engine", "case"), others(FP32))
def test_weights_are_those_of_one_process(launched, engine, case):
    expected, weights = (load(launched(e), case) for e in ("single", engine))
    assert distance(expected, weights) < WEIGHTS_FP32
    if CASES[case].lora is None and CASES[case].model != "adapter":
        start = AutoModelForCausalLM.from_pretrained(launched(engine).parent / CASES[case].model).state_dict()
        assert distance(start, weights) > 100 * WEIGHTS_FP32, "there is nothing to compare"
    else:
        # A new adapter's B starts at zero.
        assert all(tensor.abs().max() > 10 * WEIGHTS_FP32 for tensor in weights.values())


@pytest.mark.parametrize(("engine", "case"), BF16)
def test_bf16_starts_at_the_same_place_and_stays_finite(launched, engine, case):
    one, many = (read(launched(e), case)["log"] for e in ("single", engine))
    for name, value in numbers(one[0]).items():
        # A rank's own accuracies are of few tokens, of which one may flip.
        tolerance = 0.2 if "accurac" in name else METRICS_BF16
        assert math.isclose(many[0][name], value, rel_tol=tolerance, abs_tol=tolerance), name
    # Policy and reference are computed alike, down to the last bit.
    assert not any(value for name, value in many[0].items() if name.startswith(("rewards/", "risk/", "kl/")))
    assert all(math.isfinite(value) for entry in many for value in entry.values())
    assert many[STEPS - 1]["risk/max_token"] > 0


@pytest.mark.parametrize(("engine", "case"), BF16)
def test_bf16_statistics_are_not_rounded(launched, engine, case):
    """Rounded to bf16, a rank's sum of log-probabilities, of size 4 at least, would be a multiple of 1/32."""
    logs = read(launched(engine), case)["log"][:STEPS]
    sums = [entry[name] * PAIRS_PER_STEP for entry in logs for name in ("logps/chosen", "logps/rejected")]
    assert all(abs(x) > 8 for x in sums)
    assert not any((x * 32).is_integer() for x in sums)


@pytest.mark.parametrize("engine", [engine for engine, case in RUNS if case == "full-uneven"])
def test_ranks_of_different_length_are_weighted_by_their_tokens(launched, engine):
    """Per step one rank has 4 answers of 41 tokens, the other 4 of 2: means are over tokens, maxima over ranks."""
    one, many = (read(launched(e), "full-uneven")["log"] for e in ("single", engine))
    compared = ("entropy", "mean_token_accuracy", "logits/chosen", "risk/max_token", "num_tokens")
    for expected, entry in zip(one, many, strict=True):
        for prefix in ("", "eval_"):
            for name in compared:
                if prefix + name in expected:
                    assert entry[prefix + name] == pytest.approx(expected[prefix + name], rel=METRICS_FP32, abs=1e-6)
    # 4 answers of 40 words, 4 of one, each with its end and a prompt of 3: 4·(40 + 4) + 4·(1 + 4)
    assert many[0]["num_tokens"] == 196
    assert any("eval_entropy" in entry for entry in many)


@pytest.mark.parametrize(("engine", "case"), RUNS)
def test_saved_folder_is_an_ordinary_one(launched, engine, case):
    """One file with all weights, or an adapter, without the shards and copies that the engine works with."""
    folder = launched(engine) / case / "final"
    adapter = CASES[case].lora is not None or CASES[case].model == "adapter"
    (file,) = folder.glob("*.safetensors")
    assert file.name == ("adapter_model.safetensors" if adapter else "model.safetensors")
    assert all(tensor.numel() for tensor in load_file(file).values())
    if not adapter:
        _, problems = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not problems["missing_keys"] and not problems["mismatched_keys"]


@pytest.mark.parametrize(("engine", "case"), RUNS)
def test_next_stage_is_anchored_at_the_saved_policy(launched, engine, case):
    """All log-ratios, divergences and risks are 0 at its first step, to the last bit."""
    first = read(launched(engine), case)["next_stage_log"][0]
    zeros = {name: value for name, value in first.items() if name.startswith(("rewards/", "risk/", "kl/"))}
    assert len(zeros) == 10 and not any(zeros.values())
    assert first["loss"] == pytest.approx(math.log(2)) and first["grad_norm"] > 0


@pytest.mark.parametrize(("engine", "case"), [run for run in RUNS if CASES[run[1]].reanchored_every])
def test_a_moved_reference_is_the_policy(launched, engine, case):
    """To the last bit: nothing has drifted from it in the first step after."""
    log = read(launched(engine), case)["log"][:STEPS]
    assert [entry["stage/rung"] for entry in log] == [0.0, 0.0, 1.0, 1.0]
    assert [entry["risk/chosen"] != 0 for entry in log] == [False, True, False, True]


@pytest.mark.parametrize(("engine", "case"), [run for run in RUNS if CASES[run[1]].resumed_from])
def test_resumed_equals_uninterrupted(launched, engine, case):
    """To the last bit: weights, and all that is logged after the checkpoint, learning rate and reference included."""
    folder = launched(engine)
    result = read(folder, case)
    left = STEPS - CASES[case].resumed_from
    whole, resumed = (result[name][-left - 1 : -1] for name in ("log", "resumed_log"))
    assert [entry["step"] for entry in resumed] == [*range(STEPS - left + 1, STEPS + 1)]
    for a, b in zip(whole, resumed, strict=True):
        ignored = (*NOT_COMPARED, "num_tokens")
        a, b = ({k: v for k, v in entry.items() if not k.endswith(ignored)} for entry in (a, b))
        assert a == b
    assert whole[-1]["risk/chosen"] != 0
    assert distance(load(folder, case), load(folder, case, "resumed")) == 0
