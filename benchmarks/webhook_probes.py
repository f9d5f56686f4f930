"""What is asked of webhooks, alike of each route that takes them: whether its end is told, signed, and to whom never.

The receiver listens on the loopback interface: the server under question must allow the host `localhost`. The address
itself stays what any server refuses.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx

from benchmarks.probing import IGNORED, YES, Json, Probe, Server, accepted, refusal

ALLOWED: Final = "localhost"
"""The host to which the server under question may send."""

TOLD_SECONDS: Final = 20.0
_KEY: Final = b"a key of thirty-two bytes, of us"
_SECRET: Final = "whsec_" + base64.b64encode(_KEY).decode()

Submit = Callable[[Server, Json], httpx.Response]
"""Submits something that soon ends, with a webhook as it is given."""


@dataclass(frozen=True, slots=True)
class Told:
    """One request to the receiver; names of headers in small letters."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def is_signed(self) -> bool:
        """Whether its signature is the key's, by the Standard Webhooks' scheme v1."""
        head = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
        right = base64.b64encode(hmac.digest(_KEY, head + self.body, hashlib.sha256)).decode()
        return f"v1,{right}" in self.headers["webhook-signature"].split()


@contextmanager
def receiving() -> Iterator[tuple[str, queue.Queue[Told]]]:
    """A receiver that answers 200: its URL, and what it gets."""
    told: queue.Queue[Told] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.put(Told({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://{ALLOWED}:{server.server_port}/told", told
        finally:
            server.shutdown()
            thread.join()


def webhook_probes(route: str, submit: Submit) -> tuple[Probe, Probe]:
    """A route's questions on webhooks."""

    def ends(server: Server) -> str:
        with receiving() as (url, requests):
            made = accepted(submit(server, {"url": url, "secret": _SECRET}), "webhook")
            try:
                told = requests.get(timeout=TOLD_SECONDS)
            except queue.Empty:
                return IGNORED
        event = json.loads(told.body)
        kind = f"{made['object']}."
        right = event["data"]["id"] == made["id"] and event["type"].startswith(kind) and told.is_signed
        return YES if right else IGNORED

    def to_this_machine(server: Server) -> str:
        answer = submit(server, {"url": "https://127.0.0.1/told", "secret": _SECRET})
        return "takes it" if answer.is_success else refusal(answer, "webhook")

    return (
        Probe(route, "`webhook`", "its end is told there, signed, with its id", ends),
        Probe(route, "`webhook` to this machine", "400 that names it", to_this_machine),
    )
