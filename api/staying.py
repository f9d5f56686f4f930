"""Whether whoever was let in may stay: a key that was removed or has expired ends what it holds open, within seconds.

A request that is answered at once needs no second look. Streams and waits last: each asks now and then, and one whose
caller would be let in no more ends. What a wait then answers is that a key is needed, whatever it waited for. Jobs
that were accepted go on: they are the queue's, and an operator can cancel them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Final

from flask import Flask, Response, g

from api.caller import caller
from api.errors import error_answer
from api.services import services
from scheduler.errors import ClientError
from scheduler.keyring import FRESH_SECONDS, KeyRing
from scheduler.keys import Key

Stays = Callable[[], bool]

LOOK_SECONDS: Final = 1.0
_NO_MORE: Final = "the API key that this request came with was removed or has expired"


def may_stay() -> Stays:
    """Whether the present request's caller would still be let in: a question that can be asked outside the request."""
    keys: KeyRing = services().lifecycle.keys
    key: Key | None = caller().key
    return lambda: keys.lets_in(key)


def while_staying(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A stream's bytes, for as long as its caller may stay; one that is silent asks by itself (:mod:`api.presence`)."""
    return _looking(chunks, may_stay())


def install(app: Flask) -> None:
    """Look again at whoever waited for an answer."""
    app.before_request(_note)
    app.after_request(_refuse_who_left)


def _looking(chunks: Iterator[bytes], stays: Stays) -> Iterator[bytes]:
    look_at = time.monotonic() + LOOK_SECONDS
    try:
        for chunk in chunks:
            yield chunk
            if time.monotonic() >= look_at:
                if not stays():
                    return
                look_at = time.monotonic() + LOOK_SECONDS
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


def _note() -> None:
    g.let_in_at = time.monotonic()


def _refuse_who_left(response: Response) -> Response:
    waited = time.monotonic() - g.get("let_in_at", time.monotonic())
    if waited < FRESH_SECONDS or "caller" not in g or may_stay()():
        return response
    response.close()
    return error_answer(ClientError("unauthorized", _NO_MORE))
