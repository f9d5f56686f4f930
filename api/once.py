"""Whether the present request came before: by its `Idempotency-Key`, or as OpenAI's client counts its tries."""

from __future__ import annotations

import re
from typing import Final

from flask import request

from api.presence import tries_before
from scheduler.errors import ClientError
from scheduler.once import Once

KEY_HEADER: Final = "Idempotency-Key"
KEY_PATTERN: Final = "^[ -~]{1,255}$"
"""Printable ASCII."""

REPLAYED: Final = {"Idempotent-Replayed": "true"}
"""The header of an answer about a job that an earlier request made."""


def may_come_again() -> bool:
    """Whether the present request's client would find its jobs by sending it again."""
    return KEY_HEADER in request.headers or tries_before() is not None


def once(owner: str, *, attended: bool = False) -> Once | None:
    """What tells the present request from any other that makes jobs; None where nothing does.

    Args:
        owner: whose it is.
        attended: whether its job is cancelled when its client goes away.

    Raises:
        ClientError: ``invalid_request``; its key is none.
    """
    key = request.headers.get(KEY_HEADER)
    if key is not None:
        if not re.fullmatch(KEY_PATTERN, key):
            message = f"{KEY_HEADER}: 1 to 255 printable characters of ASCII are needed"
            raise ClientError("invalid_request", message, param=KEY_HEADER)
        body = (
            request.get_json() if request.get_data() else {}
        )  # a retry has none; one in chunks tells no length
        return Once.keyed(owner, request.path, key, body, attended=attended)
    tries = tries_before()
    if tries is None:
        return None
    return Once.tried(owner, request.path, request.get_data(), tries, attended=attended)
