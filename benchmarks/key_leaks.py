"""Rule 7: nothing in Redis lives for ever without an owner."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from redis import Redis
from rq.job import Job

from scheduler.job import PRIORITIES

LASTING: Final = re.compile(
    r"rq:queues|rq:queue:[^:]+|rq:workers(:[^:]+)?|rq:clean_registries:[^:]+"
    r"|rq:(wip|finished|failed|canceled|deferred|scheduled):[^:]+"
    r"|rq:scheduler-lock:[^:]+|tidegate:(jobs|keys|workers|waiting|waiting:tokens(:[a-z]+)?|passes|deadlines)"
    r"|tidegate:webhooks(:ended)?|tidegate:(owners:[a-z]+|owned:(jobs|tokens)|lane:[a-z]+:[0-9a-f]*)"
)
"""Keys that are always there: there is one of each, or one for each queue."""

OWNED: Final = re.compile(
    r"(?:rq:job:|rq:results:|rq:executions:|rq:execution:|tidegate:events:)(job_[0-9a-z]{26})"
)
_UNENDED: Final = {b"queued", b"started"}


def leaks(connection: Redis) -> list[str]:
    """Everything that nobody will remove.

    Keys that neither lapse, nor are known to last, nor belong to a job that has not ended; and entries of
    the indexes of waiting jobs whose jobs do not wait.
    """
    keys: list[bytes] = list(connection.scan_iter(count=1000))
    found = [
        key.decode() for key in keys if connection.ttl(key) == -1 and not _owned(connection, key.decode())
    ]
    waiting: Any = connection.hgetall("tidegate:waiting")
    passed: Any = connection.hkeys("tidegate:passes")
    late: Any = connection.zrange("tidegate:deadlines", 0, -1)
    found += [
        f"index entry of {job.decode()}"
        for job in {*waiting, *passed, *late}
        if connection.hget(Job.key_for(job.decode()), "status") != b"queued"
    ]
    for key in connection.scan_iter("tidegate:lane:*"):
        lane: Any = connection.zrange(key, 0, -1)
        found += [f"lane entry of {job.decode()}" for job in lane if job not in waiting]
        name, owner = key.decode().removeprefix("tidegate:lane:").split(":")
        if connection.zscore(f"tidegate:owners:{name}", owner) is None:
            found.append(f"{key.decode()} without its owner")
    for key in connection.scan_iter("tidegate:owners:*"):
        owners: Any = connection.zrange(key, 0, -1)
        lanes = (key.decode().replace("owners", "lane") + ":" + owner.decode() for owner in owners)
        found += [f"{lane} is empty" for lane in lanes if not connection.exists(lane)]
    webhooks: Any = connection.zrange("tidegate:webhooks", 0, -1)
    found += [f"webhook of {key.decode()}" for key in webhooks if not connection.hexists(key, "webhook_to")]
    slips = [slip.decode().split(" ") for slip in waiting.values()]
    for name in ("", *PRIORITIES):
        key = f"tidegate:waiting:tokens:{name}".rstrip(":")
        counted: Any = connection.get(key)
        if int(counted or 0) != sum(int(slip[0]) for slip in slips if name in {"", slip[1]}):
            found.append(f"{key} is {counted!r}")
    tallies: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for tokens, _, owner in slips:
        tallies[0][owner] += 1
        tallies[1][owner] += int(tokens)
    for key, tally in zip(("tidegate:owned:jobs", "tidegate:owned:tokens"), tallies, strict=True):
        entries: Any = connection.zrange(key, 0, -1, withscores=True)
        if {owner.decode(): number for owner, number in entries} != tally:
            found.append(f"{key} is {entries}")
    return sorted(found)


def _owned(connection: Redis, key: str) -> bool:
    if LASTING.fullmatch(key):
        return True
    owner = OWNED.match(key)
    status: Any = connection.hget(Job.key_for(owner[1]), "status") if owner else None
    return status in _UNENDED
