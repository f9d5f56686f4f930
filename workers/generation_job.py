"""RQ's job as a plain `rq worker` takes it up here: one that runs nothing but generation, whatever it says of itself.

RQ imports what a job names, as its function and its callbacks, and calls it; it sends the HTTP requests that a job
carries. Whoever can write to the queue's server could so have a plain worker run anything, though nothing is pickled.
With ``rq worker --serializer json --job-class workers.GenerationJob`` a job's words are compared, never imported.

RQ also ends a worker at a field that it cannot read. Here only the fields that generation has are read, and fewer where
one of these says nothing; so such a job is run or fails by itself, and the next one's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from scheduler.errors import TidegateError
from scheduler.queue import JOB_FUNCTION
from scheduler.rq_records import NO_TIMEOUT
from workers.run import generate

_UNREADABLE_SECONDS: Final = 24 * 3600
"""For how long a job stays that failed and of which not even that could be read; RQ's own word for it is a year."""

_READ: Final = frozenset(
    (
        "data",
        "origin",
        "status",
        "description",
        "meta",
        "created_at",
        "enqueued_at",
        "started_at",
        "ended_at",
        "last_heartbeat",
        "worker_name",
        "result_ttl",
        "failure_ttl",
        "retries_left",
        "number_of_retries",
        "enqueue_at_front_on_retry",
    )
)
"""What of RQ's hash is read; of others, such as intervals between tries, this project's jobs have none."""


class NotGeneration(TidegateError):
    """A job names something else than this project's own function; it is not imported."""


class GenerationJob(Job):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serializer = JSONSerializer  # RQ's own is pickle

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:  # noqa: A002 - RQ's name
        """RQ's.

        Raises:
            NoSuchJobError: there is none, as RQ passes over; nor is one where an entry is no id, or its key no hash.
        """
        try:
            return super().fetch(id, connection, serializer)
        except ValueError as error:
            raise NoSuchJobError(f"no job has such an id, of {len(id):,} characters") from error
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            raise NoSuchJobError(f"{id} is no hash") from error

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> list[Job | None]:
        """RQ's, each by itself: one that cannot be read is None, and hides no other."""
        found: list[Job | None] = []
        for job_id in job_ids:
            try:
                found.append(cls.fetch(job_id, connection, serializer))
            except NoSuchJobError:
                found.append(None)
        return found

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read what generation has; where RQ cannot read all of it, the call alone.

        Raises:
            NoSuchJobError: there is no call.
        """
        known = {
            name: value for key, value in raw_data.items() if (name := key.decode(errors="replace")) in _READ
        }
        try:
            super().restore(known)
        except NoSuchJobError:
            raise
        except Exception:  # noqa: BLE001 - numbers, times, words, depths: whatever others wrote there
            super().restore(
                {"data": known["data"], "origin": known.get("origin", b"").decode(errors="replace")}
            )
            self.failure_ttl = _UNREADABLE_SECONDS
        self.timeout = NO_TIMEOUT  # a request has its own

    def get_status(self, refresh: bool = True) -> JobStatus:  # noqa: FBT002 - as RQ calls it
        """RQ's; a word that is none of RQ's is that of a job nobody has taken up."""
        try:
            return super().get_status(refresh)
        except ValueError:
            return JobStatus.CREATED

    @property  # type: ignore[misc]  # nobody sets it here
    def func_name(self) -> Any:
        """What it names; nothing where its data cannot be read."""
        try:
            return super().func_name
        except DeserializationError:
            return None

    @property
    def func(self) -> Any:
        """The one function that is run.

        Raises:
            NotGeneration: the job names another one, or a method of something that it brings.
        """
        if self.func_name != JOB_FUNCTION or self.instance is not None:
            self.retries_left = 0  # it will name no other
            raise NotGeneration(f"{self.id} does not name {JOB_FUNCTION}: nothing else is run here")
        return generate

    @property
    def success_callback(self) -> None:
        """None, whatever the job names."""

    @property
    def failure_callback(self) -> None:
        """None, whatever the job names."""

    @property
    def stopped_callback(self) -> None:
        """None, whatever the job names."""

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """None are sent by RQ: the API sends a job's webhook, to where webhooks may go."""
