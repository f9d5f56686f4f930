"""The verbs: what clients do to jobs. Workers' verbs are in :mod:`scheduler.holding`."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

from redis import Redis

from scheduler import fleet
from scheduler.door import Door, stored, wanted
from scheduler.endings import Endings
from scheduler.envelope import ENVELOPE_VERSION
from scheduler.errors import ClientError
from scheduler.foresight import Row
from scheduler.grammar_trial import refuse_ungrammatical
from scheduler.histories import Histories
from scheduler.job import Lease, State, new_job_id
from scheduler.keyring import KeyRing
from scheduler.listing import Filters, Listing, Page, Wishes
from scheduler.once import Fresh, Once, Repeats
from scheduler.outlook import Outlook, Wanted
from scheduler.positions import refuse_overlong
from scheduler.progress import Far
from scheduler.queue import JobQueue
from scheduler.record import JobRecord, Meta
from scheduler.refusals import AT_ONCE_SECONDS, must_wait, never_fits, not_served, told_apart
from scheduler.request import JobRequest
from scheduler.settings import Settings
from scheduler.standing import Standing
from scheduler.tally import started_by
from scheduler.tokenizers import PromptCounter, PromptTokens
from scheduler.verdict import Decision, Verdict, WorkerView, judge
from scheduler.webhook_delivery import promise

_FLEET_SECONDS = 0.5
"""How old the list of workers may be when a job is judged."""


class Lifecycle(Endings):
    """What clients do to jobs.

    Args:
        connection: a client that answers bytes.
        settings: the process's settings.
        clock: Unix seconds.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        connection: Redis,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(JobQueue(connection, settings.result_ttl), self.outlook, clock, pause)
        self.settings = settings
        self.keys = KeyRing(connection, clock)
        self.histories = Histories(connection, clock)
        self._counter = PromptCounter(connection, clock)
        self._workers: tuple[float, list[fleet.WorkerReport]] = (0.0, [])
        self._views: tuple[WorkerView, ...] = ()
        self._far: dict[tuple[str, str], Far | None] = {}
        self._sources = frozenset(settings.model_sources)
        self._door = Door(self.queue, settings, self.outlook, clock)
        self.spending = self._door.spending
        self._repeats = Repeats(self.queue, self.get)
        self._listing = Listing(self.queue)

    def submit(self, request: JobRequest, owner: str = "", **how: Any) -> JobRecord:
        """Accept a job into its queue, as :meth:`accept` does; the job."""
        return self.accept(request, owner, **how)[0]

    def accept(
        self,
        request: JobRequest,
        owner: str = "",
        *,
        again: bool | None = None,
        note: Mapping[str, Any] | None = None,
        once: Once | None = None,
        traceparent: str | None = None,
        retry_of: str | None = None,
    ) -> tuple[JobRecord, Standing | None]:
        """Accept a job into its queue; the job, and where it stands if that is known already.

        Where the same submission came before, as ``once`` tells, that is the job it made, which says that it is
        ``replayed``.

        Args:
            request: what is asked.
            owner: whose share it counts against, as :func:`scheduler.owner.owner_of` names it.
            again: whether its client was refused before; None where it does not say.
            note: what the API wants to know of the job later, as JSON; kept beside the request, read by no worker.
            once: what tells the submission from others; None where nothing does.
            traceparent: the trace that it belongs to, as :mod:`scheduler.traceparent` writes it; None: to none.
            retry_of: the job whose request this is.

        Raises:
            ClientError: ``model_not_found``, ``invalid_request`` (more prompt than the model has positions, an
                answer's form that cannot be imposed, a webhook that could not be sent), ``memory_never_fits``,
                ``no_worker``, ``queue_full``, ``insufficient_memory`` (the request would rather fail than wait),
                ``idempotency_mismatch``; of its owner's API key, where there are any: ``forbidden``,
                ``rate_limit_exceeded``, ``unauthorized`` (it was removed).
        """

        def make(fresh: Fresh) -> tuple[JobRecord, Standing | None]:
            rec, workers = self.prepare(request, owner, note)
            if retry_of is not None or traceparent is not None:
                rec = replace(rec, meta=replace(rec.meta, retry_of=retry_of, traceparent=traceparent))
            key, also = self.keys.of_owner(owner), fresh.swap(rec.id)
            return rec, self._door.let_in(rec, workers, again=again, key=key, also=also)

        try:
            if once is None:
                accepted = make(Fresh())
            else:
                refused = bool(again) and self._door.expects(request, owner)
                accepted = self._repeats.accept(once, make, refused=refused)
        except ClientError as error:
            self.tally.count("refusals", error.code)
            self.tally.told(error.retry_after, error.code)
            raise
        if not accepted[0].replayed:
            self.tally.count("submissions", accepted[0].meta.priority)
        return accepted

    def prepare(
        self, request: JobRequest, owner: str = "", note: Mapping[str, Any] | None = None
    ) -> tuple[JobRecord, Sequence[WorkerView]]:
        """A job as it would be accepted, judged but stored nowhere yet, and the workers that take it.

        Raises:
            ClientError: as :meth:`accept`, but ``queue_full``, ``rate_limit_exceeded`` and ``idempotency_mismatch``.
        """
        key = self.keys.of_owner(owner)
        if key is not None:
            key.insist(request.model, request.priority)
        views = self.views()
        served = self._sources.union(*(view.served for view in views))
        if request.model not in served:
            raise not_served(request.model, (name for name in served if key is None or key.may_use(name)))
        refuse_ungrammatical(request)
        workers = [view for view in views if view.takes(request.model, request.priority)]
        max_tokens = request.max_tokens or self.settings.default_max_tokens
        webhook = promise(request.webhook, self.settings, "response" if "response" in (note or {}) else "job")
        prompt = self._counter.count(request)
        refuse_overlong(self._counter, request, prompt, workers)
        verdict = self._judge(workers, request.model, prompt, max_tokens)
        if not workers and not self.settings.queue_without_worker:
            reason = f"no live worker takes {request.priority} jobs for {request.model}"
            raise ClientError("no_worker", reason, retry_after=30)
        if request.on_insufficient_memory == "fail":
            work_tokens = self._work_tokens(request.model, prompt.likely, max_tokens)
            self._refuse_waiting(request, verdict, work_tokens)
        now = round(self._clock(), 6)  # as RQ keeps it: microseconds
        rec = self._new_record(request, owner, prompt.likely, max_tokens, verdict, now, note)
        return replace(rec, webhook=webhook, meta=replace(rec.meta, keyed=key is not None)), workers

    def view(self, rec: JobRecord, standing: Standing | None = None) -> dict[str, Any]:
        """A job as clients see it, with its place (read where not given) and the seconds until it should start."""
        if rec.state is State.IN_PROGRESS:
            self.workers()
            return rec.view(far=self._far.get((Lease.parse(rec.lease or "?/0").worker, rec.id)))
        if rec.state is not State.QUEUED:
            return rec.view()
        stands = standing or self.queue.standing(rec)
        outlook = Outlook(self._clock(), self.views(), stands.waiting)
        eta = outlook.start_seconds(wanted(rec), (stands.position or 1) - 1)
        promised = [
            each.starts_at[rec.id] - outlook.now for each in outlook.workers if rec.id in each.starts_at
        ]
        eta = min([eta, *(seconds for seconds in promised if seconds > 0)])  # an overdue one tells nothing
        preparing = fleet.state_of(self.takers(rec.meta), rec.meta.model) in {"loading", "measuring"}
        return rec.view(
            stands.position, None if preparing else round(eta, 1)
        )  # nobody knows how long it takes

    def view_all(self, records: Sequence[JobRecord]) -> list[dict[str, Any]]:
        """Several jobs as clients see them, with their places, which are read together."""
        standings = self.queue.standings([rec for rec in records if rec.state is State.QUEUED])
        return [self.view(rec, standings.get(rec.id)) for rec in records]

    def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        **wanted: Unpack[Wishes],
    ) -> Page:
        """Jobs, newest first unless ``order`` says otherwise, as :meth:`scheduler.listing.Listing.page` finds them."""
        return self._listing.page(Filters(**wanted), limit=limit, after=after, before=before, order=order)

    def workers(self) -> list[fleet.WorkerReport]:
        """The live workers, at most half a second old."""
        now = self._clock()
        if not 0 <= now - self._workers[0] < _FLEET_SECONDS:
            self._workers = (now, fleet.live_workers(self.connection))
            self._views = tuple(report.view() for report in self._workers[1])
            started = {f"{each.name} {each.pid}": started_by(each.measures) for each in self._workers[1]}
            for seconds in self._door.needed.saw(started, now):
                self.tally.note("retry_after_needed_seconds", seconds)
            self._far = {
                (each.name, job.job_id): job.far for each in self._workers[1] for job in each.running
            }
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

    def takers(self, meta: Meta) -> list[fleet.WorkerReport]:
        """The live workers that run such jobs."""
        return [each for each in self.workers() if each.takes(meta.model, meta.priority, meta.version)]

    def _judge(
        self, workers: Sequence[WorkerView], model: str, prompt: PromptTokens, max_tokens: int
    ) -> Verdict:
        """Refuse what cannot fit even if its prompt is as short as it can be; estimate the rest."""
        least = judge(workers, model, Row(prompt.least, max_tokens))
        if least.decision is Decision.NEVER_FITS:
            raise never_fits("this job", least.need_bytes, least.limit_bytes)
        return judge(workers, model, Row(prompt.likely, max_tokens))

    def _refuse_waiting(self, request: JobRequest, verdict: Verdict, work_tokens: int) -> None:
        """Refuse a job that would rather fail than wait: it could start behind all that comes before it."""
        job = Wanted(request.model, request.priority, work_tokens, verdict.need_bytes)
        error = must_wait(job, self.outlook())
        if error is not None:
            raise error

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
        note: Mapping[str, Any] | None,
    ) -> JobRecord:
        patience = request.queue_timeout or None
        at_once = request.on_insufficient_memory == "fail" and (patience or math.inf) > AT_ONCE_SECONDS
        if at_once:
            patience = AT_ONCE_SECONDS
        meta = Meta(
            model=request.model,
            priority=request.priority,
            owner=owner,
            work_tokens=self._work_tokens(request.model, prompt_tokens, max_tokens),
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            queue_deadline=now + patience if patience else None,
            at_once=at_once,
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            estimated_bytes=verdict.need_bytes or None,
            budget_bytes=verdict.limit_bytes or None,
            metadata=request.metadata,
        )
        envelope = {"version": ENVELOPE_VERSION, "request": stored(request)} | (
            {"note": dict(note)} if note else {}
        )
        return JobRecord(new_job_id(now), State.QUEUED, meta, now, now, envelope, from_end=True)
