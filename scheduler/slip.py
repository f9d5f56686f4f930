"""What the indexes keep of a waiting job, so that what it left can be mended when the job itself is gone.

Keys::

    tidegate:waiting        hash; waiting job -> its slip: tokens of work, class, owner
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from scheduler.job import PRIORITIES
from scheduler.owner import OWNER
from scheduler.record import JobRecord

WAITING_KEY: Final = "tidegate:waiting"

_DIGITS: Final = re.compile(
    "[0-9]{1,15}"
)  # a number that every client and script of the server holds exactly


@dataclass(frozen=True, slots=True)
class Slip:
    """A job's tokens of work, its class and its owner; written as text."""

    tokens: int
    priority: str = ""
    owner: str = ""

    @classmethod
    def of(cls, rec: JobRecord) -> Slip:
        """A job's."""
        return cls(rec.meta.work_tokens, rec.meta.priority, rec.meta.owner)

    @classmethod
    def parse(cls, text: bytes) -> Slip:
        """Read a slip; one that is not sound counts nothing, nowhere. Those of earlier versions lack a class."""
        tokens, priority, owner, *more = [*text.decode(errors="replace").split(" "), "", ""]
        sound = _DIGITS.fullmatch(tokens) and OWNER.fullmatch(owner) and not any(more)
        return cls(int(tokens), priority, owner) if sound and priority in {"", *PRIORITIES} else cls(0)

    def __str__(self) -> str:
        return f"{self.tokens} {self.priority} {self.owner}"


def slips(connection: Redis, job_ids: Sequence[str]) -> dict[str, Slip]:
    """The slips of those of some jobs that have one, in one round trip."""
    texts: Any = connection.hmget(WAITING_KEY, list(job_ids))
    return {job_id: Slip.parse(text) for job_id, text in zip(job_ids, texts, strict=True) if text is not None}


def counted(reply: object) -> int:
    """A count that an index should hold; 0 where others left something else, or nothing."""
    try:
        return int(float(reply))  # type: ignore[arg-type]  # what it cannot read it refuses
    except (TypeError, ValueError, OverflowError):
        return 0
