"""Whether this process sends traces: nothing of OpenTelemetry is imported where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.settings import Settings

if TYPE_CHECKING:
    from scheduler.span_sender import SpanSender


def begin(settings: Settings, service: str, instance: str = "") -> SpanSender | None:
    """What sends this process's spans; None where the settings name nowhere to send them.

    To be called in the process that sends them, once gevent has patched it where it does: it starts a thread.

    Args:
        settings: the process's settings, which were looked at when they were read.
        service: the process's kind, OpenTelemetry's ``service.name``; ``OTEL_SERVICE_NAME`` is heeded before it.
        instance: which one of them it is.
    """
    if settings.traces_endpoint is None:
        return None
    from scheduler.span_sender import SpanSender, exporter_to  # noqa: PLC0415 (an extra's)

    return SpanSender(exporter_to(settings.traces_endpoint), service, instance)
