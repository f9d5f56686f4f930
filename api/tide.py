"""`/v1/tide`: how the workers' memory stood in the last quarter of an hour, and, as a stream, how all of it moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.caller import Caller, caller
from api.capacity import told
from api.cursor import cursor
from api.presence import Gone, client_gone
from api.reader import TICK_SECONDS
from api.schemas import StreamQuery
from api.services import services
from api.spec import ERRORS, streams
from api.sse import HEARTBEAT, RETRY, Pulse, data_event, named_event, stream_answer
from api.tide_reader import Look, TideReader
from api.tide_schemas import TIDE_EVENTS, Tide, TideQuery
from scheduler.scene import Scene
from scheduler.tide import history
from scheduler.tides import BEFORE_ALL, Number, behind_all, read_tides

routes = APIBlueprint("tide", __name__, abp_tags=[Tag(name="capacity")], abp_responses=ERRORS)

_SHARED_MOST: Final = 16
"""Events that are kept of one look for others who are to be sent the same; a first one may have a megabyte."""

_TROUBLE: Final = {
    "code": "store_unavailable",
    "message": "the queue's server does not answer; this stream goes on when it does",
}


@routes.get("/v1/tide", responses={200: Tide})
def get_tide(query: TideQuery) -> Response:
    """Tell how each live worker's memory stood lately, and what happened.

    A point a second at most while something changes, and a mark for each job that was admitted, shed, preempted or
    ended, each time that memory ran out, and each death of an engine; where a second had more than 24 of these, jobs'
    admissions and ends are left out first. `?seconds=N` goes so far back, 900 at most.
    """
    lifecycle, sees = services().lifecycle, caller().sees
    names = [worker.name for worker in lifecycle.workers()]
    tides = read_tides(lifecycle.connection, dict.fromkeys(names, BEFORE_ALL), query.seconds)
    told = [history(name, (entry for _, entry in tides[name]), sees) for name in names]
    return answer({"object": "tide", "now": time.time(), "workers": told})


@routes.get("/v1/tide/stream", responses={200: streams(events=TIDE_EVENTS)})
def follow_tide(query: StreamQuery) -> Response:
    """Follow the tide: the workers, their histories, the queue, what runs and what ended.

    An event `tide` comes at once, and then whenever something changed, twice a second at most. The first has the whole
    histories, each other what was written since the one before. Its `id` is a cursor: behind `Last-Event-ID`, or else
    `?after=N`, the histories go on, and are not whole. While the queue's server does not answer, the stream stays
    open: an event `trouble` says so, without a number, and then `tide` comes again. Lines that begin with a colon say
    that the stream is alive, after ten seconds in silence. It ends when its client leaves or its key is removed, and
    when the server stops; jobs and models that a key may not see are left out.
    """
    after = cursor(request.headers.get("Last-Event-ID"), query.after or 0)
    return stream_answer(tide_stream(services().tide, caller(), after, client_gone()))


def tide_stream(reader: TideReader, who: Caller, after: int, gone: Gone) -> Iterator[bytes]:
    """The stream's pieces, until the client went away or the reader was closed.

    Args:
        reader: looks at the tide.
        who: the caller, who is shown what it may see.
        after: the cursor of the last event that the client has; 0 where it has none.
        gone: whether the client is there no more.
    """
    yield RETRY
    seen: dict[str, Number] = {}
    pulse, seat = Pulse(), reader.enter(who.sees)
    try:
        while not reader.closed:
            look = seat.take(TICK_SECONDS)
            if look is not None:
                pulse.beat()
                yield _event(look, who, seen, behind_all(after) if after else BEFORE_ALL)
            elif gone():
                return
            elif pulse.due:
                yield HEARTBEAT
    finally:
        reader.leave(seat)


def _event(look: Look, who: Caller, seen: dict[str, Number], since: Number) -> bytes:
    """What a look says, and of its histories what is behind what was ``seen`` of each, which is moved on."""
    if look.trouble:
        return b"event: trouble\n" + data_event(_TROUBLE)
    behind = {name: seen.get(name, since) for name in look.histories}
    for name, entries in look.histories.items():
        if entries and entries[-1][0] > behind[name]:
            seen[name] = entries[-1][0]
    alike = (who.sees, who.key and who.key.models, *behind.values())
    event = look.events.get(alike)
    if event is None:
        event = _made(look, who, behind)
        if len(look.events) < _SHARED_MOST:
            look.events[alike] = event
    return event


def _made(look: Look, who: Caller, behind: Mapping[str, Number]) -> bytes:
    scene = look.scenes[who.sees]
    histories = [
        history(name, (entry for number, entry in entries if number > behind[name]), who.sees)
        for name, entries in look.histories.items()
    ]
    news = {
        "now": look.now,
        "capacity": _capacity(look, scene, who.may_use),
        "histories": histories,
        "queue": _queue(scene, look.now),
        "running": scene.running,
        "ended": scene.ended,
    }
    return named_event(look.cursor, "tide", news)


def _capacity(look: Look, scene: Scene, may_use: Callable[[str], bool]) -> dict[str, Any]:
    classes = {name: (each.depth.jobs, each.depth.tokens) for name, each in scene.queue.items()}
    jobs, tokens = (sum(each) for each in zip(*classes.values(), strict=True))
    return told(look.workers, (jobs, tokens), classes, look.webhooks, may_use)


def _queue(scene: Scene, now: float) -> Mapping[str, Any]:
    return {
        name: {
            "jobs": each.depth.jobs,
            "tokens": each.depth.tokens,
            "oldest_seconds": None
            if (at := each.depth.head_made_at) is None
            else round(max(0.0, now - at), 1),
            "head": each.head,
        }
        for name, each in scene.queue.items()
    }
