"""How much of its tokens a minute a key has left, in the headers that OpenAI's API says it by."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request

from api.caller import caller
from api.services import services


def install(app: Flask) -> None:
    """Say it on every answer to a key with such a quota that may have submitted something."""
    app.after_request(_say)


def limit_headers(numbers: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an error that says how much was left; none of any other."""
    names = ("limit_tokens", "remaining_tokens", "reset_seconds")
    if not all(name in numbers for name in names):
        return {}
    return _headers(*(numbers[name] for name in names))


def _say(response: Response) -> Response:
    key = caller().key if request.method == "POST" else None
    if (
        key is not None
        and key.tokens_per_minute is not None
        and "x-ratelimit-limit-tokens" not in response.headers
    ):
        left = services().lifecycle.spending.left(key, time.time())
        if left is not None:
            response.headers.update(_headers(*left))
    return response


def _headers(limit: int, remaining: int, reset_seconds: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit-tokens": str(limit),
        "x-ratelimit-remaining-tokens": str(remaining),
        "x-ratelimit-reset-tokens": f"{reset_seconds:.3f}s",
    }
