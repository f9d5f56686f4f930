"""Rule: whoever feeds a batch may die between any two commands; each line runs once, and is told once.

One feeder after the other is killed, before a command is sent or after it was done, or stands still until another
has gone on in its place, while a worker answers.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st
from redis import Redis

from scheduler.batch import BatchState
from scheduler.errors import ClientError
from scheduler.file_keys import BYTES_KEY, SIZES_KEY
from scheduler.settings import load
from tests.batching import Bench, line
from tests.conftest import MODEL
from tests.key_leaks import leaks
from tests.pretend_worker import PretendWorker

LINES: Final = (
    line(0),
    line(1),
    b"not json",
    line(3, custom_id="r0"),
    line(4, body={"model": MODEL, "messages": []}),
    b"",
    line(6, "fails"),
    line(7),
    line(8),
)
NAMES: Final = Counter(["r0", "r1", None, "r0", "r4", "r6", "r7", "r8"])
RUN: Final = Counter(["say 0", "say 1", "fails", "say 7", "say 8"])


class Killed(BaseException):
    """The feeder is no more."""


class Trouble(enum.Enum):
    """What befalls a feeder at a round trip."""

    DIES = enum.auto()
    """Before it is made."""
    DIES_LATE = enum.auto()
    """After it was made, before its answer comes."""
    STANDS = enum.auto()
    """For so long that another goes on in its place."""


@contextmanager
def troubled(connection: Redis, at: int, trouble: Trouble, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Meet trouble at a round trip: each takes a connection from the pool."""
    pool: Any = connection.connection_pool
    left = at

    def take(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and trouble is Trouble.DIES:
            raise Killed
        if left == -1 and trouble is Trouble.STANDS:
            meanwhile()
        return type(pool).get_connection(pool, *given, **named)

    def release(given: Any) -> None:
        type(pool).release(pool, given)
        if left < 0 and trouble is Trouble.DIES_LATE:
            raise Killed

    pool.get_connection, pool.release = take, release
    try:
        yield
    except Killed:
        pass
    finally:
        del pool.get_connection, pool.release


class Story:
    """A batch, those who feed it, and a worker.

    Args:
        url: the server.
        connection: a client of it.
    """

    def __init__(self, url: str, connection: Redis) -> None:
        connection.flushall()
        self.connection, self.url, self.now = connection, url, 1_700_000_000.0
        self.settings = load(redis_url=url, models=(MODEL,))
        self.worker = PretendWorker(connection)
        self.worker.report()
        self.ran = Counter[str]()
        self.batch = self.bench().begin(*LINES)

    def bench(self) -> Bench:
        """A feeder, which remembers nothing."""
        return Bench(self.connection, self.settings, lambda: self.now)

    def befall(self, most: int, at: int, trouble: Trouble, answers: int) -> None:
        """A feeder goes a few rounds, and meets trouble on the way; the worker answers."""

        def meanwhile() -> None:
            self.rounds(self.bench(), most)
            self.answer(answers)
            self.rounds(self.bench(), most)

        with Redis.from_url(self.url) as own:
            bench = Bench(own, self.settings, lambda: self.now)
            with troubled(own, at, trouble, meanwhile):
                self.rounds(bench, most)
        self.answer(answers)

    def rounds(self, bench: Bench, most: int) -> None:
        """A feeder goes a few rounds."""
        for _ in range(4):
            bench.rounds.step(self.batch.id, most, self.now)

    def answer(self, count: int) -> None:
        """The worker answers so many jobs, if so many wait."""
        for _ in range(count):
            held = self.worker.try_claim()
            if held is None:
                return
            text = (held.rec.request.messages or ())[-1].text
            self.ran[text] += 1
            if text == "fails":
                self.worker.fail(held, ClientError("worker_killed", "killed"))
            else:
                self.worker.complete(held, text)

    def end(self, state: BatchState) -> None:
        """Nobody dies any more."""
        bench = self.bench()
        for _ in range(60):
            if bench.now(self.batch).ended:
                break
            bench.rounds.step(self.batch.id, 3, self.now)
            self.answer(9)
        batch = bench.now(self.batch)
        assert batch.status is state
        output, errors = bench.written(batch.output_file), bench.written(batch.error_file)
        assert Counter(each["custom_id"] for each in output + errors) == NAMES
        assert (batch.total, batch.completed, batch.failed) == (8, len(output), len(errors))
        assert max(self.ran.values(), default=1) == 1, "a line ran twice"
        answered = {each["response"]["body"]["choices"][0]["message"]["content"] for each in output}
        assert answered <= set(self.ran)
        if state is BatchState.COMPLETED:
            assert self.ran == RUN
            assert answered == set(RUN) - {"fails"}
        sizes: Any = self.connection.hvals(SIZES_KEY)
        assert sum(int(each.split(b" ")[0]) for each in sizes) == int(self.connection.get(BYTES_KEY) or 0)  # type: ignore[arg-type]
        assert bench.files.get(batch.input_file_id, "").uses == 0
        names = {file.id for file in bench.files.page("", limit=99).files}
        assert names == {batch.input_file_id, batch.output_file, batch.error_file} - {None}
        assert leaks(self.connection) == []


Blow = tuple[int, int, Trouble, int]
blow = st.tuples(st.integers(1, 9), st.integers(0, 60), st.sampled_from(Trouble), st.integers(0, 4))


@given(blows=st.lists(blow, max_size=8))
@how(max_examples=60, deadline=None)
@example(blows=[(2, at, trouble, 2) for at in range(6, 14) for trouble in Trouble])
def test_a_batch_is_run_once_whoever_dies(blows: list[Blow], valkey_url: str) -> None:
    """Completed, with each line's answer or its error; nothing is left lying."""
    with Redis.from_url(valkey_url) as connection:
        story = Story(valkey_url, connection)
        for each in blows:
            story.befall(*each)
        story.end(BatchState.COMPLETED)


@given(before=st.lists(blow, min_size=1, max_size=3), behind=st.lists(blow, max_size=5), late=st.booleans())
@how(max_examples=40, deadline=None)
def test_a_batch_that_stops_tells_each_line_once(
    before: list[Blow],
    behind: list[Blow],
    late: bool,
    valkey_url: str,
) -> None:
    """Cancelled or expired with its lines known: answered, failed, or told as unfinished."""
    with Redis.from_url(valkey_url) as connection:
        story = Story(valkey_url, connection)
        story.bench().rounds.step(story.batch.id, 3, story.now)
        for each in before:
            story.befall(*each)
        bench = story.bench()
        if bench.now(story.batch).status is not BatchState.IN_PROGRESS:
            return  # it was done before
        if late:
            story.now = story.batch.expires_at
        else:
            bench.batches.cancel(bench.now(story.batch))
        for each in behind:
            story.befall(*each)
        story.end(BatchState.EXPIRED if late else BatchState.CANCELLED)


def test_feeders_meet_the_trouble_they_are_told(valkey_url: str, connection: Redis) -> None:
    """Before a command it was not done, after it it was: else the rules above would say little."""
    done: list[str] = []
    with troubled(connection, 1, Trouble.DIES, done.clear):
        connection.set("a", 1, ex=60)
        connection.set("b", 1, ex=60)
        pytest.fail("it lives")
    with troubled(connection, 0, Trouble.DIES_LATE, done.clear):
        connection.set("c", 1, ex=60)
        pytest.fail("it lives")
    assert [connection.exists(name) for name in "abc"] == [1, 0, 1]
    with troubled(connection, 0, Trouble.STANDS, lambda: done.append("others")):
        connection.set("d", 1, ex=60)
        done.append("it")
    assert done == ["others", "it"]
