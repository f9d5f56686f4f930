"""Sends spans by OpenTelemetry: made from what happened, batched, exported by a thread; the only importer of it.

A collector that does not answer costs a line in the log now and then: spans wait in a queue of bounded length
(``OTEL_BSP_MAX_QUEUE_SIZE``), whose oldest are dropped. OpenTelemetry's own variables are heeded: for headers, time-outs,
certificates and compression (``OTEL_EXPORTER_OTLP_*``), sampling (``OTEL_TRACES_SAMPLER``), batches (``OTEL_BSP_*``) and
what the service is called (``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scheduler.job_spans import Happening, Stretch, Value
from scheduler.traceparent import write_traceparent
from scheduler.version import version

CLOSE_SECONDS: Final = 2.0
"""How long the end of a process waits for its last spans to be sent."""

_COMPLAINT_SECONDS: Final = 60.0
_TEXT_MOST: Final = 256
_NS_MOST: Final = (1 << 63) - 1
_INTEGER_MOST: Final = (1 << 63) - 1  # what OTLP has room for

log = structlog.get_logger(__name__)


class SpanSender:
    """One process's spans.

    Args:
        exporter: sends batches of them.
        service: the process's kind.
        instance: which one of them it is; '' for no name.
    """

    def __init__(self, exporter: SpanExporter, service: str, instance: str = "") -> None:
        _hush()
        said = {"service.name": service, "service.version": version()}
        if instance:
            said["service.instance.id"] = instance
        resource = Resource.create(said).merge(OTELResourceDetector().detect())
        self._exporter = exporter
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tidegate", version())
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, traceparent: str | None, began_at: float) -> Span:
        """The span of a request that goes on; whoever begins it ends it.

        Args:
            name: the span's.
            traceparent: the header that came with it, whatever it says; what is none begins a trace of its own.
            began_at: Unix seconds.
        """
        return self._tracer.start_span(
            name, self._within(traceparent), SpanKind.SERVER, start_time=_ns(began_at)
        )

    def tell(self, traceparent: str | None, stretch: Stretch) -> None:
        """Send a span that is over, and those within it; nothing where the job has no trace. It never raises."""
        if traceparent is None:
            return
        try:
            self._tell(stretch, self._within(traceparent))
        except Exception as error:  # noqa: BLE001 (whatever it is, the job goes on)
            log.warning("span not made", span=stretch.name, error=type(error).__name__)

    def traceparent_of(self, span: Span) -> str | None:
        """What a job takes with it, so that its spans hang from this one; None where the trace is not recorded."""
        context = span.get_span_context()
        return write_traceparent(context.trace_id, context.span_id) if context.trace_flags.sampled else None

    def describe(self, span: Span, attributes: Mapping[str, Value]) -> None:
        """Say more of a span that goes on."""
        span.set_attributes(clean(attributes))

    def note(self, span: Span, happening: Happening) -> None:
        """Add what happened at one moment of a span."""
        span.add_event(happening.name, clean(happening.attributes), _ns(happening.at))

    def fail(self, span: Span, code: str) -> None:
        """A span's part went wrong."""
        self.describe(span, {"error.type": code})
        span.set_status(Status(StatusCode.ERROR, _text(code)))

    def link(self, span: Span, traceparent: str) -> None:
        """Point to another trace, whose job answers this span's request too."""
        other = get_current_span(self._within(traceparent)).get_span_context()
        if other.is_valid and other.trace_id != span.get_span_context().trace_id:
            span.add_link(other)

    def flush(self) -> None:
        """Send what waits, and wait for it."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what waits, for a moment; what is not sent by then is lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            self._exporter.shutdown()  # it tries no more

    def _within(self, traceparent: str | None) -> Context:
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        return self._propagator.extract(carrier, Context())

    def _tell(self, stretch: Stretch, context: Context) -> None:
        began = _ns(stretch.began_at)
        span = self._tracer.start_span(
            stretch.name, context, attributes=clean(stretch.attributes), start_time=began
        )
        for each in stretch.happenings:
            self.note(span, each)
        if stretch.error is not None:
            self.fail(span, stretch.error)
        for part in stretch.parts:
            self._tell(part, set_span_in_context(span, context))
        span.end(max(began, _ns(stretch.ended_at)))


def exporter_to(url: str) -> SpanExporter:
    """What posts spans to a collector's URL."""
    return OTLPSpanExporter(endpoint=url)


def clean(attributes: Mapping[str, Value]) -> dict[str, str | bool | int | float | list[str]]:
    """Attributes as OTLP takes them: one value that it does not take would lose the whole batch."""
    found: dict[str, str | bool | int | float | list[str]] = {}
    for name, value in attributes.items():
        if isinstance(value, str):
            found[name] = _text(value)
        elif isinstance(value, int):
            found[name] = value if abs(value) <= _INTEGER_MOST else float(value)
        elif isinstance(value, float):
            if math.isfinite(value):
                found[name] = value
        elif isinstance(value, list | tuple):
            found[name] = [_text(each) for each in value]
    return found


def _text(value: str) -> str:
    return value[:_TEXT_MOST].encode(errors="replace").decode()


def _ns(seconds: float) -> int:
    """Nanoseconds, within what OTLP has room for."""
    return min(_NS_MOST, max(0, round(seconds * 1e6) * 1000)) if math.isfinite(seconds) else 0


class _Seldom(logging.Handler):
    """OpenTelemetry's complaints as one line a minute: of each batch, it would say several."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = -math.inf
        self._silenced = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, or count it. What it quotes of errors may have the collector's address: their kinds are told."""
        now = time.monotonic()
        if now < self._next:
            self._silenced += 1
            return
        self._next = now + _COMPLAINT_SECONDS
        log.warning("traces are not sent", reason=_told(record), unsaid=self._silenced)
        self._silenced = 0


def _told(record: logging.LogRecord) -> str:
    """A complaint, with the kinds of errors in the place of their words."""
    said = record.args if isinstance(record.args, tuple) else ()
    kinds = (type(each).__name__ if isinstance(each, Exception) else each for each in said)
    try:
        return (str(record.msg) % tuple(kinds))[:_TEXT_MOST]
    except (TypeError, ValueError):  # it is written for other values
        return str(record.msg)


def _hush() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(each, _Seldom) for each in logger.handlers):
        logger.handlers[:] = [_Seldom()]
        logger.propagate = False
