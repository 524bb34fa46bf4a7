"""`trl-rsa merge`: a folder for each weight, mergekit's files, and sentences."""

import pytest
from safetensors.torch import load_file

from trl_rsa.cli import main


def test_a_folder_for_each_weight(tiny_model_path, other_tiny_model_path, tmp_path, capsys):
    """`--weights` of two models are the second one's shares, as in P-SACPO."""
    arguments = ["merge", tiny_model_path, other_tiny_model_path, "--weights", "0.25", "0.5", "--output_dir"]
    assert main([*arguments, str(tmp_path)]) == 0
    w0, w1 = (load_file(f"{folder}/model.safetensors") for folder in (tiny_model_path, other_tiny_model_path))
    for share in (0.25, 0.5):
        merged = load_file(tmp_path / str(share) / "model.safetensors")
        name = "model.embed_tokens.weight"
        assert (merged[name] - ((1 - share) * w0[name] + share * w1[name])).abs().max() < 1e-6
    assert main([*arguments, str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("there already") == 2


def test_a_file_of_mergekits(tiny_model_path, other_tiny_model_path, tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    file.write_text(
        f"merge_method: linear\nmodels:\n- {{model: {tiny_model_path}}}\n- {{model: {other_tiny_model_path}}}\n"
        "dtype: bfloat16\n"
    )
    assert main(["merge", "--mergekit", str(file), "--output_dir", str(tmp_path / "m")]) == 0
    assert "0.5 ×" in capsys.readouterr().out
    assert str(load_file(tmp_path / "m" / "model.safetensors")["lm_head.weight"].dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["A", "B"], "You gave no weights"),
        (["A", "B", "--weights", "0.5", "0.5"], "the weight 0.5 twice"),
        (["A", "--weights", "1"], "an average needs two"),
        (["A", "B", "C", "--weights", "1", "1", "1"], "sum to 3"),
        (["A", "B", "--weights", "0.5"], "there is no such folder"),
        (["A", "B", "--weight", "0.5"], "unrecognized arguments"),
        (["A", "B", "--weights", "half"], "invalid float"),
        (["A", "--mergekit", "x.yaml"], "beside models or weights"),
    ],
)
def test_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main(["merge", *arguments, "--output_dir", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and error.count("\n") <= 2
    assert not (tmp_path / "m").exists()
