"""Sampling a model's responses, reproducible per (seed, prompt, draw) whatever the batch."""

from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.sampling.encoding import encode_prompts
from trl_rsa.sampling.endings import end_tokens, ended
from trl_rsa.sampling.engine_options import engine_options
from trl_rsa.sampling.response import Response, Sampling


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    sampling: Sampling | None = None,
    *,
    batch_size: int = 16,
    skip: Container[tuple[int, int]] = (),
    beginnings: Sequence[Sequence[int]] | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> Iterator[list[Response]]:
    """Draws responses, the longest prompts first, and hands them out in the order of prompts and draws.

    A draw is a function of the model, the seed, the prompt and the number of the draw: neither the other prompts, nor
    their order, nor `batch_size`, nor the global random state (which is left alone) change it. Two models see the same
    noise, which makes paired comparisons sharper; a prompt given twice gets the same answers twice.

    One reservation: padding and batch size change logits by rounding. Where two noisy scores are that close (very
    rarely in float32, now and then in bfloat16) another token is drawn, and what follows in that response differs.
    `batch_size=1` has no padding and no such case. And a second one: models with "longrope" positions turn to other
    frequencies, for their whole batch, as soon as one of its rows is longer than what they were first trained on.

    A prompt is read once for all its draws, and a response that is done makes room for the next: see
    [`~sampling.decoding.Decoder`]. Models that keep something else than the keys and values of all tokens (sliding
    windows, state-space models) go through `model.generate`, batch by batch.

    The model's own `generation_config` is used for its end-of-sequence tokens only: no repetition penalty is applied.
    Until the generator ends or is closed, the model is in evaluation mode, and its adapters are merged
    ([`~sampling.adapters.merged_adapters`]): do not train it meanwhile.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The policy. With `engine="vllm"` its folder or repository (or that of an adapter), or a `vllm.LLM`; with
            `engine="server"` its folder or repository.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts (`Sequence[str | list[dict]]`):
            Texts or messages.
        sampling ([`Sampling`], *optional*):
            How to draw.
        batch_size (`int`, *optional*, defaults to 16):
            Responses drawn at a time.
        skip (`Container[tuple[int, int]]`, *optional*):
            Pairs (prompt, draw) that are not drawn.
        beginnings (`Sequence[Sequence[int]]`, *optional*):
            Per prompt the tokens that its responses are made to begin with. They are part of the response's text and
            tokens, and do not count towards `max_new_tokens`. The noise is that of the places after them: a draw that
            is made to begin as it began by itself ends as it did.
        model_options (`Mapping`, *optional*):
            For a folder or repository: arguments of `from_pretrained` with which it is to be loaded
            ([`~sampling.engine_options.engine_options`]).

    Yields:
        `list[Response]`: from a quarter of `batch_size` to `batch_size` responses, as soon as they are drawn.
    """
    sampling = Sampling() if sampling is None else sampling
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"You set batch_size={batch_size!r}, but a batch has at least one response. Set 1 or more.")
    loading = {} if sampling.engine == "transformers" else engine_options(sampling.engine, model_options)
    config = _config(model, loading)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"You sample from a model of the kind {config.model_type}, but it is an encoder-decoder, which answers a "
            "text and does not continue it. Give a causal language model."
        )
    room = room_for_prompts(config, sampling.max_new_tokens)
    rows = encode_prompts(tokenizer, prompts, sampling.template, room, beginnings)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    wanted = [(i, draw) for i in order for draw in range(sampling.draws) if (i, draw) not in skip]
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    forced = [list(beginning) for beginning in beginnings or [()] * len(rows)]
    if sampling.engine == "transformers":
        first_steps = [len(beginning) for beginning in forced]
        drawn = _generate(model, tokenizer, prompts, rows, batches, sampling, first_steps)
        batches_drawn = _in_order(drawn, wanted, batch_size)
    else:
        # Their noise knows no places: it is that of the prompt with the beginning.
        keyed = prompts if beginnings is None else [[*pair] for pair in zip(prompts, forced, strict=True)]
        batches_drawn = _with_engine(model, tokenizer, keyed, rows, batches, sampling, loading)
    if beginnings is None:
        return batches_drawn
    ends = end_tokens(model, tokenizer, _saved(loading))
    return ([_begun(tokenizer, one, forced[one.prompt], ends) for one in batch] for batch in batches_drawn)


def _with_engine(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
    loading: Mapping[str, Any],
) -> Iterator[list[Response]]:
    """With an engine that loads models by itself."""
    ends = end_tokens(model, tokenizer, _saved(loading))
    if sampling.engine == "vllm":
        from trl_rsa.sampling.vllm_engine import generate_with_vllm

        return generate_with_vllm(model, tokenizer, prompts, rows, batches, sampling, ends, loading)
    from trl_rsa.sampling.server_engine import generate_with_server

    return generate_with_server(model, tokenizer, prompts, rows, batches, sampling, ends, loading)


def _saved(loading: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options those that say which files are read, and how."""
    return {name: value for name, value in loading.items() if name in ("revision", "trust_remote_code")}


def _config(model: Any, loading: Mapping[str, Any]) -> Any:
    """The model's configuration, which lies in its folder or repository where an engine loads it; None if unknown."""
    if not isinstance(model, str):
        return getattr(model, "config", None)
    from trl_rsa.sampling.policies import config_of

    try:
        return config_of(model, **_saved(loading))
    except ValueError:
        return None  # the engine says more, or its server knows the model by another name


def _begun(tokenizer: Any, response: Response, beginning: list[int], ends: set[int]) -> Response:
    """The response with the beginning that was forced upon it."""
    ids = [*beginning, *response.token_ids]
    kept = ids[:-1] if response.finished and ids and ids[-1] in ends else ids
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return replace(response, text=text, token_ids=ids, n_forced=len(beginning))


def _in_order(
    drawn: Generator[list[Response], None, None], wanted: Sequence[tuple[int, int]], batch_size: int
) -> Iterator[list[Response]]:
    """The responses in the order in which they were wanted: files of them are the same whatever the batch.

    Yields lists of a quarter of a batch to a whole one: scorers like several texts at a time.
    """
    held: dict[tuple[int, int], Response] = {}
    ready: list[Response] = []
    due = iter(wanted)
    pair = next(due, None)
    with closing(drawn):
        for responses in drawn:
            held |= {(response.prompt, response.draw): response for response in responses}
            while pair in held:
                ready.append(held.pop(pair))
                pair = next(due, None)
            while len(ready) >= max(1, batch_size // 4):
                yield ready[:batch_size]
                ready = ready[batch_size:]
    if ready:
        yield ready


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
    first_steps: Sequence[int],
) -> Generator[list[Response], None, None]:
    """With transformers, here. Responses come as they are done."""
    from trl_rsa.sampling.adapters import base_of_adapted, merged_adapters
    from trl_rsa.sampling.slots import has_plain_cache

    if not batches:
        return
    training = model.training
    model.eval()
    try:
        with merged_adapters(model):
            base = base_of_adapted(model)
            if base is not None and has_plain_cache(base):
                wanted = [pair for batch in batches for pair in batch]
                n_rows = max(map(len, batches))
                ends = end_tokens(model, tokenizer)
                yield from _decode(base, tokenizer, prompts, rows, wanted, sampling, first_steps, n_rows, ends)
            else:
                for batch in batches:
                    yield _generate_batch(model, tokenizer, prompts, rows, batch, sampling, first_steps)
    finally:
        model.train(training)


def _decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    wanted: Sequence[tuple[int, int]],
    sampling: Sampling,
    first_steps: Sequence[int],
    n_rows: int,
    ends: set[int],
) -> Iterator[list[Response]]:
    from trl_rsa.sampling.decoding import Decoder, Wanted
    from trl_rsa.sampling.noise import TokenDraw, draw_key

    draw = TokenDraw(sampling.temperature, sampling.top_p, sampling.top_k)
    decoder = Decoder(model, rows, draw, ends, sampling.max_new_tokens, n_rows)
    responses = [
        Wanted(i, number, draw_key(sampling.seed, prompts[i], number), first_steps[i]) for i, number in wanted
    ]
    for done in decoder.run(responses):
        yield [ended(tokenizer, one.prompt, one.draw, one.tokens, ends) for one in done]


def room_for_prompts(config: Any, max_new_tokens: int, name: str = "max_new_tokens") -> int | None:
    """
    Args:
        config ([`~transformers.PreTrainedConfig`], *optional*):
            Of the model.
        max_new_tokens (`int`):
            Of a response.
        name (`str`, *optional*):
            What the user calls it.

    Returns:
        Tokens that are left for a prompt; `None` where the model has no limit, or is not known here.

    Raises:
        ValueError: if none are.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    longest = max(longest, _stretched(config, longest))
    if longest <= max_new_tokens:
        raise ValueError(f"You set {name}={max_new_tokens}, but this model takes {longest} tokens in all. Lower it.")
    return longest - max_new_tokens


def _stretched(config: Any, longest: int) -> int:
    """Positions of a model whose positions are stretched by a factor: Qwen's, with YaRN switched on, go on saying in
    `max_position_embeddings` what they were trained on."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) != "yarn":
        return longest
    return int((rope.get("original_max_position_embeddings") or longest) * (rope.get("factor") or 1))


def _generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batch: Sequence[tuple[int, int]],
    sampling: Sampling,
    first_steps: Sequence[int],
) -> list[Response]:
    """A whole batch with `model.generate`, for models that our own loop does not know."""
    import torch
    from transformers import LogitsProcessorList

    from trl_rsa.sampling.noise import SeededSampling, draw_key

    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    width = max(len(rows[i]) for i, _ in batch)
    ids = torch.tensor([[pad] * (width - len(rows[i])) + list(rows[i]) for i, _ in batch])
    mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i, _ in batch])
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        keys = torch.tensor([draw_key(sampling.seed, prompts[i], draw) for i, draw in batch])
        device = model.device if model.device.type == "cuda" else "cpu"
        steps = torch.tensor([first_steps[i] for i, _ in batch])
        law = sampling.temperature, sampling.top_p, sampling.top_k
        processors.append(SeededSampling(keys.to(device), width - steps.to(device), *law))
    with _nothing_filled_in(model, sorted(ends), pad):
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=_greedy(sampling.max_new_tokens, sorted(ends), pad),
            logits_processor=processors,
        )
    completions = output[:, width:].tolist()
    return [
        ended(tokenizer, i, draw, completion, ends) for (i, draw), completion in zip(batch, completions, strict=True)
    ]


@contextmanager
def _nothing_filled_in(model: Any, ends: list[int], pad: int) -> Iterator[None]:
    """`generate` fills in whatever a call leaves open from the model's own generation config: forbidden and forced
    tokens, stop strings, several sequences, a time limit. Meanwhile that has nothing but special tokens."""
    from transformers import GenerationConfig

    first = getattr(getattr(model, "generation_config", None), "bos_token_id", None)
    bare = GenerationConfig(bos_token_id=first, eos_token_id=ends or None, pad_token_id=pad)
    # Of a model inside a PEFT model too.
    kept = [(owner, owner.generation_config) for owner in model.modules() if "generation_config" in vars(owner)]
    try:
        for owner, _ in kept:
            owner.generation_config = bare
        yield
    finally:
        for owner, own in kept:
            owner.generation_config = own


def _greedy(max_new_tokens: int, ends: list[int], pad: int) -> Any:
    """Greedy, since the noise is in a processor of ours."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        use_cache=True,  # trainers leave `use_cache=False` in a model's config
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
