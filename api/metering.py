"""What this process counts of its requests: by route, method and status, how long each took, and the streams that are open.

Routes are counted by their patterns, and what has none under one name, so that there are as many series as routes.
"""

from __future__ import annotations

import time
from typing import Final

from flask import Flask, Response, g, request

from api.services import EXTENSION, Services
from api.sse import EVENT_STREAM

METERING: Final = "metering"
NO_ROUTE: Final = "none"
OTHER_METHOD: Final = "OTHER"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metering:
    """One process's requests.

    Args:
        here: its services, whose tally is counted in.
    """

    def __init__(self, here: Services) -> None:
        self._tally = here.lifecycle.tally
        self.streams = 0
        """Answers of events that are being sent."""

    def begin(self) -> None:
        """A request came."""
        g.came_at = time.perf_counter()

    def answered(self, response: Response) -> Response:
        """Its answer begins."""
        rule = request.url_rule
        route = NO_ROUTE if rule is None else rule.rule
        method = request.method if request.method in _METHODS else OTHER_METHOD
        self._tally.count("http_requests", route, method, str(response.status_code))
        if (came_at := g.get("came_at")) is not None:
            seconds = time.perf_counter() - came_at
            self._tally.note("http_request_duration_seconds", seconds, route, method)
        if response.is_streamed and response.mimetype == EVENT_STREAM:
            self.streams += 1
            response.call_on_close(self._stream_over)
        return response

    def _stream_over(self) -> None:
        self.streams -= 1


def install(app: Flask) -> None:
    """Count an application's: before all others, so that those whom they turn away are counted."""
    here: Services = app.extensions[EXTENSION]
    metering = app.extensions[METERING] = Metering(here)
    app.before_request(metering.begin)
    app.after_request(metering.answered)
