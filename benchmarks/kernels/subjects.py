"""What is measured: heads, and trainers of a model of Qwen2.5-0.5B's shape, with random weights."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from trl_rsa.kernels.dense import dense_token_statistics
from trl_rsa.kernels.statistics import Head
from trl_rsa.kernels.tiled import tiled_token_statistics
from trl_rsa.risk import CVaR


MEASURE = CVaR(0.1)
SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


class HeadProblem:
    """Hidden states and heads whose two models differ as models in training do: logits a little apart."""

    def __init__(self, tokens: int, vocabulary: int, hidden: int = 896, dtype=torch.float32, device: str = "cpu"):
        torch.manual_seed(0)
        self.ref_head = Head((torch.randn(vocabulary, hidden) / hidden**0.5).to(device, dtype))
        shift = 0.1 * torch.randn(vocabulary, hidden, device=device, dtype=dtype) / hidden**0.5
        self.head = Head((self.ref_head.weight + shift).requires_grad_())
        self.ref_hidden = 3 * torch.randn(tokens, hidden, device=device, dtype=dtype)
        self.hidden = (self.ref_hidden + 0.1 * torch.randn_like(self.ref_hidden)).requires_grad_()
        self.labels = torch.randint(vocabulary, (tokens,), device=device)

    def run(self, method: str) -> None:
        """Forward and backward of the head alone, with the gradients of RSA-2 at α = 0.5: only half of the tokens, the
        rejected answer's, have one of the risk."""
        self.hidden.grad = self.head.weight.grad = None
        HEAD_METHODS[method](self).sum().backward()

    def _risk(self, kernel: Callable) -> Tensor:
        s = kernel(self.hidden, self.head, self.ref_hidden, self.ref_head, self.labels, MEASURE)
        chosen, rejected = s.log_probs.chunk(2)
        return torch.cat([chosen, -rejected - 0.5 * s.risk.chunk(2)[1]])

    def _dpo(self) -> Tensor:
        from trl.kernels import chunked_logprob

        score, chunk = chunked_logprob.ChunkedLogProbFunction.apply, 32768  # the width TRL's trainers use
        with torch.no_grad():
            ref_log_probs = score(self.ref_hidden, self.ref_head.weight, None, self.labels, 1.0, chunk)[0]
        return score(self.hidden, self.head.weight, None, self.labels, 1.0, chunk)[0] - ref_log_probs


HEAD_METHODS = {
    "TRL DPO": HeadProblem._dpo,
    "RSA tiled": lambda problem: problem._risk(tiled_token_statistics),
    "RSA dense": lambda problem: problem._risk(dense_token_statistics),
}


def make_trainer(method: str, models: tuple, folder: str, optimizer: torch.optim.Optimizer):
    """A trainer of `models` (policy and reference); several may share them."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from trl_rsa import RSAConfig, RSATrainer

    trainer, config = (DPOTrainer, DPOConfig) if method == "TRL DPO" else (RSATrainer, RSAConfig)
    options = {} if method == "TRL DPO" else {"risk_measure": "cvar", "risk_tail": MEASURE.tail}
    if method == "RSA-1 tiled":
        options |= {"loss_type": "rsa1"}
    args = config(
        folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        per_device_train_batch_size=1,
        disable_tqdm=True,
        **options,
    )
    made = trainer(
        model=models[0],
        ref_model=models[1],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": [" b"], "rejected": [" c"]}),
        processing_class=make_tokenizer(),
        optimizers=(optimizer, None),
    )
    made.current_gradient_accumulation_steps = 1  # what `train` would set
    return made


def make_models() -> tuple:
    """The policy, and its reference with other weights, so that no loss is 0."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    models = Qwen2ForCausalLM(Qwen2Config(**SHAPE)), Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    for model in models:
        model.config._name_or_path = "qwen2.5-0.5b-shape"
    return models


def make_tokenizer():
    """The words a, b and c, and the two tokens that a trainer asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_batch(tokens: int, prompt: int) -> dict[str, Tensor]:
    """One pair of `tokens` tokens per sequence, of which `prompt` are the prompt's."""
    torch.manual_seed(1)
    mask = torch.ones(2, tokens, dtype=torch.long)
    return {
        "input_ids": torch.randint(5, SHAPE["vocab_size"], (2, tokens)),
        "attention_mask": mask,
        "completion_mask": mask.masked_fill(torch.arange(tokens) < prompt, 0),
    }


def train_step(trainer, batch: dict[str, Tensor], method: str) -> None:
    """Forward, backward and the optimizer's step."""
    with _kernel_of(method):
        trainer.training_step(trainer.model, dict(batch))
    trainer.optimizer.step()
    trainer.model.zero_grad()


@contextmanager
def _kernel_of(method: str):
    """For "RSA dense" puts the plain kernel in the fused one's place."""
    from trl_rsa.kernels import head

    original = head._kernel
    if method == "RSA dense":
        head._kernel = lambda measure: lambda *args, gather: dense_token_statistics(*args)
    try:
        yield
    finally:
        head._kernel = original
