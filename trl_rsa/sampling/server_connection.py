"""Requests to a server that speaks OpenAI's completions: attempts, timeouts, the key, and answers that are none."""

import os
import socket
import threading
import warnings
from contextlib import suppress
from typing import Any

from trl_rsa.sampling.response import Sampling
from trl_rsa.scoring.secret import Secret


_WAITS = (1.0, 4.0, 16.0)
"""Seconds before a request is tried again, after a broken connection or a status that passes."""
_PASSING = frozenset({408, 429, 500, 502, 503, 504})

QUICK = 30.0
"""Seconds for what a server knows at once."""
LOADING = 600.0
"""For reading the weights of an adapter."""
DRAWING = 3600.0
"""For a response: a long one in a full queue takes its time."""


class ServerConnection:
    """
    Requests to a server. Threads may share it.

    Args:
        sampling ([`Sampling`]):
            With `server_url` and `server_key_env`.
        at_once (`int`):
            Responses at a time.
    """

    def __init__(self, sampling: Sampling, at_once: int):
        import httpx2

        self.url = str(sampling.server_url).rstrip("/").removesuffix("/v1")
        self.secret = None if sampling.server_key_env is None else Secret(_read_key(sampling.server_key_env))
        limit = at_once + 1  # an adapter is unloaded although responses that nobody needs any more are being drawn
        self._client = httpx2.Client(
            headers={} if self.secret is None else {"Authorization": f"Bearer {self.secret.value}"},
            limits=httpx2.Limits(max_connections=limit, max_keepalive_connections=limit),
        )
        self._stopped = threading.Event()
        self._sockets: list[socket.socket] = []

    def stop(self) -> None:
        """Gives up what has been asked: its answer is not waited for, and no other attempt is made. (A socket that is
        closed does not wake the thread that reads from it, and Python ends after its threads; one that is shut does.)
        """
        self._stopped.set()
        for one in self._sockets:
            with suppress(OSError):  # closed long ago
                one.shutdown(socket.SHUT_RDWR)

    def _note_socket(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpx2 with whatever a request does."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    def close(self) -> None:
        self.stop()
        self._client.close()

    def send(self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float = QUICK) -> Any:
        """
        The answer, whatever its status, after some more attempts if that is one that passes.

        Args:
            seconds (`float`, *optional*, defaults to 30):
                How long the server may be silent.

        Raises:
            ConnectionError: if there is none.
        """
        import httpx2

        timeout, noted = httpx2.Timeout(seconds, connect=10.0), {"trace": self._note_socket}
        for wait in (*_WAITS, None):
            try:
                response = self._client.request(method, self.url + path, json=body, timeout=timeout, extensions=noted)
                if wait is None or response.status_code not in _PASSING:
                    return response
                problem = self.said(response)
            except httpx2.HTTPError as error:
                problem = self._hide(str(error)) or type(error).__name__
                if wait is None:
                    raise ConnectionError(
                        f"You set server_url={self.url!r}, but it cannot be reached ({problem}). Start the server, or "
                        "correct the address."
                    ) from error
            if self._stopped.is_set():
                raise ConnectionError(f"The server at {self.url} is asked no more.")
            warnings.warn(
                f"The server at {self.url} did not answer {path} ({problem}). It is asked again in {wait:g} s.",
                stacklevel=2,
            )
            if self._stopped.wait(wait):
                raise ConnectionError(f"The server at {self.url} is asked no more.")
        raise AssertionError("the last attempt returns or raises")

    def said(self, response: Any) -> str:
        """Status and text of an answer, for messages."""
        return f"status {response.status_code}: {self._hide(' '.join(response.text.split()))[:300]}"

    def _hide(self, text: str) -> str:
        return text if self.secret is None else self.secret.hide(text)


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"You set server_key_env={variable!r}, but there is no such environment variable. Put the server's key "
            "into it."
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"You set server_key_env={variable!r}, but that environment variable holds characters that a key cannot "
            "have. Put the server's key into it."
        )
    return key


def json_of(response: Any) -> Any:
    """The JSON of an answer; None where it is none."""
    try:
        return response.json()
    except ValueError:
        return None
