"""A server that is running: what is sent to it, by a local one that answers as vLLM's documentation says."""

import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from trl_rsa import _trl
from trl_rsa.evaluation.responses import sample_responses
from trl_rsa.sampling import server_connection
from trl_rsa.sampling.adapter_folder import read_adapter
from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.noise import draw_key
from trl_rsa.sampling.response import Sampling


PROMPTS = ["the cat", "a big red dog", "blue"]


class FakeServer:
    """Answers `dog cat <eos>`, or eight times `dog`, cut, by the parity of the seed."""

    def __init__(self, model):
        self.models = [{"id": "policy", "root": model, "parent": None}]
        self.loads_adapters, self.says_token_ids, self.reason = True, True, None
        self.info = None  # of /server_info
        self.failures = []  # statuses of the next completions
        self.raw = {}  # what is answered under a path, whatever is asked
        self.tokens = None  # of every completion, and why it ended
        self.slow = threading.Event()  # completions wait for it
        self.slow.set()
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
                if self.path == "/v1/completions":
                    fake.slow.wait(30)
                with fake.lock:
                    fake.at_once -= 1
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # clients may leave before the answer
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path, body):
        if path in self.raw:
            return self.raw[path]
        if path == "/v1/models":
            return 200, {"data": self.models}
        if path.startswith("/server_info"):
            return (404, {}) if self.info is None else (200, self.info)
        if path == "/v1/load_lora_adapter":
            if not self.loads_adapters:
                return 404, {"detail": "Not Found"}
            if body["lora_name"] in {model["id"] for model in self.models}:
                return 400, {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}
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
        choice = {"text": " ".join(["dog"] * 8) if cut else "dog cat", "finish_reason": "length" if cut else "stop"}
        choice["finish_reason"] = self.reason or choice["finish_reason"]
        ids = [6] * 8 if cut else [6, 5, 1]
        if self.tokens is not None:
            ids, choice["finish_reason"] = self.tokens
        if self.says_token_ids and body.get("return_token_ids"):
            choice["token_ids"] = ids
        return 200, {"choices": [choice], "usage": {"completion_tokens": len(ids)}}

    def sent(self, path):
        return [body for where, body, _ in self.requests if where == path]


@pytest.fixture
def server(tiny_model_path, monkeypatch):
    monkeypatch.setattr(server_connection, "_WAITS", (0.0, 0.0))
    fake = FakeServer(tiny_model_path)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def drawn(server, model, tokenizer, batch_size=4, url=None, options=None, **settings):
    settings = {"draws": 3, "max_new_tokens": 8, "engine": "server", "server_url": url or server.url} | settings
    sampling = Sampling(**settings)
    batches = list(generate(model, tokenizer, PROMPTS, sampling, batch_size=batch_size, model_options=options))
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
                "stop_token_ids": [1],
                "return_token_ids": True,
            }
            response = found[i, draw]
            assert response.finished == (seed % 2 == 0)
            assert (response.text, response.token_ids) == (
                ("dog cat", [6, 5, 1]) if response.finished else (" ".join(["dog"] * 8), [6] * 8)
            )


def test_the_ends_of_the_folder_are_sent(server, save_tiny_llama, tiny_tokenizer):
    """Chat models end their turn with a token that only the generation config names."""
    folder = save_tiny_llama()
    GenerationConfig(eos_token_id=[1, 9]).save_pretrained(folder)
    server.models[0]["root"] = folder
    server.tokens = [6, 5, 9], "stop"
    found = drawn(server, folder, tiny_tokenizer)
    assert {tuple(body["stop_token_ids"]) for body in server.sent("/v1/completions")} == {(1, 9)}
    assert {(r.text, tuple(r.token_ids), r.finished) for r in found.values()} == {("dog cat", (6, 5, 9), True)}


def test_tokens_are_decoded_here(server, tiny_model_path, tiny_tokenizer):
    """Not the server's text; and an end that a server passes over is one all the same."""
    server.tokens = [6, 6, 1, 5, 5], "length"
    found = drawn(server, tiny_model_path, tiny_tokenizer, max_new_tokens=5)
    assert {(r.text, tuple(r.token_ids), r.finished) for r in found.values()} == {("dog dog", (6, 6, 1), True)}


@pytest.mark.parametrize("says_token_ids", [True, False])
def test_a_window_that_is_too_short(server, tiny_model_path, tiny_tokenizer, says_token_ids):
    server.says_token_ids, server.tokens = says_token_ids, ([6, 6], "length")
    with pytest.raises(ValueError, match=r"max_new_tokens=8, but the server at \S+ cut a response after 2 tokens"):
        drawn(server, tiny_model_path, tiny_tokenizer)


def test_room_is_that_of_the_folder(server, tiny_model_path, tiny_tokenizer):
    with pytest.raises(ValueError, match="You set max_new_tokens=64, but this model takes 64 tokens in all"):
        drawn(server, tiny_model_path, tiny_tokenizer, max_new_tokens=64)
    assert not server.requests


def test_tgi_names_the_reason(server, tiny_model_path, tiny_tokenizer):
    server.tokens = [6, 5, 1], "eos_token"
    assert all(response.finished for response in drawn(server, tiny_model_path, tiny_tokenizer).values())


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


def test_what_is_being_drawn_is_not_waited_for(server, adapter, tiny_tokenizer):
    """By somebody who leaves; and there is a connection left to unload the adapter with."""
    sampling = Sampling(draws=300, max_new_tokens=8, engine="server", server_url=server.url)
    batches = generate(adapter, tiny_tokenizer, PROMPTS, sampling, batch_size=2)
    next(batches)
    server.slow.clear()
    time.sleep(0.2)
    begun = time.monotonic()
    batches.close()
    seconds = time.monotonic() - begun
    while any("ThreadPoolExecutor" in thread.name for thread in threading.enumerate()):  # Python would wait for them
        assert time.monotonic() - begun < 5
        time.sleep(0.05)
    server.slow.set()
    assert seconds < 5
    assert len(server.sent("/v1/unload_lora_adapter")) == 1


def test_how_long_a_server_may_be_silent(server, adapter, tiny_tokenizer, monkeypatch):
    asked = {}
    send = server_connection.ServerConnection.send

    def spy(self, method, path, body=None, seconds=server_connection.QUICK):
        asked[path.partition("?")[0]] = seconds
        return send(self, method, path, body, seconds)

    monkeypatch.setattr(server_connection.ServerConnection, "send", spy)
    drawn(server, adapter, tiny_tokenizer)
    assert asked == {
        "/v1/models": 30,
        "/server_info": 30,
        "/v1/load_lora_adapter": 600,
        "/v1/completions": 3600,
        "/v1/unload_lora_adapter": 30,
    }


def test_a_server_that_says_no_token_ids(server, tiny_model_path, tiny_tokenizer):
    """The text is tokenized again; what is finished gets its end."""
    server.says_token_ids = False
    end = tiny_tokenizer.eos_token_id
    with pytest.warns(UserWarning, match="does not say which tokens it drew") as said:
        found = drawn(server, tiny_model_path, tiny_tokenizer)
    assert len([one for one in said if "tokens it drew" in str(one.message)]) == 1
    for response in found.values():
        words = tiny_tokenizer.convert_tokens_to_ids(response.text.split())
        assert response.token_ids == ([*words, end] if response.finished else words)


def test_the_end_of_a_text_is_that_of_its_template(server, tiny_model_path, tiny_tokenizer):
    """A template that ends turns with `<end>`, beside `<eos>`, which is the tokenizer's."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
    server.says_token_ids = False
    found = drawn(server, tiny_model_path, tokenizer)
    ends = {response.token_ids[-1] for response in found.values() if response.finished}
    assert ends == {tokenizer.convert_tokens_to_ids("<end>")}


def test_the_key_comes_from_the_environment(server, tiny_model_path, tiny_tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="server_key_env='THE_KEY', but there is no such"):
        drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", "abc")
    drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")
    assert {headers.get("Authorization") for _, _, headers in server.requests} == {"Bearer abc"}


def test_the_key_is_not_repeated(server, tiny_model_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("THE_KEY", "sk-one-two-three")
    server.raw["/v1/completions"] = 401, {"error": "Bearer sk-one-two-three is no key"}
    with pytest.raises(ValueError, match=r"Bearer \[key\] is no key"):
        drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")


def test_what_passes_is_tried_again(server, tiny_model_path, tiny_tokenizer):
    server.failures = [503, 429]
    with pytest.warns(UserWarning, match=r"not answer /v1/completions \(status 503: .*\). It is asked again in 0"):
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


@pytest.mark.parametrize(
    ("path", "answer", "sentence"),
    [
        ("/v1/completions", (200, {"choices": []}), r"answers is no completion \(status 200: {\"choices\": \[\]}\)"),
        ("/v1/completions", (200, "<html>Sign in</html>"), "no completion .status 200: <html>Sign in"),
        ("/v1/completions", (200, {"choices": [{"text": "a"}]}), "ended a response for the reason None"),
        ("/v1/models", (200, "<html>Sign in</html>"), "does not list its models .status 200: <html>"),
        ("/v1/models", (200, {"data": [{"name": "m"}]}), "does not list its models"),
    ],
)
def test_answers_that_are_none(server, tiny_model_path, tiny_tokenizer, path, answer, sentence):
    server.raw[path] = answer
    with pytest.raises(ValueError, match=sentence):
        drawn(server, tiny_model_path, tiny_tokenizer)


def test_a_page_for_server_info_is_no_information(server, tiny_model_path, tiny_tokenizer):
    server.raw["/server_info?config_format=json"] = 200, "<html>"
    assert len(drawn(server, tiny_model_path, tiny_tokenizer)) == 9


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


def test_settings_that_no_server_can_follow(server, tiny_model_path, tiny_tokenizer, monkeypatch):
    for name, value in (("dtype", "bfloat16"), ("subfolder", "policy")):
        with pytest.raises(ValueError, match=f"You set {name} for a model with engine='server', but the server has a"):
            drawn(server, tiny_model_path, tiny_tokenizer, options={name: value})
    server.models[0]["root"] = "me/policy"
    with pytest.raises(ValueError, match=r"me/policy at the revision v2, but the server .* which revision it serves"):
        drawn(server, "me/policy", tiny_tokenizer, options={"revision": "v2"})


def test_the_dtype_of_an_evaluation_is_for_what_runs_here(server, tiny_model_path, tmp_path):
    rows, sampling = [{"prompt": "the cat"}], Sampling(engine="server", server_url=server.url, max_new_tokens=8)
    sample_responses(tmp_path / "responses.jsonl", "m", tiny_model_path, rows, sampling, dtype="bfloat16")
    assert server.sent("/v1/completions")


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


def test_an_adapter_that_another_run_unloads(server, adapter, tiny_tokenizer):
    """It was loaded by that run, which is done before this one: it is loaded again, and unloaded in the end."""
    drawn(server, adapter, tiny_tokenizer)
    (loaded,) = server.sent("/v1/load_lora_adapter")
    server.models.append({"id": loaded["lora_name"], "root": adapter, "parent": "policy"})
    sampling = Sampling(draws=30, max_new_tokens=8, engine="server", server_url=server.url)
    batches = generate(adapter, tiny_tokenizer, PROMPTS, sampling, batch_size=3)
    count = len(next(batches))
    with server.lock:
        server.models = server.models[:1]
    assert count + sum(map(len, batches)) == 90
    assert len(server.sent("/v1/load_lora_adapter")) >= 2 and len(server.sent("/v1/unload_lora_adapter")) == 2
    assert [model["id"] for model in server.models] == ["policy"]


def test_another_run_is_faster(server, adapter, tiny_tokenizer):
    """Between the look at what is served and the loading: then it is that run which unloads it."""
    server.raw["/v1/load_lora_adapter"] = 400, "The lora adapter has already been loaded."
    server.models.append({"id": read_adapter(adapter, "server").name, "root": adapter, "parent": "policy"})
    served = server.models
    looks = iter([served[:1], served[:1]])
    answer = server.answer
    server.answer = lambda path, body: (200, {"data": next(looks)}) if path == "/v1/models" else answer(path, body)
    assert len(drawn(server, adapter, tiny_tokenizer)) == 9
    assert not server.sent("/v1/unload_lora_adapter")


def test_unloading_is_no_reason_to_fail(server, adapter, tiny_tokenizer):
    server.raw["/v1/unload_lora_adapter"] = 500, "busy"
    with pytest.warns(UserWarning, match=r"could not be unloaded from the server .* \(status 500: busy\)"):
        assert len(drawn(server, adapter, tiny_tokenizer)) == 9


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


def test_a_key_and_weights(server, client, tiny_model_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("THE_KEY", "abc")
    server.info = {"vllm_config": {"weight_transfer_config": {}}}
    with pytest.raises(ValueError, match=r"You set server_key_env and .* takes weights, but TRL's client"):
        drawn(server, tiny_model_path, tiny_tokenizer, server_key_env="THE_KEY")
    assert not client


def test_what_trls_client_raises(server, client, tiny_model_path, tiny_tokenizer, monkeypatch):
    def fails(self, model):
        raise Exception("Request failed: 500, NCCL")

    monkeypatch.setattr(_trl.vllm_client(), "update_model_params", fails)
    server.info = {"vllm_config": {"weight_transfer_config": {}}}
    with pytest.raises(ValueError, match=r"could not be sent to the server at \S+ \(Exception: Request failed: 500"):
        drawn(server, tiny_model_path, tiny_tokenizer)
    assert client[-1] == ("close",)


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
