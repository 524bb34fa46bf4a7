"""A model behind any OpenAI-compatible endpoint: retries, pacing, caps and a cache around one request."""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trl_rsa.scoring.address import checked_address
from trl_rsa.scoring.budget import Budget, BudgetSpent
from trl_rsa.scoring.replies import ReplyCache, default_reply_folder, request_key
from trl_rsa.scoring.secret import Secret
from trl_rsa.scoring.transport import Answer, NoAnswer, make_client, post_json


_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_THIS_REQUEST_ONLY = {400, 413, 422}
_GIVE_UP_AFTER = 8


# Why half a reply is none.
CUT = "the reply was cut at max_tokens; set max_tokens higher"


class EndpointError(Exception):
    """A request got no reply. Its text is a clause that says why."""


class _CutReply(EndpointError):
    """Half a reply: it is paid for, and what comes of the same request is half a reply again."""

    def __init__(self, half: str):
        super().__init__(CUT)
        self.half = half


@dataclass(frozen=True)
class Call:
    """
    What is asked of a server.

    Args:
        path (`str`):
            Where requests go, under the base address.
        what (`str`):
            What an answer is, for messages: "a chat completion".
        read (`Callable`):
            Takes from the JSON of an answer what is wanted of it, as a text that is kept on disk. It raises
            LookupError, TypeError or ValueError where an answer has another form, or an [`EndpointError`] with its own
            reason.
    """

    path: str
    what: str
    read: Callable[[Any], str]


def _read_content(answer: Any) -> str:
    choice = answer["choices"][0]
    reply = choice["message"]["content"]
    if choice.get("finish_reason") == "length":  # half a response, or a verdict that the rest might have taken back
        raise _CutReply(reply if isinstance(reply, str) else "")
    if not isinstance(reply, str) or not reply.strip():
        raise EndpointError("the reply is empty")
    return reply


CHAT = Call("chat/completions", "a chat completion", _read_content)


class ChatEndpoint:
    """
    Sends requests, several at a time.

    Args:
        url (`str`):
            Base address, such as `http://localhost:8000/v1`; chat requests go to `{url}/chat/completions`.
        model (`str`):
            Name of the model there.
        api_key_env (`str`, *optional*):
            Name of the environment variable that holds the key. Without it none is sent. The key itself is neither
            logged nor stored, and cut out of whatever the server says ([`~scoring.secret.Secret`]).
        timeout (`float`, *optional*, defaults to 120):
            Seconds for one request.
        max_retries (`int`, *optional*, defaults to 5):
            Further attempts after a broken connection, a timeout, or a status such as 429 or 503.
        backoff (`float`, *optional*, defaults to 1):
            Seconds before the second attempt; doubled for each further one, with jitter. A `Retry-After` of the
            server comes first, and then holds for all requests.
        max_wait (`float`, *optional*, defaults to 120):
            Longest wait before an attempt. A request that would have to wait longer fails.
        requests_per_minute (`float`, *optional*):
            Pace, over all requests.
        concurrency (`int`, *optional*, defaults to 4):
            Requests at the same time.
        cache_dir (`str`, `False` or `None`, *optional*):
            Folder of the replies; by default `~/.cache/trl-rsa/judge`, or under `$TRL_RSA_CACHE`. `False`: no cache.
        max_requests, max_cost, prompt_price, completion_price:
            As [`~scoring.budget.Budget`]. Replies from the cache count nothing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        requests_per_minute: float | None = None,
        concurrency: int = 4,
        cache_dir: str | os.PathLike[str] | bool | None = None,
        max_requests: int | None = None,
        max_cost: float | None = None,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ):
        self.url, self.model = checked_address(url), model
        if not model:
            raise ValueError(f"You set the endpoint to {url!r} without a model. Write URL#MODEL.")
        limits = {"timeout": timeout, "concurrency": concurrency, "requests_per_minute": requests_per_minute}
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise ValueError(f"You set {name}={value!r}, but it must be above 0. Set a larger number.")
        self.timeout, self.max_retries, self.backoff, self.max_wait = timeout, max_retries, backoff, max_wait
        self.concurrency = concurrency
        self.budget = Budget(max_requests, max_cost, prompt_price, completion_price)
        self.cache: ReplyCache | None = None
        if cache_dir is not False:
            folder = default_reply_folder() if cache_dir is None or cache_dir is True else Path(cache_dir)
            self.cache = ReplyCache(folder)
        self._secret = None if api_key_env is None else Secret(_read_key(api_key_env))
        self._client = make_client(concurrency)
        self._spacing = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_turn = 0.0  # on time.monotonic()'s clock
        self._refusal: str | None = None
        self._exhausted = 0  # requests in a row that used up their retries
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ChatEndpoint({self.url!r}, {self.model!r})"

    def complete(self, requests: Sequence[Mapping[str, object]], call: Call = CHAT) -> list[str | EndpointError]:
        """
        Replies to `requests`, in order; where there is none, the error in its place.

        Args:
            requests (`Sequence[Mapping]`):
                Bodies of requests without the model. `repeat` in one is not sent, but tells apart requests that
                are to be sent again although they are equal. Equal requests are sent once.
            call ([`Call`], *optional*):
                What is asked; by default for a chat completion, of which the text is the reply.
        """
        where = {"url": self.url, "model": self.model, "path": call.path}
        keys = [request_key({**where, **request}) for request in requests]
        bodies = dict(zip(keys, requests, strict=True))
        self._stopped.clear()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                one = partial(self._complete_one, call)
                replies = dict(zip(bodies, pool.map(one, bodies, bodies.values()), strict=True))
            except BaseException:  # Ctrl-C: what is under way ends, what waits for its turn does not begin
                self._stopped.set()
                raise
        return [replies[key] for key in keys]

    def _complete_one(self, call: Call, key: str, request: Mapping[str, Any]) -> str | EndpointError:
        cached = self.cache.get(key) if self.cache else None
        if cached is not None:
            return cached
        # Beside the whole replies, so that no earlier version takes half a reply for one.
        cut_key = f"{key}-cut"
        if self.cache and self.cache.get(cut_key) is not None:
            return EndpointError(CUT)
        body = {"model": self.model, **{name: value for name, value in request.items() if name != "repeat"}}
        try:
            reply = self._send(call, body)
        except _CutReply as error:
            if self.cache:
                self.cache.put(cut_key, self._hide(error.half))
            return EndpointError(CUT)
        except (EndpointError, BudgetSpent) as error:
            return EndpointError(str(error))
        hidden = self._hide(reply)
        if hidden != reply and call is not CHAT:
            return EndpointError("the server repeats the key in its answer")
        reply = hidden
        if self.cache:
            self.cache.put(key, reply)
        return reply

    def _send(self, call: Call, body: Mapping[str, Any]) -> str:
        failure = ""
        for attempt in range(self.max_retries + 1):
            self._wait_for_turn()
            wait = min(self.max_wait, self.backoff * 2**attempt) * random.uniform(0.5, 1)
            try:
                answer = self._post(call.path, body)
            except NoAnswer as error:
                failure = str(error)
            else:
                if answer.status == 200:
                    self._exhausted = 0
                    return self._read_reply(answer, call)
                failure = f"status {answer.status} ({self._excerpt(answer.body)})"
                self._stop_if_final(answer.status, failure)
                if answer.retry_after is not None:
                    self._hold(answer.retry_after)
                    wait = 0.0
            if attempt < self.max_retries:
                self._sleep(wait)
        # An endpoint that is down would cost every request all its waiting.
        self._exhausted += 1
        if self._exhausted >= _GIVE_UP_AFTER:
            self._refusal = f"the endpoint does not answer, so that it is asked no more; the last: {failure}"
        raise EndpointError(f"no reply after {self.max_retries + 1} requests; the last: {failure}")

    def _post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One request, within the budget."""
        # No token is shorter than a byte, so that the bytes bound the tokens; 1,000 for what a chat template adds.
        longest_reply = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        prompt = body.get("messages") or body.get("input")
        worst = self.budget.price(len(json.dumps(prompt).encode()) + 1000, longest_reply)
        headers = {} if self._secret is None else {"Authorization": f"Bearer {self._secret.value}"}
        self.budget.reserve(worst)
        unspent = 0.0  # without an answer the model may have worked all the same
        try:
            answer = post_json(self._client, f"{self.url}/{path}", body, headers, self.timeout)
            unspent = worst if answer.status != 200 else worst - min(worst, self._cost_of(answer, worst))
            return answer
        finally:
            self.budget.settle(unspent)

    def _cost_of(self, answer: Answer, worst: float) -> float:
        """By the tokens that the answer says it took; where it does not say, the worst."""
        try:
            usage = json.loads(answer.body)["usage"]
            tokens = [usage[name] for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError):
            return worst
        counted = all(isinstance(count, int) and count >= 0 for count in tokens)
        return self.budget.price(*tokens) if counted else worst

    def _stop_if_final(self, status: int, failure: str) -> None:
        if status in _TRY_AGAIN:
            return
        if status not in _THIS_REQUEST_ONLY:  # the key, the address or the model: no request will fare better
            self._refusal = f"the endpoint refuses requests: {failure}"
        raise EndpointError(f"the endpoint refused the request: {failure}")

    def _read_reply(self, answer: Answer, call: Call) -> str:
        try:
            return call.read(json.loads(answer.body))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise EndpointError(f"the answer is not {call.what} ({self._excerpt(answer.body)})") from error

    def _hide(self, text: str) -> str:
        return text if self._secret is None else self._secret.hide(text)

    def _excerpt(self, body: bytes) -> str:
        # Hidden before it is cut, so that no half of a key is left; 40 keys in any spelling still make 200 characters.
        readable = 16384 if self._secret is None else 16384 + 40 * 16 * len(self._secret.value)
        text = " ".join(body[:readable].decode("utf-8", errors="replace").split())
        return self._hide(text)[:200] or "no text"

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._next_turn = max(self._next_turn, time.monotonic() + seconds)

    def _wait_for_turn(self) -> None:
        with self._lock:
            if self._refusal is not None:
                raise EndpointError(self._refusal)
            now = time.monotonic()
            turn = max(now, self._next_turn)
            # The pace alone may keep a request waiting for long; only what the server asks for has a limit.
            if not self._spacing and turn - now > self.max_wait:
                raise EndpointError(
                    f"the endpoint asks to wait {turn - now:.0f} s, longer than max_wait={self.max_wait:g}"
                )
            if self._spacing:
                self._next_turn = turn + self._spacing
        self._sleep(turn - now)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise EndpointError("it was stopped")


def without_key(options: Mapping[str, object]) -> dict[str, Any]:
    """Options of an endpoint for looking at alone: the key may be on another machine."""
    return {name: value for name, value in options.items() if name != "api_key_env"}


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "is not set" if not key else "holds characters that a key cannot have"
        raise ValueError(
            f"You set api_key_env={variable!r}, but that environment variable {state}. Put the key into it."
        )
    return key
