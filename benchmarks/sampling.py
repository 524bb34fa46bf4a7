"""How fast responses are drawn: `python -m benchmarks.sampling`, with `--model FOLDER` for a real chat model.

Three ways to draw, which take turns; reported are the medians.

* `plain`: `model.generate(do_sample=True)`, which knows no seeds of single draws.
* `before`: how `trl_rsa.sampling` drew at first: `model.generate` batch by batch, a prompt read once for every draw,
  the noise of the whole vocabulary made for every token. It is kept here only.
* `ours`: [`~trl_rsa.sampling.generation.generate`].

Three questions:

* `ladder`: what the ladder asks for: four draws of each prompt in batches of 16, responses as long as they come.
* `equal batch`: one batch of different prompts, a draw of each, none of which ends before `max_new_tokens`. What does
  it cost that a draw is a function of its seed, prompt and number?
* `adapter`: the equal batch with a LoRA adapter of rank 16 on every linear layer.

Times are wall time and the processor's time, since other work may share the machine; `load` is the machine's load
average after the part. Without a model's folder, the model has SmolLM2-135M's shape and random weights, and one token
in 64 ends a response.
"""

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from benchmarks.kernels.run import provenance
from trl_rsa.sampling.encoding import encode_prompts
from trl_rsa.sampling.generation import end_tokens, generate
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Sampling


Row = dict[str, Any]

PROMPTS = [
    "Name three rivers.",
    "Why is the sky blue? Answer for a child of six.",
    "Write a short note to a neighbour whose parcel I have taken in.",
    "What should I look for when I buy a used bicycle?",
    "Translate into French: the library closes at eight.",
    "I have rice, two eggs, an onion and some peas. What can I cook in twenty minutes, and in which order do I start?",
    "Give me a title for a talk about bees.",
    "My plant has yellow leaves at the bottom and green ones at the top. What may be wrong, and what would you try?",
    "How many days has a leap year?",
    "Explain what a mortgage is, in plain words, to someone who has always rented a flat.",
    "List the planets of the solar system from the sun outwards.",
    "Write four lines about autumn that do not rhyme.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it take? Show how you worked it out.",
    "What is the difference between weather and climate?",
    "Suggest a polite way to leave a meeting that has gone on for too long.",
    "Who wrote Pride and Prejudice?",
]


# As it was before, word for word but for the types


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: torch.Tensor) -> torch.Tensor:
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = (x ^ _shift_right(x, shift)) * factor
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, places: int) -> torch.Tensor:
    return (x >> places) & ((1 << (64 - places)) - 1)


class WholeNoise(LogitsProcessor):
    """Gumbel noise of every token of the vocabulary."""

    def __init__(self, keys: torch.Tensor, prompt_width: int):
        self.keys, self.prompt_width = keys, prompt_width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / 1.0  # the temperature
        step = input_ids.shape[1] - self.prompt_width
        states = _mix(self.keys + _mix(torch.tensor(step, device=self.keys.device) * _GAMMA))
        counters = torch.arange(1, scores.shape[-1] + 1, device=self.keys.device) * _GAMMA
        bits = _shift_right(_mix(states[:, None] + counters), 12)
        noise = -torch.log(-torch.log((bits.double() + 0.5) * 2.0**-52))
        drawn = (scores.double() + noise).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


def batched(
    model: Any, tokenizer: Any, prompts: list[str], sampling: Sampling, batch_size: int, noise: bool, ends: list[int]
) -> int:
    """`before`, or `plain` without the noise. Returns the number of tokens drawn."""
    rows = encode_prompts(tokenizer, prompts, sampling.template, None)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    wanted = [(i, draw) for i in order for draw in range(sampling.draws)]
    total = 0
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        width = max(len(rows[i]) for i, _ in batch)
        ids = torch.tensor([[0] * (width - len(rows[i])) + rows[i] for i, _ in batch])
        mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i, _ in batch])
        keys = torch.tensor([draw_key(sampling.seed, prompts[i], draw) for i, draw in batch])
        config = GenerationConfig(
            do_sample=not noise,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            repetition_penalty=1.0,
            max_new_tokens=sampling.max_new_tokens,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=0,
        )
        processors = LogitsProcessorList([WholeNoise(keys.to(model.device), width)] if noise else [])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=processors,
        )
        for completion in output[:, width:].tolist():
            end = next((place for place, token in enumerate(completion) if token in ends), len(completion) - 1)
            total += end + 1
    return total


def ours(model: Any, tokenizer: Any, prompts: list[str], sampling: Sampling, batch_size: int) -> int:
    batches = generate(model, tokenizer, prompts, sampling, batch_size=batch_size)
    return sum(len(response.token_ids) for batch in batches for response in batch)


Run = tuple[float, float, int]  # wall seconds, the processor's seconds, tokens


def take_turns(subjects: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[Run]]:
    """Each subject, one after the other, `repeats` times."""
    found: dict[str, list[Run]] = {name: [] for name in subjects}
    for repeat in range(repeats):
        for name, subject in subjects.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = subject()
            run = time.perf_counter() - wall, time.process_time() - cpu, tokens
            found[name].append(run)
            print(f"  {repeat + 1}: {name}: {tokens} tokens in {run[0]:.1f} s, cpu {run[1]:.1f} s", flush=True)
    return found


def rows_of(part: str, found: dict[str, list[Run]], baseline: str, **config: Any) -> list[Row]:
    wall = {name: [tokens / seconds for seconds, _, tokens in several] for name, several in found.items()}
    cpu = {name: [tokens / seconds for _, seconds, tokens in several] for name, several in found.items()}
    return [
        {
            "part": part,
            "method": name,
            **config,
            "tokens": found[name][0][2],
            "seconds": round(statistics.median(run[0] for run in found[name]), 2),
            "tokens_per_second": round(statistics.median(wall[name]), 1),
            "lowest": round(min(wall[name]), 1),
            "highest": round(max(wall[name]), 1),
            "tokens_per_cpu_second": round(statistics.median(cpu[name]), 1),
            "against": baseline,
            # Medians of the ratios of runs that stood side by side: what else the machine did is much the same.
            "ratio": round(statistics.median(a / b for a, b in zip(wall[name], wall[baseline], strict=True)), 2),
            "cpu_ratio": round(statistics.median(a / b for a, b in zip(cpu[name], cpu[baseline], strict=True)), 2),
            "repeats": len(found[name]),
            "load": round(os.getloadavg()[0], 1),
        }
        for name in found
    ]


def load(folder: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if folder is not None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model.eval(), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    model.generation_config.eos_token_id = list(range(0, 49152, 64))
    return model, _BytesTokenizer()


class _BytesTokenizer:
    """A token per byte: only the lengths matter."""

    chat_template, eos_token_id, pad_token_id, eos_token = None, 0, 0, ""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1 + byte for byte in text.encode()]}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def measure(model: Any, tokenizer: Any, args: argparse.Namespace, dtype: str) -> list[Row]:
    about = {"model": Path(args.model).name if args.model else "random weights", "dtype": dtype}
    for way in (lambda *a: batched(*a, True, []), ours):  # what is imported at first use is no part of a draw
        way(model, tokenizer, PROMPTS[:2], Sampling(max_new_tokens=2), 2)
    ends, size = end_tokens(model, tokenizer), 16
    mix, prompts = Sampling(draws=4, max_new_tokens=args.max_new_tokens), PROMPTS[: args.prompts]
    shape = {"prompts": len(prompts), "draws": 4, "batch_size": size, "max_new_tokens": args.max_new_tokens}
    print(f"{about}: ladder", flush=True)
    subjects = {
        "before": lambda: batched(model, tokenizer, prompts, mix, size, True, sorted(ends)),
        "ours": lambda: ours(model, tokenizer, prompts, mix, size),
        "ours, 32 at a time": lambda: ours(model, tokenizer, prompts, mix, 32),
    }
    rows = rows_of("ladder", take_turns(subjects, args.repeats), "before", **about, **shape)

    # From here on nothing ends: every method draws the same number of tokens.
    tokenizer.eos_token_id = model.generation_config.eos_token_id = None
    several = [f"{prompt} ({number})" for number in range(1 + args.batch_size // len(PROMPTS)) for prompt in PROMPTS]
    several, size = several[: args.batch_size], args.batch_size
    short = Sampling(max_new_tokens=args.equal_tokens)
    shape = {"prompts": len(several), "draws": 1, "batch_size": size, "max_new_tokens": args.equal_tokens}

    def equal(model: Any) -> dict[str, Callable[[], int]]:
        return {
            "plain": lambda: batched(model, tokenizer, several, short, size, False, []),
            "before": lambda: batched(model, tokenizer, several, short, size, True, []),
            "ours": lambda: ours(model, tokenizer, several, short, size),
        }

    print(f"{about}: equal batch", flush=True)
    rows += rows_of("equal batch", take_turns(equal(model), args.repeats), "plain", **about, **shape)
    print(f"{about}: adapter", flush=True)
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)).eval()
    return rows + rows_of("adapter", take_turns(equal(adapted), args.repeats), "plain", **about, **shape)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a chat model; without it random weights")
    parser.add_argument("--output", default="benchmarks/results/sampling.csv")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--batch_size", type=int, default=32, help="of the equal batch")
    parser.add_argument("--equal_tokens", type=int, default=32, help="tokens of a response in the equal batch")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="of the ladder's mix")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="of the ladder's mix")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    for dtype in args.dtypes:
        model, tokenizer = load(args.model, getattr(torch, dtype))
        if torch.cuda.is_available():
            model = model.to("cuda")
        rows += [row | (provenance() | {"dtype": dtype}) for row in measure(model, tokenizer, args, dtype)]
        for row in rows:
            print(
                *(
                    row[name]
                    for name in ("part", "dtype", "method", "tokens_per_second", "ratio", "cpu_ratio", "load")
                ),
                sep="\t",
            )
        # What is measured is written at once.
        output = Path(args.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
