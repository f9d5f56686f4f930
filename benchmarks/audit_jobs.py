"""The audit's rules about one job: what its client saw beside what the server keeps and what should have been.

A rule answers what is wrong in words, one for each thing. A job that a client asked to cancel may have ended before
that was heard: it has the undisturbed answer then, and else a beginning of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from benchmarks.audit_store import Stored
from benchmarks.findings import Column, Finding
from benchmarks.following import Story
from scheduler.events import TERMINAL_KINDS, Kind
from scheduler.job import TERMINAL, State

_TERMINAL: Final = frozenset(state.value for state in TERMINAL)
_ENDS: Final = frozenset(kind.value for kind in TERMINAL_KINDS)


@dataclass(slots=True)
class Accepted:
    """A job that a client was told of, and what the client saw of it.

    Args:
        job_id: as the first answer named it.
        calm: the stream of the same job where nothing happens.
        cancelled: whether its client asked to cancel it.
        errors: codes of errors with which it may end as well, such as ``queue_timeout``.
        story: its stream, over all connections in order; None where the client followed none.
        answers: the job as it was polled, in order.
        other_ids: other jobs that answers to the same submission named.
    """

    job_id: str
    calm: Story
    cancelled: bool = False
    errors: frozenset[str] = frozenset()
    story: Story | None = None
    answers: list[Mapping[str, Any]] = field(default_factory=list)
    other_ids: list[str] = field(default_factory=list)


Rule = Callable[[Accepted, Stored], Iterator[str]]


def job_findings(job: Accepted, stored: Stored) -> list[Finding]:
    """What is wrong with a job; of one that is lost no more is asked than whether something came twice."""
    lost = [Finding(Column.LOST, job.job_id, words) for rule in LOST for words in rule(job, stored)]
    found = [Finding(Column.DOUBLED, job.job_id, words) for rule in DOUBLED for words in rule(job, stored)]
    if not lost:
        found += [
            Finding(Column.CHANGED, job.job_id, words) for rule in CHANGED for words in rule(job, stored)
        ]
    return lost + found


# Lost


def without_a_terminal_state(_: Accepted, stored: Stored) -> Iterator[str]:
    """Gone, waiting or running, though everything has ended."""
    if stored.state not in _TERMINAL:
        yield f"it is {stored.state or 'gone'}; its log: {_kinds(stored)}"


def without_a_terminal_event(_: Accepted, stored: Stored) -> Iterator[str]:
    """A reader of its log would wait for ever."""
    if stored.state in _TERMINAL and not stored.ends:
        yield f"it is {stored.state}, and its log has no end: {_kinds(stored)}"


def without_a_result(_: Accepted, stored: Stored) -> Iterator[str]:
    """It ended, and what came of it is not kept."""
    if stored.state in _TERMINAL and not stored.results:
        yield f"it is {stored.state}, and has no result"


def never_told(job: Accepted, _: Stored) -> Iterator[str]:
    """Its client followed or polled it to the last, and never heard of an end."""
    if job.story is not None and (job.story.ending[0] not in _ENDS):
        yield f"its stream ended as {job.story.ending[0]} after {len(job.story.sent)} events"
    if job.story is None and not any(answer["status"] in _TERMINAL for answer in job.answers):
        yield f"it was polled {len(job.answers)} times, and never had ended"


# Doubled


def ended_twice(_: Accepted, stored: Stored) -> Iterator[str]:
    """More than one terminal event."""
    if len(stored.ends) > 1:
        yield f"its log ends more than once: {_kinds(stored)}"


def ran_after_its_end(_: Accepted, stored: Stored) -> Iterator[str]:
    """Something follows its terminal event."""
    if stored.ends and stored.events[-1].kind not in TERMINAL_KINDS:
        yield f"its log goes on after its end: {_kinds(stored)}"


def has_two_results(_: Accepted, stored: Stored) -> Iterator[str]:
    """RQ's results of it are more than one."""
    if len(stored.results) > 1:
        yield f"it has {len(stored.results)} results"


def began_an_attempt_twice(_: Accepted, stored: Stored) -> Iterator[str]:
    """Two workers held it at once, or one attempt was counted twice."""
    attempts = [int(event.data.get("attempt", 0)) for event in stored.events if event.kind is Kind.STARTED]
    if attempts != sorted(set(attempts)):
        yield f"its attempts were {attempts}"
    held = False
    for event in stored.events:
        if event.kind is Kind.STARTED and held:
            yield f"attempt {event.data.get('attempt')} began before the one before it was over: {_kinds(stored)}"
        held = event.kind is Kind.STARTED or (held and event.kind is Kind.DELTA)


def came_twice(job: Accepted, _: Stored) -> Iterator[str]:
    """Its client was sent an event number a second time."""
    if job.story is not None:
        numbers = [each.number for each in job.story.sent]
        if again := [later for before, later in pairwise(numbers) if later <= before]:
            yield f"its stream had the numbers {again} again"


def was_made_twice(job: Accepted, _: Stored) -> Iterator[str]:
    """One submission under one key made another job as well."""
    if job.other_ids:
        yield f"its submission also made {', '.join(job.other_ids)}"


# Changed


def log_is_not_whole(_: Accepted, stored: Stored) -> Iterator[str]:
    """Its log's numbers do not run from 1 without a gap, or it cannot be read."""
    numbers = [event.number for event in stored.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its log's numbers are {_ranges(numbers)}"
    if stored.unreadable:
        yield f"{stored.unreadable} of its log's entries cannot be read"


def written_by_nobody(_: Accepted, stored: Stored) -> Iterator[str]:
    """A delta stands where no attempt held the job: who wrote it had lost it."""
    held = False
    for event in stored.events:
        if event.kind is Kind.DELTA and not held:
            yield f"event {event.number} was written while nobody held the job: {_kinds(stored)}"
        held = event.kind is Kind.STARTED or (held and event.kind is Kind.DELTA)


def ended_otherwise(job: Accepted, stored: Stored) -> Iterator[str]:
    """Its state is not that of the undisturbed run, and its client did not cancel it."""
    allowed = {job.calm.ending[0], *({State.CANCELLED.value} if job.cancelled else ())}
    if (stored.results[0].get("error") or {}).get("code") in job.errors:
        allowed.add(State.FAILED.value)
    if stored.state not in allowed:
        yield f"it {stored.state}, and should have {job.calm.ending[0]}: {stored.results[0].get('error')}"
    kinds = {event.kind.value for event in stored.ends}
    if kinds != {stored.state}:
        yield f"it is {stored.state}, and its log says {', '.join(sorted(kinds))}"
    if stored.results[0].get("state") != stored.state:
        yield f"it is {stored.state}, and its result says {stored.results[0].get('state')}"


def log_says_something_else(job: Accepted, stored: Stored) -> Iterator[str]:
    """Its log's text is not that of the undisturbed run."""
    yield from _other_text("its log", job.calm.text, stored.text, whole=stored.state in _WITH_ANSWER)


def result_is_another(job: Accepted, stored: Stored) -> Iterator[str]:
    """What is kept as its result is not that of the undisturbed run."""
    if stored.state in _WITH_ANSWER:
        yield from _other_answer("its result", job.calm.ending[1], stored.results[0].get("result"))


def stream_is_not_the_log(job: Accepted, stored: Stored) -> Iterator[str]:
    """Its client's stream has not the log's events: numbers, kinds and text, each once and in order."""
    if job.story is None:
        return
    told = [
        (each.number, each.kind, each.data.get("text") if each.kind == "delta" else None)
        for each in job.story.fresh
    ]
    kept = [
        (each.number, each.kind.value, each.data.get("text", "") if each.kind is Kind.DELTA else None)
        for each in stored.events
    ]
    if told != kept:
        at = next(
            (n for n, (one, other) in enumerate(zip(told, kept, strict=False)) if one != other),
            min(len(told), len(kept)),
        )
        yield f"its stream has {len(told)} events, its log {len(kept)}; at {at}: {told[at : at + 1]} for {kept[at : at + 1]}"


def stream_says_something_else(job: Accepted, stored: Stored) -> Iterator[str]:
    """Its stream's text or end is not that of the undisturbed run."""
    if job.story is None:
        return
    kind, result = job.story.ending
    yield from _other_text("its stream", job.calm.text, job.story.text, whole=kind in _WITH_ANSWER)
    if kind != stored.state:
        yield f"its stream ended as {kind}, and it is {stored.state}"
    if kind in _WITH_ANSWER:
        yield from _other_answer("its stream's end", job.calm.ending[1], result)


def answers_disagree(job: Accepted, stored: Stored) -> Iterator[str]:
    """A polled answer told of another end than it came to, or of none after it had."""
    ended = False
    for answer in job.answers:
        if answer["status"] in _TERMINAL:
            ended = True
            if answer["status"] != stored.state:
                yield f"it was polled as {answer['status']}, and is {stored.state}"
            if answer["status"] in _WITH_ANSWER:
                yield from _other_answer("its polled result", job.calm.ending[1], answer.get("result"))
        elif ended:
            yield f"it was polled as {answer['status']} after its end"
    if job.story is not None and job.story.done and job.answers and not ended:
        yield f"it was polled as {job.answers[-1]['status']} after its stream had ended"


LOST: Final[Sequence[Rule]] = (
    without_a_terminal_state,
    without_a_terminal_event,
    without_a_result,
    never_told,
)
DOUBLED: Final[Sequence[Rule]] = (
    ended_twice,
    ran_after_its_end,
    has_two_results,
    began_an_attempt_twice,
    came_twice,
    was_made_twice,
)
CHANGED: Final[Sequence[Rule]] = (
    log_is_not_whole,
    written_by_nobody,
    ended_otherwise,
    log_says_something_else,
    result_is_another,
    stream_is_not_the_log,
    stream_says_something_else,
    answers_disagree,
)

_WITH_ANSWER: Final = frozenset({State.COMPLETED.value, State.INCOMPLETE.value})


def _other_text(what: str, calm: str, seen: str, *, whole: bool) -> Iterator[str]:
    if seen != calm if whole else not calm.startswith(seen):
        at = next(
            (n for n, (one, other) in enumerate(zip(calm, seen, strict=False)) if one != other),
            min(len(calm), len(seen)),
        )
        yield f"{what} differs at character {at} of {len(calm)}: {seen[at : at + 20]!r} for {calm[at : at + 20]!r}"


def _other_answer(what: str, calm: Any, seen: Any) -> Iterator[str]:
    """Another text, reason to end or count of tokens; how much of a prompt was computed before is chance."""
    for name in ("text", "finish_reason"):
        if (seen or {}).get(name) != (calm or {}).get(name):
            yield f"{what} has another {name}: {str((seen or {}).get(name))[:60]!r}"
    counts = [
        {name: count for name, count in ((each or {}).get("usage") or {}).items() if isinstance(count, int)}
        for each in (calm, seen)
    ]
    if counts[0] != counts[1]:
        yield f"{what} counts {counts[1]} for {counts[0]}"


def _kinds(stored: Stored) -> str:
    """Its log in short: each kind, deltas in a row as one."""
    kinds = [event.kind.value for event in stored.events]
    return " ".join(kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind) or "nothing"


def _ranges(numbers: Sequence[int]) -> str:
    return f"{numbers[:3]}…{numbers[-3:]}" if len(numbers) > 6 else str(numbers)
