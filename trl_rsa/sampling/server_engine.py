"""Sampling from a server that is running already: vLLM's (`vllm serve`, `trl vllm-serve`), or another that speaks
OpenAI's completions.

Which weights answer is never guessed. In this order:

* An adapter's folder is loaded by name for as long as it is sampled from; the name belongs to its content.
* A server that takes weights (vLLM with a weight-transfer engine) is sent those of the model's folder, through TRL's
  client. What it serves now may be anything: another run may have sent it something.
* Any other server must serve the model that is asked for, under its name or from its folder.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.sampling.adapter_folder import AdapterFolder, read_adapter
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Response, Sampling


_WAITS = (1.0, 4.0, 16.0)
"""Seconds before a request is tried again, after a broken connection or a status that passes."""
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TAKES_ADAPTERS = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
_TAKES_WEIGHTS = (
    'start it with VLLM_SERVER_DEV_MODE=1 in its environment and --weight-transfer-config \'{"backend": "nccl"}\''
)


def generate_with_server(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
) -> Iterator[list[Response]]:
    """As [`~sampling.generation.generate`], which calls it. Prompts are sent as token ids, each draw as a request with
    a seed of its own, made from (seed, prompt, draw), and as many at a time as a batch has.

    Tokens come back as the server drew them if it can say (vLLM can). Otherwise the text is tokenized again, which now
    and then cuts it into other tokens.
    """
    if not isinstance(model, str):
        raise ValueError(
            f"You set engine='server' with a {type(model).__name__} in memory, but the server has its own. Give the "
            "model's folder or repository."
        )
    return _batches(model, read_adapter(model, "server"), tokenizer, prompts, rows, batches, sampling)


def _batches(
    model: str,
    adapter: AdapterFolder | None,
    tokenizer: Any,
    prompts: Sequence[Text],
    rows: Sequence[Sequence[int]],
    batches: Sequence[Sequence[tuple[int, int]]],
    sampling: Sampling,
) -> Iterator[list[Response]]:
    if not batches:
        return
    in_flight = max(map(len, batches))

    def draw_one(server: "_Server", name: str, i: int, draw: int) -> Response:
        seed = draw_key(sampling.seed, prompts[i], draw) & (2**63 - 1)
        choice = server.complete(name, rows[i], seed, sampling)
        return _response(tokenizer, i, draw, choice)

    with _Server(sampling, in_flight) as server, server.policy(model, adapter) as name:
        executor = ThreadPoolExecutor(in_flight)
        try:
            # All of them at once: the executor sends the next as soon as one is done, across batches.
            futures = [[executor.submit(draw_one, server, name, i, draw) for i, draw in batch] for batch in batches]
            for batch in futures:
                yield [future.result() for future in batch]
        finally:
            executor.shutdown(cancel_futures=True)


def _response(tokenizer: Any, i: int, draw: int, choice: dict[str, Any]) -> Response:
    finished = choice["finish_reason"] == "stop"
    ids = choice.get("token_ids")
    if ids is None:
        ids = tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
        ids = [*ids, tokenizer.eos_token_id] if finished and tokenizer.eos_token_id is not None else ids
    return Response(i, draw, choice["text"], list(ids), finished)


class _Server:
    """
    Requests to a server.

    Args:
        sampling ([`Sampling`]):
            With `server_url`, `server_model` and `server_key_env`.
        connections (`int`):
            Requests at a time.
    """

    def __init__(self, sampling: Sampling, connections: int):
        import httpx2

        self.url = str(sampling.server_url).rstrip("/").removesuffix("/v1")
        self.model = sampling.server_model
        key = os.environ.get(sampling.server_key_env, "") if sampling.server_key_env else ""
        if sampling.server_key_env and not key:
            raise ValueError(
                f"You set server_key_env={sampling.server_key_env!r}, but there is no such environment variable. Put "
                "the server's key into it."
            )
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=httpx2.Timeout(3600.0, connect=10.0),  # a long response in a full queue takes its time
        )

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    # Which weights answer

    @contextmanager
    def policy(self, model: str, adapter: AdapterFolder | None) -> Iterator[str]:
        """The name under which the server serves the model, for as long as it is needed."""
        base = self._serve(model if adapter is None else adapter.base)
        if adapter is None:
            yield base
            return
        if adapter.name in {served["id"] for served in self._served()}:
            yield adapter.name  # somebody else needs it too
            return
        self._load(adapter)
        try:
            yield adapter.name
        finally:
            self._send("POST", "/v1/unload_lora_adapter", {"lora_name": adapter.name})

    def _serve(self, model: str) -> str:
        """The name of a whole model there, sent if the server takes weights."""
        served = self._served()
        names = [one["id"] for one in served if not one.get("parent")]
        if self.model is not None and self.model not in names:
            raise ValueError(
                f"You set server_model={self.model!r}, but the server at {self.url} serves {', '.join(names)}. "
                "Set one of these."
            )
        if self._takes_weights():
            self._send_weights(model)
            return self.model or names[0]
        wanted = {model, os.path.abspath(model)}
        same = [one["id"] for one in served if not one.get("parent") and {one["id"], one.get("root")} & wanted]
        same = [name for name in same if self.model in (None, name)]
        if not same:
            raise ValueError(
                f"You set engine='server' for {model}, but the server at {self.url} serves {', '.join(names)} and "
                f"takes no weights. Serve {model} (with --served-model-name if it lies elsewhere there), or "
                f"{_TAKES_WEIGHTS}."
            )
        return same[0]

    def _served(self) -> list[dict[str, Any]]:
        response = self._send("GET", "/v1/models")
        if response.status_code != 200:
            raise ValueError(
                f"You set server_url={self.url!r}, but it does not list its models ({_said(response)}). Give the "
                "address of an OpenAI-compatible server, without /v1."
            )
        return response.json()["data"]

    def _takes_weights(self) -> bool:
        response = self._send("GET", "/server_info?config_format=json")
        if response.status_code != 200:
            return False
        config = response.json().get("vllm_config")
        return isinstance(config, dict) and config.get("weight_transfer_config") is not None

    def _send_weights(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from trl_rsa._trl import vllm_client

        if not torch.cuda.is_available():
            raise ValueError(
                f"You set engine='server' and the server at {self.url} takes weights, but they are sent from a CUDA "
                f"device, and there is none here. Train an adapter, and {_TAKES_ADAPTERS}."
            )
        try:
            client = vllm_client()(base_url=self.url)
        except ImportError as error:
            raise ImportError(
                f"You set engine='server', and {model} has to be sent to the server at {self.url}, which TRL's client "
                f"does with vLLM and requests, but {error} Install both, or train an adapter, and {_TAKES_ADAPTERS}."
            ) from error
        policy = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to("cuda")
        client.init_communicator(device="cuda")
        try:
            client.update_model_params(policy)
            client.reset_prefix_cache()
        finally:
            client.close_communicator()

    def _load(self, adapter: AdapterFolder) -> None:
        body = {"lora_name": adapter.name, "lora_path": adapter.path}
        response = self._send("POST", "/v1/load_lora_adapter", body)
        if response.status_code in (404, 405, 501):
            raise ValueError(
                f"You set engine='server' for the adapter in {adapter.path}, but the server at {self.url} loads no "
                f"adapters. If it is vLLM, {_TAKES_ADAPTERS}."
            )
        if response.status_code != 200:
            raise ValueError(
                f"You set engine='server' for the adapter in {adapter.path}, but the server at {self.url} could not "
                f"load it ({_said(response)}). It must see this folder under the same path, and allow rank "
                f"{adapter.rank} (--max-lora-rank)."
            )

    # Responses

    def complete(self, name: str, prompt: Sequence[int], seed: int, sampling: Sampling) -> dict[str, Any]:
        """One choice, as OpenAI's completions describe it, with `token_ids` where the server can say."""
        body = {
            "model": name,
            "prompt": list(prompt),
            "n": 1,
            "seed": seed,
            "max_tokens": sampling.max_new_tokens,
            # All that would change the law of a token: servers fill in what the model's generation config says.
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "return_token_ids": True,
        }
        response = self._send("POST", "/v1/completions", body)
        if response.status_code != 200:
            raise ValueError(
                f"You set engine='server', but the server at {self.url} did not answer a completion of {name} "
                f"({_said(response)}). Check its log, or leave the engine out to draw with transformers."
            )
        choice = response.json()["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise ValueError(
                f"The server at {self.url} ended a response for the reason {choice['finish_reason']!r}, so that it is "
                "neither finished nor cut. Run the command again; what is drawn is kept."
            )
        return choice

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        import httpx2

        for wait in (*_WAITS, None):
            try:
                response = self.client.request(method, self.url + path, json=body)
            except httpx2.HTTPError as error:
                if wait is None:
                    raise ConnectionError(
                        f"You set server_url={self.url!r}, but it cannot be reached ({error}). Start the server, or "
                        "correct the address."
                    ) from error
            else:
                if wait is None or response.status_code not in _PASSING:
                    return response
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def _said(response: Any) -> str:
    return f"status {response.status_code}: {' '.join(response.text.split())[:300]}"
