"""Each pressure does what it says, to models whose weights and words are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa.evaluation.metrics import read_columns
from trl_rsa.evaluation.pressure import quantised
from trl_rsa.evaluation.pressure.anti_safe import AntiSafe
from trl_rsa.evaluation.pressure.attack import Attack
from trl_rsa.evaluation.pressure.base import Sources, Work
from trl_rsa.evaluation.pressure.beginnings import first_tokens
from trl_rsa.evaluation.pressure.benign import Benign, as_tokens, read_helpful
from trl_rsa.evaluation.pressure.half_way import HalfWay
from trl_rsa.evaluation.pressure.heat import Heat
from trl_rsa.evaluation.pressure.names import PRESSURES, find_pressures
from trl_rsa.evaluation.pressure.prefill import Prefill
from trl_rsa.evaluation.pressure.quantised import Quantised
from trl_rsa.evaluation.pressure.settings import PressureSettings
from trl_rsa.evaluation.pressure.worst_of import WorstOf
from trl_rsa.evaluation.stress import ATTACKS, attack_prompts
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling


ROWS = [{"prompt": text} for text in ("the cat sat", "a big red dog ran on the hill", "blue", "was the dog in")]


@pytest.fixture
def work(tmp_path, tiny_model_path, other_tiny_model_path):
    """The reference is another tiny model; so is the safer policy."""
    sources = Sources(reference=other_tiny_model_path, safer=other_tiny_model_path)
    return Work(tmp_path, sources, Sampling(max_new_tokens=8), device="cpu", log=lambda line: None)


def with_sources(work, **sources):
    return Work(work.folder, Sources(**sources), work.sampling, device="cpu", log=lambda line: None)


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def drawn(model, tokenizer, sampling, rows=ROWS, **options):
    prompts = [row["prompt"] for row in rows]
    return {(r.prompt, r.draw): r for b in generate(model, tokenizer, prompts, sampling, **options) for r in b}


# Names


def test_names_stand_for_pressures():
    assert [p.name for p in find_pressures(["heat", "worst_of:4", "half_way", Heat(2.0)])] == [
        *("heat:1.3", "heat:1.6", "worst_of:4", "half_way", "heat:2"),
    ]
    everything = find_pressures(["all"])
    assert {p.kind for p in everything} == set(PRESSURES)
    assert [p.name for p in everything if p.kind == "attack"] == [f"attack:{name}" for name in ATTACKS]
    for pressure in everything:  # a name stands for itself
        strength = pressure.name.partition(":")[2]
        assert not strength or type(pressure).read(strength) == pressure
        assert pressure.in_words and not pressure.in_words.endswith(".")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["heet"], "the pressures are heat, worst_of"),
        (["heat:hot"], "behind the colon stands a number above 0"),
        (["heat:0"], "behind the colon stands a number above 0"),
        (["heat", "heat:1.3"], "heat:1.3 twice"),
        (["worst_of:1"], "a whole number from 2 on"),
        (["prefill:2.5"], "a whole number from 1 on"),
        (["half_way:1"], "a share between 0 and 1"),
        (["attack:rot14"], "the attacks are role_play"),
        (["quantised:8"], "it has no strength"),
        ([], "no list of pressures"),
    ],
    ids=str,
)
def test_wrong_names_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        PressureSettings(given)


def test_what_is_missing_is_asked_for_in_one_sentence():
    with pytest.raises(ValueError) as error:
        PressureSettings(["all"])
    said = str(error.value)
    assert "prefill:5 without reference or beginnings, and half_way without reference" in said
    assert "benign:50 without helpful, and anti_safe:1 without safer" in said
    assert "or keep to heat:1.3, heat:1.6, worst_of:8, attack:role_play" in said
    PressureSettings(["half_way", "prefill"], Sources(reference="r"))
    PressureSettings(["prefill"], Sources(beginnings="b"))


# Heat, attack, worst of n


def test_heat_is_sampling_at_that_temperature(work, tiny_model_path, tiny_tokenizer):
    heat = Heat(1.6)
    with heat.policy(tiny_model_path, work) as (path, load):
        assert path == tiny_model_path
        hot = drawn(load(), tiny_tokenizer, heat.sampling(work.sampling))
    expected = drawn(
        AutoModelForCausalLM.from_pretrained(tiny_model_path),
        tiny_tokenizer,
        Sampling(max_new_tokens=8, temperature=1.6),
    )
    assert hot == expected != drawn(load(), tiny_tokenizer, work.sampling)


def test_an_attack_is_the_stress_transform(work):
    assert Attack("base64").prompts(ROWS, work) == attack_prompts(ROWS, ["base64"], 0, keep_plain=False)


def test_worst_of_n_is_the_largest_cost_of_the_same_draws():
    rng = np.random.default_rng(0)
    costs = rng.normal(size=(5, 4))
    records = [
        {"prompt": f"p{i}", "response": "x", "model": "m", "draw": j, "cost": costs[i, j]}
        for j in range(4)
        for i in range(5)
    ]
    worst = WorstOf(4).counted(read_columns(records))
    assert sorted(worst.cost) == pytest.approx(sorted(costs.max(axis=1)))
    assert len(set(worst.prompt.tolist())) == len(worst) == 5
    records[7]["cost"] = None  # of p2: its worst is not known
    worst = WorstOf(4).counted(read_columns(records))
    assert np.isnan(worst.cost).sum() == 1
    assert sorted(worst.cost[~np.isnan(worst.cost)]) == pytest.approx(sorted(np.delete(costs.max(axis=1), 2)))
    assert WorstOf(4).sampling(Sampling(seed=3)) == Sampling(seed=3, draws=4)
    with pytest.raises(ValueError, match=r"^You set temperature=0 with the pressure worst_of:4, but .* above 0"):
        WorstOf(4).sampling(Sampling(temperature=0))


# Forced beginnings


def test_the_beginning_is_the_reference_s(work, tiny_model_path, other_tiny_model_path, tiny_tokenizer):
    found = Prefill(3).beginnings(ROWS, tiny_tokenizer, work)
    reference = AutoModelForCausalLM.from_pretrained(other_tiny_model_path)
    own = drawn(reference, tiny_tokenizer, work.sampling)
    for i, ids in enumerate(found):
        expected = [token for token in own[i, 0].token_ids[:3] if token != tiny_tokenizer.eos_token_id]
        assert ids == expected
    assert max(map(len, found)) == 3
    # Drawn once: what is on the disk is taken.
    before = (work.folder / "beginnings.jsonl").read_bytes()
    assert Prefill(3).beginnings(ROWS, tiny_tokenizer, work) == found
    assert (work.folder / "beginnings.jsonl").read_bytes() == before


def test_the_beginning_is_that_of_a_given_response(work, tiny_tokenizer):
    path = work.folder / "bad.jsonl"
    rows = [{"prompt": ROWS[1]["prompt"], "response": "red dog sat on mat"}, {"prompt": "blue", "response": "on"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = with_sources(work, beginnings=str(path))
    asked = Prefill(3).prompts(ROWS, given)
    assert asked == [ROWS[1], ROWS[2]], "prompts that have one"
    ids = tiny_tokenizer.convert_tokens_to_ids
    assert Prefill(3).beginnings(asked, tiny_tokenizer, given) == [ids(["red", "dog", "sat"]), ids(["on"])]
    path.write_text('{"prompt": "another", "response": "on"}\n')
    with pytest.raises(ValueError, match="none of the 4 prompts has a response there"):
        Prefill(3).prompts(ROWS, given)


def test_first_tokens_end_before_the_end(tiny_tokenizer):
    encoder = ConversationEncoder(tiny_tokenizer)
    ids = tiny_tokenizer.convert_tokens_to_ids(["the", "cat", "<eos>"])
    assert first_tokens(encoder, "the cat", 5, ids) == ids[:2] == first_tokens(encoder, "the cat", 5)
    assert first_tokens(encoder, "the cat", 1, ids) == ids[:1] and first_tokens(encoder, "", 5, ids[2:]) == []
    assert first_tokens(encoder, "the cat", 2, [10**6]) == ids[:2], "tokens of another vocabulary"


# Weights


def test_half_way_weights_are_in_the_middle(work, tiny_model_path, other_tiny_model_path):
    one, other = weights(tiny_model_path), weights(other_tiny_model_path)
    for kept in (0.5, 0.25):
        with HalfWay(kept).policy(tiny_model_path, work) as (folder, load):
            found = load().state_dict()
            assert Path(folder, "tokenizer.json").exists()
        assert not Path(folder).exists(), "what was made goes"
        for name, weight in found.items():
            torch.testing.assert_close(weight, kept * one[name] + (1 - kept) * other[name])


def test_half_way_of_an_adapter_is_its_update_scaled(work, tiny_model_path, tiny_tokenizer):
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapter = str(work.folder / "adapter")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path), settings)
    model.save_pretrained(adapter)
    tiny_tokenizer.save_pretrained(adapter)
    based = with_sources(work, reference=tiny_model_path)
    HalfWay().check([adapter], based)
    with HalfWay().policy(adapter, based) as (_, load):
        found = load().merge_and_unload().state_dict()
    before, after = weights(tiny_model_path), model.merge_and_unload().state_dict()
    for name, weight in found.items():
        torch.testing.assert_close(weight, (before[name] + after[name]) / 2)
    with pytest.raises(ValueError, match="between their weights there is no way"):
        HalfWay().check([adapter], work)


def test_the_reference_of_an_adapter_may_be_written_in_any_way(work, tiny_model_path, monkeypatch):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_path), LoraConfig(target_modules=["q_proj"])
    )
    for name in ("adapter", "another"):
        model.save_pretrained(work.folder / name)
    adapter = str(work.folder / "adapter")
    (work.folder / "link").symlink_to(tiny_model_path)
    monkeypatch.chdir(Path(tiny_model_path).parent)
    # Another adapter of the same base, which that one calls otherwise.
    config = json.loads((work.folder / "another" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"./{Path(tiny_model_path).name}/"
    (work.folder / "another" / "adapter_config.json").write_text(json.dumps(config))
    several = (
        f"{tiny_model_path}/",
        Path(tiny_model_path).name,
        str(work.folder / "link"),
        str(work.folder / "another"),
    )
    for reference in several:
        based = with_sources(work, reference=reference)
        HalfWay().check([adapter], based)
        with HalfWay().policy(adapter, based) as (folder, _):
            assert Path(folder, "adapter_config.json").exists()


def test_half_way_between_two_sizes_is_refused(work, save_tiny_llama):
    with pytest.raises(ValueError, match="between their weights there is no way"):
        HalfWay().check([save_tiny_llama(num_hidden_layers=1)], work)


def test_a_model_that_was_being_made_is_made_again(work, tiny_model_path):
    with pytest.raises(RuntimeError), HalfWay().policy(tiny_model_path, work) as (folder, _):
        raise RuntimeError("killed while it was drawn from")
    assert Path(folder).exists()
    Path(folder).rename(Path(folder).with_suffix(".partial"))
    with HalfWay().policy(tiny_model_path, work) as (again, _):
        assert again == folder and not Path(folder).with_suffix(".partial").exists()


def helpful_file(work, n=6):
    path = work.folder / "helpful.jsonl"
    rows = [{"prompt": f"the {word}", "response": "the big red dog sat on the mat"} for word in ("cat", "dog")] * n
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return with_sources(work, helpful=str(path))


def test_benign_steps_see_the_helpful_data_and_nothing_else(work, tiny_model_path, tiny_tokenizer, monkeypatch):
    """The tokens that the model is given in training are the conversations, the loss is on the responses."""
    import trl

    given = helpful_file(work)
    seen = []

    class Watched(trl.SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append({name: value.clone() for name, value in inputs.items() if hasattr(value, "clone")})
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(trl, "SFTTrainer", Watched)
    benign = Benign(steps=3, batch_size=4, learning_rate=1e-2)
    before = weights(tiny_model_path)
    with benign.policy(tiny_model_path, given) as (_, load):
        after = load().state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    encoder = ConversationEncoder(tiny_tokenizer)
    wanted = {
        (*encoder.prompt(prompt), *encoder.completion(response)): len(encoder.prompt(prompt))
        for prompt, response in read_helpful(given.sources.helpful)
    }
    rows = [
        (row.tolist(), labels.tolist())
        for inputs in seen
        for row, labels in zip(inputs["input_ids"], inputs["labels"], strict=True)
    ]
    assert len(rows) == 3 * 4
    for ids, labels in rows:
        whole = next(one for one in wanted if tuple(ids[: len(one)]) == one)
        n = wanted[whole]
        assert labels[:n] == [-100] * n and labels[n : len(whole)] == list(whole[n:])


def test_benign_steps_are_seeded_and_teach(work, tiny_model_path, tiny_tokenizer):
    given = helpful_file(work)
    benign = Benign(steps=4, batch_size=4, learning_rate=1e-2)

    def trained():
        with benign.policy(tiny_model_path, given) as (_, load):
            return load()

    one, other = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    (row,) = as_tokens(read_helpful(given.sources.helpful)[:1], ConversationEncoder(tiny_tokenizer))
    ids = torch.tensor([row["input_ids"]])
    labels = torch.where(torch.tensor([row["completion_mask"]]).bool(), ids, -100)
    with torch.no_grad():
        losses = [
            float(m(ids, labels=labels).loss) for m in (one, AutoModelForCausalLM.from_pretrained(tiny_model_path))
        ]
    assert losses[0] < losses[1] - 0.5


def test_helpful_data_may_be_pairs(work):
    path = work.folder / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "the cat", "chosen": "sat", "rejected": "ran"}) + "\n")
    assert read_helpful(str(path)) == [("the cat", "sat")]
    path.write_text(json.dumps({"question": "the cat"}) + "\n")
    with pytest.raises(ValueError):
        Benign().check([], with_sources(work, helpful=str(path)))


def test_four_bits_are_close_to_the_weights(work, save_tiny_llama):
    path = save_tiny_llama(hidden_size=64, intermediate_size=64)
    try:
        Quantised().check([path], work)
    except ValueError as error:
        pytest.skip(str(error))
    ids = torch.tensor([[5, 6, 7, 8]])
    with Quantised().policy(path, work) as (_, load), torch.no_grad():
        model = load()
        assert any("4bit" in type(module).__name__ for module in model.modules())
        in_4_bits = model(ids).logits
    exact = AutoModelForCausalLM.from_pretrained(path)(ids).logits
    assert 1e-4 < float((in_4_bits - exact).abs().mean()) < 0.5 * float(exact.std())


def test_weights_that_four_bits_cannot_multiply_give_a_sentence(work, tiny_model_path, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("shape '[32, 0]' is invalid")

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    monkeypatch.setattr(type(model), "forward", fails)
    with pytest.raises(ValueError, match="cannot multiply the weights of a folder in 4 bits here"):
        quantised._checked(model, "a folder")


def test_without_bitsandbytes_one_sentence(work, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.nn", None)
    with pytest.raises(ValueError, match="bitsandbytes cannot work in 4 bits here"):
        Quantised().check([], work)


# Anti-safe decoding


def test_anti_safe_at_strength_0_is_the_policy(work, tiny_model_path, tiny_tokenizer):
    policy = drawn(AutoModelForCausalLM.from_pretrained(tiny_model_path), tiny_tokenizer, work.sampling)
    with AntiSafe(0.0).policy(tiny_model_path, work) as (_, load):
        assert drawn(load(), tiny_tokenizer, work.sampling) == policy
    with AntiSafe(1.0).policy(tiny_model_path, work) as (_, load):
        assert drawn(load(), tiny_tokenizer, work.sampling) != policy


def test_anti_safe_with_an_adapter_as_the_safer_policy(work, tiny_model_path, tiny_tokenizer):
    """Its scores are those of the adapted model."""
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path), settings)
    adapted.save_pretrained(str(work.folder / "adapter"))
    safer = with_sources(work, safer=str(work.folder / "adapter"))
    AntiSafe().check([tiny_model_path], safer)
    sampling = Sampling(max_new_tokens=1, temperature=0)
    with AntiSafe(2.0).policy(tiny_model_path, safer) as (_, load):
        found = drawn(load(), tiny_tokenizer, sampling)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    encoder = ConversationEncoder(tiny_tokenizer)
    with torch.no_grad():
        for i, row in enumerate(ROWS):
            ids = torch.tensor([encoder.prompt(row["prompt"])])
            z, other = policy(ids).logits[0, -1], adapted(ids).logits[0, -1]
            assert found[i, 0].token_ids == [int((3 * z - 2 * other).argmax())]


def test_anti_safe_needs_one_vocabulary_and_plain_caches(work, save_tiny_llama, tiny_model_path):
    with pytest.raises(ValueError, match="their vocabularies have 25 and 24 tokens"):
        AntiSafe().check([save_tiny_llama(vocab_size=25)], work)
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(work.folder / "sliding")
    with pytest.raises(ValueError, match="a sliding window, a state"):
        AntiSafe().check([str(work.folder / "sliding")], work)
