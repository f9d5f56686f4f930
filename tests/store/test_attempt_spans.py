"""What a worker tells of its attempts: one span for each, whatever becomes of the job, and what happened within."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from redis import Redis

from scheduler.blame import Failure, Fault
from scheduler.errors import ClientError
from scheduler.holding import Held, Progress
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.span_sender import SpanSender
from tests.conftest import MODEL
from tests.plans import WORST_CASE
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock
from workers.desk import Desk
from workers.reporting import Reporting

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARENT = 0xB7AD6B7169203331


class Scene:
    """One worker, whose clock the test moves, and what it tells."""

    def __init__(self, lifecycle: Lifecycle, worker: PretendWorker, clock: Clock) -> None:
        self.lifecycle, self.worker, self.clock = lifecycle, worker, clock
        self.kept = InMemorySpanExporter()
        self.sender = lifecycle.spans = SpanSender(self.kept, "tidegate-test")
        worker.holding._clock = clock
        reporting = Reporting(lifecycle, worker.name, (), clock)
        self.desk = Desk(lifecycle, worker.holding, reporting, lambda _: None, WORST_CASE, clock)

    def submit(self, traceparent: str | None = TRACED) -> str:
        """A job."""
        asked = read_request({"model": MODEL, "prompt": "hi", "max_tokens": 10})
        return self.lifecycle.submit(asked, traceparent=traceparent).id

    def claim(self, after_seconds: float = 2.0) -> Held:
        """Take the job that waits, its memory granted half a second later."""
        self.clock.now += after_seconds
        held = self.desk.take(self.worker.claim())
        self.clock.now += 0.5
        held.rec = replace(held.rec, meta=replace(held.rec.meta, granted_at=self.clock.now, reserved_bytes=9))
        return held

    def write(self, held: Held, *, outcome: Outcome | None = None) -> None:
        """A token, a second later."""
        self.clock.now += 1.0
        self.desk.write([Progress(held, {"text": "a", "tokens": [1], "at": self.clock.now}, outcome)])

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they were told: those within a span before it."""
        self.sender.flush()
        return [*self.kept.get_finished_spans()]


@pytest.fixture
def scene(connection: Redis, lifecycle: Lifecycle, worker: PretendWorker, clock: Clock) -> Iterator[Scene]:
    """Traces are on."""
    made = Scene(lifecycle, worker, clock)
    yield made
    made.sender.close()


def names(spans: list[ReadableSpan]) -> list[str]:
    """What they are called."""
    return [span.name for span in spans]


def seconds(span: ReadableSpan) -> float:
    """How long one took."""
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_jobs_life_is_told_by_its_own_times(scene: Scene) -> None:
    """Its stay in the queue, the attempt, and within it the prompt and the answer; all in the trace that it brought."""
    scene.submit()
    held = scene.claim()
    scene.write(held)
    scene.write(held)
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    scene.write(
        held, outcome=Outcome(State.COMPLETED, {"text": "aaa", "finish_reason": "stop", "usage": usage})
    )
    spans = scene.spans
    decode, attempt = spans[2:]
    assert names(spans) == ["queue", "prefill", "decode", "attempt"]
    assert [seconds(span) for span in spans] == pytest.approx([2.0, 1.0, 2.0, 3.5])
    assert attempt.context is not None
    assert [span.parent and span.parent.span_id for span in spans] == [
        *(PARENT, attempt.context.span_id, attempt.context.span_id, PARENT)
    ]
    said: Any = attempt.attributes
    assert said["tidegate.job.status"] == "completed"
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (7, 3)
    assert said["tidegate.worker"] == "one"
    assert said["tidegate.memory.reserved_bytes"] == 9
    assert (decode.attributes or {})["tidegate.tokens_per_second"] == 1.0
    assert attempt.status.status_code is StatusCode.UNSET
    assert scene.desk.witness._spans._open == {}


@pytest.mark.parametrize(
    ("reason", "happened", "went_wrong"),
    [
        (Reason.MEMORY, ["shed"], False),
        (Reason.PREEMPTED, ["preempted"], False),
        (Reason.ENGINE_LOST, ["engine_died"], True),
        (Reason.WORKER_STOPPED, [], False),
    ],
)
def test_a_job_that_is_put_back_says_why(
    scene: Scene, reason: Reason, happened: list[str], went_wrong: bool
) -> None:
    """Its next stay in the queue begins where the attempt ended, and hangs from the same span."""
    scene.submit()
    held = scene.claim()
    scene.write(held)
    scene.desk.put_back(held, reason)
    scene.claim(after_seconds=5.0)
    _, _, _, attempt, again = scene.spans
    assert [event.name for event in attempt.events] == happened
    assert (attempt.attributes or {})["tidegate.requeue.reason"] == reason.value
    assert (attempt.status.status_code is StatusCode.ERROR) is went_wrong
    assert (again.name, seconds(again), again.start_time) == ("queue", 5.0, attempt.end_time)
    assert again.parent is not None and again.parent.span_id == PARENT


def test_memory_that_runs_out_and_engines_that_die_are_seen(scene: Scene) -> None:
    """With how the engine ended; alone and for the second time, the job fails with its code, and its words stay here."""
    scene.submit()
    for _ in range(2):
        held = scene.claim()
        scene.desk.judge([held], Failure(Fault.OUT_OF_MEMORY, died=True, company=1, exit_name="SIGSEGV"))
    first, last = (span for span in scene.spans if span.name == "attempt")
    for attempt in (first, last):
        assert [event.name for event in attempt.events] == ["engine_died", "out_of_memory"]
        assert (attempt.events[0].attributes or {})["tidegate.exit"] == "SIGSEGV"
    assert (first.attributes or {})["tidegate.requeue.reason"] == "out_of_memory"
    assert (last.attributes or {})["error.type"] == "insufficient_memory"
    assert (last.status.status_code, last.status.description) == (StatusCode.ERROR, "insufficient_memory")
    assert names(scene.spans) == ["queue", "prefill", "attempt"] * 2
    assert "GiB" not in str([span.to_json() for span in scene.spans])


def test_a_prompt_that_was_not_counted_again_is_no_part_of_an_attempt(scene: Scene) -> None:
    """A job says when its memory was granted; where that was before the claim, it was for an earlier attempt."""
    scene.submit()
    scene.desk.put_back(scene.claim(), Reason.WORKER_STOPPED)
    scene.clock.now += 1.0
    scene.desk.put_back(scene.desk.take(scene.worker.claim()), Reason.WORKER_STOPPED)
    assert names(scene.spans) == ["queue", "prefill", "attempt", "queue", "attempt"]


def test_a_dead_workers_attempt_is_told_by_who_takes_over(scene: Scene, other: PretendWorker) -> None:
    """Once, from the claim on; the worker itself, should it come back, tells nothing of what it lost."""
    job_id = scene.submit()
    held = scene.claim()
    scene.write(held)
    scene.worker.connection.delete("tidegate:worker:one")
    for _ in range(2):
        recover(scene.lifecycle.queue, PRIORITIES, "two", set(), scene.sender)
    scene.write(held)
    assert scene.desk.witness._spans._open == {}
    held = scene.claim()
    scene.worker.connection.hdel(f"rq:job:{job_id}", "lease")
    scene.desk.put_back(held, Reason.MEMORY)
    queue, attempt = scene.spans[:2]
    assert names(scene.spans) == ["queue", "attempt", "queue"]
    assert (queue.name, attempt.name, attempt.start_time) == ("queue", "attempt", queue.end_time)
    assert (attempt.attributes or {})["tidegate.requeue.reason"] == "worker_lost"
    assert scene.desk.witness._spans._open == {}
    scene.lifecycle.delete(job_id)


def test_a_job_without_a_trace_tells_nothing(scene: Scene) -> None:
    """Though its worker sends traces; so does one that waits, and is cancelled."""
    scene.submit(traceparent=None)
    held = scene.claim()
    scene.write(held)
    scene.desk.judge([held], Failure(Fault.BUG, died=True, company=2))
    scene.desk.fail(scene.claim(), ClientError("internal_error", "x"))
    scene.lifecycle.cancel(scene.submit(traceparent=None))
    assert scene.spans == []
