"""What RQ itself keeps of a job's executions and end, as it would write it; and reading it back."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from typing import Final

from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import BaseRegistry, CanceledJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler.job import Lease, State
from scheduler.outcome import Outcome, read_ended
from scheduler.record import JobRecord
from scheduler.rq_status import RQ_STATUS
from scheduler.stored_json import read_json

_EXECUTION_SECONDS: Final = 120
_NULL: Final = base64.b64encode(b"null")
NO_TIMEOUT: Final = -1


def rq_job(connection: Redis, rec: JobRecord, ttl: int) -> Job:
    """RQ's job for a record, to write with; it reads nothing."""
    job = Job(id=rec.id, connection=connection, serializer=JSONSerializer)
    job.origin = rec.meta.priority
    job.timeout, job.result_ttl, job.failure_ttl = NO_TIMEOUT, ttl, ttl
    return job


def start_execution(execution: Execution, job: Job, pipe: Pipeline) -> None:
    """What :meth:`rq.executions.Execution.create` writes, with an id that is known beforehand."""
    ttl = _EXECUTION_SECONDS
    execution.save(ttl=ttl, pipeline=pipe)
    job.execution_registry.add(execution=execution, ttl=ttl, pipeline=pipe)
    job.started_job_registry.add_execution(execution, pipeline=pipe, ttl=ttl, xx=False)
    pipe.sadd(execution.worker_executions_key, execution.composite_key)
    pipe.expire(execution.worker_executions_key, ttl + 60)


def end_execution(rec: JobRecord, job: Job, pipe: Pipeline) -> None:
    """The attempt that holds the job is over, if one does."""
    if rec.lease and rec.meta.execution_id:
        worker = Lease.parse(rec.lease).worker
        Execution(rec.meta.execution_id, rec.id, job.connection, worker).delete(job, pipe)


def end_job(rec: JobRecord, outcome: Outcome, job: Job, ttl: int, pipe: Pipeline) -> None:
    """RQ's status, result and registry for how a job ended."""
    status = RQ_STATUS[outcome.state]
    if outcome.state is State.CANCELLED and rec.lease:
        status = JobStatus.STOPPED
    job.set_status(status, pipeline=pipe)
    end_execution(rec, job, pipe)
    Result.create(
        job,
        Result.Type.SUCCESSFUL if status is JobStatus.FINISHED else Result.Type.FAILED,
        ttl,
        return_value={"state": outcome.state, "result": outcome.result, "error": outcome.error},
        exc_string=(outcome.error or {}).get("message") or outcome.state.value,
        worker_name=Lease.parse(rec.lease).worker if rec.lease else "",
        pipeline=pipe,
        execution_id=rec.meta.execution_id,
    )
    registry: BaseRegistry = job.failed_job_registry
    if status is JobStatus.FINISHED:
        registry = job.finished_job_registry
    elif status is JobStatus.CANCELED:
        registry = CanceledJobRegistry(job.origin, job.connection, serializer=JSONSerializer)
    BaseRegistry.add(registry, job, ttl, pipeline=pipe)


def read_outcome(results: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> Outcome | None:
    """The outcome in RQ's newest results; a plain worker adds one of its own after ours."""
    for _, fields in results:
        with contextlib.suppress(ValueError):  # another function's result, or whatever others wrote there
            return read_ended(read_json(base64.b64decode(fields.get(b"return_value", _NULL))))
    return None
