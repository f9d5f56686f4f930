"""What RQ calls the states of a job."""

from __future__ import annotations

from typing import Final

from rq.job import JobStatus

from scheduler.job import State

STATES: Final = {
    JobStatus.QUEUED.value: State.QUEUED,
    JobStatus.STARTED.value: State.IN_PROGRESS,
    JobStatus.FINISHED.value: State.COMPLETED,
    JobStatus.FAILED.value: State.FAILED,
    JobStatus.STOPPED.value: State.CANCELLED,
    JobStatus.CANCELED.value: State.CANCELLED,
}

RQ_STATUS: Final = {
    State.QUEUED: JobStatus.QUEUED,
    State.IN_PROGRESS: JobStatus.STARTED,
    State.COMPLETED: JobStatus.FINISHED,
    State.INCOMPLETE: JobStatus.FINISHED,
    State.FAILED: JobStatus.FAILED,
    State.CANCELLED: JobStatus.CANCELED,
}
