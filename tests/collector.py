"""A collector of traces for tests: takes OTLP over HTTP on loopback, and keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Received:
    """A span as it came; times are Unix seconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_at: float
    ended_at: float
    attributes: dict[str, Any]
    events: list[tuple[float, str]]
    failed: bool


@dataclass
class Collector:
    """What came, and where from it comes."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    @property
    def spans(self) -> list[Received]:
        """In the order of their beginnings."""
        found = [span for body in list(self.bodies) for span in _read(body)]
        return sorted(found, key=lambda span: (span.began_at, -span.ended_at))

    def named(self, name: str) -> list[Received]:
        """Those of a name."""
        return [span for span in self.spans if span.name == name]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.paths.add(self.path)
            made.bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def waterfall(spans: list[Received], width: int = 48) -> str:
    """A trace as people draw it: a bar a span, below its parent."""
    begin, end = min(span.began_at for span in spans), max(span.ended_at for span in spans)
    inside = {span.span_id for span in spans}
    lines = []

    def draw(span: Received, depth: int) -> None:
        left = round((span.began_at - begin) / (end - begin) * width)
        bar = max(1, round((span.ended_at - span.began_at) / (end - begin) * width))
        drawn = " " * min(left, width - 1) + "█" * bar
        seconds = f"{span.ended_at - span.began_at:.3f} s"
        said = " ".join(name for _, name in span.events if name != "submitted")
        lines.append(f"{'  ' * depth + span.name:<18} {drawn:<{width}} {seconds:>8}  {said}".rstrip())
        for child in spans:
            if child.parent_id == span.span_id:
                draw(child, depth + 1)

    for span in spans:
        if span.parent_id not in inside:
            draw(span, 0)
    return "\n".join(lines)


def _read(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    _attributes(span.attributes),
                    [(event.time_unix_nano / 1e9, event.name) for event in span.events],
                    span.status.code == Status.STATUS_CODE_ERROR,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
