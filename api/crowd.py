"""How many requests of one key are open at once: else one client's streams and waits could hold every connection.

Counted by each process, as connections are. What is answered at once is open for as long as it is made; a stream until
it ends or its client goes. Without keys whoever calls is this machine's, and is not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from flask import Flask, Response, g

from api.services import EXTENSION, Services
from scheduler.errors import ClientError

_RETRY_SECONDS: Final = 1


@dataclass(slots=True)
class _Place:
    """One request's, which is left once."""

    open: Counter[str]
    owner: str
    left: bool = False
    streams: bool = False

    def leave(self) -> None:
        if not self.left:
            self.left = True
            self.open[self.owner] -= 1
            if not self.open[self.owner]:
                del self.open[self.owner]


class Crowd:
    """The open requests of one process.

    Args:
        most: of one key.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: Counter[str] = Counter()
        """How many, by the key's owner."""

    def enter(self) -> None:
        """Before a request that was let in.

        Raises:
            ClientError: ``rate_limit_exceeded``; as many of its key's are open.
        """
        caller = g.get("caller")
        if caller is None or caller.key is None:
            return
        if self.open[caller.owner] >= self.most:
            reason = f"{self.most:,} requests of this API key are open here, streams and waits among them"
            raise ClientError("rate_limit_exceeded", reason, retry_after=_RETRY_SECONDS)
        self.open[caller.owner] += 1
        g.place = _Place(self.open, caller.owner)


def install(app: Flask) -> None:
    """Count an application's, behind the gate, which knows whose they are."""
    here: Services = app.extensions[EXTENSION]
    crowd = app.extensions["crowd"] = Crowd(here.settings.max_open_per_key)
    app.before_request(crowd.enter)
    app.after_request(_stay_while_streaming)
    app.teardown_request(_leave)


def _stay_while_streaming(response: Response) -> Response:
    place: _Place | None = g.get("place")
    if place is not None and response.is_streamed:
        place.streams = True
        response.call_on_close(place.leave)
    return response


def _leave(_: BaseException | None) -> None:
    place: _Place | None = g.get("place")
    if place is not None and not place.streams:
        place.leave()
