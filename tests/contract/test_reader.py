"""The one reader: whatever the channel loses, repeats or floods, a stream has every event once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.client import PubSub
from structlog.testing import capture_logs

from api.mailbox import Mailbox
from api.reader import REREAD_SECONDS, Reader
from scheduler.events import (
    STEPS_CHANNEL,
    Kind,
    LoggedEvent,
    append_command,
    publish_command,
    read_events,
)
from scheduler.swap import Swap, Swapper
from tests.valkey import valkey
from tests.waiting import wait_until

JOB = "job_00000000000000000000000001"


@pytest.fixture
def reader(connection: Redis) -> Iterator[Reader]:
    """A reader whose streams pile up eight events at most."""
    made = Reader(connection, capacity=8)
    yield made
    made.close()
    connection.delete(f"tidegate:events:{JOB}")


def event(number: int, kind: Kind = Kind.DELTA) -> LoggedEvent:
    """An event that says its number."""
    return LoggedEvent(number, kind, {"text": str(number)})


def write(connection: Redis, *events: LoggedEvent, tell: bool = True) -> None:
    """Log events, and tell the channel as a worker does, or not."""
    swap = Swap(commands=tuple(append_command(JOB, each) for each in events))
    told = Swap(commands=(publish_command([(JOB, each) for each in events]),))
    Swapper(connection)(swap, *([told] if tell else []))


def numbers(stream: Iterator[list[LoggedEvent]], count: int) -> list[int]:
    """The numbers of the next ``count`` events, which are all that the looks at them brought."""
    found: list[int] = []
    while len(found) < count:
        found += [each.number for each in next(stream)]
    return found


def subscriptions(connection: Redis) -> int:
    """How many subscribers the channel has."""
    counts: Any = connection.pubsub_numsub(STEPS_CHANNEL)
    return int(counts[0][1])


def listening(connection: Redis, stream: Iterator[list[LoggedEvent]]) -> None:
    """Start a stream on an empty log, and wait until the reader listens."""
    assert next(stream) == []
    wait_until(lambda: subscriptions(connection) == 1, "the reader listens")


def test_the_backlog_comes_first_and_then_what_happens(connection: Redis, reader: Reader) -> None:
    """No gap between the log and the channel; the stream ends with the job."""
    write(connection, event(1), event(2))
    stream = reader.follow(JOB)
    assert numbers(stream, 2) == [1, 2]
    write(connection, event(3))
    assert numbers(stream, 1) == [3]
    write(connection, event(4), event(5, Kind.COMPLETED))
    assert numbers(stream, 2) == [4, 5]
    assert next(stream, None) is None


def test_a_gap_is_filled_from_the_log(connection: Redis, reader: Reader) -> None:
    """A message that was lost shows in the numbers of the next."""
    stream = reader.follow(JOB)
    listening(connection, stream)
    write(connection, event(1))
    assert numbers(stream, 1) == [1]
    began = time.monotonic()
    write(connection, event(2), event(3), tell=False)
    write(connection, event(4))
    assert numbers(stream, 3) == [2, 3, 4]
    assert time.monotonic() - began < REREAD_SECONDS / 2


def test_a_repeated_message_changes_nothing(connection: Redis, reader: Reader) -> None:
    """A step that is told twice is sent once, though both are found at one look."""
    stream = reader.follow(JOB)
    listening(connection, stream)
    write(connection, event(1))
    assert numbers(stream, 1) == [1]
    assert next(stream) == []  # from here on it is the channel that is heard
    write(connection, event(2), event(3))
    Swapper(connection)(Swap(commands=(publish_command([(JOB, event(2)), (JOB, event(3))]),)))
    write(connection, event(4))
    (mailbox,) = reader._mailboxes[JOB]
    wait_until(lambda: len(mailbox._events) == 5, "all that was told")
    assert numbers(stream, 3) == [2, 3, 4]


def test_a_thread_that_nobody_needs_ends_though_somebody_comes(
    connection: Redis, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while it lets go of its subscription has a thread of its own; never do two tell one stream."""
    monkeypatch.setattr("api.reader._LINGER_SECONDS", 0.0)
    stream = reader.follow(JOB)
    listening(connection, stream)
    del stream
    closing, ends, came = PubSub.close, threading.Event(), threading.Event()

    def close_slowly(channel: PubSub) -> None:
        ends.set()
        came.wait(10)
        closing(channel)

    monkeypatch.setattr(PubSub, "close", close_slowly)
    connection.publish(STEPS_CHANNEL, "[]")  # wakes it up
    assert ends.wait(10)
    stream = reader.follow(JOB)
    assert next(stream) == []
    came.set()
    monkeypatch.undo()
    write(connection, event(1))
    assert numbers(stream, 1) == [1]

    def one_listens() -> bool:
        names = [each.name for each in threading.enumerate()]
        return names.count("steps-reader") == subscriptions(connection) == 1

    wait_until(one_listens, "the thread that nobody needs has ended, and the new one listens")


def test_rubbish_on_the_channel_changes_nothing(connection: Redis, reader: Reader) -> None:
    """What is not a step is passed over, and the reader lives."""
    stream = reader.follow(JOB)
    listening(connection, stream)
    for payload in ("", "{", "7", '[["job"]]', '[["job", 1, "nonsense", {}]]'):
        connection.publish(STEPS_CHANNEL, payload)
    write(connection, event(1))
    assert numbers(stream, 1) == [1]


def test_a_slow_consumer_is_sent_back_to_the_log(connection: Redis, reader: Reader) -> None:
    """More than its pile holds is dropped from memory, and not from the stream."""
    stream = reader.follow(JOB)
    listening(connection, stream)
    for number in range(1, 101):
        write(connection, event(number))
    assert numbers(stream, 100) == list(range(1, 101))


def test_a_long_backlog_is_read_in_pages(connection: Redis, reader: Reader) -> None:
    """Longer than a page, whole."""
    write(connection, *(event(number) for number in range(1, 1201)), tell=False)
    began = time.monotonic()
    assert numbers(reader.follow(JOB, after=100), 1100) == list(range(101, 1201))
    assert time.monotonic() - began < REREAD_SECONDS / 2


def test_many_streams_share_one_subscription(connection: Redis, reader: Reader) -> None:
    """Fifty streams, one subscriber; each has every event."""
    seen: list[list[int]] = []
    threads = [
        threading.Thread(
            target=lambda: seen.append([e.number for look in reader.follow(JOB) for e in look]), daemon=True
        )
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: reader.followed == 50 and subscriptions(connection), "fifty streams")
    assert subscriptions(connection) == 1
    for number in range(1, 21):
        write(connection, event(number))
    write(connection, event(21, Kind.COMPLETED))
    for thread in threads:
        thread.join(10)
    assert seen == [list(range(1, 22))] * 50
    assert reader.followed == 0


def test_a_lost_subscription_is_made_again(connection: Redis, reader: Reader) -> None:
    """What was said meanwhile is found in the log."""
    stream = reader.follow(JOB)
    listening(connection, stream)
    connection.client_kill_filter(_type="pubsub")
    write(connection, event(1))
    began = time.monotonic()
    assert numbers(stream, 1) == [1]
    assert time.monotonic() - began < REREAD_SECONDS / 2
    write(connection, event(2))
    assert numbers(stream, 1) == [2]


def test_following_ends_when_told_to(connection: Redis, reader: Reader) -> None:
    """At the moment given, though nothing happened."""
    began = time.monotonic()
    looks = list(reader.follow(JOB, until=began + 0.3))
    assert looks
    assert not any(looks)
    assert 0.25 < time.monotonic() - began < REREAD_SECONDS / 2


def test_a_stream_outlives_the_server(tmp_path: Path) -> None:
    """While nobody answers there is silence, and one line in the log; then it goes on where it was, and says so."""
    with valkey(tmp_path) as (url, process), Redis.from_url(url) as client, capture_logs() as logged:
        reader = Reader(client)
        write(client, event(1))
        stream = reader.follow(JOB)
        assert numbers(stream, 1) == [1]
        process.kill()
        process.wait()
        for _ in range(3):  # more than one try to be back
            assert next(stream) == []
        with valkey(tmp_path):
            write(client, event(1), event(2))
            assert numbers(stream, 1) == [2]
            wait_until(lambda: len(logged) == 2, "the channel is back")
            reader.close()
    assert [line["event"].rpartition(" ")[2] for line in logged] == ["away", "back"]


def test_a_mailbox_is_bounded() -> None:
    """It never holds more than its capacity: it drops everything and asks for the log instead."""
    box = Mailbox(capacity=3)
    assert box.take(0) is None
    for number in range(1, 4):
        box.put(event(number))
    assert [each.number for each in box.take(0) or ()] == [1, 2, 3]
    for number in range(4, 9):
        box.put(event(number))
    assert box.take(0) is None
    assert box.take(0) == []


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("piled", [0, 3])
def test_a_mailbox_keeps_word_that_the_log_is_gone(read: bool, piled: int) -> None:
    """Though the log is to be read, or the pile is full: the log would not say it."""
    box, gone = Mailbox(capacity=3), event(0, Kind.DELETED)
    if read:
        assert box.take(0) is None
    for number in range(1, piled + 1):
        box.put(event(number))
    box.put(gone)
    assert box.take(0) == [gone]


def test_a_stream_ends_where_its_log_was_deleted(connection: Redis, reader: Reader) -> None:
    """At once, after what it has seen, though nothing in the log ends it."""
    write(connection, event(1))
    stream = reader.follow(JOB)
    assert numbers(stream, 1) == [1]
    wait_until(lambda: subscriptions(connection), "the reader listens")
    connection.delete(f"tidegate:events:{JOB}")
    began = time.monotonic()
    Swapper(connection)(Swap(commands=(publish_command([(JOB, event(0, Kind.DELETED))]),)))
    *_, last = stream
    assert [each.kind for each in last] == [Kind.DELETED]
    assert time.monotonic() - began < REREAD_SECONDS / 2


def test_a_mailbox_loses_nothing_between_two_threads() -> None:
    """It has no lock: whatever the moment at which one puts and the other takes, all comes, once, in order."""
    box, count = Mailbox(capacity=20_000), 20_000
    assert box.take(0) is None
    putting = threading.Thread(target=lambda: [box.put(event(number)) for number in range(1, count + 1)])
    putting.start()
    seen: list[int] = []
    until = time.monotonic() + 30
    while len(seen) < count and time.monotonic() < until:
        seen += [each.number for each in box.take(0.2) or ()]
    putting.join()
    assert seen == list(range(1, count + 1))


def test_a_look_ends_with_the_job(connection: Redis, reader: Reader) -> None:
    """What others wrote behind the end of a log is nobody's to read."""
    write(connection, event(1), event(2, Kind.COMPLETED), event(3))
    assert [[each.number for each in look] for look in reader.follow(JOB)] == [[1, 2]]


def test_the_log_itself_is_what_was_written(connection: Redis, reader: Reader) -> None:
    """The premise of this suite: :func:`write` makes a log that reads back."""
    write(connection, event(1), event(2, Kind.COMPLETED))
    assert read_events(connection, JOB) == [event(1), event(2, Kind.COMPLETED)]
