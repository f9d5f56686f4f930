"""Mending the indexes of what waits, where RQ's tools moved, ended or deleted jobs behind their back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis import Redis
from rq.job import Job, JobStatus

from scheduler import lanes
from scheduler.job import PRIORITIES
from scheduler.owner import OWNER
from scheduler.round_trip import replies_of
from scheduler.slip import WAITING_KEY, Slip, counted
from scheduler.swap import Guard, Swap, Swapper
from scheduler.waiting import WAITING_TOKENS_KEY, class_tokens_key, leave_commands

_SUMS: Final = (WAITING_TOKENS_KEY, *map(class_tokens_key, PRIORITIES))


def reconcile(connection: Redis, swap: Swapper) -> None:
    """Drop the entries of jobs that do not wait any more or are gone, as after ``rq empty``; count again."""
    entries: Any = connection.hgetall(WAITING_KEY)
    slips = {job_id.decode(errors="replace"): Slip.parse(slip) for job_id, slip in entries.items()}
    pipeline = connection.pipeline(transaction=False)
    for job_id in slips:
        pipeline.hget(Job.key_for(job_id), "status")
    for job_id, status in zip(list(slips), replies_of(pipeline) if slips else (), strict=True):
        if status != JobStatus.QUEUED.value.encode():
            as_read = Guard(("HGET", Job.key_for(job_id), "status"), status or "")
            entered = Guard(("HEXISTS", WAITING_KEY, job_id), 1)
            slip = slips.pop(job_id)
            swap(Swap((as_read, entered), tuple(leave_commands(job_id, slip))), lanes.tidy_swap(slip))
    _mend_lanes(connection, swap, slips)
    _count_again(connection, swap)


def _mend_lanes(connection: Redis, swap: Swapper, slips: Mapping[str, Slip]) -> None:
    """Put into lanes what waits, and nothing else."""
    lacking = {job_id for job_id, slip in slips.items() if slip.priority}
    for priority in PRIORITIES:
        owners: Any = connection.zrange(lanes.owners_key(priority), 0, -1)
        for name in owners:
            owner = name.decode(errors="replace")
            if not OWNER.fullmatch(owner):
                connection.zrem(lanes.owners_key(priority), name)
                continue
            entries: Any = connection.zrange(lanes.lane_key(priority, owner), 0, -1)
            for job_id in (entry.decode(errors="replace") for entry in entries):
                slip = Slip(0, priority, owner)
                known = slips.get(job_id)
                if known is not None and (known.priority, known.owner) == (priority, owner):
                    lacking.discard(job_id)
                else:
                    gone = Guard(("HGET", WAITING_KEY, job_id), "" if known is None else str(known))
                    swap(lanes.drop_swap(job_id, slip, gone))
            swap(lanes.tidy_swap(Slip(0, priority, owner)))
    for job_id in lacking:
        waits = Guard(("HGET", WAITING_KEY, job_id), str(slips[job_id]))
        swap(lanes.restore_swap(job_id, slips[job_id], waits))


def _count_again(connection: Redis, swap: Swapper) -> None:
    """Mend the sums: a job that RQ itself put back left without having entered."""
    moment = connection.pipeline(transaction=True)
    moment.hvals(WAITING_KEY)
    for key in _SUMS:
        moment.get(key)
    for key in (lanes.OWNED_JOBS_KEY, lanes.OWNED_TOKENS_KEY):
        moment.zrange(key, 0, -1, withscores=True)
    slips, *sums, jobs, tokens = moment.execute()
    work, owned_jobs, owned_tokens = _counts(map(Slip.parse, slips))
    for key, number in zip(_SUMS, sums, strict=True):
        if counted(number) != work[key] or (number and not number.lstrip(b"-").isdigit()):
            swap(Swap((Guard(("GET", key), number or ""),), (("SET", key, work[key]),)))
    _count_owned(lanes.OWNED_JOBS_KEY, jobs, owned_jobs, swap)
    _count_owned(lanes.OWNED_TOKENS_KEY, tokens, owned_tokens, swap)


def _count_owned(
    key: str, entries: Iterable[tuple[bytes, float]], should: Counter[str], swap: Swapper
) -> None:
    told = {name: counted(number) for name, number in entries}
    for name in {*told, *(owner.encode() for owner in should)}:
        number, amount = told.get(name), should[name.decode(errors="replace")]
        if (number or 0) != amount:
            as_read = Guard(("ZSCORE", key, name), "" if number is None else number)
            swap(Swap((as_read,), (("ZADD", key, amount, name), ("ZREMRANGEBYSCORE", key, "-inf", 0))))


def _counts(slips: Iterable[Slip]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """What the sums should say, and the owners' jobs and tokens."""
    work, jobs, tokens = Counter[str](), Counter[str](), Counter[str]()
    for slip in slips:
        work[WAITING_TOKENS_KEY] += slip.tokens
        work[class_tokens_key(slip.priority)] += slip.tokens
        if slip.priority:
            jobs[slip.owner] += 1
            tokens[slip.owner] += slip.tokens
    return work, jobs, tokens
