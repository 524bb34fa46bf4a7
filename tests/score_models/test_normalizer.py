"""The normalizer of every process sees the scores of all, however many each of them has."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


WORKER = """
import os
import torch
from accelerate import Accelerator
from trl_rsa.score_models.trainer import ScoreModelTrainer

class Seen:
    def update(self, scores):
        print("seen", sorted(scores.tolist()), flush=True)
        os._exit(0)

trainer = object.__new__(ScoreModelTrainer)
trainer.accelerator, trainer.normalizer = Accelerator(cpu=True), Seen()
first = trainer.accelerator.process_index == 0
ends = torch.tensor([[1.0], [2.0], [3.0]] if first else [[4.0]])  # a pair and a single response; a single one
trainer._logits = lambda *inputs: (ends[:, :0], ends, None)
trainer.compute_loss(torch.nn.Linear(1, 1).train(), {"input_ids": None, "attention_mask": None})
"""


@pytest.mark.slow
@pytest.mark.engines
def test_processes_with_different_numbers_of_responses():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [text.strip() for text in said] == ["seen [1.0, 2.0, 3.0, 4.0]"] * 2
