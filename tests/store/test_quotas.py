"""What keys may submit: models, classes, jobs that wait, tokens a minute; exact, however many come at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from scheduler.bookings import BOOKINGS_KEY
from scheduler.errors import ClientError
from scheduler.keyring import KeyBook
from scheduler.keys import Key
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.settings import load
from tests.conftest import MODEL
from tests.keys import make_key
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock

COST = 11  # a prompt of "hi" and ten tokens of answer

Bounded = Callable[..., Lifecycle]


@pytest.fixture
def bounded(connection: Redis, valkey_url: str, clock: Clock) -> Bounded:
    """The verbs under other settings."""

    def made(**fields: Any) -> Lifecycle:
        return Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), **fields), clock)

    return made


def ask(lifecycle: Lifecycle, key: Key, **fields: Any) -> str:
    """Submit a job of eleven tokens."""
    body = {"model": MODEL, "prompt": "hi", "max_tokens": 10} | fields
    return lifecycle.submit(read_request(body), key.owner).id


def refused(lifecycle: Lifecycle, key: Key, **fields: Any) -> ClientError:
    """Submit a job that is refused."""
    with pytest.raises(ClientError) as caught:
        ask(lifecycle, key, **fields)
    return caught.value


def outcome(lifecycle: Lifecycle, key: Key) -> str:
    """Submit a job: ``accepted``, or the code of its error."""
    try:
        ask(lifecycle, key)
    except ClientError as error:
        return error.code
    return "accepted"


def buckets(connection: Redis) -> list[bytes]:
    """What is kept of what was spent."""
    return list(connection.scan_iter("tidegate:allowance:*"))


def test_a_key_without_limits_submits_what_it_likes(lifecycle: Lifecycle, connection: Redis) -> None:
    """And nothing is kept of it but its jobs."""
    _, key = make_key(connection)
    ask(lifecycle, key, priority="interactive")
    ask(lifecycle, key)
    assert buckets(connection) == []


def test_models_and_classes_are_the_keys(lifecycle: Lifecycle, connection: Redis) -> None:
    """Before anything is said of what is served; nothing is queued."""
    _, key = make_key(connection, models=("another",), priorities=("batch",))
    assert [refused(lifecycle, key).param, refused(lifecycle, key, model="nobody's").param] == [
        "model",
        "model",
    ]
    _, key = make_key(connection, priorities=("batch",))
    fresh = Lifecycle(connection, lifecycle.settings)  # it has not read the keys yet
    error = refused(fresh, key)
    assert (error.code, error.row.status, error.param) == ("forbidden", 403, "priority")
    assert fresh.queue.waiting() == (0, 0)


def test_tokens_a_minute_are_counted_to_the_token(
    lifecycle: Lifecycle, connection: Redis, clock: Clock
) -> None:
    """Three jobs of eleven in a minute of thirty-three; then none, with the numbers and a time that is true."""
    _, key = make_key(connection, tokens_per_minute=3 * COST)
    for _ in range(3):
        ask(lifecycle, key)
    error = refused(lifecycle, key)
    assert (error.code, error.row.status, error.retry_after) == ("rate_limit_exceeded", 429, 20)
    assert error.numbers == {"limit_tokens": 33, "remaining_tokens": 0, "reset_seconds": 60.0}
    assert error.message.startswith("this job's 11 tokens (prompt and max_tokens) are more than the 0 left")
    clock.now += 19
    assert refused(lifecycle, key).retry_after == 1
    clock.now += 1
    ask(lifecycle, key)
    assert refused(lifecycle, key).code == "rate_limit_exceeded"
    assert lifecycle.queue.waiting()[0] == 4


def test_they_cannot_be_spent_twice(connection: Redis, bounded: Bounded) -> None:
    """Forty clients at four APIs at once, and tokens for thirteen: thirteen get in, the rest are told so."""
    _, key = make_key(connection, tokens_per_minute=13 * COST + COST - 1)
    apis = [bounded() for _ in range(4)]

    with ThreadPoolExecutor(16) as pool:
        counts = Counter(pool.map(lambda number: outcome(apis[number % 4], key), range(40)))
    assert counts == {"accepted": 13, "rate_limit_exceeded": 27}
    assert apis[0].queue.waiting()[0] == 13


def test_a_refused_job_is_charged_nothing(
    bounded: Bounded, connection: Redis, worker: PretendWorker, clock: Clock
) -> None:
    """Whatever it was refused for."""
    _, key = make_key(connection, tokens_per_minute=10 * COST)
    lifecycle = bounded(max_queued_jobs=1)
    first = ask(lifecycle, key)
    (bucket,) = buckets(connection)
    spent = connection.zrange(bucket, 0, -1, withscores=True)
    assert refused(lifecycle, key).code == "queue_full"
    assert refused(lifecycle, key, model="nobody's").code == "model_not_found"
    assert refused(lifecycle, key, on_insufficient_memory="fail").code == "insufficient_memory"
    assert refused(lifecycle, key, max_tokens=1 << 20).code in {"memory_never_fits", "forbidden"}
    assert connection.zrange(bucket, 0, -1, withscores=True) == spent
    worker.claim(first)
    clock.now += 300  # the places that are held lapse
    connection.delete(BOOKINGS_KEY)
    ask(lifecycle, key)
    assert connection.zrange(bucket, 0, -1, withscores=True) != spent


def test_who_has_no_tokens_holds_no_place(bounded: Bounded, connection: Redis) -> None:
    """A full queue's places are for those who could use them."""
    _, key = make_key(connection, tokens_per_minute=COST)
    lifecycle = bounded(max_queued_jobs=1)
    ask(lifecycle, key)
    assert refused(lifecycle, key).code == "rate_limit_exceeded"
    assert not connection.exists(BOOKINGS_KEY)


def test_who_comes_when_told_is_charged_when_let_in(
    bounded: Bounded, connection: Redis, worker: PretendWorker, clock: Clock
) -> None:
    """The place that was held is taken in the same step."""
    _, key = make_key(connection, tokens_per_minute=2 * COST)
    lifecycle = bounded(max_queued_jobs=1)
    first = ask(lifecycle, key)
    again = refused(lifecycle, key)
    assert again.code == "queue_full"
    worker.claim(first)
    clock.now += again.retry_after or 0
    (bucket,) = buckets(connection)
    before = connection.zscore(bucket, "full") or 0
    ask(lifecycle, key)
    assert not connection.exists(BOOKINGS_KEY)
    assert (connection.zscore(bucket, "full") or 0) >= before + COST


def test_a_job_larger_than_a_minutes_tokens_is_never_let_in(lifecycle: Lifecycle, connection: Redis) -> None:
    """So it is not told to come again."""
    _, key = make_key(connection, tokens_per_minute=COST)
    ask(lifecycle, key)
    error = refused(lifecycle, key, max_tokens=11)
    assert (error.code, error.param, error.retry_after) == ("forbidden", "max_tokens", None)


def test_a_key_is_told_what_is_left(lifecycle: Lifecycle, connection: Redis, clock: Clock) -> None:
    """As this process last saw it; of a key that has submitted nothing it knows nothing."""
    _, key = make_key(connection, tokens_per_minute=60)
    assert lifecycle.spending.left(key, clock.now) is None
    ask(lifecycle, key)
    assert lifecycle.spending.left(key, clock.now) == (60, 49, 11.0)
    assert lifecycle.spending.left(key, clock.now + 5) == (60, 54, 6.0)
    assert lifecycle.spending.left(key.changed(tokens_per_minute=61), clock.now) is None


def test_a_key_has_a_quota_of_jobs_that_wait(
    lifecycle: Lifecycle, connection: Redis, worker: PretendWorker, clock: Clock
) -> None:
    """Of all classes together; 429 with a time, while others come in; a claim makes room."""
    (_, ann), (_, bob) = make_key(connection, queued_jobs=2), make_key(connection)
    first = ask(lifecycle, ann)
    ask(lifecycle, ann, priority="batch")
    error = refused(lifecycle, ann)
    assert (error.code, error.row.status) == ("rate_limit_exceeded", 429)
    assert error.message == "2 jobs of this API key wait; at most 2 may"
    assert error.retry_after
    ask(lifecycle, bob)
    worker.claim(first)
    clock.now += 300  # the place that is held lapses
    ask(lifecycle, ann)
    assert refused(lifecycle, ann).code == "rate_limit_exceeded"


def test_the_quota_of_jobs_cannot_be_passed_by_coming_together(connection: Redis, bounded: Bounded) -> None:
    """Forty at four APIs, and room for seven."""
    _, key = make_key(connection, queued_jobs=7)
    apis = [bounded() for _ in range(4)]

    with ThreadPoolExecutor(16) as pool:
        counts = Counter(pool.map(lambda number: outcome(apis[number % 4], key), range(40)))
    assert counts.pop("accepted") == 7
    assert set(counts) <= {"rate_limit_exceeded", "queue_full"}


def test_the_operators_bound_for_every_key_holds_beside_a_keys_own(
    bounded: Bounded, connection: Redis
) -> None:
    """Whichever is lower; its error is the one it had."""
    _, key = make_key(connection, queued_jobs=5)
    lifecycle = bounded(max_queued_jobs_per_key=1)
    ask(lifecycle, key)
    assert refused(lifecycle, key).code == "queue_full"


def test_a_removed_key_submits_nothing(lifecycle: Lifecycle, connection: Redis) -> None:
    """Not even what was on its way, or comes later in its name."""
    (_, gone), _ = make_key(connection), make_key(connection)
    KeyBook(connection).remove(gone.owner)
    assert refused(lifecycle, gone).code == "unauthorized"


def test_a_page_has_one_owners_jobs(lifecycle: Lifecycle, connection: Redis, clock: Clock) -> None:
    """Newest first, over several pages, whatever others have in between."""
    (_, ann), (_, bob) = make_key(connection), make_key(connection)
    mine: list[str] = []
    for _ in range(3):
        clock.now += 1
        mine.append(ask(lifecycle, ann))
        ask(lifecycle, bob)
    first = lifecycle.page(limit=2, owner=ann.owner)
    rest = lifecycle.page(limit=2, owner=ann.owner, after=first.next_cursor)
    assert [rec.id for rec in (*first.records, *rest.records)] == mine[::-1]
    assert rest.next_cursor is None
