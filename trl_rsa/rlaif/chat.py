"""A local model behind the interface of a chat endpoint, so that a judge needs no server."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from trl_rsa.sampling.encoding import encode_prompt
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.policies import load_policy, load_tokenizer
from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring.endpoint import CHAT, CUT, Call, ChatEndpoint, EndpointError
from trl_rsa.scoring.scorer import pick


# Why a conversation cannot be put to a model at all.
REFUSED = "the judge's chat template does not take the turns"


class LocalChat:
    """
    Answers chat requests with a model in this process, in its own chat template.

    A draw depends on the request and on its `repeat`, not on the requests beside it.

    Args:
        model (`str`):
            Folder or Hub id of a causal language model, or of an adapter.
        batch_size (`int`, *optional*, defaults to 8):
            Requests at a time.
        device, dtype (`str`, *optional*):
            Where and how it is loaded.
    """

    def __init__(self, model: str, *, batch_size: int = 8, device: str | None = None, dtype: str | None = None):
        self.url, self.model, self.batch_size = "local", model, batch_size
        self.tokenizer = load_tokenizer(model)
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"You set judge to {model}, but it has no chat template to be asked in. Use a chat model."
            )
        self.policy = load_policy(model, device, **({} if dtype is None else {"dtype": dtype}))
        self.longest = getattr(self.policy.config.get_text_config(), "max_position_embeddings", None)

    def complete(self, requests: Sequence[Mapping[str, Any]], call: Call = CHAT) -> list[str | EndpointError]:
        """Replies to `requests`, in order; where there is none, the error in its place."""
        replies: list[str | EndpointError] = [EndpointError("the reply is empty")] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            try:
                length = len(encode_prompt(self.tokenizer, request["messages"], "chat"))
            except ValueError as error:
                roles = ", ".join(str(turn["role"]) for turn in request["messages"])
                replies[index] = EndpointError(f"{REFUSED} {roles} ({error.__cause__ or error})")
                continue
            if self.longest is not None and length + (request.get("max_tokens") or 512) > self.longest:
                replies[index] = EndpointError(f"the request does not fit: {length} tokens and a reply")
                continue
            settings = {key: request.get(key) for key in ("max_tokens", "temperature", "top_p", "repeat")}
            groups.setdefault(json.dumps(settings), []).append(index)
        for text, indices in groups.items():
            settings = json.loads(text)
            sampling = Sampling(
                max_new_tokens=settings["max_tokens"] or 512,
                temperature=1.0 if settings["temperature"] is None else settings["temperature"],
                top_p=settings["top_p"] or 1.0,
                seed=int.from_bytes(sha256(str(settings["repeat"]).encode()).digest()[:4], "big"),
                template="chat",
            )
            prompts = [list(requests[index]["messages"]) for index in indices]
            for batch in generate(self.policy, self.tokenizer, prompts, sampling, batch_size=self.batch_size):
                for response in batch:
                    if not response.finished:
                        replies[indices[response.prompt]] = EndpointError(CUT)
                    elif response.text.strip():
                        replies[indices[response.prompt]] = response.text
        return replies


def open_chat(spec: str, options: Mapping[str, Any]) -> ChatEndpoint | LocalChat:
    """
    Args:
        spec (`str`):
            `URL#MODEL` (`judge:` may stand before it), or the folder or Hub id of a model.
        options (`Mapping`):
            Keyword arguments of [`~scoring.endpoint.ChatEndpoint`] or [`LocalChat`]; others are left alone.
    """
    spec = spec.removeprefix("judge:")
    if "://" in spec:
        url, _, model = spec.partition("#")
        return ChatEndpoint(url, model, **pick(ChatEndpoint, dict(options)))
    return LocalChat(spec, **pick(LocalChat, dict(options)))
