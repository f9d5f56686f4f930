"""A submission that comes twice: what tells it from another, and the job that it finds instead of making one.

A client names a submission by a key of its own, or it is OpenAI's and says how often it tried (``Once``). What was
named so before is read; a new job's record is written by the swap that lets the job in, and only where what was read
is still so: of two that come at once one makes a job, and the other finds it. What is refused leaves no record.

Keys, whose digests are of the owner and what the client sent, and tell neither::

    tidegate:once:{digest}   string; ``body job``, the body's digest and the job; lapses a day after the submission
    tidegate:tries:{digest}  sorted set; job -> the number of its client's last try; lapses two minutes after that

A key names one job for a day, however it ended, but for two ends that ask for another: a failure that a retry can
help, and the cancellation of a job that its client left (:func:`stands`).

A try has no name, only a body, and several clients may have sent the same one on purpose: a first try always makes a
job. A later one takes over a job of an earlier one, which no other try finds then; so of clients alike each has a
job. It prefers one whose client has left. Where one of them failed so that its client was told to try again, that
client it is, and it has a new job; as it has where a place is held for such a client (:mod:`scheduler.bookings`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from scheduler.attendance import attend_command, join_swap
from scheduler.errors import ClientError, Overtaken
from scheduler.job import JOB_ID, State
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.standing import Standing
from scheduler.swap import Guard, Swap, Word

KEY_SECONDS: Final = 86_400
RETRY_SECONDS: Final = 120
"""OpenAI's client waits 8 s at most between two tries, or as long as a server says, up to 60 s."""

_ALIKE_MOST: Final = 64
"""Jobs of one body that are remembered: those of the latest tries, of these the newest."""

_TRIES: Final = 20
_NAMED: Final = re.compile(rb"([0-9a-f]{32}) (job_[0-9a-z]{26})")
_NAMES_A_BATCH: Final = re.compile(
    rb"[0-9a-f]{32} batch_[0-9a-z]{26}"
)  # as :mod:`scheduler.batch_once` writes it


@dataclass(frozen=True, slots=True)
class Once:
    """What tells a submission.

    Args:
        name: the end of its record's name.
        body: the digest of its body, where a key names it.
        retry: how often its client tried before, where nothing else tells it; None where a key does.
        attended: whether its client waits for it and it is cancelled when the client leaves.
    """

    name: str
    body: str = ""
    retry: int | None = None
    attended: bool = False

    @classmethod
    def keyed(
        cls, owner: str, route: str, key: str, body: Mapping[str, Any], *, attended: bool = False
    ) -> Once:
        """One that its client named by a key: it may have been sent on another route, or with another body, before."""
        said = _digest(route, json.dumps(body, sort_keys=True, separators=(",", ":")))
        return cls(_digest(owner, key), said, attended=attended)

    @classmethod
    def tried(cls, owner: str, route: str, body: bytes, retry: int, *, attended: bool = False) -> Once:
        """One whose client says how often it tried before to send these bytes."""
        return cls(_digest(owner, route, body), retry=retry, attended=attended)

    def part(self, number: int) -> Once:
        """One job of several that it makes, by its number from 0."""
        return replace(self, name=_digest(self.name, str(number))) if number else self

    @property
    def record(self) -> str:
        """Its record's name."""
        return f"tidegate:{'once' if self.retry is None else 'tries'}:{self.name}"


@dataclass(frozen=True, slots=True)
class Fresh:
    """A submission that found no job: the job that it makes is recorded.

    Args:
        once: what tells it; None where nothing does.
        seen: the record of its key, as it was read.
        told: a job whose client was told to try again, and is this one.
    """

    once: Once | None = None
    seen: bytes = b""
    told: str | None = None

    def swap(self, job_id: str) -> Swap:
        """What goes with the swap that lets the new job in."""
        if self.once is None:
            return Swap()
        record, retry = self.once.record, self.once.retry
        attend = (attend_command(job_id),) if self.once.attended else ()
        if retry is None:
            said = f"{self.once.body} {job_id}"
            return Swap(
                (Guard(("GET", record), self.seen),), (("SET", record, said, "EX", KEY_SECONDS), *attend)
            )
        forget: tuple[tuple[Word, ...], ...] = (("ZREM", record, self.told),) if self.told else ()
        return Swap(
            (),
            (
                *forget,
                ("ZADD", record, retry, job_id),
                ("ZREMRANGEBYRANK", record, 0, -1 - _ALIKE_MOST),
                ("EXPIRE", record, RETRY_SECONDS),
                *attend,
            ),
        )


def stands(rec: JobRecord, *, attended: bool) -> bool:
    """Whether who submits a job again is to have it, and not another.

    A failure that a retry can help asks for another; so does, where its client waited for it, that it was cancelled:
    the client had gone, and is back.
    """
    if rec.state is State.CANCELLED or rec.cancel_requested:
        return not attended
    if attended and rec.attending is None:
        return False
    error = (rec.outcome.error if rec.outcome else None) or {}
    return rec.state is not State.FAILED or not error.get("retryable")


class Repeats:
    """Finds the jobs of submissions that come again.

    Args:
        queue: the store.
        get: a job, as clients see it.
    """

    def __init__(self, queue: JobQueue, get: Callable[[str], JobRecord]) -> None:
        self._queue = queue
        self._get = get

    def accept(
        self, once: Once, make: Callable[[Fresh], tuple[JobRecord, Standing | None]], *, refused: bool
    ) -> tuple[JobRecord, Standing | None]:
        """The job that was made of a submission before, else the one that is made now.

        Args:
            once: what tells the submission.
            make: makes a job of it.
            refused: whether a place is held for one like it, which was refused.

        Raises:
            ClientError: ``idempotency_mismatch``; or as ``make`` does.
        """
        for _ in range(_TRIES):
            found = Fresh(once) if refused and once.retry is not None else self._find(once)
            if isinstance(found, JobRecord):
                return replace(found, replayed=True), None
            try:
                return make(found)
            except Overtaken:
                continue
            except ClientError:  # for want of the room that the other of two took: then its job is here
                if once.retry is not None or not isinstance(twin := self._find(once), JobRecord):
                    raise
                return replace(twin, replayed=True), None
        raise ClientError("queue_full", "too many come at once under this key", retry_after=1)

    def _find(self, once: Once) -> JobRecord | Fresh:
        for _ in range(_TRIES):
            found = self._named(once) if once.retry is None else self._tried(once, once.retry)
            if found is not None:
                return found
        raise ClientError("queue_full", "too many come at once with this body", retry_after=1)

    def _named(self, once: Once) -> JobRecord | Fresh | None:
        """The job that a key names; None where it moved meanwhile."""
        seen: Any = self._queue.connection.get(once.record)
        if _NAMES_A_BATCH.fullmatch(seen or b""):
            raise mismatch()
        fresh, said = Fresh(once, seen or b""), _NAMED.fullmatch(seen or b"")
        if said is None:
            return fresh
        try:
            rec = self._get(said[2].decode())
        except ClientError:  # it lapsed, or was deleted
            return fresh
        if said[1].decode() != once.body:
            raise mismatch()
        if not stands(rec, attended=once.attended):
            return fresh
        return rec if not once.attended or self._queue.swap(join_swap(rec)) == [1] else None

    def _tried(self, once: Once, retry: int) -> JobRecord | Fresh | None:
        """A job of an earlier try, taken over; None where another took it meanwhile."""
        if not retry:
            return Fresh(once)
        entries: Any = self._queue.connection.zrange(once.record, 0, -1, withscores=True)
        before = {name.decode(errors="replace"): at for name, at in entries if 0 <= at < retry}
        alike = self._queue.headings([name for name in before if JOB_ID.fullmatch(name)])
        if not alike:
            return Fresh(once)

        def rank(rec: JobRecord) -> tuple[float, int, str]:
            standing = stands(rec, attended=once.attended)
            left = standing and once.attended and not rec.attending
            return before[rec.id], 2 if left else int(not standing), rec.id

        best = max(self._queue.with_outcomes(alike), key=rank)
        if not stands(best, attended=once.attended):
            return Fresh(once, told=best.id)
        mine = Swap(
            (Guard(("ZSCORE", once.record, best.id), f"{before[best.id]:g}"),),
            (("ZADD", once.record, retry, best.id), ("EXPIRE", once.record, RETRY_SECONDS)),
        )
        if self._queue.swap(mine.beside(join_swap(best)) if once.attended else mine) != [1]:
            return None
        try:
            return self._get(best.id)
        except ClientError:
            return None


def mismatch() -> ClientError:
    """That a key names something else."""
    message = "this Idempotency-Key was used for another request within the last day"
    return ClientError("idempotency_mismatch", message, param="Idempotency-Key")


def _digest(*parts: str | bytes) -> str:
    """Half of a SHA-256 of parts, each told from the next."""
    hashed = hashlib.sha256()
    for part in parts:
        each = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        hashed.update(len(each).to_bytes(8, "big") + each)
    return hashed.hexdigest()[:32]
