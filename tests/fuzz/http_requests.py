"""Requests of any bytes to every route, in this process: never a 5xx that the contract does not name, always its body.

An input is a method and a path, headers line by line, an empty line, and the body. Cursors, ids and filters stand in
its first lines; a worker that says the prompt back answers whatever is accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from werkzeug.test import EnvironBuilder, run_wsgi_app

from api.app import create_app
from api.schemas import ErrorAnswer
from api.services import EXTENSION
from scheduler.errors import TABLE
from scheduler.settings import load
from tests.conftest import MODEL
from tests.fuzz.store_contents import BUG
from tests.fuzz.target import Run, Target
from tests.pretend_worker import PretendWorker
from tests.valkey import lone_valkey

SECONDS_MOST: Final = 20.0
"""For any answer: nothing here waits for longer than a worker takes to say a prompt back."""

_BYTES_MOST: Final = 1 << 20
_EMPTIED_EVERY: Final = 200
_JOB: Final = "job_01k00000000000000000000000"
_BOUNDARY: Final = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'


def _posted(path: str, body: Any, *headers: str) -> bytes:
    lines = [f"POST {path}", "Content-Type: application/json", *headers]
    return "\n".join(lines).encode() + b"\n\n" + json.dumps(body).encode()


def seeds() -> Sequence[bytes]:
    """Every route as it should be asked."""
    job = {"model": MODEL, "prompt": "a b", "max_tokens": 4, "stop": ["x"], "metadata": {"a": "b"}, "seed": 5}
    job |= {"logit_bias": {"5": 1.0}, "priority": "batch", "queue_timeout": 5, "temperature": 0.5}
    chat = {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "n": 2,
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    completion = {"model": MODEL, "prompt": ["a", "b"], "echo": False, "logprobs": 1, "best_of": 1}
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}
    answer = {"model": MODEL, "input": [item], "instructions": "b", "previous_response_id": None}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat})
    file = (
        b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        + line.encode()
        + b"\r\n--x--\r\n"
    )
    batch = {"input_file_id": "file-01k00000000000000000000000", "endpoint": "/v1/chat/completions"}
    hook = {"url": "https://a.example/", "secret": "whsec_" + "QUFB" * 11}
    asked = [
        _posted("/v1/jobs", job, "Prefer: wait=1", "Idempotency-Key: a"),
        _posted("/v1/jobs", job | {"stream": True, "webhook": hook}, "Accept: text/event-stream"),
        _posted("/v1/chat/completions", chat, "X-Stainless-Retry-Count: 1"),
        _posted("/v1/chat/completions", chat | {"stream": True, "tools": [tool], "tool_choice": "auto"}),
        _posted("/v1/chat/completions", chat | {"response_format": form, "stream_options": None}),
        _posted("/v1/completions", completion, "Content-Encoding: identity", "Origin: http://a.example"),
        _posted("/v1/responses", answer | {"background": True, "metadata": {"a": "b"}}),
        _posted("/v1/responses", answer | {"stream": True, "text": {"format": {"type": "text"}}}),
        _posted("/v1/batches", batch | {"completion_window": "24h", "metadata": {"a": "b"}}),
        _posted(f"/v1/jobs/{_JOB}/cancel", {}),
        _posted(f"/v1/responses/resp_{_JOB[4:]}/cancel", {}),
        _posted(f"/v1/batches/batch_{_JOB[4:]}/cancel", {}),
        b"POST /v1/files\nContent-Type: multipart/form-data; boundary=x\n\n" + _BOUNDARY + file,
        f"GET /v1/jobs/{_JOB}/stream?after=1\nLast-Event-ID: 1\n\n".encode(),
        b"DELETE /v1/jobs/FIRST\nAuthorization: Bearer tg-x\n\n",
    ]
    paths = ("/v1/jobs/FIRST/stream?after=1", "/v1/jobs/FIRST?wait=1", "/v1/jobs/FIRST/result?wait=0")
    paths += ("/v1/jobs?limit=5&after=FIRST&status=queued,completed&priority=batch&metadata[a]=b&order=asc",)
    paths += (f"/v1/jobs?before={_JOB}&model=a", "/v1/capacity", "/v1/models", f"/v1/models/{MODEL}")
    paths += (f"/v1/responses/resp_{_JOB[4:]}?stream=true&starting_after=1&include[]=x",)
    paths += (
        f"/v1/responses/resp_{_JOB[4:]}/input_items?limit=1&after=x&order=asc",
        "/v1/batches?after=x&limit=1",
    )
    paths += (
        "/v1/files?after=file-x&limit=1&order=asc&purpose=batch",
        "/v1/files/file-x/content",
        "/healthz",
    )
    return [*asked, *(f"GET {path}\nAccept: */*\n\n".encode() for path in paths)]


def _environ(data: bytes, first: str) -> dict[str, Any]:
    """What a server would make of an input, as far as servers let its parts through."""
    head, _, body = data.partition(b"\n\n")
    start, *lines = head.replace(b"FIRST", first.encode()).split(b"\n")
    method, _, target = start.partition(b" ")
    path, _, query = target.partition(b"?")
    environ = EnvironBuilder(path="/", method="GET", input_stream=None, data=body).get_environ()
    environ["REQUEST_METHOD"] = method.decode("latin-1").strip()[:32] or "GET"
    environ["PATH_INFO"] = "/" + unquote_to_bytes(path).decode("latin-1").lstrip("/")
    environ["QUERY_STRING"] = query.decode("latin-1")
    for line in lines:
        name, colon, value = line.partition(b":")
        key = name.decode("latin-1").strip().upper().replace("-", "_")
        if colon and key not in {"CONTENT_LENGTH", "TRANSFER_ENCODING"}:
            known = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
            environ[known] = value.decode("latin-1").strip().replace("\r", "").replace("\0", "")
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _judge(status: int, headers: Any, body: bytes) -> None:
    """An answer is one of the contract's."""
    if status < 400:
        if headers.get("Content-Type", "").startswith("application/json") and body:
            json.loads(body)
        return
    if not body:  # to HEAD
        return
    error = ErrorAnswer.model_validate(json.loads(body)["error"] and json.loads(body)).error
    assert error.code in TABLE
    assert error.message != BUG
    assert status < 500 or status in {503, 504}, (status, error)


@contextmanager
def opened() -> Iterator[Run]:
    """Takes a request, and asks for the whole answer."""
    with lone_valkey() as (url, folder, connection):
        app = create_app(load(redis_url=url, data_dir=folder, models=(MODEL,)), connection)
        here = app.extensions[EXTENSION]
        worker = PretendWorker(connection)
        count, first = 0, _JOB

        def begin() -> str:
            connection.flushall()
            worker.report(lease_seconds=3600)
            said = app.test_client().post("/v1/jobs", json={"model": MODEL, "prompt": "a b"}).get_json()
            return str(said["id"])

        def run(data: bytes) -> None:
            nonlocal count, first
            if count % _EMPTIED_EVERY == 0:
                first = begin()
            count += 1
            began = time.monotonic()
            chunks, status, headers = run_wsgi_app(app, _environ(data, first))
            body = b""
            for chunk in chunks:
                body += chunk
                if len(body) > _BYTES_MOST or time.monotonic() - began > SECONDS_MOST:
                    break
            if hasattr(chunks, "close"):
                chunks.close()
            _judge(int(status.split()[0]), headers, body)
            took = time.monotonic() - began
            assert took < SECONDS_MOST, f"{took:.1f} s"

        try:
            with _answering(worker):
                yield run
        finally:
            here.reader.close()
            here.feeder.close()


@contextmanager
def _answering(worker: PretendWorker) -> Iterator[None]:
    """A worker that goes on whatever befalls it: the server is emptied under it."""
    import threading  # noqa: PLC0415

    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                held = worker.try_claim()
                if held is None:
                    stop.wait(0.003)
                else:
                    worker.complete(held, "a")
            except Exception:  # noqa: BLE001
                stop.wait(0.01)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(15)


def targets() -> list[Target]:
    """The one."""
    return [Target("http", seeds, opened)]
