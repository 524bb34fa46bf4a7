"""mergekit's files: linear ones are read, the others go to mergekit, which is a program on the path here."""

import sys

import pytest

from trl_rsa.merging.mergekit import read_linear, run_mergekit


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "merge.yaml"
        path.write_text(text)
        return path

    return write


def test_a_linear_merge_is_read(write):
    """mergekit's weights are shares unless `normalize` is false; a weight beside the models holds for all."""
    models = "models:\n  - {model: a, parameters: {weight: 1.0}}\n  - {model: b, parameters: {weight: 3}}\n"
    linear = read_linear(write(f"merge_method: linear\n{models}dtype: float16\nparameters: {{normalize: true}}"))
    assert (linear.models, linear.weights, linear.dtype) == (["a", "b"], [0.25, 0.75], "float16")
    assert read_linear(write(f"merge_method: linear\n{models}")).weights == [0.25, 0.75]
    assert read_linear(write(f"merge_method: linear\n{models}parameters: {{normalize: false}}")).weights == [1.0, 3.0]
    assert read_linear(write("merge_method: linear\nmodels: [{model: a}, {model: b}]")).weights == [0.5, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: slerp\nmodels: [{model: a}, {model: b}]",
        "merge_method: linear\nslices: []",
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: [0, 1]}}, {model: b}]",
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\ntokenizer_source: union",
        "merge_method: linear\nmodels: [{model: a+lora}, {model: b}]",
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {density: 0.5}",
    ],
    ids=["slerp", "slices", "gradient", "tokenizer", "lora", "density"],
)
def test_the_rest_is_for_mergekit(text, write, tmp_path, monkeypatch):
    path = write(text)
    assert read_linear(path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="mergekit is not installed"):
        run_mergekit(path, tmp_path / "out")


def test_mergekit_is_run_where_it_is_installed(write, tmp_path, monkeypatch):
    program = tmp_path / "mergekit-yaml"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "sys.exit('slerp' not in open(sys.argv[1]).read())\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write("merge_method: slerp")
    run_mergekit(path, tmp_path / "out")
    assert (tmp_path / "seen").read_text() == f"{path} {tmp_path / 'out'}"
    with pytest.raises(ValueError, match="ended with status 1"):
        run_mergekit(write("merge_method: ties"), tmp_path / "out")


def test_files_that_are_none_of_mergekits(write, tmp_path):
    with pytest.raises(ValueError, match="no merge_method"):
        read_linear(write("stages: []"))
    with pytest.raises(ValueError, match="is not YAML"):
        read_linear(write("a: [1"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_linear(tmp_path / "none.yaml")
