"""The process's one look at the tide for all who watch it: twice a second while anyone does.

Whoever watches has a seat (:class:`Seat`), on which the newest look lies; one that is slow misses looks, and no points:
those it finds in the look's histories, by their numbers. The thread starts with the first who watches and ends some
time after the last one; under gevent it is a greenlet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from api.absence import Absence
from scheduler.fleet import WorkerReport
from scheduler.lifecycle import Lifecycle
from scheduler.scene import Scene, Scenes
from scheduler.tide import HISTORY_SECONDS
from scheduler.tides import BEFORE_ALL, Numbered, cursor_of, read_tides
from scheduler.webhooks import Webhooks

LOOK_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 10.0
_SOONEST_SECONDS: Final = 0.05
"""Between two looks, however many begin to watch."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment.

    ``histories`` hold a quarter of an hour, by worker; ``scenes`` what waits, runs and ended, by who sees it. In trouble
    the server does not answer, and nothing else is known. ``events`` are those made of it: most who watch are sent the same.
    """

    now: float
    workers: Sequence[WorkerReport] = ()
    webhooks: Mapping[str, int] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Numbered]] = field(default_factory=dict)
    scenes: Mapping[str | None, Scene] = field(default_factory=dict)
    trouble: bool = False
    events: dict[tuple[object, ...], bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def cursor(self) -> int:
        """Of all entries that it has, the newest one's milliseconds."""
        return cursor_of(self.histories.values())

    def shown(self, sees: str | None) -> tuple[object, ...]:
        """All of it that somebody may see, but the time."""
        return (self.trouble, self.workers, self.webhooks, self.histories, self.scenes.get(sees))


class Seat:
    """Where the newest look lies for one who watches. One thread puts, one takes, and neither locks."""

    def __init__(self, sees: str | None) -> None:
        self.sees = sees
        self._newest: Look | None = None
        self._rung = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    @property
    def empty(self) -> bool:
        """Whether nothing was ever left."""
        return self._newest is None

    def put(self, look: Look) -> None:
        """Leave a look in place of the one before."""
        self._newest = look
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def take(self, seconds: float) -> Look | None:
        """The newest look, waiting up to ``seconds`` for one; None where none came."""
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return None
        self._rung = False
        return self._newest


class TideReader:
    """Looks at the tide.

    Args:
        lifecycle: the store and the verbs.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._scenes = Scenes(lifecycle)
        self._webhooks = Webhooks(lifecycle.connection, lifecycle.queue.swap)
        self._absence = Absence("the tide")
        self._seats: set[Seat] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_left = 0.0
        self._closed = False
        self._histories: dict[str, list[Numbered]] = {}
        self._newest: Look | None = None

    @property
    def closed(self) -> bool:
        """Whether it looks no more."""
        return self._closed

    @property
    def watching(self) -> int:
        """How many watch."""
        with self._lock:
            return len(self._seats)

    def enter(self, sees: str | None) -> Seat:
        """Begin to watch.

        Args:
            sees: the owner whose jobs alone are shown; None: everybody's.
        """
        seat = Seat(sees)
        with self._lock:
            self._seats.add(seat)
            alive = self._thread is not None and self._thread.is_alive()  # a fork leaves a dead one
            if not (alive or self._closed):
                self._thread = threading.Thread(target=self._run, name="tide-reader", daemon=True)
                self._thread.start()
        self._wake.set()
        return seat

    def leave(self, seat: Seat) -> None:
        """Watch no more."""
        with self._lock:
            self._seats.discard(seat)
            self._last_left = time.monotonic()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed, thread = True, self._thread
        self._wake.set()
        if thread is not None:
            thread.join(_LINGER_SECONDS)

    def _run(self) -> None:
        self._newest = None
        self._histories = {}
        while self._wanted():
            self._wake.clear()
            began = time.monotonic()
            with self._lock:
                seers = {seat.sees for seat in self._seats}
            if seers:
                self._tell(self._look(seers))
            time.sleep(_SOONEST_SECONDS)
            self._wake.wait(max(0.0, began + LOOK_SECONDS - time.monotonic()))

    def _wanted(self) -> bool:
        """Whether anyone watches, or did until just now; if not, the thread ends."""
        with self._lock:
            watched = bool(self._seats) or time.monotonic() - self._last_left < _LINGER_SECONDS
            wanted = watched and not self._closed
            if not wanted:
                self._thread = None
            return wanted

    def _look(self, seers: Collection[str | None]) -> Look:
        try:
            workers = self._lifecycle.workers()
            self._read_histories([worker.name for worker in workers])
            histories = {name: tuple(entries) for name, entries in self._histories.items()}
            scenes, webhooks = self._scenes.look(seers), self._webhooks.counts()
        except Exception as error:  # noqa: BLE001 (whatever it was, all who watch live on the next look)
            self._absence.goes_on(error)
            return Look(time.time(), trouble=True)
        self._absence.over()
        return Look(time.time(), workers, webhooks, histories, scenes)

    def _read_histories(self, names: Sequence[str]) -> None:
        """Add what the workers wrote since the look before; forget what is old, and who is gone."""
        known = {name: self._histories.get(name, []) for name in names}
        after = {name: entries[-1][0] if entries else BEFORE_ALL for name, entries in known.items()}
        for name, entries in read_tides(self._lifecycle.connection, after).items():
            all_of_it = known[name] + entries
            oldest = all_of_it[-1][0][0] - HISTORY_SECONDS * 1000 if all_of_it else 0
            known[name] = [each for each in all_of_it if each[0][0] >= oldest]
        self._histories = known

    def _tell(self, look: Look) -> None:
        """Leave a look on every seat for whom it differs from the one before, and on those that have none yet."""
        before, self._newest = self._newest, look
        with self._lock:
            seats = [seat for seat in self._seats if look.trouble or seat.sees in look.scenes]
        changed = {
            sees: before is None or look.shown(sees) != before.shown(sees)
            for sees in {seat.sees for seat in seats}
        }
        for seat in seats:
            if changed[seat.sees] or seat.empty:
                seat.put(look)
