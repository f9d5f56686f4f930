"""The one thread of a process that makes batches go on, while this process is the one that feeds them.

Of several processes one leads, by a lease on the server; should it die or stand still, another goes on. What
they do is safe without the lease, which only keeps them from doing the same work. The thread begins with the
server's process, or with the first batch; under gevent it is a greenlet, which lets requests run in between.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog

from api.absence import Absence
from api.json_body import read_object
from scheduler.batch_rounds import Endpoint, Rounds
from scheduler.batches import Batches
from scheduler.files import Files
from scheduler.lifecycle import Lifecycle
from scheduler.round_trip import is_foreign
from scheduler.swap import STORE_ERRORS

LOOK_SECONDS: Final = 1.0
"""How often running lines are looked at."""

IDLE_SECONDS: Final = 15.0
"""How often a process that has nothing to feed asks whether there is a batch that nobody feeds."""

LEASE_SECONDS: Final = 15.0
AGAIN_SECONDS: Final = 5.0
"""How soon a process tries again that does not lead, or whose server is away."""

_RENEW_SECONDS: Final = 3.0

RUNNING_MOST: Final = 512
"""Lines of all batches that run or wait, but no more than a quarter of the queue."""

_BREATH_SECONDS: Final = 0.005
_JOIN_SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class BatchFeeder:
    """Feeds the queue with batches' lines.

    Args:
        lifecycle: the verbs of jobs.
        files: the store of files.
        batches: the store of batches.
        endpoints: the routes whose requests they make, by path.
    """

    def __init__(
        self, lifecycle: Lifecycle, files: Files, batches: Batches, endpoints: Mapping[str, Endpoint]
    ) -> None:
        self._batches, self._files = batches, files
        self._rounds = Rounds(lifecycle, files, batches, endpoints, read_object, self._breathe)
        self._most = max(1, min(RUNNING_MOST, lifecycle.settings.max_queued_jobs // 4))
        self._token = secrets.token_hex(8)
        self._lock, self._bell = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.absence = Absence("batches")
        self._breathed_at = self._renewed_at = 0.0

    def wake(self) -> None:
        """There may be something to do."""
        with self._lock:
            alive = self._thread is not None and self._thread.is_alive()  # a fork leaves a dead one
            if not (alive or self._closed):
                self._thread = threading.Thread(target=self._run, name="batch-feeder", daemon=True)
                self._thread.start()
        self._bell.set()

    def close(self) -> None:
        """End the thread; another process may lead at once."""
        with self._lock:
            self._closed, thread = True, self._thread
        self._bell.set()
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def round(self) -> float:
        """Let every batch go on, if this process leads; the seconds until there is more to do."""
        batches = self._batches.active()
        if not batches:
            return IDLE_SECONDS
        if not self._lead():
            return AGAIN_SECONDS
        most, moved = max(1, self._most // len(batches)), False
        for batch_id in batches:
            if self._closed:
                break
            try:
                moved |= self._rounds.step(batch_id, most, self._files.now())
            except STORE_ERRORS as error:
                if not is_foreign(error):
                    raise
                _tell(error, batch_id)
            except Exception as error:  # noqa: BLE001 (one batch must not keep the others from going on)
                _tell(error, batch_id)
        return 0.0 if moved else LOOK_SECONDS

    def _run(self) -> None:
        while not self._closed:
            self._bell.clear()
            try:
                pause = self.round()
                self.absence.over()
            except STORE_ERRORS as error:
                self.absence.goes_on(error)
                pause = AGAIN_SECONDS
            except Exception as error:  # noqa: BLE001 (whatever it was, batches go on at the next try)
                _tell(error)
                pause = AGAIN_SECONDS
            self._bell.wait(pause)
        with suppress(*STORE_ERRORS):  # else the lease lapses
            self._batches.resign(self._token)

    def _lead(self) -> bool:
        self._renewed_at = time.monotonic()
        return self._batches.lead(self._token, LEASE_SECONDS)

    def _breathe(self) -> None:
        """Let others run, and keep the lease over long work."""
        now = time.monotonic()
        if now - self._breathed_at >= _BREATH_SECONDS:
            time.sleep(0)
            self._breathed_at = time.monotonic()
        if now - self._renewed_at >= _RENEW_SECONDS:
            self._lead()


def _tell(error: Exception, batch_id: str | None = None) -> None:
    # The message may quote a prompt: the log gets the kind of error and where it was.
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.warning("batches not fed", batch=batch_id, error=type(error).__name__, frames=frames[-4:])
