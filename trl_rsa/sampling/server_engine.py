"""Sampling from a server that is running already: vLLM's (`vllm serve`, `trl vllm-serve`), or another that speaks
OpenAI's completions.

Which weights answer is never guessed. In this order:

* An adapter is loaded by name for as long as it is sampled from; the name belongs to its content.
* A server that takes weights (vLLM with a weight-transfer engine) is sent those of the model's folder, through TRL's
  client. What it serves now may be anything: another run may have sent it something.
* Any other server must serve the model that is asked for, by its name or path. What it read there is its own affair.
"""

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl_rsa.data.schema import Text
from trl_rsa.sampling.adapter_folder import AdapterFolder, read_adapter
from trl_rsa.sampling.encoding import ConversationEncoder
from trl_rsa.sampling.endings import check_cut, ended
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Response, Sampling
from trl_rsa.sampling.server_connection import DRAWING, LOADING, ServerConnection, json_of


_STOPPED = ("stop", "eos_token")  # TGI names the reason
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
    ends: set[int],
    loading: Mapping[str, Any],
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
    return _batches(model, read_adapter(model, "server"), tokenizer, prompts, rows, batches, sampling, ends, loading)


def _batches(
    model: str,
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
    in_flight = max(map(len, batches))
    encoder = ConversationEncoder(tokenizer, sampling.template)

    def draw_one(server: "_Server", name: str, i: int, draw: int) -> Response:
        seed = draw_key(sampling.seed, prompts[i], draw) & (2**63 - 1)
        answer = server.complete(name, rows[i], seed, sampling, ends)
        return server.response(encoder, i, draw, answer, sampling, ends)

    with _Server(sampling, in_flight, loading) as server, server.policy(model, adapter) as name:
        executor = ThreadPoolExecutor(in_flight)
        try:
            # All of them at once: the executor sends the next as soon as one is done, across batches.
            futures = [[executor.submit(draw_one, server, name, i, draw) for i, draw in batch] for batch in batches]
            for batch in futures:
                yield [future.result() for future in batch]
        except BaseException:  # GeneratorExit too: somebody has left
            server.connection.stop()
            raise
        finally:  # what is still being drawn is not waited for
            executor.shutdown(wait=False, cancel_futures=True)


class _Server:
    """
    A server, and which of its policies is asked.

    Args:
        sampling ([`Sampling`]):
            With `server_url`, `server_model` and `server_key_env`.
        at_once (`int`):
            Responses at a time.
        loading (`Mapping`):
            `revision` and `trust_remote_code` of the model, if they are set.
    """

    def __init__(self, sampling: Sampling, at_once: int, loading: Mapping[str, Any]):
        self.connection = ServerConnection(sampling, at_once)
        self.url, self.model, self.loading = self.connection.url, sampling.server_model, loading
        self.adapter: AdapterFolder | None = None
        self._loaded_here = False
        self._said_no_ids = False
        self._lock = threading.Lock()

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    # Which weights answer

    @contextmanager
    def policy(self, model: str, adapter: AdapterFolder | None) -> Iterator[str]:
        """The name under which the server serves the model, for as long as it is needed."""
        if adapter is None:
            yield self._serve(model, self.loading.get("revision"))
            return
        self._serve(adapter.base, self.loading.get("revision") or adapter.revision)
        self.adapter = adapter
        if adapter.name not in {served["id"] for served in self._served()}:  # or somebody else needs it too
            self._load(adapter)
        try:
            yield adapter.name
        finally:
            if self._loaded_here:
                self._unload(adapter)

    def _serve(self, model: str, revision: str | None) -> str:
        """The name of a whole model there, sent if the server takes weights."""
        served = self._served()
        names = [one["id"] for one in served if not one.get("parent")]
        if self.model is not None and self.model not in names:
            raise ValueError(
                f"You set server_model={self.model!r}, but the server at {self.url} serves {', '.join(names)}. "
                "Set one of these."
            )
        if names and self._takes_weights():
            self._send_weights(model, revision)
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
        if revision is not None and not Path(model).is_dir():
            raise ValueError(
                f"You set engine='server' for {model} at the revision {revision}, but the server at {self.url} does "
                "not say which revision it serves. Download that one, and serve and give its folder."
            )
        return same[0]

    def _served(self) -> list[dict[str, Any]]:
        response = self.connection.send("GET", "/v1/models")
        listed = json_of(response)
        listed = listed.get("data") if isinstance(listed, dict) else None
        if (
            response.status_code != 200
            or not isinstance(listed, list)
            or not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in listed)
        ):
            raise ValueError(
                f"You set server_url={self.url!r}, but it does not list its models "
                f"({self.connection.said(response)}). Give the address of an OpenAI-compatible server, without /v1."
            )
        return listed

    def _takes_weights(self) -> bool:
        response = self.connection.send("GET", "/server_info?config_format=json")
        info = json_of(response) if response.status_code == 200 else None
        config = info.get("vllm_config") if isinstance(info, dict) else None
        return isinstance(config, dict) and config.get("weight_transfer_config") is not None

    def _send_weights(self, model: str, revision: str | None) -> None:
        import torch

        from trl_rsa._trl import vllm_client
        from trl_rsa.sampling.policies import load_policy

        if not torch.cuda.is_available():
            raise ValueError(
                f"You set engine='server' and the server at {self.url} takes weights, but they are sent from a CUDA "
                f"device, and there is none here. Train an adapter, and {_TAKES_ADAPTERS}."
            )
        if self.connection.secret is not None:
            raise ValueError(
                f"You set server_key_env and the server at {self.url} takes weights, but TRL's client, which sends "
                f"them, knows no key. Start the server without one, or without its weight-transfer engine, and for "
                f"adapters {_TAKES_ADAPTERS}."
            )
        options = {**self.loading, **({} if revision is None else {"revision": revision})}
        policy = load_policy(model, "cuda", **options)
        try:
            client = vllm_client()(base_url=self.url)
            client.init_communicator(device="cuda")
            try:
                client.update_model_params(policy)
                client.reset_prefix_cache()
            finally:
                client.close_communicator()
        except ImportError as error:
            raise ImportError(
                f"You set engine='server', and {model} has to be sent to the server at {self.url}, which TRL's client "
                f"does with vLLM and requests, but {error} Install both, or train an adapter, and {_TAKES_ADAPTERS}."
            ) from error
        except Exception as error:  # TRL's client raises `Exception` itself, and what requests and NCCL raise
            raise ValueError(
                f"You set engine='server', but the weights of {model} could not be sent to the server at {self.url} "
                f"({type(error).__name__}: {error}). Check its log, or train an adapter, and {_TAKES_ADAPTERS}."
            ) from error

    def _load(self, adapter: AdapterFolder) -> None:
        body = {"lora_name": adapter.name, "lora_path": adapter.path}
        response = self.connection.send("POST", "/v1/load_lora_adapter", body, LOADING)
        if response.status_code == 200:
            self._loaded_here = True
        elif response.status_code in (404, 405, 501):
            raise ValueError(
                f"You set engine='server' for the adapter in {adapter.path}, but the server at {self.url} loads no "
                f"adapters. If it is vLLM, {_TAKES_ADAPTERS}."
            )
        elif "already" not in response.text.lower():  # another run, or another request of this one, was faster
            raise ValueError(
                f"You set engine='server' for the adapter in {adapter.path}, but the server at {self.url} could not "
                f"load it ({self.connection.said(response)}). It must see this folder under the same path, and allow "
                f"rank {adapter.rank} (--max-lora-rank)."
            )

    def _unload(self, adapter: AdapterFolder) -> None:
        """Nothing depends on it any more: what goes wrong is said, and no error."""
        try:
            response = self.connection.send("POST", "/v1/unload_lora_adapter", {"lora_name": adapter.name})
            if response.status_code in (200, 404):  # 404: another run that used it has unloaded it
                return
            problem = self.connection.said(response)
        except ConnectionError as error:
            problem = str(error)
        warnings.warn(
            f"The adapter {adapter.name} could not be unloaded from the server at {self.url} ({problem}). It stays "
            "there until the server ends.",
            stacklevel=2,
        )

    # Draws

    def complete(
        self, name: str, prompt: Sequence[int], seed: int, sampling: Sampling, ends: set[int]
    ) -> dict[str, Any]:
        """The server's answer to one request, whose first choice is whole."""
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
            # Of the tokenizer here, which need not be the server's.
            "stop_token_ids": sorted(ends),
            "return_token_ids": True,
        }
        response = self.connection.send("POST", "/v1/completions", body, DRAWING)
        if response.status_code == 404 and self.adapter is not None and self.adapter.name == name:
            with self._lock:  # another run that had loaded it is done with it, and has unloaded it
                self._load(self.adapter)
            response = self.connection.send("POST", "/v1/completions", body, DRAWING)
        if response.status_code != 200:
            raise ValueError(
                f"You set engine='server', but the server at {self.url} did not answer a completion of {name} "
                f"({self.connection.said(response)}). Check its log, or leave the engine out to draw with "
                "transformers."
            )
        answer = json_of(response)
        if not _is_completion(answer):
            raise ValueError(
                f"You set engine='server', but what the server at {self.url} answers is no completion "
                f"({self.connection.said(response)}). Give the address of an OpenAI-compatible server, without /v1."
            )
        reason = answer["choices"][0].get("finish_reason")
        if reason not in (*_STOPPED, "length"):
            raise ValueError(
                f"The server at {self.url} ended a response for the reason {reason!r}, so that it is "
                "neither finished nor cut. Run the command again; what is drawn is kept."
            )
        return answer

    def response(
        self,
        encoder: ConversationEncoder,
        i: int,
        draw: int,
        answer: Mapping[str, Any],
        sampling: Sampling,
        ends: set[int],
    ) -> Response:
        """From an answer: by its tokens, where it has them."""
        choice = answer["choices"][0]
        stopped = choice["finish_reason"] in _STOPPED
        ids = choice.get("token_ids")
        if ids is None:
            self._say_no_ids()
            ids = encoder.completion(choice["text"], stopped)
            response = Response(i, draw, choice["text"], ids, stopped)
            usage = answer.get("usage")
            drawn = usage.get("completion_tokens") if isinstance(usage, dict) else None
        else:
            response = ended(encoder.tokenizer, i, draw, ids, ends, stopped)
            drawn = len(ids)
        if not response.finished and isinstance(drawn, int):
            remedy = "start it with a longer one (vLLM: --max-model-len)"
            check_cut(drawn, sampling.max_new_tokens, f"the server at {self.url}", remedy)
        return response

    def _say_no_ids(self) -> None:
        with self._lock:
            if self._said_no_ids:
                return
            self._said_no_ids = True
        warnings.warn(
            f"The server at {self.url} does not say which tokens it drew. Its texts are tokenized again, which now "
            "and then gives other tokens, and a finished one is given the token that ends a turn here.",
            stacklevel=2,
        )


def _is_completion(answer: Any) -> bool:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    ids = choices[0].get("token_ids")
    return isinstance(choices[0].get("text"), str) and (
        ids is None or (isinstance(ids, list) and all(isinstance(token, int) for token in ids))
    )
