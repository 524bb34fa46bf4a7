"""One POST of JSON through httpx2, with a deadline for the whole exchange and errors that can be told apart.

httpx2 keeps the connections, speaks TLS and HTTP, and reads the proxies of the environment. It has a timeout for each
operation, but none for the exchange: that is here. It does not follow redirects unless told to, so that no key is
carried to another host.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import httpx2


_LARGEST_REPLY = 8 * 2**20


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer. `retry_after` are the seconds that the server asks to wait, if it does."""

    status: int
    body: bytes
    retry_after: float | None


class NoAnswer(Exception):
    """There was no whole answer: no connection, a broken one, or none in time. Its text is a clause."""


def make_client(connections: int) -> "httpx2.Client":
    """A client for `connections` requests at once. Threads may share it."""
    import httpx2

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    # Identity: the limit on the size of an answer counts the bytes that are read, not what they would unpack to.
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    return httpx2.Client(limits=limits, headers=headers, follow_redirects=False)


def post_json(
    client: "httpx2.Client", url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float
) -> Answer:
    """
    Posts `body` as JSON.

    Args:
        timeout (`float`):
            Seconds for the whole exchange.

    Raises:
        NoAnswer: see there.
    """
    import httpx2

    deadline = time.monotonic() + timeout
    data = json.dumps(body).encode()  # ASCII: lone surrogates go out as their escapes
    try:
        with client.stream("POST", url, content=data, headers=dict(headers), timeout=timeout) as response:
            retry_after = _retry_after(response.headers.get("Retry-After"))
            try:
                content = _read(response, deadline, timeout)
            except (OSError, httpx2.HTTPError):
                if response.status_code == 200:
                    raise
                content = b""  # the status says enough
            return Answer(response.status_code, content, retry_after)
    except (OSError, httpx2.HTTPError) as error:
        cause = _innermost(error)
        raise NoAnswer(f"no answer ({type(cause).__name__}: {cause})") from error


def _read(response: "httpx2.Response", deadline: float, timeout: float) -> bytes:
    """The body. A server that sends a byte now and then does not get past the deadline, as it would a socket's."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer was not complete after {timeout:g} s")
        if size > _LARGEST_REPLY:
            raise OSError(f"the answer is longer than {_LARGEST_REPLY} bytes")
    return b"".join(parts)


def _innermost(error: BaseException) -> BaseException:
    """What the libraries have wrapped: `ConnectionRefusedError` says more than `ConnectError`."""
    while (inner := error.__cause__ or error.__context__) is not None and str(inner):
        error = inner
    return error


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: the header has them as a number, or as a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
