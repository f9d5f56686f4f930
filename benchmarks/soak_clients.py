"""Clients that do everything that clients do, one thing after another, for as long as a soak runs."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.asker import Asker
from benchmarks.stack import Stack
from scheduler.keyring import KeyBook
from scheduler.keys import new_key

MODEL: Final = "tiny"
_PROMPTS, _ANSWERS = (1, 5, 20), (4, 16, 40)
"""Lengths, few of them: what is foreseen of thousands of shapes is remembered, and a run of minutes would see that fill."""

_BATCH_SECONDS: Final = 60
"""A batch is kept for a month, a job here for a minute; so that the curve of what is kept comes to rest, a batch that
ended is told to lapse as a job does."""


class Clients:
    """Clients of one API, and what they counted.

    Args:
        running: the stack.
        token: a key that may do everything.
        hook: where webhooks go.
        seed: of what is done when.
    """

    def __init__(self, running: Stack, token: str, hook: str, seed: int) -> None:
        self._running, self._token, self._hook = running, token, hook
        self._draw, self._done, self._lock = random.Random(seed), threading.Event(), threading.Lock()
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    @contextmanager
    def going(self, clients: int) -> Iterator[None]:
        """So many clients, until the block ends."""
        threads = [threading.Thread(target=self._client, args=(self._draw.random(),)) for _ in range(clients)]
        threads.append(threading.Thread(target=self._batches))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()

    def _client(self, seed: float) -> None:
        draw = random.Random(seed)
        doings: dict[str, Callable[[Asker, random.Random], None]] = {
            "completed": self._complete,
            "streamed": self._stream,
            "cut": self._cut,
            "cancelled": self._cancel,
            "failed": self._fail,
            "deleted": self._delete,
            "repeated": self._repeat,
            "refused": self._refused,
            "webhooks": self._webhook,
            "keys": self._key,
        }
        with Asker(self._running.url, self._token) as asker:
            while not self._done.is_set():
                name = draw.choice(list(doings))
                try:
                    doings[name](asker, draw)
                    self._count(name)
                except (RuntimeError, OSError, http.client.HTTPException) as error:
                    with self._lock:
                        self.faults[f"{name}: {type(error).__name__}: {error}"[:160]] += 1

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _submit(self, asker: Asker, draw: random.Random, **fields: Any) -> str:
        prompt = f"{draw.random():.6f} " * draw.choice(_PROMPTS)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": draw.choice(_ANSWERS)} | fields
        return str(asker.ask("POST", "/v1/jobs", body).insist(202)["id"])

    def _complete(self, asker: Asker, draw: random.Random) -> None:
        asker.ask("GET", f"/v1/jobs/{self._submit(asker, draw)}/result?wait=60").insist(200)

    def _webhook(self, asker: Asker, draw: random.Random) -> None:
        job_id = self._submit(asker, draw, webhook={"url": self._hook})
        asker.ask("GET", f"/v1/jobs/{job_id}/result?wait=60").insist(200)

    def _cancel(self, asker: Asker, draw: random.Random) -> None:
        job_id = self._submit(asker, draw, max_tokens=2000)
        if draw.random() < 0.5:
            time.sleep(0.2)
        asker.ask("POST", f"/v1/jobs/{job_id}/cancel").insist(200, 202)

    def _fail(self, asker: Asker, draw: random.Random) -> None:
        """By its own bound on time, or by its engine's death; 202 where the wait was too short."""
        job_id = self._submit(asker, draw, max_tokens=3000, run_timeout=0.2)
        asker.ask("GET", f"/v1/jobs/{job_id}/result?wait=60").insist(202, 500, 503, 504)

    def _delete(self, asker: Asker, draw: random.Random) -> None:
        asker.ask("DELETE", f"/v1/jobs/{self._submit(asker, draw)}").insist(200)

    def _repeat(self, asker: Asker, draw: random.Random) -> None:
        body = {"model": MODEL, "prompt": f"{draw.random()}", "max_tokens": 2}
        named = {"Idempotency-Key": uuid.uuid4().hex}
        first, again = (asker.ask("POST", "/v1/jobs", body, named).insist(200, 202)["id"] for _ in range(2))
        if first != again:
            raise RuntimeError("one key made two jobs")

    def _refused(self, asker: Asker, draw: random.Random) -> None:
        asker.ask("POST", "/v1/jobs", {"model": f"no-{draw.random()}", "prompt": "x"}).insist(404)
        asker.ask("GET", f"/v1/jobs/job_{draw.randrange(10**25):026d}").insist(404)
        asker.ask("GET", f"/{draw.random()}").insist(404)

    def _stream(self, asker: Asker, draw: random.Random) -> None:
        self._follow(self._submit(asker, draw), None)

    def _cut(self, asker: Asker, draw: random.Random) -> None:
        """Streams that are left in the middle: one of a job, which goes on, and one of a chat, which ends with it."""
        self._follow(self._submit(asker, draw, max_tokens=200), draw.randint(1, 600))
        chat = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{draw.random()}"}],
            "max_tokens": 500,
        }
        self._read("POST", "/v1/chat/completions", json.dumps(chat | {"stream": True}).encode(), 300)

    def _follow(self, job_id: str, most: int | None) -> None:
        text = self._read("GET", f"/v1/jobs/{job_id}/stream", None, most)
        if most is None and b"[DONE]" not in text:
            raise RuntimeError("a stream ended early")

    def _read(self, method: str, path: str, body: bytes | None, most: int | None) -> bytes:
        where = urlsplit(self._running.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().read(most)
        finally:
            connection.close()

    def _key(self, _: Asker, draw: random.Random) -> None:
        """A key of its own, known after a moment, used, and removed."""
        token, key = new_key(time.time(), name="soak", queued_jobs=5, tokens_per_minute=1_000_000)
        book = KeyBook(self._running.connection)
        book.add(key)
        try:
            time.sleep(1.1)
            with Asker(self._running.url, token) as own:
                self._complete(own, draw)
        finally:
            book.remove(key.owner)

    def _batches(self) -> None:
        with Asker(self._running.url, self._token) as asker:
            while not self._done.wait(2.0):
                try:
                    self._batch(asker)
                    self._count("batches")
                except (RuntimeError, OSError, http.client.HTTPException) as error:
                    with self._lock:
                        self.faults[f"batch: {type(error).__name__}: {error}"[:160]] += 1

    def _batch(self, asker: Asker) -> None:
        made = uuid.uuid4().hex
        request = {"model": MODEL, "prompt": made, "max_tokens": 3}
        lines = [
            {"custom_id": f"{at}", "method": "POST", "url": "/v1/completions", "body": request}
            for at in range(4)
        ]
        part = "\r\n".join(
            (
                f'--{made}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch',
                f'--{made}\r\nContent-Disposition: form-data; name="file"; filename="b.jsonl"\r\n\r\n'
                + "\n".join(map(json.dumps, lines)),
                f"--{made}--\r\n",
            )
        )
        form = {"Content-Type": f"multipart/form-data; boundary={made}"}
        file_id = asker.ask("POST", "/v1/files", part.encode(), form).insist(200)["id"]
        asked = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = asker.ask("POST", "/v1/batches", asked).insist(200)
        for _ in range(400):
            if batch["status"] in {"completed", "failed", "expired", "cancelled"}:
                break
            time.sleep(0.3)
            batch = asker.ask("GET", f"/v1/batches/{batch['id']}").insist(200)
        for each in (file_id, batch["output_file_id"], batch["error_file_id"]):
            if each:
                asker.ask("DELETE", f"/v1/files/{each}").insist(200)
        for key in self._running.connection.scan_iter(f"tidegate:batch:{batch['id']}*", count=1000):
            self._running.connection.expire(key, _BATCH_SECONDS)
        if batch["status"] != "completed":
            raise RuntimeError(f"a batch ended as {batch['status']}")


@contextmanager
def receiver() -> Iterator[str]:
    """Takes webhooks, until the block ends; where."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook"
        finally:
            with suppress(OSError):
                server.shutdown()
            thread.join()
