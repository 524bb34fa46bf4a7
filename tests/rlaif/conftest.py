"""A judge on this machine."""

from tests.scoring.conftest import chat_server


__all__ = ["chat_server"]
