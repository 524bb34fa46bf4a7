"""check_spec: mistakes in a scorer's name and options that show without loading anything."""

import pytest

from trl_rsa.scoring.load import check_spec


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("hff:my/cost", {}, "no scorer 'hff'. Did you mean 'hf'"),
        ("gaurd:my/model", {}, "Did you mean 'guard'"),  # codespell:ignore
        ("hf:my/cost", {"batchsize": 4}, "batchsize for hf:my/cost, but it takes .*batch_size"),
        ("judge:http://h#m", {"critereon": "x"}, "critereon for a judge"),  # codespell:ignore
        ("hf:my/cost", {"kind": "reward"}, "a budget is on a cost"),
        (lambda **kwargs: [], {"batch_size": 4}, "takes no options"),
    ],
)
def test_a_mistake_is_named(spec, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_spec(spec, options)


@pytest.mark.parametrize("spec", ["hf:./none", "beaver:/none", "./none", "none.py:cost"])
def test_a_missing_folder_or_file_is_named(spec):
    with pytest.raises(FileNotFoundError, match="none"):
        check_spec(spec, {})


def test_a_sound_spec_passes():
    check_spec("hf:my/cost", {"batch_size": 4, "higher_is": "worse", "zero": 0.5, "name": "cost"})
    check_spec("my_module:cost", {})
    check_spec("judge:http://user:secret@h/v1#model", {"criterion": "harmless"})
