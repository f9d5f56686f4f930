"""What ended jobs teach of answers' lengths, on the server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Unreachable

from scheduler.completions import ENOUGH, KEPT, Completion, completion_of
from scheduler.errors import ClientError
from scheduler.histories import KEPT_SECONDS, Histories, completions_key
from scheduler.job import PRIORITIES, State
from scheduler.lanes import tidy_swap
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.recovery import recover
from scheduler.slip import Slip
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.test_recover import silence
from tests.waiting import Clock

KEY = completions_key(MODEL)


@pytest.fixture
def told(connection: Redis) -> Callable[[], tuple[Completion, ...]]:
    """What a worker that just started reads."""
    return lambda: Histories(connection, lambda: 0.0).answers(MODEL).completions


def test_an_end_tells_its_answers_length(
    connection: Redis, submit: Submit, worker: PretendWorker, told: Callable[[], tuple[Completion, ...]]
) -> None:
    """The latest first, and whether ``max_tokens`` cut it; shared by all workers, for a month."""
    worker.complete(worker.claim(submit().id), "a")
    worker.complete(worker.claim(submit().id), "b", "length")
    assert told() == (Completion(3, cut=True), Completion(3, cut=False))
    assert 0 < connection.ttl(KEY) <= KEPT_SECONDS  # type: ignore[operator]


def test_an_end_without_an_answer_tells_nothing(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """A failure, a cancelled job, and one that never ran."""
    worker.fail(worker.claim(submit().id), ClientError("engine_timeout", "too long", retry_after=1))
    worker.end(worker.claim(submit().id), Outcome(State.CANCELLED))
    rec = submit()
    end = queue.finish(rec, Outcome(State.CANCELLED), (), 0.0)
    assert queue.swap(end, tidy_swap(Slip.of(rec)))[0] == 1
    assert not connection.exists(KEY)


def test_an_attempt_that_lost_its_job_tells_nothing(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Its end changes nothing: the length counts once, from who holds the job."""
    held = worker.claim(submit().id)
    silence(worker)
    recover(queue, PRIORITIES, "another", set())
    with pytest.raises(AssertionError):
        worker.complete(held, "late")
    assert not connection.exists(KEY)


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"completion_tokens": "7"}},
        {"usage": {"completion_tokens": -1}},
        {"usage": [1]},
    ],
    ids=repr,
)
def test_a_result_that_says_nothing_of_its_length_teaches_nothing(result: Any) -> None:
    """Whatever a result lacks."""
    assert completion_of(result) is None


def test_the_latest_are_kept_and_no_more(
    connection: Redis, submit: Submit, worker: PretendWorker, told: Callable[[], tuple[Completion, ...]]
) -> None:
    """The oldest go."""
    connection.rpush(KEY, *[b"9"] * KEPT)
    worker.complete(worker.claim(submit().id), "a")
    assert connection.llen(KEY) == KEPT
    assert told()[:2] == (Completion(3, cut=False), Completion(9, cut=False))


def test_what_others_wrote_there_is_left_out(
    connection: Redis, told: Callable[[], tuple[Completion, ...]]
) -> None:
    """Entries that are no lengths; sound ones count beside them."""
    bad = [b"x", b"", b"-5", b"1.5", b"7++", b"9" * 400, b"\xff", b"+", b" 7", "٣".encode()]
    connection.rpush(KEY, b"5", *bad, b"6+")
    assert told() == (Completion(5, cut=False), Completion(6, cut=True))
    connection.expire(KEY, 60)


def test_a_key_of_another_kind_ends_no_read_and_no_job(
    connection: Redis,
    queue: JobQueue,
    submit: Submit,
    worker: PretendWorker,
    told: Callable[[], tuple[Completion, ...]],
) -> None:
    """Nothing is learnt; the job's end is written all the same."""
    connection.set(KEY, b"mine", ex=60)
    assert told() == ()
    rec = submit()
    worker.complete(worker.claim(rec.id), "a")
    assert queue.fetch(rec.id).state is State.COMPLETED
    assert connection.get(KEY) == b"mine"


def test_a_worker_reads_them_every_few_seconds(
    connection: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with every claim; anew where the clock was set back; what was known last while the store is away."""
    reads = itertools.count()
    lrange = connection.lrange
    monkeypatch.setattr(connection, "lrange", lambda *words: (next(reads) and 0) or lrange(*words))
    connection.rpush(KEY, *[b"5"] * ENOUGH)
    connection.expire(KEY, 60)
    histories = Histories(connection, clock)
    first = histories.answers(MODEL)
    connection.lpush(KEY, b"700")
    for _ in range(9):
        assert histories.answers(MODEL) is first
        clock.now += 0.5
    clock.now += 0.5
    assert histories.answers(MODEL).completions[0] == Completion(700, cut=False)
    assert next(reads) == 2
    again = histories.answers(MODEL)
    clock.now -= 3600.0
    assert histories.answers(MODEL) is again  # the same ones: what was computed of them is kept
    assert next(reads) == 4

    def away(*_: object) -> None:
        raise Unreachable

    monkeypatch.setattr(connection, "lrange", away)
    clock.now += 60.0
    assert histories.answers(MODEL) is again


def test_models_are_told_apart(connection: Redis) -> None:
    """One's answers say nothing of another's."""
    connection.rpush(completions_key("other"), b"5")
    connection.expire(completions_key("other"), 60)
    assert Histories(connection, lambda: 0.0).answers(MODEL).completions == ()


def test_a_job_put_back_knows_how_much_it_has(queue: JobQueue, submit: Submit, worker: PretendWorker) -> None:
    """Its row is as long as before: what it has made moved from the answer to the prompt."""
    held = worker.claim(submit(max_tokens=10).id)
    for _ in range(3):
        worker.say(held, "a")
    assert queue.swap(worker.holding.put_back(held, Reason.MEMORY)) == [1]
    rec = queue.fetch(held.rec.id)
    assert (rec.meta.made_tokens, rec.meta.preemptions) == (3, 0)
    assert (rec.row.prompt_tokens, rec.row.max_tokens) == (7 + 3, 10 - 3)
    again = worker.claim(rec.id)
    worker.say(again, "b")
    assert queue.swap(worker.holding.put_back(again, Reason.MEMORY)) == [1]
    assert queue.fetch(held.rec.id).meta.made_tokens == 4


def test_a_job_of_a_silent_worker_has_what_its_log_says(
    queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """All of it, from every attempt."""
    held = worker.claim(submit(max_tokens=10).id)
    worker.say(held, "a")
    queue.swap(worker.holding.put_back(held, Reason.MEMORY))
    again = worker.claim(held.rec.id)
    worker.say(again, "b")
    silence(worker)
    recover(queue, PRIORITIES, "another", set())
    rec = queue.fetch(held.rec.id)
    assert (rec.meta.made_tokens, rec.row.max_tokens) == (2, 8)
