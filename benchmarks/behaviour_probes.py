"""What is asked of a server beyond its fields: clients that leave, come again, come in crowds, ask for too much."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import Final

import httpx

from benchmarks.completion_probes import CHAT, post, text_of
from benchmarks.probing import IGNORED, YES, Probe, Server, accepted, json_of, refusal, streamed

LONG_TOKENS: Final = 3000
"""An answer that takes longer than any of these questions."""

CROWD: Final = 64
"""More than tidegate's batch (32) and its queue here take together."""

CROWD_TOKENS: Final = 1000
"""Of each of them: what a server that takes them all has to do after they left."""

MOST_QUEUED: Final = 8
"""How many jobs tidegate's queue takes here: so that a crowd finds it full."""

_QUIET_SECONDS: Final = 2.0
_QUIET_SHARE: Final = 0.2
"""Of a core: less than this is a server that does not generate."""


def settled(server: Server, seconds: float) -> bool:
    """Whether a server stops computing within so long, and for a second at least: a busy machine holds up anybody."""
    until, quiet = time.monotonic() + seconds, 0
    while quiet or time.monotonic() < until:
        before, began = server.cpu_seconds(), time.monotonic()
        time.sleep(0.5)
        rests = server.cpu_seconds() - before < _QUIET_SHARE * (time.monotonic() - began)
        quiet = quiet + 1 if rests else 0
        if quiet == 2:
            return True
    return False


def _left_stream(server: Server) -> str:
    body = _long(server) | {"stream": True}
    with streamed(server, "POST", CHAT, json=body) as answer:
        next(answer.iter_lines())
    return _stopped(server)


def _left_waiting(server: Server) -> str:
    with suppress(httpx.ReadTimeout):
        server.http.post(CHAT, json=_long(server), timeout=1.0)
        return "other: answered too soon"
    return _stopped(server)


def _stopped(server: Server) -> str:
    if settled(server, _QUIET_SECONDS):
        return YES
    return "goes on to its end" if settled(server, 60.0) else "goes on"


def _crowd(server: Server) -> str:
    refusals: list[httpx.Response] = []

    def ask() -> None:
        with (
            suppress(httpx.TransportError),
            httpx.Client(base_url=server.http.base_url, trust_env=False) as http,
        ):
            answer = http.post(CHAT, json=_long(server) | {"max_tokens": CROWD_TOKENS}, timeout=4.0)
            if not answer.is_success:
                refusals.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled(server, 240.0)
    if not refusals:
        return "takes all of them"
    hinted = all(answer.headers.get("Retry-After") for answer in refusals)
    return f"{refusals[0].status_code}" + (" with Retry-After" if hinted else " without a hint")


def _never_fits(server: Server) -> str:
    body = _long(server) | {"max_tokens": 1_000_000, "stream": True}
    with server.http.stream("POST", CHAT, json=body) as answer:
        if not answer.is_success:
            answer.read()
            error = (json_of(answer) or {}).get("error") or {}
            numbers = {"estimated_bytes", "limit_bytes"} <= set(error)
            return f"{answer.status_code}" + (", says both numbers" if numbers else "")
        next(answer.iter_lines())
    settled(server, 60.0)
    return "begins it"


def _too_large(server: Server) -> str:
    body = json.dumps(_long(server) | {"messages": [{"role": "user", "content": "a" * (32 << 20)}]})
    answer = server.http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    return "takes it" if answer.is_success else refusal(answer)


def _twice(server: Server) -> str:
    headers = {"Idempotency-Key": "a-key-of-this-probe"}
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 24,
    }
    one, again = (accepted(server.http.post(CHAT, json=body, headers=headers)) for _ in range(2))
    if (one["id"], text_of(one)) != (again["id"], text_of(again)):
        return IGNORED
    other = server.http.post(CHAT, json=body | {"max_tokens": 25}, headers=headers)
    return YES if other.status_code == 422 else f"other: a different body gets {other.status_code}"


def _request_id(server: Server) -> str:
    answer = post(server, CHAT, {"max_tokens": 1})
    return YES if answer.headers.get("x-request-id") else "none"


def _no_retry(server: Server) -> str:
    answer = post(server, CHAT, {"temperature": -1})
    if answer.is_success:
        return "takes it"
    return YES if answer.headers.get("x-should-retry") == "false" else f"{answer.status_code} without it"


def _lives(server: Server) -> str:
    answer = post(server, CHAT, {"logit_bias": {"4000000": 5}})
    first = "answers" if answer.is_success else refusal(answer, "logit_bias")
    with suppress(httpx.TransportError):
        after = post(server, CHAT, {"max_tokens": 1})
        return first if after.is_success else f"{first}; then {after.status_code} for everybody"
    return f"{first}; then no answer for anybody"


def _long(server: Server) -> dict[str, object]:
    said = [{"role": "user", "content": "Go on and on."}]
    return {"model": server.model, "messages": said, "max_tokens": LONG_TOKENS, "temperature": 0}


BEHAVIOUR_PROBES: Final = (
    Probe("any", "`x-request-id`", "stands in the answer", _request_id),
    Probe("any", "`x-should-retry`", "`false` where a retry is useless", _no_retry),
    Probe("any", "`Idempotency-Key`", "the same answer; 422 for another body", _twice),
    Probe("any", "a streaming client leaves", "the server stops computing within two seconds", _left_stream),
    Probe("any", "a waiting client leaves", "the server stops computing within two seconds", _left_waiting),
    Probe("any", "a body of 32 MiB", "413", _too_large),
    Probe("any", "`max_tokens` that no memory here can hold", "413 that says both numbers", _never_fits),
    Probe("any", f"{CROWD} long requests at once", "503 with Retry-After beyond the queue's bound", _crowd),
    Probe(
        "any",
        "a token that the model does not have in `logit_bias`",
        "400 that names it; others unharmed",
        _lives,
    ),
)
