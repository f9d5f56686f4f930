"""Jobs that a client waits for, and that it knows no name of: they are cancelled when it goes away.

A client that counts its tries, as OpenAI's does, or has a key for them, may come again at once: it finds the jobs of
the try before (:mod:`api.once`), which go on for a moment without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from api.caller import caller
from api.once import REPLAYED, may_come_again, once
from api.presence import Gone, client_gone, comes_again
from api.services import Services
from api.traced import accept
from scheduler.attendance import LINGER_SECONDS
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.once import Once
from scheduler.record import JobRecord
from scheduler.request import JobRequest

HOLD_SECONDS: Final = 10.0
"""How long a stream's answer is held back for its first text, so that a job which fails before it fails as an HTTP
error, which clients retry by themselves."""

CLIENT_CLOSED: Final = 499  # nginx's, for the log: nobody reads it

log = structlog.get_logger(__name__)


class Attended:
    """Jobs that a client waits for; those that have not ended when it leaves are cancelled."""

    def __init__(self, here: Services) -> None:
        self.here = here
        self.records: list[JobRecord] = []
        self.gone: Gone = client_gone()
        self._linger_seconds = LINGER_SECONDS if may_come_again() else 0.0
        self._ended: set[int] = set()
        self._once: Once | None = None  # made of the whole body, and so not for each job anew

    @property
    def headers(self) -> Mapping[str, str]:
        """What an answer about them says beside."""
        return REPLAYED if any(rec.replayed for rec in self.records) else {}

    def submit(self, job: JobRequest, note: Mapping[str, Any] | None = None) -> None:
        """Submit the present request's next job, or find the one that an earlier try of it made.

        Raises:
            ClientError: as :meth:`scheduler.lifecycle.Lifecycle.accept` does.
        """
        owner = caller().owner
        if not self.records:
            self._once = once(owner, attended=True)
        same = self._once and self._once.part(len(self.records))
        rec, _ = accept(self.here, job, owner, again=comes_again(), note=note, once=same)
        self.records.append(rec)

    def ended(self, place: int) -> JobRecord:
        """Read a job, which ended."""
        self._ended.add(place)
        before = self.records[place]
        rec = self.records[place] = replace(self.here.lifecycle.get(before.id), replayed=before.replayed)
        return rec

    def leave(self, *, back_soon: bool = False) -> None:
        """Cancel the jobs that have not ended, unless another try of their client waits for them.

        Args:
            back_soon: whether the client was sent nothing, and may be about to try again: that is waited for.
        """
        open_ids = [rec.id for place, rec in enumerate(self.records) if place not in self._ended]
        self._ended.update(range(len(self.records)))
        for names in [open_ids] if back_soon else [[name] for name in open_ids]:
            try:
                self.here.lifecycle.leave(*names, linger_seconds=self._linger_seconds if back_soon else 0.0)
            except (ClientError, StoreUnavailable, RedisError) as error:
                log.warning("left jobs not cancelled", jobs=names, error=type(error).__name__)
