"""Traces: off unless named, bounded, and never in a job's way."""

from __future__ import annotations

import json
import logging
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.testing import capture_logs

from scheduler import span_sender
from scheduler.errors import SettingsInvalid
from scheduler.job import State
from scheduler.job_spans import Happening, Stretch, end_attributes, job_attributes, lost, waited
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta
from scheduler.settings import load
from scheduler.span_sender import CLOSE_SECONDS, SpanSender, exporter_to
from scheduler.traceparent import read_traceparent, write_traceparent

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
"""No OpenTelemetry can be imported from here on; some libraries take it where they find it."""


def run(code: str, **variables: str) -> str:
    """What a new interpreter prints."""
    command = (sys.executable, "-c", WITHOUT + code)
    return subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout


def test_nothing_of_opentelemetry_is_needed_or_imported_where_traces_are_off() -> None:
    """The API is made and the workers are imported where it cannot be; nor is what would import it."""
    code = (
        "import api.app, workers, workers.run; api.app.create_app(); workers.MetalWorker; print(*sys.modules)"
    )
    names = set(run(code, TIDEGATE_REDIS_URL="redis://127.0.0.1:1").split())
    assert "scheduler.tracing" in names
    assert {name for name in names if name.startswith("opentelemetry")} == set()
    assert "scheduler.span_sender" not in names


def test_a_process_that_could_not_send_its_traces_does_not_start() -> None:
    """It says which variable asks for them, and what would install what lacks."""
    code = "from scheduler.settings import load\ntry: load()\nexcept Exception as error: print(type(error).__name__, error)"
    said = run(code, TIDEGATE_TRACES_ENDPOINT="http://127.0.0.1:4318")
    assert said.startswith("SettingsInvalid TIDEGATE_TRACES_ENDPOINT")
    assert "pip install 'tidegate[traces]'" in said


@pytest.mark.parametrize(
    ("url", "posted_to"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector.example/", "https://collector.example/v1/traces"),
        ("http://[::1]:4318/otlp/v1/traces", "http://[::1]:4318/otlp/v1/traces"),
    ],
)
def test_a_collector_is_named_with_or_without_otlps_path(url: str, posted_to: str) -> None:
    """As collectors say their address, or as vendors do."""
    assert load(traces_endpoint=url).traces_endpoint == posted_to
    assert load(traces_endpoint=" ").traces_endpoint is None


@pytest.mark.parametrize(
    "url", ["nonsense", "127.0.0.1:4318", "grpc://x", "http://", "http://x:hunter2", "http://me:hunter2@x"]
)
def test_what_is_no_collectors_url_is_refused_unquoted(url: str) -> None:
    """By the variable's name, when settings are read; it may have a password in it."""
    with pytest.raises(SettingsInvalid, match="TIDEGATE_TRACES_ENDPOINT") as refused:
        load(traces_endpoint=url)
    assert "hunter2" not in str(refused.value)


NUMBERS = st.one_of(st.just(0), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 130) - 1))
HEADERS = st.builds(
    "{}-{:032x}-{:016x}-0{}{}".format,
    st.sampled_from(["00", "01"]),
    *(NUMBERS,) * 2,
    st.integers(0, 3),
    st.sampled_from(["", "\n"]),
)


@given(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(max_size=60),
        HEADERS,
        st.builds(write_traceparent, NUMBERS, NUMBERS),
    )
)
def test_a_stored_trace_is_one_that_can_be_taken_up_or_none(value: object) -> None:
    """What is let through, OpenTelemetry's own reader takes as a span that is recorded."""
    read = read_traceparent(value)
    if read is not None:
        assert read == value
        (context,) = TraceContextTextMapPropagator().extract({"traceparent": read}).values()
        found = context.get_span_context()  # type: ignore[attr-defined]
        assert write_traceparent(found.trace_id, found.span_id) == read
        assert found.trace_flags.sampled
    assert read_traceparent(TRACED) == TRACED


@pytest.mark.parametrize(
    "stored", ["", "x", 7, None, ["a"], TRACED.upper(), TRACED + "\n", "00-" + "0" * 32 + TRACED[35:]]
)
def test_a_trace_that_is_none_costs_its_job_nothing(stored: object) -> None:
    """Whoever writes to the server may have written it: the job is read as one without, and says no more of it."""
    meta = Meta.parse(json.dumps({"traceparent": stored, "model": "m"}))
    assert (meta.traceparent, meta.model) == (None, "m")
    assert {"traceparent", "since"} & json.loads(meta.dump()).keys() == set()


def test_a_job_without_a_trace_is_stored_as_it_was_before_there_were_any() -> None:
    """Not a byte more; a trace's fields are carried with the job by releases that do not know them, as all others."""
    known = {each.name for each in fields(Meta)} - {"later", "traceparent", "since"}
    assert json.loads(Meta().dump()).keys() == known
    meta = Meta(traceparent=TRACED).moved(5.0)
    assert Meta.parse(meta.dump()) == meta
    assert meta.since == 5.0
    assert Meta().moved(5.0) == Meta()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SpanSender, InMemorySpanExporter]]:
    """A sender, and what it exports."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    kept = InMemorySpanExporter()
    sender = SpanSender(kept, "tidegate-test", "one")
    yield sender, kept
    sender.close()


HOSTILE = {
    "half": "\ud800",
    "long": "x" * 10_000,
    "wide": 1 << 64,
    "deep": -(1 << 64),
    "none": None,
    "nan": math.nan,
    "list": ["\udfff", "b"],
}


def test_what_a_job_says_never_loses_others_spans(exported: tuple[SpanSender, InMemorySpanExporter]) -> None:
    """Texts, numbers and times that OTLP has no room for are fitted into it: one would lose its whole batch."""
    sender, kept = exported
    for moment in (-1e300, -5.0, math.inf, math.nan, 1e300):
        happening = Happening("shed", moment, HOSTILE)
        part = Stretch("part", moment, -moment, HOSTILE)
        sender.tell(TRACED, Stretch("whole", moment, 0.0, HOSTILE, [happening], [part], "\ud800"))
    sender.tell(None, Stretch("untraced", 0.0, 1.0))
    sender.flush()
    spans = kept.get_finished_spans()
    assert len(spans) == 10
    assert encode_spans(spans).SerializeToString()
    assert all(span.end_time >= span.start_time >= 0 for span in spans if span.end_time and span.start_time)
    assert spans[0].resource.attributes["service.name"] == "ours"
    assert spans[0].resource.attributes["service.instance.id"] == "one"


def heard_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nothing was complained of yet."""
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "handlers", [])
    span_sender._hush()
    span_sender._hush()


def test_complaints_of_opentelemetrys_are_one_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kinds of the errors, and how many lines were left out since; not their words, which may have addresses."""
    heard_from_the_start(monkeypatch)
    speaker = logging.getLogger("opentelemetry.sdk.some.room")
    with capture_logs() as logs:
        for _ in range(5):
            speaker.error("Failed: %s, %s", 401, OSError("http://me:hunter2@x"))
        (ours,) = logging.getLogger("opentelemetry").handlers
        ours._next = 0.0  # type: ignore[attr-defined]
        speaker.warning("Queue full, dropping %s.", "Span")
    assert [each["reason"] for each in logs] == ["Failed: 401, OSError", "Queue full, dropping Span."]
    assert [each["unsaid"] for each in logs] == [0, 4]


def test_a_dead_collector_costs_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of spans, which it never takes, cost their sender no wait, and the end of the process but a moment."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    heard_from_the_start(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and answers nothing
        sender = SpanSender(
            exporter_to(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"), "tidegate-test"
        )
        stretch = Stretch("attempt", 1.0, 2.0)
        with capture_logs() as logs:
            began = time.process_time()
            for _ in range(5000):
                sender.tell(TRACED, stretch)
            assert time.process_time() - began < 5.0
            began = time.monotonic()
            sender.close()
            assert time.monotonic() - began < CLOSE_SECONDS + 2.0
    assert [each["event"] for each in logs] == ["traces are not sent"]


def test_names_are_the_conventions_own() -> None:
    """Those of generative AI that are used here exist in OpenTelemetry's list of them."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    rec = JobRecord("job_x", State.QUEUED, Meta(), 0.0, 0.0)
    used = job_attributes(rec).keys() | end_attributes(Outcome(State.COMPLETED, {})).keys()
    assert {name for name in used if name.startswith("gen_ai.")} <= known
    assert all(name.startswith(("gen_ai.", "tidegate.")) for name in used)


def test_how_a_job_that_waited_ended_is_told() -> None:
    """With the code of its error; of an attempt whose worker fell silent, since when it was that."""
    rec = JobRecord("job_x", State.QUEUED, Meta(since=3.0), 1.0, 1.0, lease="w/2")
    refused = Outcome(State.FAILED, error={"code": "queue_timeout", "message": "secret"})
    stay = waited(rec, 1.0, 9.0, refused)
    assert (stay.error, stay.attributes["tidegate.job.status"]) == ("queue_timeout", "failed")
    assert "secret" not in str(stay)
    assert waited(rec, 1.0, 9.0).error is None
    gone = lost(rec, 8.0)
    assert (gone.began_at, gone.ended_at) == (3.0, 8.0)
    assert (gone.attributes["tidegate.worker"], gone.attributes["tidegate.attempt"]) == ("w", 2)
