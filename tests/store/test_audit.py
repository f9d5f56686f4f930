"""The audit finds nothing on a clean queue, and each of its rules sees a fault of its kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from benchmarks import audit_host, audit_jobs, audit_store
from benchmarks.audit import audit, figures, tell
from benchmarks.audit_host import SHARED_MEMORY, Traces, host_findings
from benchmarks.audit_jobs import Accepted, job_findings
from benchmarks.audit_store import read_stored, store_findings
from benchmarks.findings import Column, Finding
from benchmarks.following import Sent, Story
from scheduler.errors import ClientError
from scheduler.events import events_key, read_events
from scheduler.lifecycle import Lifecycle
from scheduler.reasons import Reason
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit

TEXTS = ("one ", "two ", "three ")
TEXT = "".join(TEXTS)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER: dict[str, Any] = {"text": TEXT, "finish_reason": "stop", "usage": USAGE}


@pytest.fixture
def job(connection: Redis, lifecycle: Lifecycle, submit: Submit) -> Iterator[Accepted]:
    """A job that was interrupted once and ended well, its stream followed and its end polled; then all is emptied."""
    first, second = (PretendWorker(connection, name) for name in ("one", "two"))
    held = first.claim(submit().id)
    first.say(held, TEXTS[0])
    first.queue.swap(first.holding.put_back(held, Reason.WORKER_STOPPED))
    held = second.claim(held.rec.id)
    for text in TEXTS[1:]:
        second.say(held, text)
    second.complete(held, TEXT)
    sent = [
        Sent(0.0, event.number, event.kind.value, {"result": ANSWER} if event.ends else event.data)
        for event in read_events(connection, held.rec.id)
    ]
    story = Story(sent, len(TEXT), done=True)
    view = lifecycle.view(lifecycle.get(held.rec.id))
    yield Accepted(held.rec.id, calm=story, story=story, answers=[view])
    connection.flushall()


def test_a_clean_queue_has_no_findings(connection: Redis, job: Accepted, tmp_path: Path) -> None:
    """Everything ended, nothing is held: only what was accepted counts."""
    found = audit(connection, [job], Traces(tmp_path, temporary=tmp_path))
    assert found == []
    assert figures([job], found) == {"accepted": 1, "lost": 0, "doubled": 0, "changed": 0, "leaked": 0}


def test_a_cancelled_job_has_the_beginning_of_its_text(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, job: Accepted
) -> None:
    """It is as it should be where its client asked for that, and changed where nobody did."""
    rec = lifecycle.cancel(submit().id)
    sent = [Sent(0.0, event.number, event.kind.value, {}) for event in read_events(connection, rec.id)]
    cancelled = Accepted(rec.id, job.calm, cancelled=True, story=Story(sent, 0, done=True))
    assert audit(connection, [job, cancelled]) == []
    cancelled.cancelled = False
    assert {finding.column for finding in audit(connection, [job, cancelled])} == {Column.CHANGED}


def test_a_subject_counts_once_in_a_column(capsys: pytest.CaptureFixture[str], job: Accepted) -> None:
    """However much is wrong with it; each thing is said in words."""
    found = [Finding(Column.LOST, "a", "x"), Finding(Column.LOST, "a", "y"), Finding(Column.LEAKED, "a", "z")]
    assert figures([job], found) == {"accepted": 1, "lost": 1, "doubled": 0, "changed": 0, "leaked": 1}
    tell(found)
    assert capsys.readouterr().err == "lost: a: x\nlost: a: y\nleaked: a: z\n"


# Each rule about a job: how to make it fail


def _story(job: Accepted, *sent: Sent, done: bool = True) -> None:
    job.story = Story(list(sent), 0, done)


def _sent(job: Accepted) -> list[Sent]:
    assert job.story is not None
    return list(job.story.sent)


def _append(connection: Redis, job: Accepted, kind: str, **data: Any) -> None:
    """An event behind the last one of a job's log."""
    number = read_events(connection, job.job_id)[-1].number + 1
    text = str(data).replace("'", '"')
    connection.xadd(events_key(job.job_id), {"kind": kind, "data": text}, id=f"{number}-0")


def _drop(connection: Redis, job: Accepted, number: int) -> None:
    connection.xdel(events_key(job.job_id), f"{number}-0")


def _meta(connection: Redis, job: Accepted, old: str, new: str) -> None:
    key = Job.key_for(job.job_id)
    text: Any = connection.hget(key, "meta")
    assert old in text.decode()
    connection.hset(key, "meta", text.decode().replace(old, new))


def _result(connection: Redis, job: Accepted, state: str, answer: dict[str, Any]) -> None:
    worker = PretendWorker(connection)
    rq_job = worker.queue.rq_job(worker.queue.fetch(job.job_id))
    connection.delete(f"rq:results:{job.job_id}")
    audit_store.Result.create(
        rq_job, audit_store.Result.Type.SUCCESSFUL, 60, {"state": state, "result": answer}, worker_name=""
    )


def _second_result(connection: Redis, job: Accepted) -> None:
    entries: Any = connection.xrange(f"rq:results:{job.job_id}")
    connection.xadd(f"rq:results:{job.job_id}", entries[0][1])


def _other_texts(job: Accepted) -> None:
    _story(
        job,
        *(replace(each, data={"text": "ONE "} if each.kind == "delta" else each.data) for each in _sent(job)),
    )


Plant = Callable[[Redis, Accepted], object]

PLANTS: dict[str, Plant] = {
    "without_a_terminal_state": lambda c, j: c.delete(Job.key_for(j.job_id)),
    "without_a_terminal_event": lambda c, j: _drop(c, j, 8),
    "without_a_result": lambda c, j: c.delete(f"rq:results:{j.job_id}"),
    "never_told": lambda c, j: _story(j, *_sent(j)[:-1], done=False),
    "ended_twice": lambda c, j: _append(c, j, "completed"),
    "ran_after_its_end": lambda c, j: _append(c, j, "started", attempt=3),
    "has_two_results": _second_result,
    "began_an_attempt_twice": lambda c, j: _append(c, j, "started", attempt=2),
    "came_twice": lambda c, j: _story(j, *_sent(j)[:3], *_sent(j)[2:]),
    "was_made_twice": lambda c, j: j.other_ids.append("job_other"),
    "log_is_not_whole": lambda c, j: _drop(c, j, 3),
    "written_by_nobody": lambda c, j: _drop(c, j, 5),
    "ended_otherwise": lambda c, j: _meta(c, j, '"completed"', '"failed"'),
    "log_says_something_else": lambda c, j: _drop(c, j, 6),
    "result_is_another": lambda c, j: _result(c, j, "completed", {**ANSWER, "finish_reason": "length"}),
    "stream_is_not_the_log": lambda c, j: _story(j, *_sent(j)[:2], *_sent(j)[3:]),
    "stream_says_something_else": lambda c, j: _other_texts(j),
    "answers_disagree": lambda c, j: j.answers.append({"status": "in_progress"}),
}


def test_every_rule_about_a_job_has_a_planted_fault() -> None:
    """A rule without one might see nothing."""
    rules = (*audit_jobs.LOST, *audit_jobs.DOUBLED, *audit_jobs.CHANGED)
    assert [rule.__name__ for rule in rules] == list(PLANTS)


@pytest.mark.parametrize("name", PLANTS)
def test_a_rule_about_a_job_sees_its_fault(connection: Redis, job: Accepted, name: str) -> None:
    """The rule itself says so, and the audit counts it in its column."""
    PLANTS[name](connection, job)
    rule = getattr(audit_jobs, name)
    stored = read_stored(connection, [job.job_id])[job.job_id]
    words = list(rule(job, stored))
    assert words
    column = next(
        column
        for column, rules in zip(
            (Column.LOST, Column.DOUBLED, Column.CHANGED),
            (audit_jobs.LOST, audit_jobs.DOUBLED, audit_jobs.CHANGED),
            strict=True,
        )
        if rule in rules
    )
    assert Finding(column, job.job_id, words[0]) in job_findings(job, stored)
    assert figures([job], audit(connection, [job]))[column.value] == 1


@pytest.mark.parametrize(
    "plant",
    [
        lambda j: j.answers.__setitem__(0, {**j.answers[0], "status": "failed"}),
        lambda j: j.answers.__setitem__(0, {**j.answers[0], "result": {**ANSWER, "text": "another"}}),
        lambda j: j.answers.__setitem__(
            0, {**j.answers[0], "result": {**ANSWER, "usage": {**USAGE, "total_tokens": 9}}}
        ),
    ],
    ids=["status", "text", "count"],
)
def test_a_polled_answer_that_differs_is_a_change(
    connection: Redis, job: Accepted, plant: Callable[[Accepted], object]
) -> None:
    """Its kind of end, its text, its counts."""
    plant(job)
    assert figures([job], audit(connection, [job]))["changed"] == 1


def test_a_job_that_was_only_polled_must_have_been_seen_to_end(connection: Redis, job: Accepted) -> None:
    """A client that polled for ever lost it."""
    job.story, job.answers = None, []
    assert figures([job], audit(connection, [job]))["lost"] == 1


# What the server keeps

STORE_PLANTS: dict[str, Plant] = {
    "leases_of_the_dead": lambda c, j: c.set("tidegate:share:1234", 1, ex=60),
    "reservations_left": lambda c, j: _meta(c, j, '"reserved_bytes": 0', '"reserved_bytes": 5'),
    "keys_without_an_owner": lambda c, j: c.set("tidegate:odd", 1),
    "waiting_entries": lambda c, j: c.zadd("rq:wip:standard", {f"{j.job_id}:abc": 1}),
    "executions_left": lambda c, j: c.hset("rq:execution:a:b", "id", "b"),
    "registries_disagree": lambda c, j: c.zadd("rq:failed:standard", {j.job_id: 1}),
    "workers_registered": lambda c, j: (
        c.sadd("rq:workers", "rq:worker:x"),
        c.hset("rq:worker:x", "birth", "1"),
    ),
    "locks_held": lambda c, j: c.set("rq:clean_registries:standard", 1),
}


def test_every_rule_about_the_server_has_a_planted_fault() -> None:
    """As above."""
    assert [rule.__name__ for rule in audit_store.LEAKED] == list(STORE_PLANTS)


@pytest.mark.parametrize("name", STORE_PLANTS)
def test_a_rule_about_the_server_sees_its_fault(connection: Redis, job: Accepted, name: str) -> None:
    """And counts it as a leak."""
    STORE_PLANTS[name](connection, job)
    stored = read_stored(connection, [job.job_id])
    found = list(getattr(audit_store, name)(connection, stored))
    assert found
    told = [(finding.column, finding.subject) for finding in store_findings(connection, stored)]
    assert (Column.LEAKED, found[0][0]) in told


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("leases_of_the_dead", lambda c, j: c.sadd("tidegate:workers", "gone")),
        ("leases_of_the_dead", lambda c, j: c.set("tidegate:worker:x", "{}", ex=60)),
        ("leases_of_the_dead", lambda c, j: c.set("tidegate:host:x", "{}", ex=60)),
        ("reservations_left", lambda c, j: c.hset(Job.key_for(j.job_id), "lease", "one/1")),
        ("reservations_left", lambda c, j: c.hset(Job.key_for(j.job_id), "cancel_requested", "1")),
        ("waiting_entries", lambda c, j: c.lpush("rq:queue:batch", j.job_id)),
        ("waiting_entries", lambda c, j: c.lpush("rq:queue:batch:intermediate", j.job_id)),
        ("executions_left", lambda c, j: c.sadd("rq:worker:x:executions", "a:b")),
        ("executions_left", lambda c, j: c.zadd("rq:executions:a", {"b": 1})),
        ("registries_disagree", lambda c, j: c.zrem("rq:finished:standard", j.job_id)),
        ("registries_disagree", lambda c, j: c.zadd("rq:finished:standard", {"job_gone": 1})),
        (
            "workers_registered",
            lambda c, j: (c.sadd("rq:workers", "rq:worker:x"), c.hset("rq:worker:x", "death", "1")),
        ),
        ("keys_without_an_owner", lambda c, j: c.hset("tidegate:waiting", j.job_id, "5 standard ")),
        ("keys_without_an_owner", lambda c, j: c.zadd("tidegate:deadlines", {j.job_id: 1.0})),
        ("keys_without_an_owner", lambda c, j: c.persist(Job.key_for(j.job_id))),
        ("locks_held", lambda c, j: c.set("tidegate:batches:feeder", 1)),
    ],
)
def test_whatever_nobody_holds_is_a_leak(connection: Redis, job: Accepted, rule: str, plant: Plant) -> None:
    """Each kind of key or entry that a rule looks at."""
    plant(connection, job)
    assert list(getattr(audit_store, rule)(connection, read_stored(connection, [job.job_id])))


def test_a_job_that_no_client_was_told_of_was_made_twice(
    connection: Redis, job: Accepted, submit: Submit, lifecycle: Lifecycle
) -> None:
    """As by a server that forgot the key of a submission that came again."""
    other = lifecycle.cancel(submit().id)
    assert [(each.column, each.subject) for each in audit(connection, [job])] == [(Column.DOUBLED, other.id)]


@pytest.mark.parametrize(("code", "found"), [("queue_timeout", []), ("run_timeout", [Column.DOUBLED])])
def test_a_failure_that_a_retry_can_help_makes_room_for_another_job(
    connection: Redis, job: Accepted, submit: Submit, code: str, found: list[Column]
) -> None:
    """Under the same key, as a request makes that is read late; after any other end it is the same job."""
    worker = PretendWorker(connection)
    for accepted in (True, False):
        held = worker.claim(submit(metadata={"submission": "its key"}).id)
        worker.fail(held, ClientError(code, "no"))
        if accepted:
            sent = [
                Sent(0.0, event.number, event.kind.value, {})
                for event in read_events(connection, held.rec.id)
            ]
            story = Story(sent, 0, done=True)
            failed = Accepted(held.rec.id, story, errors=frozenset({code}), story=story)
    assert [each.column for each in audit(connection, [job, failed])] == found


# What a host keeps


def test_every_rule_about_a_host_sees_its_fault(tmp_path: Path) -> None:
    """A process, a file in TMPDIR, one that is called temporary, and shared memory."""
    folder, temporary = tmp_path / "data", tmp_path / "tmp"
    for each in (folder, temporary):
        each.mkdir()
    (temporary / "anything").touch()
    (folder / "card.partial").touch()
    (folder / "card.json").touch()
    child = subprocess.Popen([sys.executable, "-c", "input()"], cwd=folder, stdin=subprocess.PIPE)
    segment = SHARED_MEMORY / f"tidegate-test-{child.pid}"
    try:
        if SHARED_MEMORY.is_dir():
            segment.touch()
        traces = Traces(folder, temporary, pids=[child.pid])
        subjects = [finding.subject for finding in host_findings(traces)]
        expected = [f"process {child.pid}", str(temporary / "anything"), str(folder / "card.partial")]
        assert subjects == expected + ([str(segment)] if SHARED_MEMORY.is_dir() else [])
        lives = Traces(folder, allowed=[child.pid])
        assert list(audit_host.processes_alive(lives)) == []
        assert [each for each, _ in audit_host.processes_alive(Traces(folder))] == [f"process {child.pid}"]
    finally:
        segment.unlink(missing_ok=True)
        child.kill()
        child.communicate()
    assert list(audit_host.processes_alive(Traces(folder, pids=[child.pid]))) == []
