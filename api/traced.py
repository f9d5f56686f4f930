"""The span of a submission: taken up from its client's ``traceparent``, handed on to its jobs, ended with its answer.

Only what comes to the queue's door has one: requests without a right key, or that are no jobs, leave no trace. The
header is read by OpenTelemetry's own rules; one that breaks them is as none.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request

from api.services import EXTENSION, Services, services
from scheduler import tracing
from scheduler.errors import ClientError
from scheduler.job_spans import Happening, Value
from scheduler.lifecycle import Lifecycle
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.standing import Standing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from scheduler.span_sender import SpanSender


def install(app: Flask) -> None:
    """Trace the application's submissions, where the settings say so."""
    lifecycle: Lifecycle = app.extensions[EXTENSION].lifecycle
    lifecycle.spans = tracing.begin(lifecycle.settings, "tidegate-api")
    if lifecycle.spans is not None:
        app.before_request(_note_time)
        app.after_request(_finish)


def close(lifecycle: Lifecycle) -> None:
    """Send the last spans, for a moment."""
    if lifecycle.spans is not None:
        lifecycle.spans.close()


def accept(here: Services, job: JobRequest, owner: str, **how: Any) -> tuple[JobRecord, Standing | None]:
    """Accept the present request's job, as :meth:`scheduler.lifecycle.Lifecycle.accept` does, within its trace."""
    spans = here.lifecycle.spans
    if spans is None:
        return here.lifecycle.accept(job, owner, **how)
    span = g.get("span") or _begin(spans)
    try:
        rec, standing = here.lifecycle.accept(job, owner, traceparent=spans.traceparent_of(span), **how)
    except ClientError as error:
        g.span_error = error.code
        raise
    said: dict[str, Value] = {"tidegate.job.id": rec.id, "tidegate.replayed": rec.replayed}
    spans.describe(span, said | {"gen_ai.request.model": job.model, "tidegate.priority": job.priority})
    spans.note(span, Happening("submitted", time.time(), said))
    if rec.replayed and rec.meta.traceparent is not None:
        spans.link(span, rec.meta.traceparent)
    return rec, standing


def _note_time() -> None:
    g.began_at = time.time()


def _begin(spans: SpanSender) -> Span:
    route = request.url_rule.rule if request.url_rule is not None else request.path
    name = f"{request.method} {route}"
    g.span = spans.begin(name, request.headers.get("traceparent"), g.began_at)
    spans.describe(
        g.span,
        {
            "http.request.method": request.method,
            "http.route": route,
            "url.path": request.path,
            "url.scheme": request.scheme,
            "tidegate.request.id": g.get("request_id"),
        },
    )
    return g.span  # type: ignore[no-any-return]


def _finish(response: Response) -> Response:
    """End the span with the answer; a stream's, when its last byte is sent or its client left."""
    span, spans = g.get("span"), services().lifecycle.spans
    if span is not None and spans is not None:
        code, status = g.get("span_error"), response.status_code
        spans.describe(span, {"http.response.status_code": status, "error.type": code})
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            spans.fail(span, code or str(status))
        if response.is_streamed:
            response.call_on_close(span.end)
        else:
            span.end()
    return response
