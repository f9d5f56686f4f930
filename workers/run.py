"""The function that jobs name, for workers that know nothing of tidegate.

MetalWorker never calls it. A plain ``rq worker --serializer json --job-class workers.GenerationJob`` does, in a forked
work horse: the job then has an engine of its own, in a process of its own, one job at a time.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import Any, Final

from rq import get_current_job
from rq.job import Job

from scheduler import tracing
from scheduler.envelope import VERSIONS_READ, is_ours
from scheduler.errors import ClientError, TidegateError
from scheduler.job import TERMINAL
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.record import JobRecord
from scheduler.settings import load
from scheduler.strays import settle
from workers.runner import TICK_SECONDS, Runner

_LOST_POLL_SECONDS: Final = 0.5


class GenerationFailed(TidegateError):
    """The job ended without a result.

    RQ logs the message, which so has the error's code and not its words: those may quote the prompt.
    """


class Said(dict[str, Any]):
    """What a job came to. RQ keeps it as JSON, and at its level DEBUG logs it: by its state alone."""

    def __repr__(self) -> str:
        """Its state."""
        return f"<{self.get('state')}>"


def generate(**_: Any) -> dict[str, Any]:  # what the envelope holds is read from the record
    """Run the current RQ job to its end, or see another worker run it, where this release does not read it.

    Returns:
        The outcome: ``state``, ``result``, ``error``.

    Raises:
        GenerationFailed: it failed or was cancelled; its record says so too.
    """
    job = get_current_job()
    if job is None:
        raise GenerationFailed("no job is being run")
    lifecycle = Lifecycle(job.connection, load())
    rec = _readable(job, lifecycle)
    lifecycle.queue.give_back(rec)
    rec = (_run if is_ours(rec.envelope) and rec.meta.version in VERSIONS_READ else _left)(job, lifecycle)
    job.retries_left = 0  # it has ended: RQ shall not run it again
    if rec.outcome is None:  # others ended it
        settle(lifecycle.queue, job.id)
    outcome = rec.outcome or Outcome(rec.state)
    if outcome.error is not None or outcome.result is None:
        raise GenerationFailed(f"{rec.id} ended as {(outcome.error or {}).get('code', outcome.state.value)}")
    return Said(state=outcome.state.value, result=outcome.result, error=None)


def _readable(job: Job, lifecycle: Lifecycle) -> JobRecord:
    """The job's record, of this release or another.

    Raises:
        GenerationFailed: it has none, or one that no worker would claim, and which would be waited for without an end.
    """
    with suppress(ClientError):
        rec = lifecycle.get(job.id)
        versions = (rec.envelope.get("version"), rec.meta.version)
        if is_ours(rec.envelope) or any(
            isinstance(each, int) and each not in VERSIONS_READ for each in versions
        ):
            return rec
    job.retries_left = 0  # it will be no other
    raise GenerationFailed(f"{job.id} holds no job that can be read")


def _left(job: Job, lifecycle: Lifecycle) -> JobRecord:
    """A job of another release, once somebody ran it or it ended; it waits meanwhile, for any worker that reads it.

    Raises:
        GenerationFailed: nobody took it in a lease's time; RQ tries it again, behind those that wait by then.
    """
    until = time.monotonic() + lifecycle.settings.lease_seconds
    rec = lifecycle.get(job.id)
    while rec.outcome is None and rec.state not in TERMINAL:
        if time.monotonic() >= until and lifecycle.queue.take_back(rec):
            job.retries_left = (job.retries_left or 0) + 1  # RQ counts this try
            job.enqueue_at_front_on_retry = False
            raise GenerationFailed(
                f"{rec.id} is of version {rec.meta.version}: it waits for a worker that reads it"
            )
        time.sleep(_LOST_POLL_SECONDS)
        rec = lifecycle.get(job.id)
    return rec


def _run(job: Job, lifecycle: Lifecycle) -> JobRecord:
    """The job once it ended, run here or elsewhere."""
    rec = lifecycle.get(job.id)
    name = f"plain-{uuid.uuid4().hex[:12]}"
    spans = lifecycle.spans = tracing.begin(lifecycle.settings, "tidegate-worker", name)
    # Its job waits meanwhile, for any worker: there is time to see whether memory is given back.
    runner = Runner(lifecycle, name, [job.origin], room_seconds=lifecycle.settings.lease_seconds)
    runner.open()
    try:
        while rec.outcome is None and rec.state not in TERMINAL:
            if runner.refusal is not None and lifecycle.queue.take_back(rec):
                job.retries_left = (job.retries_left or 0) + 1  # RQ counts this try, and shall try again
                raise GenerationFailed(f"{rec.id} waits again: {runner.refusal}")
            held = runner.claim_only(job.id)
            if held is not None:
                runner.launch(held)
            while runner.running:
                runner.pump(TICK_SECONDS)
            runner.pump(_LOST_POLL_SECONDS)
            rec = lifecycle.get(job.id)
    finally:
        runner.put_back_all(Reason.WORKER_STOPPED)
        runner.close()
        if spans is not None:
            spans.close()  # a work horse ends without a word
    return rec
