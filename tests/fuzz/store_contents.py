"""Whatever stands in one key of the queue's server: every route and a worker's whole round answer, and others go on.

A server of its own is filled by the ordinary verbs; an input says which field of which key others wrote, and what.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from flask.testing import FlaskClient
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from api.app import Application, create_app
from api.schemas import ErrorAnswer
from api.services import EXTENSION
from scheduler.errors import ClientError
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.recovery import recover
from scheduler.settings import load
from scheduler.strays import mend
from scheduler.webhooks import Webhooks
from tests.conftest import MODEL
from tests.fuzz.target import Run, Target
from tests.plans import WORST_CASE
from tests.pretend_worker import CARD, PretendWorker
from tests.valkey import lone_valkey
from workers.claiming import Claiming
from workers.residency import Residency

BUG: Final = "an internal error; its cause is in the server's log"
"""What the API says of an exception that nobody foresaw."""

_JOB: Final = re.compile(rb"(job|resp|batch|file)[_-][0-9a-z]{26}")
_BY_ALL: Final = "tidegate:keys"


@dataclass(slots=True)
class World:
    """A filled server, as it is before each input.

    Args:
        connection: to it.
        app: the API over it.
        kept: its keys, each with its life left in milliseconds and its value as the server dumps it.
        sentinel: the job that waits in nobody's way.
        paths: everything to be asked for.
    """

    connection: Redis
    app: Application
    kept: dict[bytes, tuple[int, bytes]]
    sentinel: str
    paths: Sequence[str]

    def restore(self) -> None:
        """As it was."""
        pipeline = self.connection.pipeline(transaction=False)
        pipeline.flushall()
        for key, (ttl, value) in self.kept.items():
            pipeline.restore(key, max(0, ttl), value)
        pipeline.execute()


def _filled(connection: Redis, client: FlaskClient, worker: PretendWorker) -> tuple[str, list[str]]:
    """Jobs in every state, a response, a file and a batch; the last job, and the paths of all."""
    hook = {"url": "https://a.example/", "secret": "whsec_" + "QUFB" * 11}

    def submit(**fields: Any) -> str:
        said = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a b", "max_tokens": 4} | fields)
        assert said.status_code == 202, said.get_json()
        return str(said.get_json()["id"])

    ended, failed, running, shed = submit(webhook=hook), submit(), submit(), submit(priority="batch")
    worker.complete(worker.claim(ended), "a b", logprobs=[{"token": "a", "logprob": -1.0, "bytes": [97]}])
    worker.fail(
        worker.claim(failed), ClientError("insufficient_memory", "insufficient memory", retry_after=1)
    )
    worker.say(worker.claim(running), "a ")
    held = worker.claim(shed)
    worker.say(held, "a ", tokens=[5])
    from scheduler.reasons import Reason  # noqa: PLC0415

    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    said = client.post("/v1/responses", json={"model": MODEL, "input": "a", "background": True}).get_json()
    response = said["id"]
    answered = client.post(
        "/v1/responses", json={"model": MODEL, "input": "a", "background": True}
    ).get_json()["id"]
    worker.complete(worker.claim(f"job_{answered.removeprefix('resp_')}"), "a")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    form = {"purpose": "batch", "file": (io.BytesIO(json.dumps(line).encode()), "a.jsonl")}
    file = client.post("/v1/files", data=form, content_type="multipart/form-data").get_json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.post("/v1/batches", json=asked).get_json()["id"]
    sentinel = submit()
    paths = [f"/v1/jobs/{job}{tail}" for job in (ended, failed, running, shed) for tail in ("", "/result")]
    paths += [f"/v1/jobs/{job}/stream" for job in (ended, failed)]
    paths += [f"/v1/responses/{each}{tail}" for each in (response, answered) for tail in ("", "/input_items")]
    paths += [f"/v1/responses/{answered}?stream=true", f"/v1/files/{file}", f"/v1/files/{file}/content"]
    paths += ["/v1/files", f"/v1/batches/{batch}", "/v1/batches", "/v1/jobs", "/v1/jobs?status=completed"]
    paths += ["/v1/jobs?metadata[a]=b", "/v1/capacity", "/v1/models", "/healthz", "/readyz"]
    return sentinel, paths


@contextmanager
def world() -> Iterator[World]:
    """One server, filled."""
    with lone_valkey() as (url, folder, connection):
        app = create_app(load(redis_url=url, data_dir=folder, models=(MODEL,)), connection)
        here = app.extensions[EXTENSION]
        here.feeder.close()  # its rounds are made here
        worker = PretendWorker(connection)
        worker.report(lease_seconds=3600)
        sentinel, paths = _filled(connection, app.test_client(), worker)
        keys = sorted(connection.keys())
        kept = {key: (max(0, int(connection.pttl(key))), connection.dump(key)) for key in keys}
        try:
            yield World(connection, app, kept, sentinel, paths)
        finally:
            here.reader.close()


def _written(connection: Redis, key: bytes, at: int, value: bytes, how: str) -> None:
    """Put a value in the place of one of a key's."""
    kind = connection.type(key).decode()
    if how == "type":
        connection.set(key, value)
    elif kind == "string":
        connection.set(key, value, keepttl=True)
    elif kind == "hash":
        connection.hset(key, sorted(connection.hkeys(key))[at % connection.hlen(key)], value)
    elif kind == "list":
        connection.lset(key, at % connection.llen(key), value)
    elif kind == "zset":
        name, score = connection.zrange(key, 0, -1, withscores=True)[at % connection.zcard(key)]
        connection.zrem(key, name)
        connection.zadd(key, {value: score})
    elif kind == "set":
        connection.sadd(key, value)
    elif kind == "stream":
        entries = connection.xrange(key)
        connection.delete(key)
        for number, (name, fields) in enumerate(entries):
            field = sorted(fields)[at % len(fields)]
            changed = fields | {field: value} if number == at // 8 % len(entries) else fields
            connection.xadd(key, changed, name)


def _ask(client: FlaskClient, path: str, **how: Any) -> None:
    """A route answers with what is no bug, in the body of errors where it is one."""
    said = client.open(path, **how)
    data = said.get_data()
    if said.status_code >= 400:
        error = ErrorAnswer.model_validate(said.get_json()).error
        assert error.message != BUG, (path, said.status_code)
    elif said.mimetype == "application/json":
        json.loads(data)


def _round(found: World, *, mine: bool) -> None:
    """A worker's: whatever it may do, and the sentinel's job done."""
    connection = found.connection
    settings = found.app.extensions[EXTENSION].settings
    lifecycle = Lifecycle(connection, settings)
    worker = PretendWorker(connection, "other")
    worker.report()
    ledger = Ledger(1 << 30, 512, 4)
    ledger.admit_model(CARD)
    residency = Residency({MODEL: "nowhere"}, lambda _: None)
    claims = Claiming(lifecycle, worker.holding, PRIORITIES, lifecycle._clock, residency, WORST_CASE)
    recover(lifecycle.queue, PRIORITIES, "other", set())
    mend(lifecycle.queue)
    lifecycle.end_overdue()
    hooks = Webhooks(connection, lifecycle.queue.swap)
    hooks.read(hooks.due_keys(1e12, 0, 16))
    found.app.extensions[EXTENSION].feeder._closed = False
    for _ in range(3):
        found.app.extensions[EXTENSION].feeder.round()
    done = set()
    for _ in range(16):
        held = claims.claim(ledger, None)
        if held is None:
            break
        done.add(held.rec.id)
        worker.complete(held, "a")
        ledger.release(held.holder)
    assert not mine or found.sentinel in done, f"{found.sentinel} was not claimed"


def _place(found: World, head: bytes) -> tuple[bytes, int, str]:
    """The key, the place in it and the way that an input's first line names."""
    number, at, how = [*head.decode("latin-1").split(" "), "", "", ""][:3]
    keys = list(found.kept)
    digits = [
        int(each) % (1 << 20) if each.isascii() and each.isdigit() else 0 for each in (number[:9], at[:9])
    ]
    return keys[digits[0] % len(keys)], digits[1], how


@contextmanager
def opened() -> Iterator[Run]:
    """Takes inputs of a line (the key's number, the place's, the way) and, behind an empty one, the value."""
    with world() as found:

        def run(data: bytes) -> None:
            head, _, value = data.partition(b"\n\n")
            found.restore()
            key, at, how = _place(found, head)
            with suppress(ResponseError):
                _written(found.connection, key, at, value, how)
            # What all jobs share is the operator's to mend where others gave it another type.
            one = _JOB.search(key) is not None and found.sentinel.encode() not in key
            client = found.app.test_client()
            for path in found.paths:
                _ask(client, path)
            try:
                _round(found, mine=one)
            except RedisError:
                if one or how != "type":
                    raise

        yield run


def seeds() -> Sequence[bytes]:
    """Each field of each key, written as it is."""
    with world() as found:
        made: list[bytes] = []
        for number, key in enumerate(found.kept):
            for at, value in enumerate(_values(found.connection, key)):
                made.append(f"{number} {at} set\n\n".encode() + value)
            made.append(f"{number} 0 type\n\n".encode() + b"{}")
        return made


def _values(connection: Redis, key: bytes) -> list[bytes]:
    kind = connection.type(key).decode()
    if kind == "string":
        return [connection.get(key)]
    if kind == "hash":
        return [connection.hget(key, name) for name in sorted(connection.hkeys(key))]
    if kind == "list":
        return connection.lrange(key, 0, -1)
    if kind == "zset":
        return connection.zrange(key, 0, -1)
    if kind == "set":
        return sorted(connection.smembers(key))
    entries = connection.xrange(key)
    return [fields[name] for _, fields in entries for name in sorted(fields)]


def targets() -> list[Target]:
    """The one."""
    return [Target("store", seeds, opened)]
