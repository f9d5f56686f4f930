"""The span of a submission, its client's header and its jobs' place in its trace; from real servers where it matters."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask.testing import FlaskClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from redis import Redis

from api.app import create_app
from api.services import EXTENSION, Services
from scheduler import span_sender
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings, load
from tests.collector import collector
from tests.conftest import MODEL
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"
JOB = {"model": MODEL, "prompt": "a b"}


class Traced:
    """An API whose spans the test reads."""

    def __init__(self, connection: Redis, settings: Settings, kept: InMemorySpanExporter) -> None:
        self.app = create_app(settings, connection)
        self.client: FlaskClient = self.app.test_client()
        self.here: Services = self.app.extensions[EXTENSION]
        self._kept = kept

    def post(self, path: str = "/v1/jobs", header: str | None = None, **more: Any) -> Any:
        """Submit."""
        headers = {} if header is None else {"traceparent": header}
        body = (JOB if path == "/v1/jobs" else {}) | more
        return self.client.post(path, json=body, headers=headers)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended."""
        assert self.here.lifecycle.spans is not None
        self.here.lifecycle.spans.flush()
        return [*self._kept.get_finished_spans()]


@pytest.fixture
def traced(
    connection: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Traced]:
    """It exports into memory."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(span_sender, "exporter_to", lambda _: kept)
    settings = load(
        redis_url=valkey_url, data_dir=tmp_path, models=(MODEL,), traces_endpoint="http://127.0.0.1:1"
    )
    made = Traced(connection, settings, kept)
    yield made
    made.app.end()
    made.here.reader.close()


def said(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or {})


def test_a_submission_goes_on_in_its_clients_trace(traced: Traced) -> None:
    """Its span hangs from the client's, and its job from its span; a look at the job has no span."""
    answer = traced.post(header=GOOD)
    assert traced.client.get(answer.headers["Location"]).status_code == 200
    (span,) = traced.spans
    assert span.context is not None and span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.name == "POST /v1/jobs"
    about = said(span)
    assert about["http.response.status_code"] == 202
    assert about["tidegate.job.id"] == answer.json["id"]
    assert about["tidegate.request.id"] == answer.headers["x-request-id"]
    assert "traceparent" not in answer.headers
    meta = traced.here.lifecycle.get(answer.json["id"]).meta
    assert meta.traceparent == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert "traceparent" not in json.dumps(answer.json)


@pytest.mark.parametrize(
    "header",
    [
        *("", "x", "00", GOOD.upper(), GOOD + "-more", f"{GOOD},{GOOD}", f"{GOOD}, {GOOD}", "é" * 9),
        *(GOOD.replace(TRACE, "0" * 32), GOOD.replace(PARENT, "0" * 16), "ff" + GOOD[2:], "0" * 8000),
        *(f"00-{TRACE}-{PARENT}", GOOD.replace("-", "_"), "01-" * 2000, GOOD.replace("0af7", "gggg")),
    ],
    ids=range(16),
)
def test_a_header_that_is_none_does_nothing(traced: Traced, header: str) -> None:
    """The submission is one like any other, and its trace begins with it."""
    assert traced.post(header=header).status_code == 202
    (span,) = traced.spans
    assert span.parent is None
    assert span.context is not None and f"{span.context.trace_id:032x}" != TRACE


def test_a_client_that_does_not_record_its_trace_has_none_here(traced: Traced) -> None:
    """As its header's flag says; the job is like one of a server that sends no traces."""
    answer = traced.post(header=f"00-{TRACE}-{PARENT}-00")
    assert traced.here.lifecycle.get(answer.json["id"]).meta.traceparent is None
    assert traced.spans == []


def test_a_refused_submission_says_why(traced: Traced) -> None:
    """By its error's code; what is the client's own fault is no error of the server's. Without a job, no trace."""
    assert traced.post(model="unknown").status_code == 404
    assert traced.post(prompt=None).status_code == 400
    (span,) = traced.spans
    assert said(span)["error.type"] == "model_not_found"
    assert span.status.status_code is StatusCode.UNSET


def test_a_job_that_ends_in_the_queue_has_its_stay_told(traced: Traced) -> None:
    """By whoever ended it: cancelled by its client here."""
    job_id = traced.post(header=GOOD).json["id"]
    traced.client.post(f"/v1/jobs/{job_id}/cancel")
    server, stay = traced.spans
    assert stay.parent is not None and server.context is not None
    assert (stay.name, stay.parent.span_id) == ("queue", server.context.span_id)
    assert said(stay)["tidegate.job.status"] == "cancelled"


def test_choices_share_the_span_of_their_request(traced: Traced, connection: Redis) -> None:
    """A chat with two answers has one span, from which both jobs hang; a stream's ends with its last byte."""
    worker = PretendWorker(connection)
    worker.report()
    asked = {"model": MODEL, "n": 2, "stream": True, "messages": [{"role": "user", "content": "one two"}]}
    with worker.answering():
        answer = traced.post("/v1/chat/completions", **asked)
        assert b"[DONE]" in answer.data
        answered_at = time.time_ns()
        answer.close()
    (span,) = traced.spans
    assert (span.name, len(span.events)) == ("POST /v1/chat/completions", 2)
    assert span.end_time is not None and span.end_time >= answered_at
    lifecycle: Lifecycle = traced.here.lifecycle
    parents = {rec.meta.traceparent for rec in lifecycle.page().records}
    assert span.context is not None
    assert parents == {f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"}


def test_a_submission_sent_again_points_to_the_trace_of_its_job(traced: Traced) -> None:
    """The job stays in the first one's."""
    headers = {"Idempotency-Key": "k"}
    first, again = (traced.client.post("/v1/jobs", json=JOB, headers=headers) for _ in range(2))
    assert first.json == again.json or first.json["id"] == again.json["id"]
    one, two = traced.spans
    assert one.context is not None and two.context is not None
    assert [link.context.trace_id for link in two.links] == [one.context.trace_id]
    assert said(two)["tidegate.replayed"] is True


def test_a_served_api_sends_its_last_spans_before_it_ends(
    valkey_url: str, connection: Redis, tmp_path: Path
) -> None:
    """Threads of gevent's send them, at its end too, without waiting for the next batch's time."""
    with collector() as made:
        with serve(valkey_url, tmp_path, more={"TIDEGATE_TRACES_ENDPOINT": made.url}) as url:
            for number in range(3):
                header = f"00-{number + 1:032x}-{PARENT}-01"
                assert (
                    httpx.post(f"{url}/v1/jobs", json=JOB, headers={"traceparent": header}).status_code == 202
                )
        assert [int(span.trace_id, 16) for span in made.spans] == [1, 2, 3]
        assert {span.service for span in made.spans} == {"tidegate-api"}


def test_a_silent_collector_holds_up_neither_clients_nor_the_end(
    valkey_url: str, connection: Redis, tmp_path: Path
) -> None:
    """It takes connections and answers nothing; the log has a line of it at most."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        more = {
            "TIDEGATE_TRACES_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        with (
            serve(valkey_url, tmp_path, more=more) as url,
            httpx.Client(base_url=url, trust_env=False) as client,
        ):
            waits = []
            for _ in range(20):
                began = time.monotonic()
                assert client.post("/v1/jobs", json=JOB).status_code == 202
                waits.append(time.monotonic() - began)
            assert sorted(waits)[10] < 1.0
            client.close()
            began = time.monotonic()
        assert time.monotonic() - began < 12.0
    log = (tmp_path / "gunicorn.log").read_text()
    assert log.count("traces are not sent") <= 1
    assert "Failed" not in log and "Transient error" not in log.replace("reason='Transient error", "")
