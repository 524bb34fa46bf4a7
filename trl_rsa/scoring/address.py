"""The address of a server: it stands in records, so that no secret may be in it."""

import urllib.parse


def checked_address(url: str, name: str = "the endpoint's address", key_option: str = "api_key_env") -> str:
    """
    Args:
        url (`str`):
            What was given.
        name (`str`, *optional*), key_option (`str`, *optional*):
            What the user calls it, and the option that names the variable with the server's key.

    Returns:
        `str`: it, without a slash at its end.

    Raises:
        ValueError: if it is none, or holds what may be a secret.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not _has_port(parts):
        raise ValueError(f"You set {name} to {url!r}, but it is no http(s) address. Write it in full.")
    if parts.username or parts.password or parts.query:
        # Not repeated here: it may hold a secret.
        raise ValueError(
            f"You set {name} to one with a user name, password or query, but it stands in records and "
            f"certificates. Put the key into an environment variable and name that with {key_option}."
        )
    return url.rstrip("/")


def _has_port(parts: urllib.parse.SplitResult) -> bool:
    """Whether the port can be one, if there is any."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
