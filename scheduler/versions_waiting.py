"""Of which versions the jobs are that wait, counted by reading all of them: for an operator who asks now and then."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job

from scheduler.job import PRIORITIES
from scheduler.round_trip import replies_of
from scheduler.stored_json import read_json

_PAGE: Final = 500


def versions_waiting(connection: Redis) -> Counter[int]:
    """How many jobs of each envelope's version wait; what says no version is left out.

    Args:
        connection: a client that answers bytes.
    """
    found = Counter[int]()
    for key in (Queue(name, connection=connection).key for name in PRIORITIES):
        for start in range(0, connection.llen(key), _PAGE):
            entries: Any = connection.lrange(key, start, start + _PAGE - 1)
            pipeline = connection.pipeline(transaction=False)
            for entry in entries:
                pipeline.hget(Job.key_for(entry.decode(errors="replace")), "meta")
            for text in replies_of(pipeline):
                with suppress(ValueError, TypeError, LookupError, AttributeError):
                    found[int(read_json(text)["version"])] += 1
    return found
