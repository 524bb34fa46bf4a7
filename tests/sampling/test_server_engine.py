"""A server that is running: what is sent to it, by a local one that answers as vLLM's documentation says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_rsa import _trl
from trl_rsa.sampling import server_engine
from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog", "blue"]


class FakeServer:
    """Answers `dog cat <eos>`, or `dog dog` cut, by the parity of the seed."""

    def __init__(self, model):
        self.models = [{"id": "policy", "root": model, "parent": None}]
        self.loads_adapters, self.says_token_ids, self.reason = True, True, None
        self.info = None  # of /server_info
        self.failures = []  # statuses of the next completions
        self.requests = []  # (path, body, headers)
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body):
                with fake.lock:
                    fake.requests.append((self.path, body, dict(self.headers)))
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                    status, content = fake.answer(self.path, body)
                threading.Event().wait(0.005)
                with fake.lock:
                    fake.at_once -= 1
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path, body):
        if path == "/v1/models":
            return 200, {"data": self.models}
        if path.startswith("/server_info"):
            return (404, {}) if self.info is None else (200, self.info)
        if path == "/v1/load_lora_adapter":
            if not self.loads_adapters:
                return 404, {"detail": "Not Found"}
            self.models.append({"id": body["lora_name"], "root": body["lora_path"], "parent": "policy"})
            return 200, "Success"
        if path == "/v1/unload_lora_adapter":
            self.models = [model for model in self.models if model["id"] != body["lora_name"]]
            return 200, "Success"
        assert path == "/v1/completions"
        if self.failures:
            return self.failures.pop(0), {"error": "busy"}
        if body["model"] not in {model["id"] for model in self.models}:
            return 404, {"error": f"The model {body['model']} does not exist."}
        cut = body["seed"] % 2
        choice = {"text": "dog dog" if cut else "dog cat", "finish_reason": "length" if cut else "stop"}
        choice["finish_reason"] = self.reason or choice["finish_reason"]
        if self.says_token_ids and body.get("return_token_ids"):
            choice["token_ids"] = [6, 6] if cut else [6, 5, 1]
        return 200, {"choices": [choice]}

    def sent(self, path):
        return [body for where, body, _ in self.requests if where == path]


@pytest.fixture
def server(tiny_model_path, monkeypatch):
    monkeypatch.setattr(server_engine, "_WAITS", (0.0, 0.0))
    fake = FakeServer(tiny_model_path)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def drawn(server, model, tokenizer, batch_size=4, url=None, **settings):
    settings = {"draws": 3, "max_new_tokens": 8, "engine": "server", "server_url": url or server.url} | settings
    batches = list(generate(model, tokenizer, PROMPTS, Sampling(**settings), batch_size=batch_size))
    return {(r.prompt, r.draw): r for batch in batches for r in batch}


def test_what_is_sent(server, tiny_model_path, tiny_tokenizer):
    """A request per draw, with the prompt's tokens, a seed of its own, and all that would change the law."""
    found = drawn(server, tiny_model_path, tiny_tokenizer, temperature=0.5, top_p=0.9, seed=7)
    bodies = server.sent("/v1/completions")
    assert len(found) == len(bodies) == 9
    for i, prompt in enumerate(PROMPTS):
        for draw in range(3):
            seed = draw_key(7, prompt, draw) & (2**63 - 1)
            (body,) = [body for body in bodies if body["seed"] == seed]
            assert body == {
                "model": "policy",
                "prompt": encode_prompt(tiny_tokenizer, prompt),
                "n": 1,
                "seed": seed,
                "max_tokens": 8,
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "return_token_ids": True,
            }
            response = found[i, draw]
            assert response.finished == (seed % 2 == 0)
            assert (response.text, response.token_ids) == (
                ("dog cat", [6, 5, 1]) if response.finished else ("dog dog", [6, 6])
            )


def test_requests_at_a_time_and_batches(server, tiny_model_path, tiny_tokenizer):
    sampling = Sampling(draws=8, max_new_tokens=8, engine="server", server_url=server.url + "/v1/")
    batches = list(generate(tiny_model_path, tiny_tokenizer, PROMPTS, sampling, batch_size=5, skip={(0, 1)}))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert 2 <= server.most_at_once <= 5


def test_a_generator_that_is_left_sends_no_more(server, tiny_model_path, tiny_tokenizer):
    sampling = Sampling(draws=300, max_new_tokens=8, engine="server", server_url=server.url)
    batches = generate(tiny_model_path, tiny_tokenizer, PROMPTS, sampling, batch_size=2)
    next(batches)
    batches.close()
    assert len(server.sent("/v1/completions")) < 100


def test_a_server_that_says_no_token_ids(server, tiny_model_path, tiny_tokenizer):
    """The text is tokenized again; what is finished gets its end."""
    server.says_token_ids = False
    end = tiny_tokenizer.eos_token_id
    for response in drawn(server, tiny_model_path, tiny_tokenizer).values():
        words = tiny_tokenizer.convert_tokens_to_ids(response.text.split())
        assert response.token_ids == ([*words, end] if response.finished else words)


def test_the_key_comes_from_the_environment(server, tiny_model_path, tiny_tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="server_key_env='THE_KEY', but there is no such"):
        drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", "abc")
    drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")
    assert {headers.get("Authorization") for _, _, headers in server.requests} == {"Bearer abc"}


def test_what_passes_is_tried_again(server, tiny_model_path, tiny_tokenizer):
    server.failures = [503, 429]
    assert len(drawn(server, tiny_model_path, tiny_tokenizer)) == 9
    assert len(server.sent("/v1/completions")) == 11


@pytest.mark.parametrize(
    ("failures", "reason", "sentence"),
    [
        ([400], None, r"did not answer a completion of policy \(status 400: {\"error\": \"busy\"}\)"),
        ([503] * 99, None, "status 503"),
        ([], "content_filter", "ended a response for the reason 'content_filter'"),
    ],
)
def test_a_completion_that_fails(server, tiny_model_path, tiny_tokenizer, failures, reason, sentence):
    server.failures, server.reason = failures, reason
    with pytest.raises(ValueError, match=sentence):
        drawn(server, tiny_model_path, tiny_tokenizer)


def test_no_server(server, tiny_model_path, tiny_tokenizer):
    with pytest.raises(ConnectionError, match=r"'http://127.0.0.1:9', but it cannot be reached"):
        drawn(server, tiny_model_path, tiny_tokenizer, url="http://127.0.0.1:9")


# Which weights answer


def test_the_model_must_be_served(server, other_tiny_model_path, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"serves policy and takes no weights. Serve .* or start it with"):
        drawn(server, other_tiny_model_path, tiny_tokenizer)
    assert not server.sent("/v1/completions")


def test_one_of_several_models(server, tiny_model_path, tiny_tokenizer):
    server.models.append({"id": "twin", "root": tiny_model_path})
    drawn(server, tiny_model_path, tiny_tokenizer, server_model="twin")
    assert {body["model"] for body in server.sent("/v1/completions")} == {"twin"}
    with pytest.raises(ValueError, match=r"server_model='other', but .* serves policy, twin"):
        drawn(server, tiny_model_path, tiny_tokenizer, server_model="other")


def test_no_model_in_memory(server, tiny_model_path, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    with pytest.raises(ValueError, match="a LlamaForCausalLM in memory, but the server has its own"):
        drawn(server, model, tiny_tokenizer)


@pytest.fixture
def adapter(tiny_model_path, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    torch.manual_seed(0)
    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


def test_an_adapter_is_loaded_by_name_and_unloaded(server, adapter, tiny_tokenizer):
    drawn(server, adapter, tiny_tokenizer)
    (loaded,) = server.sent("/v1/load_lora_adapter")
    assert loaded["lora_path"] == adapter and loaded["lora_name"].startswith("trl-rsa-")
    assert {body["model"] for body in server.sent("/v1/completions")} == {loaded["lora_name"]}
    assert server.sent("/v1/unload_lora_adapter") == [{"lora_name": loaded["lora_name"]}]
    assert [model["id"] for model in server.models] == ["policy"]


def test_an_adapter_that_is_loaded_stays(server, adapter, tiny_tokenizer):
    drawn(server, adapter, tiny_tokenizer)
    (loaded,) = server.sent("/v1/load_lora_adapter")
    server.models.append({"id": loaded["lora_name"], "root": adapter, "parent": "policy"})
    drawn(server, adapter, tiny_tokenizer)
    assert len(server.sent("/v1/load_lora_adapter")) == len(server.sent("/v1/unload_lora_adapter")) == 1


def test_an_adapter_is_unloaded_after_an_error(server, adapter, tiny_tokenizer):
    server.failures = [400] * 99
    with pytest.raises(ValueError, match="did not answer"):
        drawn(server, adapter, tiny_tokenizer)
    assert len(server.sent("/v1/unload_lora_adapter")) == 1


def test_a_server_without_adapters(server, adapter, tiny_tokenizer):
    server.loads_adapters = False
    with pytest.raises(ValueError, match=r"loads no adapters. If it is vLLM, start it with --enable-lora"):
        drawn(server, adapter, tiny_tokenizer)


def test_an_adapter_of_another_base(server, adapter, tiny_tokenizer):
    server.models[0]["root"] = "another"
    with pytest.raises(ValueError, match="serves policy and takes no weights"):
        drawn(server, adapter, tiny_tokenizer)


@pytest.fixture
def client(monkeypatch):
    """What TRL's client is asked to do."""
    calls = []

    class Client:
        def __init__(self, base_url):
            calls.append(("connect", base_url))

        def init_communicator(self, device):
            calls.append(("init", device))

        def update_model_params(self, model):
            calls.append(("send", {name: value.clone() for name, value in model.named_parameters()}))

        def reset_prefix_cache(self):
            calls.append(("reset",))

        def close_communicator(self):
            calls.append(("close",))

    monkeypatch.setattr(_trl, "vllm_client", lambda: Client)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args: self)
    return calls


def test_weights_are_sent_to_a_server_that_takes_them(server, client, other_tiny_model_path, tiny_tokenizer):
    """Of another folder than it was started with; and of that too, since something else may have been sent since."""
    server.info = {"vllm_config": {"weight_transfer_config": {"backend": "nccl"}}}
    for model in (other_tiny_model_path, server.models[0]["root"]):
        client.clear()
        assert len(drawn(server, model, tiny_tokenizer)) == 9
        assert [call[0] for call in client] == ["connect", "init", "send", "reset", "close"]
        assert client[0][1] == server.url and client[1][1] == "cuda"
        weights = AutoModelForCausalLM.from_pretrained(model)
        assert all(torch.equal(client[2][1][name], value) for name, value in weights.named_parameters())
    assert {body["model"] for body in server.sent("/v1/completions")} == {"policy"}


@pytest.mark.parametrize("info", [{"vllm_config": {"weight_transfer_config": None}}, {"version": "1"}])
def test_a_server_that_takes_none(server, client, other_tiny_model_path, tiny_tokenizer, info):
    server.info = info
    with pytest.raises(ValueError, match="takes no weights"):
        drawn(server, other_tiny_model_path, tiny_tokenizer)
    assert not client


def test_weights_without_a_gpu(server, other_tiny_model_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    server.info = {"vllm_config": {"weight_transfer_config": {}}}
    with pytest.raises(ValueError, match="they are sent from a CUDA device, and there is none here"):
        drawn(server, other_tiny_model_path, tiny_tokenizer)


def test_weights_without_trls_client(server, client, other_tiny_model_path, tiny_tokenizer, monkeypatch):
    def missing(base_url):
        raise ImportError("vLLM is not installed.")

    monkeypatch.setattr(_trl, "vllm_client", lambda: missing)
    server.info = {"vllm_config": {"weight_transfer_config": {}}}
    with pytest.raises(ImportError, match=r"but vLLM is not installed. Install both, or train an adapter"):
        drawn(server, other_tiny_model_path, tiny_tokenizer)


def test_trls_client_has_what_is_used():
    client = _trl.vllm_client()
    names = ("init_communicator", "update_model_params", "reset_prefix_cache", "close_communicator")
    assert all(callable(getattr(client, name)) for name in names)
