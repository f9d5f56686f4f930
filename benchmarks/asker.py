"""One client of the API on one connection: says what it was answered, and how long that took."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its status, its JSON, and seconds until the last byte of it."""

    status: int
    body: Any
    seconds: float

    def insist(self, *statuses: int) -> Any:
        """The JSON of an answer that has one of these statuses.

        Raises:
            RuntimeError: it has another.
        """
        if self.status not in statuses:
            raise RuntimeError(f"answered {self.status}, not {statuses}: {str(self.body)[:500]}")
        return self.body


class Asker:
    """Asks one question after another.

    Args:
        url: of the API.
        key: an API key, if one is needed.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        where = urlsplit(url)
        self._http = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_SECONDS)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Said:
        """Ask; ``body`` is sent as JSON, or as it is where it is bytes.

        Raises:
            OSError, http.client.HTTPException: no answer came; the next question has a connection of its own.
        """
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        said = {"Content-Type": "application/json", **self._headers, **(headers or {})}
        began = time.perf_counter()
        try:
            self._http.request(method, path, sent, said)
            answer = self._http.getresponse()
            text = answer.read()
        except BaseException:
            self._http.close()
            raise
        seconds = time.perf_counter() - began
        with contextlib.suppress(ValueError):
            return Said(answer.status, json.loads(text), seconds)
        return Said(answer.status, text, seconds)

    def begin(self) -> None:
        """Take a new connection: the API closes one that was idle for seconds, and what is measured is no handshake."""
        self.close()
        self.ask("GET", "/healthz").insist(200)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
