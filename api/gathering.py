"""Several jobs' events as one stream, for whoever waits for all of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from api.reader import TICK_SECONDS
from api.services import Services
from api.watching import watch
from scheduler.events import LoggedEvent

Look = tuple[int, list[LoggedEvent]]
"""What a look brought, and of which job, by its place; an empty list in silence."""


def gather(here: Services, job_ids: Sequence[str]) -> Iterator[Look]:
    """The jobs' events from the first to each one's last, as they come.

    Of one job they are :func:`~api.watching.watch`'s. Of more, each has a thread that watches it, under gevent a
    greenlet, which ends within a tick of whoever listens.

    Raises:
        ClientError: ``not_found``; a job was deleted.
    """
    if len(job_ids) == 1:
        for events in watch(here, job_ids[0]):
            yield 0, events
        return
    heard: queue.SimpleQueue[Look | Exception] = queue.SimpleQueue()
    left = threading.Event()
    for place, job_id in enumerate(job_ids):
        following = threading.Thread(
            target=_follow, args=(here, job_id, place, heard, left), name=f"follow {job_id}", daemon=True
        )
        following.start()
    running = len(job_ids)
    try:
        while running:
            try:
                said = heard.get(timeout=TICK_SECONDS)
            except queue.Empty:
                yield 0, []
                continue
            if isinstance(said, Exception):
                raise said
            running -= said[1][-1].ends
            yield said
    finally:
        left.set()


def _follow(
    here: Services,
    job_id: str,
    place: int,
    heard: queue.SimpleQueue[Look | Exception],
    left: threading.Event,
) -> None:
    try:
        for events in watch(here, job_id):
            if left.is_set():
                return
            if events:
                heard.put((place, events))
    except Exception as error:  # noqa: BLE001 - whoever listens raises it
        heard.put(error)
