"""RQ's job as a plain worker takes it up: what it says of itself is compared, never imported."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import PickleSerializer

from scheduler.queue import JOB_FUNCTION
from workers.generation_job import GenerationJob, NotGeneration
from workers.run import generate

NOWHERE: Final = Redis(unix_socket_path="/nowhere/valkey.sock")
CALL: Final = json.dumps([JOB_FUNCTION, None, [], {}]).encode()


class Server(Redis):
    """One that has these hashes, or no hash where one is none."""

    def __init__(self, **hashes: dict[bytes, bytes] | None) -> None:
        self.hashes = hashes

    def hgetall(self, name: Any) -> Any:
        """As the server answers."""
        found = self.hashes.get(name.removeprefix("rq:job:"), {})
        if found is None:
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def hget(self, name: Any, key: Any) -> Any:
        """Likewise."""
        return self.hgetall(name).get(key.encode())


def job(*call: Any, **fields: Any) -> Job:
    """A job that says so."""
    made = GenerationJob("job", NOWHERE, PickleSerializer)
    made.data = json.dumps(call).encode() if call else b"\x80\x04N."
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_its_function_is_generation() -> None:
    """By the name that the queue gives it, whichever serializer the worker was told: nothing is unpickled."""
    assert job(JOB_FUNCTION, None, [], {}).func is generate


@pytest.mark.parametrize(
    "call",
    [
        (),
        ("os.system", None, ["x"], {}),
        ("format", "{0}", [], {}),
        (JOB_FUNCTION, {"a": 1}, [], {}),
        (None, None, [], {}),
    ],
)
def test_no_other_is_looked_for(call: tuple[Any, ...]) -> None:
    """Nor tried again."""
    made = job(*call, retries_left=100)
    with pytest.raises(NotGeneration):
        _ = made.func
    assert made.retries_left == 0


def test_no_callback_is_imported_and_no_webhook_sent() -> None:
    """Whatever its hash names."""
    names = {f"_{kind}_callback_name": "os.system" for kind in ("success", "failure", "stopped")}
    made = job(JOB_FUNCTION, None, [], {}, webhooks=[object()], **names)
    assert (made.success_callback, made.failure_callback, made.stopped_callback) == (None, None, None)
    made.send_webhooks("finished")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"created_at", b"yesterday"),
        (b"status", b"evil"),
        (b"status", b"\xff"),
        (b"origin", b"\xff"),
        (b"exc_info", b"\x80\x04N."),
        (b"dependency_ids", b"{"),
        (b"retries_left", b"1e9"),
        (b"failure_ttl", b"evil"),
        (b"timeout", b"evil"),
        (b"rate_limit_concurrency", b"evil"),
        (b"meta", b"[" * 100_000),
        (b"\xff", b"\xff"),
    ],
)
def test_a_field_that_cannot_be_read_ends_nobody(name: bytes, value: bytes) -> None:
    """The call is there all the same; what RQ's own class raises, it raises in the worker's loop."""
    fields = {b"data": CALL, b"origin": b"standard"} | {name: value}
    made = GenerationJob.fetch("job", Server(job=fields))
    assert made.func is generate
    assert made.timeout == -1


def test_what_generation_has_is_read() -> None:
    """The tries that are left, and what RQ shows; intervals between tries, which it has not, are not."""
    fields = {b"data": CALL, b"origin": b"batch", b"retries_left": b"3", b"description": b"tiny (batch)"}
    made = GenerationJob.fetch("job", Server(job=fields | {b"retry_intervals": b'["evil"]'}))
    assert (made.origin, made.retries_left, made.description) == ("batch", 3, "tiny (batch)")
    assert made.get_retry_interval() == 0
    assert made.failure_ttl is None
    made.restore(fields | {b"created_at": b"evil"})
    assert made.failure_ttl == 24 * 3600


@pytest.mark.parametrize("name", ["none", "text", "empty", "no id!", "", "a b:c"])
def test_an_entry_that_is_no_job_is_passed_over(name: str) -> None:
    """As RQ does with one whose hash is gone; beside others it hides none."""
    server = Server(text=None, empty={b"origin": b"standard"}, job={b"data": CALL})
    with pytest.raises(NoSuchJobError):
        GenerationJob.fetch(name, server)
    nothing, found = GenerationJob.fetch_many([name, "job"], server)
    assert nothing is None
    assert found is not None and found.func is generate


def test_another_error_of_the_server_is_told() -> None:
    """A job that may not be read is not one that is gone."""

    class Refusing(Server):
        def hgetall(self, name: Any) -> Any:
            raise ResponseError("NOPERM this user has no permissions")

    with pytest.raises(ResponseError):
        GenerationJob.fetch("job", Refusing())


def test_a_status_that_is_none_ends_nobody() -> None:
    """RQ asks for it when a work horse died."""
    made = GenerationJob("job", Server(job={b"status": b"evil"}))
    assert made.get_status() is JobStatus.CREATED
