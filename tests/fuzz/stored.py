"""Readers of what the queue's server answers: whoever writes there may have written it.

Each has what it may raise; and what it returns must be fit to be shown, as its callers do at once.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from api.answers import to_json
from api.batch_endpoints import ENDPOINTS
from api.chat_request import ChatRequest
from api.completion_request import CompletionRequest
from api.json_body import read_object
from api.outcomes import failure, result_of, usage_of
from api.response_note import read_note
from api.response_request import ResponseRequest
from scheduler import events, host_share
from scheduler.batch import read_batch
from scheduler.batch_lines import Fault, RawLine, read_entry, read_line
from scheduler.bookings import _parse as read_booking
from scheduler.card import ModelCard
from scheduler.envelope import read_envelope
from scheduler.errors import ClientError
from scheduler.fleet import WorkerReport
from scheduler.job import State
from scheduler.keys import new_key, read_key
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta, read_heading, read_record
from scheduler.request import JobRequest
from scheduler.rq_records import read_outcome
from scheduler.slip import Slip
from scheduler.slots import CacheGroup
from scheduler.stored_file import read_file, unpack
from scheduler.tokenizers import _SHAPE
from scheduler.webhook_delivery import Delivery, Recipient, event_id
from tests.cards import PLAIN
from tests.fuzz.target import Run, Target

JOB = "job_01k00000000000000000000000"
REQUEST = {"model": "m", "prompt": "a", "max_tokens": 5, "metadata": {"a": "b"}, "run_timeout": 5}
CALL: list[Any] = ["workers.run.generate", None, [], {"version": 1, "request": REQUEST}]
NOTE = {"completion_choices": 1, "response": {"input": [{"type": "message", "role": "user", "content": "a"}]}}
CALL[3] |= {"note": NOTE}
ENDED = Outcome(State.COMPLETED, {"text": "a", "finish_reason": "stop"})
MANY_BYTES = 1 << 27


def shown(value: Any) -> None:
    """It can be written as the JSON that a client gets."""
    to_json(value).encode()


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _reader(read: Callable[[bytes], object], *allowed: type[Exception]) -> Callable[[], Any]:
    """Opens what reads an input, and lets pass what the reader may raise."""

    @contextmanager
    def opened() -> Iterator[Run]:
        def run(data: bytes) -> None:
            try:
                read(data)
            except allowed:
                return

        yield run

    return opened


def fields_of(data: bytes) -> dict[bytes, bytes]:
    """A hash of the server, from a JSON object of texts; what is none is one field."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = {"meta": data.decode("latin-1")}
    if not isinstance(said, dict):
        return {}
    return {
        name.encode("utf-8", "surrogatepass"): (each if isinstance(each, str) else json.dumps(each)).encode(
            "utf-8", "surrogatepass"
        )
        for name, each in said.items()
    }


def _envelope(data: bytes) -> None:
    envelope = read_envelope(JOB, data)
    rec = JobRecord(JOB, State.QUEUED, Meta(), 0.0, 0.0, envelope)
    shown(rec.view())
    _answers_shown(rec)
    _ = rec.request


def _record(data: bytes) -> None:
    """A job's hash and its result, as every route shows them."""
    fields = fields_of(data)
    result = fields.pop(b"return_value", b"")
    outcome = read_outcome([(b"1-0", {b"return_value": base64.b64encode(result)})]) if result else None
    fields[b"data"] = fields.get(b"data", _text(CALL))
    for rec in (read_heading(JOB, fields, outcome), read_record(JOB, fields, outcome)):
        shown(rec.view())
        _outcome_shown(rec)


def _answers_shown(rec: JobRecord) -> None:
    """What each of OpenAI's routes makes of a job that ended with a result."""
    read_note(rec)
    for how in ENDPOINTS.values():
        with suppress(ClientError):
            shown(how.answer([replace(rec, outcome=ENDED)]))


def _outcome_shown(rec: JobRecord) -> None:
    error = failure(rec)
    if error is not None:
        shown(error.body())
        return
    shown(result_of(rec))
    shown(usage_of([rec], 1))
    shown(usage_of([rec, rec], 1))
    for how in ENDPOINTS.values():
        with suppress(ClientError):
            shown(how.answer([rec]))


def _outcome(data: bytes) -> None:
    outcome = read_outcome([(b"1-0", {b"return_value": base64.b64encode(data)})])
    _outcome_shown(JobRecord(JOB, State.COMPLETED, Meta(), 0.0, 0.0, CALL[3], outcome=outcome))


def _log(data: bytes) -> None:
    """A log's entry: a kind, a gap and the event's data."""
    kind, _, said = data.partition(b"\n\n")
    for event in events.parse_events([(b"1-0", {b"kind": kind, b"data": said})]):
        shown(event.data)
        [int(token) for token in event.data.get("tokens", ())]
        [entry["token"] for entry in event.data.get("logprobs", ())]


def _step(data: bytes) -> None:
    for name, event in events.parse_step(data):
        assert isinstance(name, str)
        assert isinstance(event.data, dict)


def _report(data: bytes) -> None:
    report = WorkerReport.parse(data)
    report.view()
    report.takes("m", "standard")
    shown(dataclasses.asdict(report))


def _file(data: bytes) -> None:
    found = read_file("file-01k00000000000000000000000", fields_of(data))
    if found is not None:
        shown(found.view())
        found.lapsed(0.0)


def _batch(data: bytes) -> None:
    found = read_batch("batch_01k00000000000000000000000", fields_of(data))
    if found is not None:
        shown(found.view())


def _line(data: bytes) -> None:
    for endpoint, how in ENDPOINTS.items():
        line = read_line(RawLine(1, data, len(data), len(data)), endpoint, 1 << 20, read_object)
        if isinstance(line, Fault):
            shown(line.error.body())
        else:
            how.ask(line.body)


def _body(data: bytes) -> None:
    body = read_object(data)
    for kind in (JobRequest, ChatRequest, CompletionRequest, ResponseRequest):
        try:
            kind.model_validate(body)
        except ValidationError:
            continue


def _webhook(data: bytes) -> None:
    delivery = Delivery.parse(data)
    if delivery is not None:
        shown(delivery.view())
    Recipient.parse(data)
    name = event_id(data)
    assert name is None or name.isascii()


def _small(data: bytes) -> None:
    """The texts that are no JSON: a place in a queue, a place held for a client, a chunk, a line's entry."""
    slip = Slip.parse(data)
    assert Slip.parse(str(slip).encode()) == slip
    head, _, rest = data.decode("latin-1").partition("\n")
    read_booking(head, rest, 0.0)
    entry = read_entry(data)
    assert entry is None or len(entry[1]) < MANY_BYTES
    for name, share in host_share.parse(data).items():
        host_share.dump({name: share})
    try:
        unpack(data)
    except ValueError:
        return


def _seeds() -> dict[str, Sequence[bytes]]:
    call = _text(CALL)
    meta = Meta(model="m", seed=5, prompt_tokens=3, ended_as="completed", metadata={"a": "b"})
    hash_ = {"meta": meta.fields(), "status": "finished", "created_at": "2026-01-01T00:00:00Z"}
    result = {"text": "a", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    error = ClientError("insufficient_memory", "insufficient memory", retry_after=2, limit_bytes=5).body()
    outcomes = [
        {"state": "completed", "result": result, "error": None},
        {"state": "failed", "result": None, "error": error},
    ]
    report = WorkerReport(
        *("w", "h", 1, "ready", 1 << 30, "set", {"set": 1}, 1, 1, 1, 1, 1, 512, ("m",)),
        cards={"m": PLAIN.to_json()},
        queues=("standard",),
        running=(),
    )
    chat = {"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": [], "stop": ["x"], "n": 2}
    batch = {"owner": "", "endpoint": "/v1/completions", "input_file_id": "file-0", "created_at": "1.5"}
    batch |= {"expires_at": "2.5", "status": "in_progress", "at:in_progress": "1.7", "total": "3"}
    batch |= {"metadata": '{"a": "b"}', "errors": '[{"code": "a", "message": "b", "line": 1}]'}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    file = {"owner": "", "filename": "a", "purpose": "batch", "size_bytes": "5", "created_at": "1"}
    slot = CacheGroup("full", 2, bytes_per_token=1024)
    card = replace(PLAIN, caches=(slot,))
    sent = Delivery(status="pending", last_error="x")
    to = {"url": "https://a.example/", "secret": "whsec_x", "id": "evt_1"}
    share = {"pid": 1, "pools": {"host": 5}, "bytes": 5}
    answer = {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}
    answer |= {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    return {
        "envelope": [zlib.compress(call), call],
        "record": [_text(hash_ | {"return_value": each, "lease": "w/1", "data": CALL}) for each in outcomes],
        "outcome": [_text(each) for each in outcomes],
        "log": [
            b'delta\n\n{"text": "a", "tokens": [1, 2], "logprobs": [{"token": "a", "logprob": -1.0, "bytes": []}]}',
            b'started\n\n{"attempt": 1, "worker": "w"}',
            b"completed\n\n{}",
        ],
        "step": [_text([[JOB, 1, "delta", {"text": "a"}], [JOB, 2, "completed", {}]])],
        "report": [report.dump().encode()],
        "card": [_text(card.to_json())],
        "key": [new_key(0.0, name="a", models=("m",), priorities=("batch",))[1].dump()],
        "file": [_text(file | {"expires_at": "2", "uses": "0"})],
        "batch": [_text(batch)],
        "line": [_text(line), _text(line | {"url": "/v1/responses", "body": answer})],
        "body": [_text(each) for each in (REQUEST, chat | {"response_format": form}, answer)],
        "webhook": [sent.dump(), _text(to)],
        "shape": [_text({"digest": "0" * 64, "sample_tokens": 5, "base_tokens": 3, "message_tokens": 1})],
        "small": [
            b"12 standard 0123456789abcdef",
            _text({"t": share}),
            b"+" + zlib.compress(b"{}"),
            zlib.compress(b"a"),
        ],
    }


_READERS: dict[str, Callable[[], Any]] = {
    "envelope": _reader(_envelope, ClientError),
    "record": _reader(_record, ClientError),
    "outcome": _reader(_outcome),
    "log": _reader(_log, ClientError),
    "step": _reader(_step, ValueError),
    "report": _reader(_report, ValueError),
    "card": _reader(lambda data: ModelCard.from_json(_an_object(data)), ValueError),
    "key": _reader(read_key, ValueError),
    "file": _reader(_file),
    "batch": _reader(_batch),
    "line": _reader(_line, ClientError, ValidationError),
    "body": _reader(_body, ClientError),
    "webhook": _reader(_webhook),
    "shape": _reader(_SHAPE.validate_json, ValueError),
    "small": _reader(_small),
}


def _an_object(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except RecursionError as error:
        raise ValueError from error
    if not isinstance(said, dict):
        raise ValueError("no object")  # noqa: TRY004 (as its callers have it)
    return said


def targets() -> list[Target]:
    """One a reader."""
    return [
        Target(name, lambda name=name: _seeds()[name], opened, pure=True) for name, opened in _READERS.items()
    ]
