"""Drift risk and token harm against formulas from the models' own logits, and the manifest that names the models."""

import json

import pytest
import torch

from trl_rsa.evaluation.token_risk import (
    HarmModels,
    encode_response,
    token_drift,
    token_drift_and_kl,
    token_harm,
    token_surprise,
)
from trl_rsa.risk import CVaR, Entropic


PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
COMPLETIONS = [[12, 13, 1], [14, 15, 16, 17, 3, 1], []]


@pytest.fixture(scope="module")
def models(tiny_model_path, other_tiny_model_path):
    from transformers import AutoModelForCausalLM

    paths = (tiny_model_path, other_tiny_model_path)
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in paths]


def log_laws(model, prompt, completion):  # -> [T, V], one sequence at a time, no padding
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(completion) - 1].log_softmax(-1)


@pytest.mark.parametrize("measure", [CVaR(0.1), Entropic(2.0)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_drift(models, measure, batch_size):
    """ρ of log π_ref − log π under π_ref, at every position that predicts a completion token."""
    found = token_drift(*models, PROMPTS, COMPLETIONS, measure, batch_size)
    assert [len(row) for row in found] == [3, 6, 0]
    for row, prompt, completion in zip(found[:2], PROMPTS, COMPLETIONS, strict=False):
        log_p, ref = (log_laws(model, prompt, completion) for model in models)
        assert row == pytest.approx(measure(ref - log_p, ref).tolist(), abs=2e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_drift_and_kl_in_one_pass(models, batch_size):
    """KL(π‖π_ref) from the laws themselves; the drift as above; each model runs once per batch."""
    calls = []
    hooks = [model.model.register_forward_hook(lambda *args: calls.append(1)) for model in models]
    found = token_drift_and_kl(*models, PROMPTS, COMPLETIONS, CVaR(0.1), batch_size)
    for hook in hooks:
        hook.remove()
    assert [len(row) for row in found] == [3, 6, 0] and len(calls) == 2 * (2 if batch_size == 1 else 1)
    drift = token_drift(*models, PROMPTS, COMPLETIONS, CVaR(0.1), batch_size)
    for row, own, prompt, completion in zip(found[:2], drift, PROMPTS, COMPLETIONS, strict=False):
        log_p, ref = (log_laws(model, prompt, completion) for model in models)
        assert [of for of, _ in row] == own
        assert [kl for _, kl in row] == pytest.approx((log_p.exp() * (log_p - ref)).sum(-1).tolist(), abs=2e-5)


def test_harm(models):
    """−(β/λ)(log π_safe − log π_helpful) of the token itself, at β/λ = 0.05."""
    found = token_harm(*models, PROMPTS, COMPLETIONS, 0.05, batch_size=2)
    assert [len(row) for row in found] == [3, 6, 0]
    for row, prompt, completion in zip(found[:2], PROMPTS, COMPLETIONS, strict=False):
        safe, helpful = (log_laws(model, prompt, completion) for model in models)
        taken = torch.tensor(completion)[:, None]
        assert row == pytest.approx((-0.05 * (safe - helpful).gather(-1, taken))[:, 0].tolist(), abs=2e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_surprise(models, batch_size):
    found = token_surprise(models[0], PROMPTS, COMPLETIONS, batch_size)
    assert [len(row) for row in found] == [3, 6, 0]
    for row, prompt, completion in zip(found[:2], PROMPTS, COMPLETIONS, strict=False):
        taken = log_laws(models[0], prompt, completion).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        assert row == pytest.approx((-taken).tolist(), abs=2e-6)


def test_an_adapter_is_measured_as_the_model_that_it_makes(models, tiny_model_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapter = get_peft_model(base, config).eval()
    drift, surprise = (
        token_drift(adapter, models[0], PROMPTS, COMPLETIONS),
        token_surprise(adapter, PROMPTS, COMPLETIONS),
    )
    assert max(drift[0]) > 1e-2
    merged = adapter.merge_and_unload().eval()
    for found, wanted in (
        (drift, token_drift(merged, models[0], PROMPTS, COMPLETIONS)),
        (surprise, token_surprise(merged, PROMPTS, COMPLETIONS)),
    ):
        assert [v for row in found for v in row] == pytest.approx([v for row in wanted for v in row], abs=1e-5)


def test_no_drift_and_no_harm_from_itself(models):
    model = models[0]
    for rows in (token_drift(model, model, PROMPTS, COMPLETIONS), token_harm(model, model, PROMPTS, COMPLETIONS, 1.0)):
        assert [v for row in rows for v in row] == pytest.approx([0.0] * 9, abs=1e-6)


def test_errors(models, save_tiny_llama):
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError, match="You gave an empty prompt"):
        token_drift(*models, [[]], [[3]])
    with pytest.raises(ValueError, match="You set temperature=0"):
        token_harm(*models, PROMPTS, COMPLETIONS, 0)
    other = AutoModelForCausalLM.from_pretrained(save_tiny_llama(vocab_size=30))
    with pytest.raises(ValueError, match="models with 24 and 30 tokens"):
        token_drift(models[0], other, PROMPTS, COMPLETIONS)


# A response as tokens


def test_pieces_join_to_the_response(tiny_tokenizer):
    ids, pieces = encode_response(tiny_tokenizer, " the  cat sat ")
    assert tiny_tokenizer.convert_ids_to_tokens(ids) == ["the", "cat", "sat", "<eos>"]
    assert pieces == [" the", "  cat", " sat ", ""]
    assert encode_response(tiny_tokenizer, "the", finished=False) == (ids[:1], ["the"])
    assert encode_response(tiny_tokenizer, "", finished=False) == ([], [])


# The manifest


def write_manifest(folder, *stages, complete=None):
    """A manifest of `align`, made by its own code."""
    from trl_rsa.alignment.manifest import Manifest
    from trl_rsa.alignment.plan import Plan, Stage

    stages = [Stage(name=f"s{i}", dataset="pairs.jsonl", **stage) for i, stage in enumerate(stages)]
    manifest = Manifest(Plan(stages=stages, model="start", output_dir=str(folder)))
    for i in range(len(stages) if complete is None else complete):
        (folder / f"0{i + 1}-s{i}").mkdir(exist_ok=True)
        manifest.update(i, status="complete", folder=f"0{i + 1}-s{i}")
    manifest.update()
    return folder


SAFER = {"preferred_by": "safer", "beta": 0.1}


def test_two_safety_rungs_add_their_rates(tmp_path):
    """β/λ of 0.1/2 and 0.1/3: rates 20 + 30 = 50, together 0.02."""
    folder = write_manifest(
        tmp_path, {}, SAFER | {"constraint_multiplier": 2.0}, SAFER | {"constraint_multiplier": 3.0}
    )
    found = HarmModels.from_manifest(folder)
    assert (found.helpful, found.safe) == (str(tmp_path / "01-s0"), str(tmp_path / "03-s2"))
    assert found.temperature == pytest.approx(0.02)
    assert HarmModels.from_manifest(folder / "manifest.json") == found


def test_safety_first(tmp_path):
    found = HarmModels.from_manifest(write_manifest(tmp_path, SAFER))
    assert found == HarmModels("start", str(tmp_path / "01-s0"), pytest.approx(0.1))


def test_stages_that_do_not_say(tmp_path):
    """Where no stage is preferred by safer, the first is the helpful one."""
    found = HarmModels.from_manifest(write_manifest(tmp_path, {}, {"constraint_multiplier": 4.0}))
    assert found == HarmModels(str(tmp_path / "01-s0"), str(tmp_path / "02-s1"), pytest.approx(0.025))


def write_ladder(folder, *stages, final="rung-02", rung=2, fraction=1.0):
    """The manifest of a plan with a budget: two rungs, Δλ = 1 and 2 + 1 (of two constraints), at β = 0.1."""
    (folder / "manifest.json").unlink(missing_ok=True)
    write_manifest(folder, *(stages or ({},)))
    content = json.loads((folder / "manifest.json").read_text())
    for part in (content, content["plan"]):
        del part["stages"][len(stages) :]
    content["plan"]["constraint"], content["plan"]["rungs"] = {"name": "cost"}, {"beta": 0.1}
    deltas = [{"cost": 1.0}, {"cost": 2.0, "toxicity": 1.0}]
    content["ladder"] = {
        "model": f"elsewhere/ladder/{final}" if rung else "start",
        "rungs": [{"rung": i, "delta_multipliers": delta} for i, delta in enumerate(deltas, 1)],
        "observations": [
            {"model": "start", "rung": 0, "fraction": 1.0},
            {"model": f"elsewhere/ladder/{final}" if rung else "start", "rung": rung, "fraction": fraction},
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_a_ladder_alone(tmp_path):
    """From the ladder's start to its final model; 1/temperature is Σ Δλ_i/β = (1 + 3)/0.1."""
    found = HarmModels.from_manifest(write_ladder(tmp_path))
    assert found == HarmModels("start", str(tmp_path / "ladder" / "rung-02"), pytest.approx(1 / 40))


def test_an_earlier_rung_and_one_that_was_walked_back(tmp_path):
    """Half of the second rung: (1 + 3/2)/0.1. The first rung alone: 1/0.1."""
    found = HarmModels.from_manifest(write_ladder(tmp_path, final="rung-02-at-0.500000", fraction=0.5))
    assert found == HarmModels("start", str(tmp_path / "ladder" / "rung-02-at-0.500000"), pytest.approx(1 / 25))
    found = HarmModels.from_manifest(write_ladder(tmp_path, final="rung-01", rung=1))
    assert found == HarmModels("start", str(tmp_path / "ladder" / "rung-01"), pytest.approx(1 / 10))


def test_a_ladder_after_a_helpful_stage(tmp_path):
    """The stage is helpful, whatever it says of its pairs; the rungs make it safe."""
    found = HarmModels.from_manifest(write_ladder(tmp_path, {}))
    assert found == HarmModels(str(tmp_path / "01-s0"), str(tmp_path / "ladder" / "rung-02"), pytest.approx(1 / 40))


def test_a_ladder_that_trained_nothing_or_is_not_done(tmp_path):
    with pytest.raises(ValueError, match="not a helpful part and then a safe one"):
        HarmModels.from_manifest(write_ladder(tmp_path, rung=0))
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["ladder"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its ladder is not finished"):
        HarmModels.from_manifest(tmp_path)


def test_manifest_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="You set the manifest to"):
        HarmModels.from_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="none that align wrote"):
        HarmModels.from_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": 3, "plan": 4}))
    with pytest.raises(ValueError, match="none that align wrote"):
        HarmModels.from_manifest(tmp_path)


@pytest.mark.parametrize(
    ("stages", "complete", "sentence"),
    [
        (({}, SAFER), 1, "only 1 of its 2 stages are complete"),
        ((SAFER, {}, SAFER), None, "not a helpful part and then a safe one"),
        (({},), None, "not a helpful part and then a safe one"),
    ],
)
def test_manifests_that_say_no_harm(tmp_path, stages, complete, sentence):
    with pytest.raises(ValueError, match=sentence):
        HarmModels.from_manifest(write_manifest(tmp_path, *stages, complete=complete))
