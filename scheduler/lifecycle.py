"""The verbs: what clients do to jobs. Workers' verbs are in :mod:`scheduler.holding`."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis

from scheduler import fleet
from scheduler.door import Door, wanted
from scheduler.errors import ClientError, gib
from scheduler.events import Kind, LoggedEvent, last_number, publish_command
from scheduler.foresight import Row
from scheduler.histories import Histories
from scheduler.job import JOB_ID, TERMINAL, State, new_job_id
from scheduler.lanes import tidy_swap
from scheduler.outlook import Outlook, Wanted
from scheduler.positions import refuse_overlong
from scheduler.queue import JobQueue
from scheduler.record import ENVELOPE_VERSION, JobRecord, Meta, Outcome
from scheduler.refusals import never_fits, overdue_outcome, told_apart
from scheduler.request import JobRequest
from scheduler.settings import Settings
from scheduler.slip import Slip
from scheduler.standing import Standing
from scheduler.tokenizers import PromptCounter, PromptTokens
from scheduler.verdict import Decision, Verdict, WorkerView, judge

_FLEET_SECONDS = 0.5
"""How old the list of workers may be when a job is judged."""

_LIST_SCAN = 200

_CANCEL_TRIES = 20
"""A job moves under a cancellation now and then; one that cannot be ended so often was put by others
where RQ keeps jobs for later."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of jobs, newest first, and the cursor of the next."""

    records: tuple[JobRecord, ...]
    next_cursor: str | None


class Lifecycle:
    """What clients do to jobs.

    Args:
        connection: a client that answers bytes.
        settings: the process's settings.
        clock: Unix seconds.
    """

    def __init__(self, connection: Redis, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.connection = connection
        self.settings = settings
        self.queue = JobQueue(connection, settings.result_ttl)
        self.histories = Histories(connection, clock)
        self._counter = PromptCounter(connection, clock)
        self._clock = clock
        self._workers: tuple[float, list[fleet.WorkerReport]] = (0.0, [])
        self._views: tuple[WorkerView, ...] = ()
        self._sources = frozenset(settings.model_sources)
        self._door = Door(self.queue, settings, self.outlook, clock)

    def submit(self, request: JobRequest, owner: str = "", *, again: bool | None = None) -> JobRecord:
        """Accept a job into its queue, as :meth:`accept` does; the job."""
        return self.accept(request, owner, again=again)[0]

    def accept(
        self, request: JobRequest, owner: str = "", *, again: bool | None = None
    ) -> tuple[JobRecord, Standing | None]:
        """Accept a job into its queue; the job, and where it stands if that is known already.

        Args:
            request: what is asked.
            owner: whose share it counts against, as :func:`scheduler.owner.owner_of` names it.
            again: whether its client was refused before; None where it does not say.

        Raises:
            ClientError: ``model_not_found``, ``invalid_request`` (more prompt than the model has positions),
                ``memory_never_fits``, ``no_worker``, ``queue_full``, ``insufficient_memory`` (the request
                would rather fail than wait).
        """
        now = round(self._clock(), 6)  # as RQ keeps it: microseconds
        views = self.views()
        if request.model not in self._sources and not any(request.model in view.served for view in views):
            reason = f"the model {request.model!r} is not served here"
            raise ClientError("model_not_found", reason, param="model")
        workers = [view for view in views if view.takes(request.model, request.priority)]
        max_tokens = request.max_tokens or self.settings.default_max_tokens
        prompt = self._counter.count(request)
        refuse_overlong(self._counter, request, prompt, workers)
        verdict = self._judge(workers, request.model, prompt, max_tokens)
        if not workers and not self.settings.queue_without_worker:
            reason = f"no live worker takes {request.priority} jobs for {request.model}"
            raise ClientError("no_worker", reason, retry_after=30)
        if request.on_insufficient_memory == "fail":
            work_tokens = self._work_tokens(request.model, prompt.likely, max_tokens)
            self._refuse_waiting(workers, request, verdict, work_tokens)
        rec = self._new_record(request, owner, prompt.likely, max_tokens, verdict, now)
        return rec, self._door.let_in(rec, workers, again=again)

    def get(self, job_id: str) -> JobRecord:
        """A job.

        Raises:
            ClientError: ``not_found``.
        """
        if not JOB_ID.fullmatch(job_id):
            raise ClientError("not_found", f"no job {job_id[:64]!r}", param="id")
        rec = self.queue.fetch(job_id)
        if rec.overdue(self._clock()) and self.end_waiting(rec, overdue_outcome(rec, self.outlook())):
            return self.queue.fetch(job_id)
        return rec

    def end_overdue(self) -> list[str]:
        """End every waiting job whose ``queue_timeout`` has passed; their ids."""
        now = self._clock()
        late = [rec for rec in self.queue.headings(self.queue.overdue(now)) if rec.overdue(now)]
        if not late:
            return []
        outlook = self.outlook()
        return [rec.id for rec in late if self.end_waiting(rec, overdue_outcome(rec, outlook))]

    def view(self, rec: JobRecord, standing: Standing | None = None) -> dict[str, Any]:
        """A job as clients see it, with its place (read where not given) and the seconds until it should start."""
        if rec.state is not State.QUEUED:
            return rec.view()
        stands = standing or self.queue.standing(rec)
        outlook = Outlook(self._clock(), self.views(), stands.waiting)
        eta = outlook.start_seconds(wanted(rec), (stands.position or 1) - 1)
        promised = [
            each.starts_at[rec.id] - outlook.now for each in outlook.workers if rec.id in each.starts_at
        ]
        eta = min([eta, *(seconds for seconds in promised if seconds > 0)])  # an overdue one tells nothing
        return rec.view(stands.position, round(eta, 1))

    def cancel(self, job_id: str) -> JobRecord:
        """End a job that waits, or ask the worker that holds it to; a job that ended stays as it is.

        Returns:
            The job at that moment: ended, or in progress with its cancellation asked for.
        """
        rec = self.get(job_id)
        for _ in range(_CANCEL_TRIES):
            if rec.state in TERMINAL or (rec.cancel_requested and rec.state is not State.QUEUED):
                break
            done = (
                self.end_waiting(rec, Outcome(State.CANCELLED))
                if rec.state is State.QUEUED
                else self.queue.ask_cancel(rec)
            )
            rec = self.get(job_id)
            if done:
                break
        return rec

    def end_waiting(self, rec: JobRecord, outcome: Outcome) -> bool:
        """End a job that waits; False where it does not wait any more."""
        if rec.state is not State.QUEUED:
            return False
        event = LoggedEvent(last_number(self.connection, rec.id) + 1, Kind(outcome.state.value))
        swap = self.queue.finish(rec, outcome, [event], self._clock())
        # Told in the same swap: a job that was claimed meanwhile must not be announced as ended.
        told = replace(swap, commands=(*swap.commands, publish_command([(rec.id, event)])))
        return self.queue.swap(told, tidy_swap(Slip.of(rec)))[0] == 1

    def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        model: str | None = None,
        priority: str | None = None,
    ) -> Page:
        """Jobs, newest first, without their requests.

        Args:
            limit: how many at most.
            after: the cursor of the page before: a job's id.
            status, model, priority: only those.
        """
        found: list[JobRecord] = []
        wants = (status, model, priority)
        cursor, count = after, limit + 1 if wants == (None, None, None) else _LIST_SCAN
        while True:
            ids = self.queue.newest(count, cursor)
            for rec in self.queue.headings(ids):
                has = (rec.wire_state.value, rec.meta.model, rec.meta.priority)
                if all(want in {None, each} for want, each in zip(wants, has, strict=True)):
                    found.append(rec)
            if len(found) > limit:
                return Page(self._as_ended(found[:limit]), found[limit - 1].id)
            if len(ids) < count:
                return Page(self._as_ended(found), None)
            cursor, count = ids[-1], _LIST_SCAN

    def workers(self) -> list[fleet.WorkerReport]:
        """The live workers, at most half a second old."""
        now = self._clock()
        if not 0 <= now - self._workers[0] < _FLEET_SECONDS:
            self._workers = (now, fleet.live_workers(self.connection))
            self._views = tuple(report.view() for report in self._workers[1])
        return self._workers[1]

    def views(self) -> tuple[WorkerView, ...]:
        """The live workers as admission reads them, no older."""
        self.workers()
        return self._views

    def models(self) -> list[str]:
        """Every served name: listed here, or by a live worker."""
        return sorted(self._sources.union(*(report.served for report in self.workers())))

    def outlook(self) -> Outlook:
        """The live workers and what waits now: from it comes every time that a client is told."""
        waiting, owners = self.queue.waiting_by_class(), self.queue.owners_by_class()
        return Outlook(self._clock(), self.views(), waiting, owners)

    def retry_seconds(self, job: Wanted) -> float:
        """When a job that was refused, or failed for want of memory, could start if it came again."""
        return told_apart(self.outlook().start_seconds(job))

    def takers(self, model: str, priority: str) -> list[fleet.WorkerReport]:
        """The live workers that run such jobs."""
        return [report for report in self.workers() if report.takes(model, priority)]

    def _as_ended(self, records: Sequence[JobRecord]) -> tuple[JobRecord, ...]:
        """The same jobs; those that had ended when they were read, with how."""
        ended = iter(self.queue.with_outcomes([rec for rec in records if rec.state in TERMINAL]))
        return tuple(next(ended) if rec.state in TERMINAL else rec for rec in records)

    def _judge(
        self, workers: Sequence[WorkerView], model: str, prompt: PromptTokens, max_tokens: int
    ) -> Verdict:
        """Refuse what cannot fit even if its prompt is as short as it can be; estimate the rest."""
        least = judge(workers, model, Row(prompt.least, max_tokens))
        if least.decision is Decision.NEVER_FITS:
            raise never_fits("this job", least.need_bytes, least.limit_bytes)
        return judge(workers, model, Row(prompt.likely, max_tokens))

    def _refuse_waiting(
        self, workers: Sequence[WorkerView], request: JobRequest, verdict: Verdict, work_tokens: int
    ) -> None:
        """Refuse a job that would rather fail than wait: it could start behind all that waits."""
        loaded = [view for view in workers if request.model in view.cards]
        free = max((view.headroom_bytes for view in loaded), default=0)
        outlook = self.outlook()
        jobs = sum(jobs for jobs, _ in outlook.waiting.values())
        weights = min((view.cards[request.model].weights_bytes for view in loaded), default=0)
        need = verdict.need_bytes - weights
        if jobs or need > free or not loaded:
            job = Wanted(request.model, request.priority, work_tokens, verdict.need_bytes)
            raise ClientError(
                "insufficient_memory",
                f"insufficient memory now: the job needs {gib(need)}, {gib(free)} are free, "
                f"and {jobs:,} jobs that wait come first",
                retry_after=told_apart(outlook.start_seconds(job, jobs)),
                estimated_bytes=need,
                limit_bytes=free,
            )

    def _work_tokens(self, model: str, prompt_tokens: int, max_tokens: int) -> int:
        """A job's prompt, and its answer as long as the model's are on average."""
        return prompt_tokens + math.ceil(self.histories.answers(model).mean(max_tokens))

    def _new_record(
        self,
        request: JobRequest,
        owner: str,
        prompt_tokens: int,
        max_tokens: int,
        verdict: Verdict,
        now: float,
    ) -> JobRecord:
        meta = Meta(
            model=request.model,
            priority=request.priority,
            owner=owner,
            work_tokens=self._work_tokens(request.model, prompt_tokens, max_tokens),
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            queue_deadline=now + request.queue_timeout if request.queue_timeout else None,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            estimated_bytes=verdict.need_bytes or None,
            budget_bytes=verdict.limit_bytes or None,
            metadata=request.metadata,
        )
        body = request.model_dump(mode="json", exclude_defaults=True)
        envelope = {"version": ENVELOPE_VERSION, "request": body}
        return JobRecord(new_job_id(now), State.QUEUED, meta, now, now, envelope, from_end=True)
