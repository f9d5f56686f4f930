"""One round of one batch: its lines looked at, taken, concluded, and its end made.

Nothing is remembered from one round to the next: whoever makes the next one reads what is so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from scheduler.batch import Batch, BatchEvent, BatchState, LineError
from scheduler.batch_ending import Ending
from scheduler.batch_lines import (
    LINES_MOST,
    NUMBERED_MOST,
    Fault,
    Line,
    RawLine,
    answered,
    line_most,
    raw_lines,
    read_line,
    refused,
    repeated,
    tokens_of,
    unfinished,
)
from scheduler.batch_progress import Conclusion, Progress, Running, Take
from scheduler.batches import Batches
from scheduler.errors import ClientError
from scheduler.files import Files
from scheduler.job import State
from scheduler.keys import Key
from scheduler.lifecycle import Lifecycle
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.spending import Fee, fee_of
from scheduler.waiting import Bounds

STOP_SECONDS: Final = 600.0
"""How long jobs that are asked to stop are waited for: as long as OpenAI's batches cancel."""

FEED_SECONDS: Final = 1.0
"""How long a batch is fed before the others have their turns: some schemas take a second each to try."""

_ERRORS_MOST: Final = 100
"""Faults that a failed batch tells of."""

_FAULTS_AT_ONCE: Final = 64
_CONCLUDED_AT_ONCE: Final = 16
"""Results that are read together: each may be long."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route whose requests batches make.

    Args:
        ask: a line's body as jobs, one for each choice, and what the route notes of them; raises a ``ClientError``.
        answer: the body that the route answers with when they ended; raises the ``ClientError`` that one ended with.
    """

    ask: Callable[[dict[str, Any]], tuple[Sequence[JobRequest], Mapping[str, Any]]]
    answer: Callable[[Sequence[JobRecord]], dict[str, Any]]


class Rounds:
    """Makes batches go on.

    Args:
        lifecycle: the verbs of jobs.
        files: the store of files.
        batches: the store of batches.
        endpoints: by path.
        read: parses a JSON object strictly; raises a ``ClientError``.
        breathe: called often between pieces of work; lets others run.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        files: Files,
        batches: Batches,
        endpoints: Mapping[str, Endpoint],
        read: Callable[[bytes], dict[str, Any]],
        breathe: Callable[[], None] = lambda: None,
    ) -> None:
        self._lifecycle, self._files, self._batches = lifecycle, files, batches
        self._endpoints, self._read, self._breathe = endpoints, read, breathe
        self._progress = Progress(lifecycle.queue)
        self._ending = Ending(files, batches, self._progress, self._line, self._lines, breathe)
        all_of_it = Bounds.of(lifecycle.settings)
        self._owner_jobs = all_of_it.owner_jobs
        self._bounds = Bounds(  # the other half of the queue is for those who wait for their answers
            _half(all_of_it.jobs),
            _half(all_of_it.tokens),
            all_of_it.owner_jobs and _half(all_of_it.owner_jobs),
            all_of_it.owner_tokens and _half(all_of_it.owner_tokens),
        )

    def step(self, batch_id: str, most_running: int, now_seconds: float) -> bool:
        """Let a batch go on.

        Args:
            batch_id: the batch.
            most_running: how many of its lines may run or wait at a time.
            now_seconds: Unix time.

        Returns:
            Whether it came into another state, so that there is more to do at once.
        """
        batch = self._batches.find(batch_id)
        if batch is None or batch.ended:
            self._batches.forget(batch_id)
            return False
        if batch.status is BatchState.VALIDATING:
            return self._look(batch)
        running = self._conclude(batch)
        if batch.status is BatchState.IN_PROGRESS:
            if now_seconds >= batch.expires_at:
                return self._batches.move(batch, BatchEvent.CLOSE, closed=1)
            drained = self._feed(batch, most_running - len(running)) and not running
            return drained and self._batches.move(batch, BatchEvent.DRAIN)
        since = batch.moments.get(batch.status, 0.0)
        if batch.stopping and running and now_seconds < since + STOP_SECONDS:
            for each in running:
                self._stop(each)
            return False
        return self._ending.write(batch, running)

    def _look(self, batch: Batch) -> bool:
        """Look at every line once: those that cannot run are told so; the others are counted."""
        faults: list[Fault] = []
        fresh: list[Fault] = []
        models, seen, total = Counter[str](), set[str](), 0
        for raw in self._lines(batch):
            total += 1
            if total > LINES_MOST or raw.number > NUMBERED_MOST:
                reason = f"at most {LINES_MOST:,} lines are taken, and {NUMBERED_MOST:,} with blank ones"
                return self._batches.refuse(batch, [LineError("too_many_lines", reason)])
            line = self._line(batch, raw)
            if isinstance(line, Line) and line.custom_id in seen:
                line = repeated(line)
            if isinstance(line, Line):
                seen.add(line.custom_id)
                models[str(line.body.get("model"))[:256]] += 1
            else:
                fresh.append(line)
            if len(fresh) >= _FAULTS_AT_ONCE:
                self._keep(batch, fresh)
                faults, fresh = faults + fresh, []
        if total == 0:
            reason = "the input file has no lines, or is gone"
            return self._batches.refuse(batch, [LineError("empty_file", reason)])
        faults += fresh
        if len(faults) == total:
            return self._batches.refuse(
                batch,
                [
                    LineError(fault.code, fault.error.message, fault.number, fault.error.param)
                    for fault in faults[:_ERRORS_MOST]
                ],
            )
        self._keep(batch, fresh)
        model = {"model": next(iter(models))} if len(models) == 1 else {}
        return self._batches.move(batch, BatchEvent.ACCEPT, total=total, failed=len(faults), **model)

    def _keep(self, batch: Batch, faults: list[Fault]) -> None:
        entries = [
            (fault.number, refused(batch.id, fault.number, fault.custom_id, fault.error)) for fault in faults
        ]
        if entries:
            self._progress.keep_faults(batch, entries)

    def _feed(self, batch: Batch, room: int) -> bool:
        """Take lines while there is room; whether there was none to take. What is known is passed over for good."""
        taken, known, more = 0, None, room <= 0
        until = time.monotonic() + FEED_SECONDS
        for raw in self._lines(batch, batch.offset, batch.next_line) if room > 0 else ():
            line = self._line(batch, raw)
            took = Take.KNOWN if isinstance(line, Fault) else self._take(batch, line, raw.end)
            if more := took in {Take.MOVED, Take.FULL}:
                break
            if took is Take.KNOWN:
                known = raw
            else:
                batch, known = replace(batch, next_line=raw.number + 1, offset=raw.end), None
                taken += 1
            if (more := time.monotonic() >= until) or taken >= room:
                break
        if known is not None:
            self._progress.pass_over(batch, known.number, known.end)
        return not more and taken == 0

    def _take(self, batch: Batch, line: Line, end: int) -> Take:
        """Let a line run, or tell why it does not."""
        try:
            if line.body.get("stream"):
                raise ClientError("invalid_request", "stream: a batch has no streams", param="stream")
            requests, note = self._endpoint(batch).ask(line.body)
            noted = {**note, "batch": {"id": batch.id, "line": line.number}}
            patient = [request.model_copy(update={"priority": "batch"}) for request in requests]
            records = [self._lifecycle.prepare(request, batch.owner, noted)[0] for request in patient]
            key = self._lifecycle.keys.of_owner(batch.owner)
            fee = self._fee(key, records)
        except ClientError as error:
            if error.row.retryable and error.code != "insufficient_memory":
                return Take.FULL
            entry = refused(batch.id, line.number, line.custom_id, error)
            return self._progress.refuse(batch, line.number, end, entry)
        bounds = self._bounds
        if key is not None and key.queued_jobs is not None:
            most = min(key.queued_jobs, self._owner_jobs or key.queued_jobs)
            bounds = replace(bounds, owner_jobs=_half(most))
        took = self._progress.run(batch, line, end, records, bounds, fee)
        self._lifecycle.tally.count("submissions", "batch", by=len(records) * (took is Take.DONE))
        return took

    def _fee(self, key: Key | None, records: Sequence[JobRecord]) -> Fee | None:
        """What a line costs its key; half of a minute's tokens is for those who wait for their answers.

        Raises:
            ClientError: ``forbidden``; it is larger than all that the key has in a minute, or makes more jobs than may
                wait.
        """
        if key is not None and key.queued_jobs is not None and len(records) > key.queued_jobs:
            most = f"at most {key.queued_jobs:,} of this API key may wait"
            raise ClientError("forbidden", f"this line makes {len(records):,} jobs; {most}", param="n")
        prompts = sum(rec.meta.prompt_tokens for rec in records)
        answers = sum(rec.meta.max_tokens for rec in records)
        fee = fee_of(key, prompts, answers, self._files.now())
        return fee and replace(fee, leaving=fee.allowance.tokens_per_minute // 2)

    def _conclude(self, batch: Batch) -> list[Running]:
        """Keep the results of the lines that ended; those that run still."""
        running = self._progress.running(batch)
        ended = self._progress.stopped(running)
        for start in range(0, len(ended), _CONCLUDED_AT_ONCE):
            some = ended[start : start + _CONCLUDED_AT_ONCE]
            found = self._lifecycle.queue.fetch_many([job_id for each in some for job_id in each.job_ids])
            records = {rec.id: rec for rec in found}
            self._progress.conclude(batch, [self._conclusion(batch, each, records) for each in some])
            self._breathe()
        gone = {each.number for each in ended}
        return [each for each in running if each.number not in gone]

    def _conclusion(self, batch: Batch, each: Running, found: Mapping[str, JobRecord]) -> Conclusion:
        records = [found[job_id] for job_id in each.job_ids if job_id in found]
        if batch.stopping and any(rec.state is State.CANCELLED for rec in records):
            late = unfinished(batch.id, each.number, each.custom_id, expired=batch.closed)
            return Conclusion(each, late)
        name = each.job_ids[0]
        try:
            if len(records) < len(each.job_ids):
                gone = " ".join(sorted(set(each.job_ids) - set(found)))
                raise ClientError("internal_error", f"what became of {gone} was gone before it was read")
            body = self._endpoint(batch).answer(records)
        except ClientError as error:
            return Conclusion(each, refused(batch.id, each.number, each.custom_id, error, name))
        except (LookupError, TypeError, ValueError, AttributeError):  # others wrote what is no result
            bad = ClientError("internal_error", f"what became of {name} cannot be read")
            return Conclusion(each, refused(batch.id, each.number, each.custom_id, bad, name))
        return Conclusion(each, answered(batch.id, each.number, each.custom_id, name, body), tokens_of(body))

    def _endpoint(self, batch: Batch) -> Endpoint:
        found = self._endpoints.get(batch.endpoint)
        if found is None:  # it was begun by another version
            raise ClientError("not_found", f"{batch.endpoint} is not served in batches")
        return found

    def _stop(self, each: Running) -> None:
        for job_id in each.job_ids:
            with suppress(ClientError):  # it is gone: the next round tells
                self._lifecycle.cancel(job_id)

    def _line(self, batch: Batch, raw: RawLine) -> Line | Fault:
        return read_line(raw, batch.endpoint, self._lifecycle.settings.max_body_bytes, self._read)

    def _lines(self, batch: Batch, offset: int = 0, number: int = 1) -> Iterator[RawLine]:
        """A batch's lines that are not blank, from one on; none where its file is gone."""
        try:
            file = self._files.get(batch.input_file_id, batch.owner)
            most = line_most(self._lifecycle.settings.max_body_bytes)
            chunk = partial(self._files.chunk, file.id)
            for raw in raw_lines(chunk, file.size_bytes, most, offset, number):
                self._breathe()
                if not raw.blank or raw.number > NUMBERED_MOST:
                    yield raw
        except ClientError:  # whoever empties the server's keys takes a batch's input too
            return


def _half(most: int) -> int:
    return max(1, most // 2)
