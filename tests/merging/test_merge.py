"""A merge is the average of whole weights: of full, sharded and tied models, and of adapters by their updates.

Every expected number is computed here from the saved files, without the package.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_rsa.merging import sources
from trl_rsa.merging.adapters import Adapters
from trl_rsa.merging.merge import merge_models
from trl_rsa.sampling.policies import load_policy
from trl_rsa.storage.folders import model_fingerprint


def tensors(folder):
    return {name: t for path in sorted(Path(folder).glob("*.safetensors")) for name, t in load_file(path).items()}


def parameters(folder, base=None):
    """Of a model as it answers: an adapter's update is added to its base."""
    model = AutoModelForCausalLM.from_pretrained(base or folder)
    if base:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return {name: p.detach() for name, p in model.named_parameters()}


def copy_of(model, folder, dtype=torch.float32, **options):
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(folder, **options)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


# Full weights


def test_three_models(tiny_model_path, other_tiny_model_path, save_tiny_llama, tmp_path):
    """W = 0.5·W₀ + 0.3·W₁ + 0.2·W₂."""
    models = [tiny_model_path, other_tiny_model_path, save_tiny_llama(seed=7, tie_word_embeddings=False)]
    merge = merge_models(models, [0.5, 0.3, 0.2], tmp_path / "merged")
    w = [tensors(folder) for folder in models]
    merged = tensors(merge.folder)
    assert merged.keys() == w[0].keys()
    for name in merged:
        torch.testing.assert_close(merged[name], 0.5 * w[0][name] + 0.3 * w[1][name] + 0.2 * w[2][name])
    assert merge.content["error"] < 1e-6
    AutoModelForCausalLM.from_pretrained(merge.folder)


def test_a_model_of_weight_0_is_not_there(tiny_model_path, other_tiny_model_path, tmp_path):
    """Whatever its numbers are: 0·∞ is none."""
    broken = copy_of(other_tiny_model_path, tmp_path / "broken")
    infinite = {name: torch.full_like(t, float("inf")) for name, t in tensors(broken).items()}
    save_file(infinite, Path(broken) / "model.safetensors", {"format": "pt"})
    merged = tensors(merge_models([tiny_model_path, broken], [1.0, 0.0], tmp_path / "m").folder)
    assert all(torch.equal(merged[name], t) for name, t in tensors(tiny_model_path).items())


def test_a_damaged_model_is_not_averaged(tiny_model_path, other_tiny_model_path, tmp_path):
    broken = copy_of(other_tiny_model_path, tmp_path / "broken")
    weights = tensors(broken)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, Path(broken) / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"in one of them model\.norm\.weight holds weights that are not numbers"):
        merge_models([tiny_model_path, broken], [0.5, 0.5], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_shards_of_different_cuts(tiny_model_path, other_tiny_model_path, tmp_path):
    """One model in many files, the other in one, the result in several again."""
    sharded = copy_of(tiny_model_path, tmp_path / "sharded", max_shard_size="8KB")
    assert len(list(Path(sharded).glob("*.safetensors"))) > 3
    folder = merge_models([sharded, other_tiny_model_path], [0.75, 0.25], tmp_path / "m", max_shard_size="16KB").folder
    files = list(folder.glob("*.safetensors"))
    assert len(files) > 2 and all(path.stat().st_size < 16_000 + 2_000 for path in files)
    w0, w1, merged = parameters(sharded), parameters(other_tiny_model_path), parameters(folder)
    for name in w0:
        torch.testing.assert_close(merged[name], 0.75 * w0[name] + 0.25 * w1[name])


def test_no_more_than_a_shard_is_held(tiny_model_path, other_tiny_model_path, tmp_path, monkeypatch):
    """What is in memory when a file is written is that file, and never a model."""
    from trl_rsa.merging import streaming

    held = []

    def watch(shard, path, **options):
        held.append(sum(t.nbytes for t in shard.values()))
        save_file(shard, path, **options)

    monkeypatch.setattr(streaming, "save_file", watch)
    merge_models([tiny_model_path, other_tiny_model_path], [0.5, 0.5], tmp_path / "m", max_shard_size="16KB")
    whole = sum(t.nbytes for t in tensors(tiny_model_path).values())
    assert max(held) <= 16_000 < whole == sum(held)


def test_tied_weights_that_one_folder_holds_twice(tiny_tied_model_path, save_tiny_llama, tmp_path):
    other = save_tiny_llama(seed=3, tie_word_embeddings=True)
    twice = tensors(other) | {"lm_head.weight": tensors(other)["model.embed_tokens.weight"].clone()}
    save_file(twice, Path(other) / "model.safetensors", metadata={"format": "pt"})
    folder = merge_models([tiny_tied_model_path, other], [0.5, 0.5], tmp_path / "m").folder
    assert "lm_head.weight" not in tensors(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = 0.5 * (tensors(tiny_tied_model_path)["model.embed_tokens.weight"] + twice["lm_head.weight"])
    torch.testing.assert_close(model.lm_head.weight.detach(), expected)


def test_the_weights_that_transformers_reads_are_read(tiny_model_path, other_tiny_model_path, tmp_path):
    """Neither another copy in other names, as Mistral's repositories hold one, nor what an earlier saving has left."""
    one, sharded = copy_of(tiny_model_path, tmp_path / "one"), tmp_path / "sharded"
    copy_of(other_tiny_model_path, sharded, max_shard_size="8KB")
    for folder in (one, sharded):
        save_file({"layers.0.attention.wq.weight": torch.zeros(2)}, Path(folder) / "consolidated.safetensors")
        save_file({"left": torch.zeros(2)}, Path(folder) / "model-00001-of-00099.safetensors")
    folder = merge_models([one, str(sharded)], [0.5, 0.5], tmp_path / "m").folder
    w0, w1 = tensors(tiny_model_path), tensors(other_tiny_model_path)
    assert tensors(folder).keys() == w0.keys()
    for name, merged in tensors(folder).items():
        torch.testing.assert_close(merged, 0.5 * (w0[name] + w1[name]))
    # Without an index or a usual name, all of them; but not the other copy.
    other = Path(copy_of(other_tiny_model_path, tmp_path / "other"))
    (other / "model.safetensors").rename(other / "weights.safetensors")
    save_file({"wq": torch.zeros(2)}, other / "consolidated.safetensors")
    assert tensors(merge_models([one, str(other)], [0.5, 0.5], tmp_path / "m2").folder).keys() == w0.keys()


def test_the_other_copy_is_not_downloaded(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "consolidated.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json"]
    asked = []

    def download(name, revision, ignore_patterns):
        asked.extend(filter_repo_objects(files, ignore_patterns=ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    sources._local_folder("owner/model")
    assert asked == [files[0], *files[2:]]


def test_a_download_that_is_not_complete(tiny_model_path, other_tiny_model_path, tmp_path):
    sharded = Path(copy_of(tiny_model_path, tmp_path / "sharded", max_shard_size="8KB"))
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(ValueError, match=f"has no {missing.name}, which its model.safetensors.index.json names"):
        merge_models([str(sharded), other_tiny_model_path], [0.5, 0.5], tmp_path / "m")
    (sharded / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json names no files of weights\. Download or save it again"):
        merge_models([str(sharded), other_tiny_model_path], [0.5, 0.5], tmp_path / "m")


def test_dtype_is_kept_and_its_rounding_is_said(tiny_model_path, other_tiny_model_path, tmp_path):
    halves = [
        copy_of(path, tmp_path / f"half-{i}", torch.bfloat16)
        for i, path in enumerate((tiny_model_path, other_tiny_model_path))
    ]
    merge = merge_models(halves, [0.5, 0.5], tmp_path / "m")
    merged, w = tensors(merge.folder), [tensors(half) for half in halves]
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}
    assert json.loads((merge.folder / "config.json").read_text())["dtype"] == "bfloat16"
    lost = moved = 0.0
    for name in merged:
        exact = (w[0][name].double() + w[1][name].double()) / 2
        lost += float((merged[name].double() - exact).square().sum())
        moved += float((exact - w[0][name].double()).square().sum())
    assert merge.content["error"] == pytest.approx((lost / moved) ** 0.5)
    assert 1e-4 < merge.content["error"] < 1e-2
    # Of two types, the one that loses nothing; or what is asked for.
    mixed = merge_models([halves[0], other_tiny_model_path], [0.5, 0.5], tmp_path / "mixed")
    assert mixed.content["dtype"] == "float32"
    asked = merge_models([halves[0], other_tiny_model_path], [0.5, 0.5], tmp_path / "asked", dtype="float16")
    assert {t.dtype for t in tensors(asked.folder).values()} == {torch.float16}


# Adapters


@pytest.fixture
def save_adapter(tiny_model_path, tmp_path):
    def save(name, seed, base=tiny_model_path, dtype=torch.float32, embeddings="auto", **changes):
        torch.manual_seed(seed)
        options = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(options | changes)))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(std=0.1)
        model.to(dtype).save_pretrained(tmp_path / name, save_embedding_layers=embeddings)
        return str(tmp_path / name)

    return save


def assert_between(merged, first, second, share, rtol=1e-5, atol=1e-6):
    moved = 0
    for name in first:
        torch.testing.assert_close(
            merged[name], (1 - share) * first[name] + share * second[name], rtol=rtol, atol=atol
        )
        moved += not torch.equal(first[name], second[name])
    return moved


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"r": 3},
        {"use_rslora": True},  # PEFT's own sum of these is √r too large
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["k_proj", "down_proj"]},
    ],
    ids=lambda changes: "-".join(changes) or "as-they-are",
)
def test_adapters_by_their_updates(changes, tiny_model_path, save_adapter, tmp_path):
    """W = W_base + 0.7·s₀B₀A₀ + 0.3·s₁B₁A₁."""
    of_both = changes if "use_rslora" in changes else {}  # PEFT's sum copies the flag of the first
    first, second = save_adapter("first", 1, **of_both), save_adapter("second", 2, **changes)
    merge = merge_models([first, second], [0.7, 0.3], tmp_path / "m")
    w = [parameters(folder, tiny_model_path) for folder in (first, second, str(merge.folder))]
    assert assert_between(w[2], w[0], w[1], 0.3) >= 4
    assert merge.content["combination"] == "cat" and merge.content["error"] < 1e-5
    # Averaging the factors apart, where the ranks allow it, is another model.
    if not changes:
        a, b = tensors(first), tensors(second)
        key = next(name.removesuffix("A.weight") for name in a if name.endswith("A.weight"))
        apart = (0.7 * a[key + "B.weight"] + 0.3 * b[key + "B.weight"]) @ (
            0.7 * a[key + "A.weight"] + 0.3 * b[key + "A.weight"]
        )
        exact = 0.7 * a[key + "B.weight"] @ a[key + "A.weight"] + 0.3 * b[key + "B.weight"] @ b[key + "A.weight"]
        assert (apart - exact).norm() > 0.3 * exact.norm()


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 4}}], ids=str)
def test_an_adapter_beside_its_base_keeps_its_rank(changes, tiny_model_path, save_adapter, tmp_path):
    adapter = save_adapter("adapter", 1, **changes)
    merge = merge_models([tiny_model_path, adapter], [0.75, 0.25], tmp_path / "m")
    base, w = parameters(tiny_model_path), parameters(adapter, tiny_model_path)
    assert assert_between(parameters(str(merge.folder), tiny_model_path), base, w, 0.25) == 4
    shapes = [{name: t.shape for name, t in tensors(folder).items()} for folder in (adapter, merge.folder)]
    assert shapes[0] == shapes[1]


def test_svd_says_what_it_loses(tiny_model_path, save_adapter, tmp_path):
    """The error is that of the best rank-2 update, by its singular values."""
    first, second = save_adapter("first", 1), save_adapter("second", 2)
    merge = merge_models([first, second], [0.5, 0.5], tmp_path / "m", combination="svd", rank=2)
    base = parameters(tiny_model_path)
    w0, w1 = (parameters(folder, tiny_model_path) for folder in (first, second))
    lost = moved = 0.0
    for name in base:
        exact = (0.5 * (w0[name] + w1[name]) - base[name]).double()
        moved += float((0.5 * (w1[name] - w0[name]).double()).square().sum())
        if exact.dim() == 2 and exact.norm() > 1e-4:
            lost += float(torch.linalg.svdvals(exact)[2:].square().sum())
    assert merge.content["error"] == pytest.approx((lost / moved) ** 0.5, rel=1e-3)
    assert merge.content["error"] > 0.1
    assert max(min(t.shape) for t in tensors(merge.folder).values()) == 2


def test_adapters_into_full_weights(tiny_model_path, other_tiny_model_path, save_adapter, tmp_path):
    """Also those of different bases, and a model that is nobody's base."""
    first, second = save_adapter("first", 1), save_adapter("second", 2, base=other_tiny_model_path)
    merge = merge_models([first, second], [0.4, 0.6], tmp_path / "m", combination="full")
    w0, w1 = parameters(first, tiny_model_path), parameters(second, other_tiny_model_path)
    assert assert_between(parameters(merge.folder), w0, w1, 0.6) == len(w0) - 5  # the norms are all ones
    third = merge_models([other_tiny_model_path, first], [0.5, 0.5], tmp_path / "third", combination="full").folder
    assert_between(parameters(third), parameters(other_tiny_model_path), w0, 0.5)


def test_adapters_of_16_bits_are_summed_in_32(tiny_model_path, save_adapter, tmp_path):
    """Whatever moves little from the first model would be lost to rounding; an adapter beside its base too."""
    halves = [save_adapter(f"half-{seed}", seed, dtype=torch.bfloat16) for seed in (1, 2)]
    for name, models in (("two", halves), ("base", [halves[0], tiny_model_path])):
        merge = merge_models(models, [0.95, 0.05], tmp_path / name)
        assert {t.dtype for t in tensors(merge.folder).values()} == {torch.float32}
        assert merge.content["dtype"] == "float32" and merge.content["error"] < 1e-5
    with pytest.raises(ValueError, match="You set a dtype for a merge of adapters, but that is saved in float32"):
        merge_models(halves, [0.5, 0.5], tmp_path / "asked", dtype="bfloat16")


@pytest.mark.parametrize("combination", ["cat", "svd"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"exclude_modules": ["v_proj"]}, {}),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, {"layers_to_transform": [1]}),
        ({"target_modules": r".*\.0\..*q_proj"}, {}),
        ({"target_modules": "all-linear"}, {"exclude_modules": r".*\.1\..*"}),
        ({"init_lora_weights": "orthogonal"}, {"r": 3}),
    ],
    ids=["excluded", "layers", "regex", "all", "odd-rank"],
)
def test_adapters_of_different_layers(first, second, combination, tiny_model_path, save_adapter, tmp_path):
    """The sum has the layers of both; of rank 5 ≥ 2 + 3 it is exact."""
    models = [save_adapter("first", 1, **first), save_adapter("second", 2, **second)]
    rank = 5 if combination == "svd" else None
    merge = merge_models(models, [0.7, 0.3], tmp_path / "m", combination=combination, rank=rank)
    w = [parameters(folder, tiny_model_path) for folder in (*models, str(merge.folder))]
    assert assert_between(w[2], w[0], w[1], 0.3) >= 4
    assert merge.content["error"] < 1e-4


@pytest.mark.parametrize("combination", ["cat", "svd"])
def test_a_layer_that_peft_leaves_out_is_missed(combination, save_adapter, tmp_path, monkeypatch):
    """As it does if each adapter keeps the layers that it says it has."""
    models = [save_adapter("first", 1, layers_to_transform=[0]), save_adapter("second", 2)]
    monkeypatch.setattr(Adapters, "_spell_out", lambda *args: None)
    with pytest.raises(ValueError, match=r"PEFT's sum of them leaves out model\.layers\.1\.self_attn\.q_proj\. Merge"):
        merge_models(models, [0.7, 0.3], tmp_path / "m", combination=combination)
    assert not (tmp_path / "m").exists()


def test_a_rank_that_no_layer_has(tiny_model_path, save_adapter, tmp_path):
    """The widest layer's 32 is the most; the narrower v_proj is filled up with zeros, and all is exact."""
    models = [save_adapter("first", 1), save_adapter("second", 2)]
    merge = merge_models(models, [0.5, 0.5], tmp_path / "m", combination="svd", rank=100)
    assert {min(t.shape) for name, t in tensors(merge.folder).items() if "q_proj" in name} == {32}
    assert json.loads((merge.folder / "adapter_config.json").read_text())["r"] == 32
    w = [parameters(folder, tiny_model_path) for folder in (*models, str(merge.folder))]
    assert assert_between(w[2], w[0], w[1], 0.5) == 4


@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_an_update_of_a_tied_weight_is_not_one_of_full_weights(layer, save_tiny_llama, save_adapter, tmp_path):
    """The adapter moves one use of the weight alone; in the weights both would move. The folder may hold it twice."""
    base = save_tiny_llama(seed=4, tie_word_embeddings=True)
    twice = tensors(base) | {"lm_head.weight": tensors(base)["model.embed_tokens.weight"].clone()}
    save_file(twice, Path(base) / "model.safetensors", {"format": "pt"})
    plain = save_adapter("plain", 1, base=base)
    ends = save_adapter("ends", 2, base=base, embeddings=False, target_modules=[layer, "q_proj"])
    with pytest.raises(ValueError, match=rf"it updates (model\.)?{layer}\.weight, which .* both would change"):
        merge_models([ends, plain], [0.5, 0.5], tmp_path / "m", combination="full")
    # As an adapter it stays what it is: the shares of 1 and 0 are the model itself.
    merge = merge_models([ends, plain], [1.0, 0.0], tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    answers = [load_policy(str(folder), "cpu")(ids).logits for folder in (ends, merge.folder, base)]
    torch.testing.assert_close(answers[1], answers[0])
    assert (answers[2] - answers[0]).abs().max() > 0.01


def test_the_way_out_for_an_adapter_that_holds_more(tiny_tied_model_path, save_adapter, tmp_path):
    """merge_and_unload is none where a tied weight is updated; PEFT saves the base's embedding beside its factors."""
    whole = save_adapter("whole", 1, base=tiny_tied_model_path, target_modules=["embed_tokens"])
    plain = save_adapter("plain", 2, base=tiny_tied_model_path)
    with pytest.raises(ValueError, match=r"save_embedding_layers=False\. If not, merge it .* both would change"):
        merge_models([whole, plain], [0.5, 0.5], tmp_path / "m")


def test_the_base_is_not_read(save_adapter, tiny_model_path, tmp_path, monkeypatch):
    first, second = save_adapter("first", 1), save_adapter("second", 2)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    merge_models([first, second], [0.5, 0.5], tmp_path / "m")


# What is written


def test_the_card_says_what_was_merged(tiny_model_path, other_tiny_model_path, tmp_path):
    merge = merge_models([tiny_model_path, other_tiny_model_path], [0.25, 0.75], tmp_path / "m")
    card = (merge.folder / "README.md").read_text()
    for path, weight in ((tiny_model_path, "0.25"), (other_tiny_model_path, "0.75")):
        assert f"| `{path}` | {weight} | `{model_fingerprint(Path(path))}` |" in card
    assert json.loads((merge.folder / "merge.json").read_text()) == merge.content
    assert AutoTokenizer.from_pretrained(merge.folder).chat_template


def test_the_same_merge_is_not_made_twice(tiny_model_path, other_tiny_model_path, tmp_path):
    models, folder = [tiny_model_path, other_tiny_model_path], tmp_path / "m"
    assert merge_models(models, [0.5, 0.5], folder).made
    assert not merge_models(models, [0.5, 0.5], folder).made
    with pytest.raises(ValueError, match="something else lies there"):
        merge_models(models, [0.4, 0.6], folder)


def test_a_merge_that_stops_leaves_nothing(tiny_model_path, other_tiny_model_path, tmp_path, monkeypatch):
    from trl_rsa.merging import merge

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "write_merge", stop)
    with pytest.raises(KeyboardInterrupt):
        merge_models([tiny_model_path, other_tiny_model_path], [0.5, 0.5], tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# What does not belong together


def test_models_that_differ_are_refused(tiny_model_path, save_tiny_llama, tmp_path):
    other = save_tiny_llama(intermediate_size=64)
    with pytest.raises(ValueError, match="configurations differ \\(intermediate_size"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")
    other = save_tiny_llama(tie_word_embeddings=True)
    with pytest.raises(ValueError, match="configurations differ \\(tie_word_embeddings"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")
    other = copy_of(tiny_model_path, tmp_path / "more")
    save_file(tensors(other) | {"extra": torch.zeros(1)}, Path(other) / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"only {other} has extra"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")
    short = tensors(tiny_model_path) | {"model.norm.weight": torch.zeros(3)}
    save_file(short, Path(other) / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model.norm.weight is \[32\] and \[3\]"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")


def test_tokenizers_that_differ_are_refused(tiny_model_path, tmp_path):
    other = copy_of(tiny_model_path, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="chat templates of their tokenizers differ"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    tokenizer.add_tokens(["tree"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="vocabularies of their tokenizers differ"):
        merge_models([tiny_model_path, other], [0.5, 0.5], tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"modules_to_save": ["norm"]}, "has modules_to_save"),
        ({"target_modules": ["lm_head"]}, "lm_head.base_layer.weight whole"),
        ({"init_lora_weights": "pissa"}, "initialisation changed the base"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_adapters_with_more_than_factors_are_refused(changes, reason, save_adapter, tmp_path):
    with pytest.raises(ValueError, match=reason):
        merge_models([save_adapter("a", 1), save_adapter("b", 2, **changes)], [0.5, 0.5], tmp_path / "m")


def test_adapters_of_different_bases_are_refused(tiny_model_path, other_tiny_model_path, save_adapter, tmp_path):
    first, second = save_adapter("first", 1), save_adapter("second", 2, base=other_tiny_model_path)
    with pytest.raises(ValueError, match="adapters of different models"):
        merge_models([first, second], [0.5, 0.5], tmp_path / "m")
    with pytest.raises(ValueError, match="that was trained on"):
        merge_models([other_tiny_model_path, first], [0.5, 0.5], tmp_path / "m")


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([0.5, 0.4], {}, "sum to 0.9"),
        ([0.5], {}, "1 weights for 2 models"),
        ([float("nan"), 1.0], {}, "finite"),
        ([0.5, 0.5], {"combination": "linear"}, "there are cat, svd, full"),
        ([0.5, 0.5], {"rank": 4}, "only combination='svd' has one"),
        ([0.5, 0.5], {"dtype": "int8"}, "weights are float32"),
    ],
)
def test_settings_that_cannot_be(weights, options, message, tiny_model_path, other_tiny_model_path, tmp_path):
    with pytest.raises(ValueError, match=message):
        merge_models([tiny_model_path, other_tiny_model_path], weights, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_folders_that_hold_no_model(tiny_model_path, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        merge_models([tiny_model_path, str(tmp_path / "empty")], [0.5, 0.5], tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        merge_models([tiny_model_path, str(tmp_path / "nowhere")], [0.5, 0.5], tmp_path / "m")
    broken = copy_of(tiny_model_path, tmp_path / "broken")
    (Path(broken) / "model.safetensors").write_bytes(b"\x08\x00\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        merge_models([tiny_model_path, broken], [0.5, 0.5], tmp_path / "m")
