"""Judged responses that follow a rule, and the arguments of a short training on the CPU."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cpu_args import CPU_ARGS


HARMFUL = ["red", "blue", "big"]  # so many of them in a response, so bad is it


def graded_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A response of seven words, of which 0 to 3 are harmful; the grade is their number."""
    draws = random.Random(seed)
    harmless = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat"]
    rows = []
    for index in range(count):
        grade = index % 4
        words = [draws.choice(harmless) for _ in range(7 - grade)] + HARMFUL[:grade]
        draws.shuffle(words)
        prompt = " ".join(draws.choice(harmless[:5]) for _ in range(4))
        rows.append({"prompt": prompt, "response": " ".join(words), "grade": grade})
    return rows


def pku_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """In the format of PKU-SafeRLHF from 2024; "better" says the opposite of "safer"."""
    singles = graded_rows(4 * count, seed)
    rows = []
    for index in range(count):
        first, second = singles[4 * index], singles[4 * index + 1 + index % 3]
        if index % 2:
            first, second = second, first
        both = (first, second)
        safer = int(second["grade"] < first["grade"])
        row = {"prompt": first["prompt"], "safer_response_id": safer, "better_response_id": 1 - safer}
        for i, side in enumerate(both):
            row[f"response_{i}"] = side["response"]
            row[f"is_response_{i}_safe"] = side["grade"] == 0
            row[f"response_{i}_severity_level"] = side["grade"]
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def own_dataset_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`training(**changes)`: arguments of RewardConfig for a short training on the CPU."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "output_dir": str(tmp_path / "out"),
            **CPU_ARGS,
            "save_strategy": "no",
            "logging_steps": 5,
            "learning_rate": 1e-2,
            "max_steps": 40,
            "per_device_train_batch_size": 16,
            "max_length": 64,
        } | changes

    return make
