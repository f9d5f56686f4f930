"""Strikes at a transition, by the proxy that chaos puts between processes and the server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.store_proxy import Deed, StoreProxy, Strike, When
from scheduler.errors import StoreUnavailable
from scheduler.holding import Progress
from scheduler.job import State
from scheduler.queue import JobQueue
from scheduler.record import Outcome
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit

PAUSE_SECONDS = 0.2
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = Outcome(State.COMPLETED, {"text": "one ", "finish_reason": "stop", "usage": USAGE})


class Between:
    """A worker behind a proxy, and the signals that it was sent."""

    def __init__(self, url: str, folder: Path) -> None:
        self.signals: list[int] = []
        self.proxy = StoreProxy(Path(url.removeprefix("unix://")), self._send, PAUSE_SECONDS)
        self.proxy.open("worker-0", folder / "w.sock")
        self.connection = Redis.from_url(f"unix://{folder / 'w.sock'}", retry=Retry(NoBackoff(), 0))
        self.worker = PretendWorker(self.connection, "one")

    def _send(self, name: str, number: int) -> bool:
        assert name == "worker-0"
        self.signals.append(number)
        return True

    def strike(self, moment: str, when: When, deed: Deed) -> Strike:
        """Arm one."""
        strike = Strike(moment, when, deed)
        self.proxy.arm(strike)
        return strike


@pytest.fixture
def between(valkey_url: str, connection: Redis) -> Iterator[Between]:
    """A worker behind a proxy; its socket's folder has a short name."""
    with TemporaryDirectory(prefix="tg-") as folder:
        made = Between(valkey_url, Path(folder))
        yield made
        made.connection.close()
        made.proxy.close()


@pytest.mark.parametrize(("when", "taken"), [("before", False), ("after", True)])
def test_a_claim_whose_connection_is_cut_is_known_for_what_it_was(
    between: Between, queue: JobQueue, submit: Submit, when: When, taken: bool
) -> None:
    """Before it reached the server nobody has the job; after it, the worker finds that it has it."""
    rec = submit()
    strike = between.strike("queued claim", when, "cut")
    held = between.worker.try_claim(rec.id)
    assert strike.struck == f"worker-0 {rec.id}"
    assert (held is not None) == taken
    assert queue.fetch(rec.id).state is (State.IN_PROGRESS if taken else State.QUEUED)


@pytest.mark.parametrize(("when", "state"), [("before", State.IN_PROGRESS), ("after", State.COMPLETED)])
def test_an_end_whose_answer_is_lost_is_written_once(
    between: Between, queue: JobQueue, submit: Submit, when: When, state: State
) -> None:
    """The same swaps sent again end a job that had not ended, and change nothing of one that had."""
    held = between.worker.claim(submit().id)
    swaps = between.worker.holding.prepare([Progress(held, {"text": "one ", "tokens": [1]}, DONE)])
    between.strike("in_progress complete", when, "cut")
    with pytest.raises(StoreUnavailable):
        between.worker.holding.send(swaps, [held])
    assert queue.fetch(held.rec.id).state is state
    between.worker.holding.send(swaps, [held])
    assert queue.fetch(held.rec.id).state is State.COMPLETED
    assert queue.connection.xlen(f"rq:results:{held.rec.id}") == 1


def test_a_kill_is_sent_to_the_sender_and_nothing_is_delivered(
    between: Between, queue: JobQueue, submit: Submit
) -> None:
    """The command never reaches the server."""
    rec = submit()
    between.strike("queued claim", "before", "kill")
    assert between.worker.try_claim(rec.id) is None
    assert between.signals == [signal.SIGKILL]
    assert queue.fetch(rec.id).meta.attempt == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pause_delivers_late(between: Between, submit: Submit, when: When) -> None:
    """The sender is stopped, and goes on with the command or the answer that was held."""
    rec = submit()
    between.strike("queued claim", when, "pause")
    assert between.worker.try_claim(rec.id) is not None
    assert between.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_move_that_is_refused_is_no_strike(between: Between, submit: Submit, other: PretendWorker) -> None:
    """After a command whose guards did not hold the strike stays armed, for one that moves a job."""
    held = between.worker.claim(submit().id)
    strike = between.strike("in_progress complete", "after", "cut")
    swaps = between.worker.holding.prepare([Progress(held, None, DONE)])
    other.queue.swap(*swaps)  # as if its answer had been lost
    assert between.worker.holding.send(swaps, [held]) == [held]
    assert strike.struck == ""
    again = between.worker.claim(submit().id)
    with pytest.raises(StoreUnavailable):
        between.worker.holding.write([Progress(again, None, DONE)])
    assert strike.struck


def test_cutting_closes_every_connection_of_a_process(between: Between) -> None:
    """The next command fails, the one after that goes through a new one."""
    assert between.connection.ping()
    assert between.proxy.cut("worker-0") == 1
    assert between.connection.ping()  # a pooled connection that was closed is noticed
    assert between.proxy.cut("worker-0") == 1
