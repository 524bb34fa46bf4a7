"""Sampling with vLLM, when it is installed and asked for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.sampling.adapter_folder import AdapterFolder, read_adapter
from trl_rsa.sampling.endings import check_cut, ended
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Response, Sampling


# The ranks that vLLM makes room for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def generate_with_vllm(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
    ends: set[int],
    loading: Mapping[str, Any],
) -> Iterator[list[Response]]:
    """As [`~sampling.generation.generate`], which calls it. Every draw has vLLM's own seed of a request, made from
    (seed, prompt, draw): the same draws again on the same version of vLLM and the same kind of device.

    The folder of a LoRA adapter is loaded on top of its base model, which its configuration names.
    """
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            "You set engine='vllm', but vLLM is not installed. Install it (pip install vllm), or leave the engine out "
            "to draw with transformers."
        ) from error
    if not isinstance(model, (str, vllm.LLM)):
        raise ValueError(
            f"You set engine='vllm' with a {type(model).__name__} in memory, but vLLM loads models itself. Give the "
            "model's folder or repository, or a vllm.LLM."
        )
    adapter = read_adapter(model, "vllm")
    if adapter is not None and adapter.rank > _RANKS[-1]:
        raise ValueError(
            f"You set engine='vllm' for the adapter in {model}, but its rank is {adapter.rank} and vLLM takes ranks "
            f"up to {_RANKS[-1]}. Leave the engine out to draw with transformers."
        )
    if loading and not isinstance(model, str):
        raise ValueError(
            f"You set {', '.join(loading)} with a vllm.LLM, but that is loaded already. Set it where you make the LLM."
        )
    return _batches(vllm, model, adapter, tokenizer, prompts, rows, batches, sampling, ends, loading)


def _batches(
    vllm: Any,
    model: Any,
    adapter: AdapterFolder | None,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
    ends: set[int],
    loading: Mapping[str, Any],
) -> Iterator[list[Response]]:
    if not batches:
        return
    request: dict[str, Any] = {}
    if adapter is not None:
        from vllm.lora.request import LoRARequest

        room = next(rank for rank in _RANKS if rank >= adapter.rank)
        of_base = {"revision": adapter.revision} if adapter.revision else {}
        engine = vllm.LLM(model=adapter.base, enable_lora=True, max_lora_rank=room, **{**of_base, **loading})
        request["lora_request"] = LoRARequest(adapter.name, 1, adapter.path)
    else:
        engine = vllm.LLM(model=model, **loading) if isinstance(model, str) else model
    for batch in batches:
        parameters = [
            vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                seed=draw_key(sampling.seed, prompts[i], draw) & (2**63 - 1),
                # Of the tokenizer here: vLLM adds those in the generation config that it reads itself.
                stop_token_ids=sorted(ends),
            )
            for i, draw in batch
        ]
        given = [{"prompt_token_ids": list(rows[i])} for i, _ in batch]
        outputs = engine.generate(given, parameters, use_tqdm=False, **request)
        answers = [(pair, output.outputs[0]) for pair, output in zip(batch, outputs, strict=True)]
        yield [
            _response(tokenizer, i, draw, list(answer.token_ids), answer.finish_reason, sampling, ends)
            for (i, draw), answer in answers
        ]


def _response(
    tokenizer: Any, i: int, draw: int, ids: list[int], reason: str | None, sampling: Sampling, ends: set[int]
) -> Response:
    if reason not in ("stop", "length"):
        raise ValueError(
            f"vLLM ended a response for the reason {reason!r}, so that it is neither finished nor cut. Run the "
            "command again; what is drawn is kept."
        )
    response = ended(tokenizer, i, draw, ids, ends, reason == "stop")
    if not response.finished:
        check_cut(len(ids), sampling.max_new_tokens, "vLLM", "give a vllm.LLM with a larger max_model_len")
    return response
