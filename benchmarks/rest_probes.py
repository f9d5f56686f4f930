"""What is asked of the routes that no text comes from: files, batches, models, capacity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from benchmarks.completion_probes import CHAT
from benchmarks.probing import (
    IGNORED,
    ODD,
    YES,
    Json,
    Probe,
    Server,
    accepted,
    ended,
    refusal,
    words,
)
from benchmarks.webhook_probes import webhook_probes

BATCHES: Final = "/v1/batches"


def _upload(server: Server, lines: list[Json]) -> httpx.Response:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    files = {"file": ("lines.jsonl", content, "application/jsonl")}
    return server.http.post("/v1/files", data={"purpose": "batch"}, files=files)


def _line(server: Server, name: str, **fields: Any) -> Json:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 8,
    }
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body | fields}


def _file(server: Server) -> str:
    lines = [_line(server, "one")]
    made = accepted(_upload(server, lines))
    path = f"/v1/files/{made['id']}"
    content = server.http.get(f"{path}/content")
    listed = [each["id"] for each in server.http.get("/v1/files").json()["data"]]
    same = content.is_success and json.loads(content.content) == lines[0] and made["id"] in listed
    gone = server.http.delete(path).is_success and server.http.get(path).status_code == 404
    return YES if same and gone else IGNORED


def _batch(server: Server) -> str:
    file = accepted(
        _upload(server, [_line(server, "one"), _line(server, "bad", temperature=-1), _line(server, "two")])
    )
    made = accepted(_start(server, file["id"]))
    found = ended(server, f"{BATCHES}/{made['id']}")
    counts = found.get("request_counts") or {}
    if (found.get("status"), counts.get("completed"), counts.get("failed")) != ("completed", 2, 1):
        return IGNORED
    lines = server.http.get(f"/v1/files/{found['output_file_id']}/content").text.splitlines()
    return YES if {json.loads(line)["custom_id"] for line in lines} == {"one", "two"} else IGNORED


def _batch_cancelled(server: Server) -> str:
    file = accepted(_upload(server, [_line(server, str(number), max_tokens=3000) for number in range(8)]))
    made = accepted(_start(server, file["id"]))
    path = f"{BATCHES}/{made['id']}"
    server.http.post(f"{path}/cancel")
    return YES if ended(server, path).get("status") == "cancelled" else IGNORED


def _batch_again(server: Server) -> str:
    file = accepted(_upload(server, [_line(server, "one")]))["id"]
    headers = {"Idempotency-Key": "a-batch-of-this-probe"}
    one, again = (_start(server, file, headers) for _ in range(2))
    same = accepted(one)["id"] == accepted(again)["id"] and again.headers.get("Idempotent-Replayed") == "true"
    other = _start(server, file, headers, metadata={"session": "42"})
    return YES if same and other.status_code == 422 else IGNORED


def _batch_noted(server: Server) -> str:
    file = accepted(_upload(server, [_line(server, "one")]))
    said = {"session": "42"}
    return words(_start(server, file["id"], metadata=said), "metadata", lambda body: body["metadata"] == said)


def _batch_expires(server: Server) -> str:
    """An hour, the least that OpenAI takes."""
    file = accepted(_upload(server, [_line(server, "one")]))
    after = {"anchor": "created_at", "seconds": 3600}
    made = accepted(_start(server, file["id"], output_expires_after=after), "output_expires_after")
    output = ended(server, f"{BATCHES}/{made['id']}")["output_file_id"]
    kept = server.http.get(f"/v1/files/{output}")
    return words(kept, "", lambda body: body["expires_at"] - body["created_at"] == 3600)


def _batch_told(server: Server, webhook: Json) -> httpx.Response:
    file = accepted(_upload(server, [_line(server, "one")]))
    return _start(server, file["id"], webhook=webhook)


def _start(
    server: Server, file: str, headers: Mapping[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    return server.http.post(BATCHES, json=body | fields, headers=headers)


def _got(path: str, shown: Callable[[Server, Json], bool]) -> Callable[[Server], str]:
    def ask(server: Server) -> str:
        answer = server.http.get(path.format(model=server.model))
        said = words(answer, "", lambda body: shown(server, body))
        return ODD if said == IGNORED else said

    return ask


REST_PROBES: Final = (
    Probe("/v1/files", "upload, list, read, delete", "the same bytes; 404 afterwards", _file),
    Probe(BATCHES, "three lines, one bad", "two answers, one error, both counted", _batch),
    Probe(BATCHES, "`…/cancel`", "`cancelled`", _batch_cancelled),
    Probe(
        BATCHES,
        "`Idempotency-Key`",
        "the same batch, and a header that says so; 422 for another body",
        _batch_again,
    ),
    Probe(BATCHES, "`metadata`", "the batch says it", _batch_noted),
    Probe(BATCHES, "`output_expires_after`", "the output is kept for so long", _batch_expires),
    *webhook_probes(BATCHES, _batch_told),
    Probe(
        "/v1/models",
        "the list",
        "the model",
        _got("/v1/models", lambda server, body: server.model in [each["id"] for each in body["data"]]),
    ),
    Probe(
        "/v1/models",
        "one by its name",
        "the model",
        _got("/v1/models/{model}", lambda server, body: body["id"] == server.model),
    ),
    Probe(
        "/v1/embeddings",
        "the route",
        "vectors",
        lambda server: refusal(server.http.post("/v1/embeddings", json={})),
    ),
    Probe(
        "/v1/capacity",
        "the route",
        "each worker's memory",
        _got("/v1/capacity", lambda _, body: body["workers"][0]["budget_bytes"] > 0),
    ),
)
