"""README's script runs as it stands, on a CPU: only the Hub is replaced by local stand-ins."""

import re
from pathlib import Path

import pytest


README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tiny_model_path, make_preference_dataset, tmp_path, monkeypatch):
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert script.count('"Qwen/Qwen2.5-0.5B-Instruct"') == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: make_preference_dataset(8))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    exec(script.replace("Qwen/Qwen2.5-0.5B-Instruct", tiny_model_path), {"__name__": "__main__"})
    assert list((tmp_path / "Qwen2.5-0.5B-RSA").glob("checkpoint-*"))
