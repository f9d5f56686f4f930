"""What tests of the store look at."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler.events import STEPS_CHANNEL as STEPS
from scheduler.events import Kind, parse_step, read_events
from scheduler.lanes import OWNED_JOBS_KEY, OWNED_TOKENS_KEY
from scheduler.ledger import Ledger
from scheduler.queue import JobQueue
from scheduler.slip import WAITING_KEY
from scheduler.waiting import DEADLINES_KEY, PASSES_KEY
from scheduler.webhooks import Due, Webhooks
from workers.reporting import Reporting


def snapshot(connection: Redis) -> dict[bytes, tuple[object, bool]]:
    """Every key's bytes, and whether it lapses."""
    return {key: (connection.dump(key), connection.ttl(key) >= 0) for key in connection.scan_iter()}


def kinds(connection: Redis, job_id: str) -> list[str]:
    """What a job's log says, in order; its numbers run from 1 without a gap."""
    events = read_events(connection, job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [event.kind.value for event in events]


def told(connection: Redis, does: Callable[[], object]) -> list[tuple[str, int, Kind]]:
    """What the steps channel carries while something is done."""
    with connection.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(STEPS)
        assert channel.get_message(timeout=5) is None
        does()
        connection.publish(STEPS, "[]")
        news: list[tuple[str, int, Kind]] = []
        while (message := channel.get_message(timeout=5)) is None or message["data"] != b"[]":
            if message is not None:
                news += [(job_id, event.number, event.kind) for job_id, event in parse_step(message["data"])]
    return news


def rq_view(connection: Redis, job_id: str) -> Job:
    """The job as RQ itself reads it."""
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def nothing_waits(queue: JobQueue) -> bool:
    """Whether every index of waiting jobs is back to nothing."""
    indexes = (WAITING_KEY, PASSES_KEY, DEADLINES_KEY, OWNED_JOBS_KEY, OWNED_TOKENS_KEY)
    if any(queue.connection.keys(pattern) for pattern in ("tidegate:lane:*", "tidegate:owners:*")):
        return False
    return queue.waiting() == (0, 0) and not any(queue.connection.exists(key) for key in indexes)


def due_webhooks(hooks: Webhooks, now_seconds: float, most: int = 100) -> list[Due]:
    """The first deliveries whose time has come."""
    return hooks.read(hooks.due_keys(now_seconds, 0, most))


def report_idle(
    reporting: Reporting, engine: str = "ready", ledger: Ledger | None = None, *, cooling_seconds: float = 0.0
) -> None:
    """A worker that runs nothing reports."""
    reporting.report(
        engine,
        ledger,
        (),
        active_bytes=0,
        tokens_per_second=0.0,
        work_tokens_per_second=0.0,
        served=(),
        left=lambda _: 0,
        starts_at={},
        cooling_seconds=cooling_seconds,
    )
