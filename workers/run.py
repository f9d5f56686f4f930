"""The function that jobs name, for workers that know nothing of tidegate.

MetalWorker never calls it. A plain ``rq worker --serializer json`` does, in a forked work horse: the
job then has an engine of its own, in a process of its own, one job at a time.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from rq import get_current_job

from scheduler.errors import TidegateError
from scheduler.job import TERMINAL
from scheduler.lifecycle import Lifecycle
from scheduler.record import ENVELOPE_VERSION, Outcome
from scheduler.settings import load
from scheduler.strays import settle
from workers.runner import TICK_SECONDS, Runner

_LOST_POLL_SECONDS: Final = 0.5


class GenerationFailed(TidegateError):
    """The job ended without a result; the message says why."""


def generate(version: int, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - read from the record
    """Run the current RQ job to its end.

    Returns:
        The outcome: ``state``, ``result``, ``error``.

    Raises:
        GenerationFailed: it failed or was cancelled; its record says so too.
    """
    job = get_current_job()
    if job is None or version != ENVELOPE_VERSION:
        raise GenerationFailed(f"no job of version {ENVELOPE_VERSION} is being run")
    lifecycle = Lifecycle(job.connection, load())
    lifecycle.queue.give_back(lifecycle.get(job.id))
    rec = lifecycle.get(job.id)
    name = f"plain-{uuid.uuid4().hex[:12]}"
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
        runner.put_back_all("worker shut down")
        runner.close()
    job.retries_left = 0  # it has ended: RQ shall not run it again
    if rec.outcome is None:  # others ended it
        settle(lifecycle.queue, job.id)
    outcome = rec.outcome or Outcome(rec.state)
    if outcome.error is not None or outcome.result is None:
        raise GenerationFailed((outcome.error or {}).get("message", outcome.state.value))
    return {"state": outcome.state.value, "result": outcome.result, "error": None}
