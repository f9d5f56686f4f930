"""Which web pages may use the API from a browser: those of the origins that the operator named (Fetch, CORS protocol).

Keys go in a header, never in a cookie, so no credentials are allowed. Where no origin was named, nothing is said.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Flask, Response, request

METHODS: Final = "GET, POST, PUT, PATCH, DELETE"

_ALLOWED: Final = ("authorization", "content-type", "idempotency-key", "last-event-id", "prefer")
_SENT_BY_CLIENTS: Final = frozenset(
    {
        *("user-agent", "openai-beta", "openai-organization", "openai-project", "x-client-request-id"),
        *("traceparent", "tracestate"),
    }
)
_CLIENT_PREFIX: Final = "x-stainless-"
"""OpenAI's clients say with these what they are; allowed where asked for, as they grow in number."""

EXPOSED: Final = (
    "x-request-id, Retry-After, Location, Preference-Applied, Idempotent-Replayed, WWW-Authenticate, x-should-retry, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
"""Headers of answers that such a page may read."""

_REMEMBERED_SECONDS: Final = 600  # Chromium remembers for two hours at most, but a setting may be taken back


def install(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of these origins in; ``*`` is any."""
    if not origins:
        return

    def preflight() -> Response | None:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None or not _allowed(origins):
            return None
        return Response(
            status=HTTPStatus.NO_CONTENT,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": _headers(
                    request.headers.get("Access-Control-Request-Headers", "")
                ),
                "Access-Control-Max-Age": str(_REMEMBERED_SECONDS),
            },
        )

    def permit(response: Response) -> Response:
        if "*" not in origins:
            response.vary.add("Origin")
        if (origin := _allowed(origins)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return response

    app.before_request(preflight)
    app.after_request(permit)


def _allowed(origins: tuple[str, ...]) -> str | None:
    """What the present request's page is told; None where it may not, or is none."""
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    if "*" in origins:
        return "*"
    return origin if origin.lower() in origins else None


def _headers(asked: str) -> str:
    """The request headers that are allowed."""
    names = (name.strip().lower() for name in asked.split(","))
    more = {name for name in names if name in _SENT_BY_CLIENTS or name.startswith(_CLIENT_PREFIX)}
    return ", ".join((*_ALLOWED, *sorted(more)))
