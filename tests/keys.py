"""API keys for tests."""

from __future__ import annotations

import time
from typing import Any

from redis import Redis

from scheduler.keyring import KeyBook
from scheduler.keys import Key, new_key


def make_key(connection: Redis, **limits: Any) -> tuple[str, Key]:
    """A token and its key, which is stored."""
    token, key = new_key(time.time(), **limits)
    assert KeyBook(connection).add(key)
    return token, key


def bearer(token: str) -> dict[str, str]:
    """The header that sends a token."""
    return {"Authorization": f"Bearer {token}"}
