"""Every transition of the table, struck before the server has its command and after it was done: nothing is lost.

The sender dies of it, or is cut off and says the same again, or wakes up after its job was taken from it; another worker
goes on in its place. The audit then finds nothing (rules 2, 3, 4 and 7).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from benchmarks.audit import audit
from benchmarks.audit_jobs import Accepted
from benchmarks.following import Sent, Story
from benchmarks.store_proxy import Deed, StoreProxy, Strike, When
from benchmarks.swap_reader import MOMENTS, SUBMIT
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.holding import Held, Progress
from scheduler.job import PRIORITIES, TERMINAL, State
from scheduler.lifecycle import Lifecycle
from scheduler.once import Once
from scheduler.reasons import Reason
from scheduler.record import Outcome
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock, wait_until

WORDS = ("one ", "two ", "three ")
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
BODY = {
    "model": MODEL,
    "prompt": "hi",
    "max_tokens": 10,
    "queue_timeout": 60,
    "metadata": {"submission": "its key"},
}
ONCE = Once.keyed("", "/v1/jobs", "its key", BODY)
ERROR = ClientError("run_timeout", "the job ran for too many seconds")
PAUSE_SECONDS = 0.3


def outcome_of(state: str) -> Outcome:
    """How the job ends by this name: with its whole text, with an error, or by its client's will."""
    reason = {"complete": "stop", "run_out": "length"}.get(state)
    if reason is not None:
        result = {"text": "".join(WORDS), "finish_reason": reason, "usage": USAGE}
        return Outcome(State.COMPLETED if reason == "stop" else State.INCOMPLETE, result)
    return Outcome(State.FAILED, error=ERROR.body()) if state == "fail" else Outcome(State.CANCELLED)


class Scene:
    """A worker and an API that a strike hits, and those that it does not."""

    def __init__(self, connection: Redis, settings: Settings, clock: Clock, folder: Path) -> None:
        server = Path(settings.server_url.removeprefix("unix://"))
        self.clock, self.connection = clock, connection
        self.proxy = StoreProxy(server, lambda *_: True, PAUSE_SECONDS)
        self.proxy.open("one", folder / "o.sock")
        self.struck = Redis.from_url(f"unix://{folder / 'o.sock'}", retry=Retry(NoBackoff(), 0))
        self.one, self.two = PretendWorker(self.struck, "one"), PretendWorker(connection, "two")
        self.near, self.far = (Lifecycle(each, settings, clock) for each in (self.struck, connection))
        self.held: Held | None = None

    def submit(self, lifecycle: Lifecycle) -> str:
        """Submit the job, or find it."""
        return lifecycle.submit(read_request(BODY), once=ONCE).id

    def hold(self) -> Held:
        """The worker that is struck holds the job, and has said a word."""
        self.held = held = self.one.claim()
        self.one.say(held, WORDS[0])
        return held

    def act(self, moment: str) -> Callable[[], object]:
        """Bring the job to where a move starts; what makes the move, to be said again where it is not answered."""
        if moment == SUBMIT:
            return lambda: self.submit(self.near)
        job_id = self.submit(self.far)
        state, _, event = moment.partition(" ")
        if event == "claim":
            return self._claim
        if state == "queued":
            if event == "fail":
                self.clock.now += 61
            return lambda: (self.near.get if event == "fail" else self.near.cancel)(job_id)
        held = self.hold()
        if event == "requeue":
            swap = self.one.holding.put_back(held, Reason.WORKER_STOPPED)
            return lambda: self.one.holding.send([swap], [held])
        rest = {"text": "".join(WORDS[1:]), "tokens": [1, 1]} if event in {"complete", "run_out"} else None
        swaps = self.one.holding.prepare([Progress(held, rest, outcome_of(event))])
        return lambda: self.one.holding.send(swaps, [held])

    def _claim(self) -> None:
        self.held = self.one.try_claim() or self.held

    def go_on(self, event: str) -> str:
        """Another takes over what the one that was struck had, and brings the job to its end; its id."""
        self.connection.delete("tidegate:worker:one")
        job_id = self.submit(self.far)
        recover(self.two.queue, PRIORITIES, self.two.name, ())
        held = self.two.try_claim(job_id)
        if held is not None:
            for word in WORDS[len(held.tokens) :]:
                self.two.say(held, word)
            outcome = outcome_of(event if event in {"run_out", "fail", "cancel"} else "complete")
            self.two.holding.write([Progress(held, None, outcome)])
        return job_id


@pytest.fixture
def scene(connection: Redis, settings: Settings, clock: Clock) -> Iterator[Scene]:
    """Behind a proxy in a folder with a short name."""
    with TemporaryDirectory(prefix="tg-") as folder:
        made = Scene(connection, settings, clock, Path(folder))
        yield made
        made.struck.close()
        made.proxy.close()


def insist(does: Callable[[], object]) -> None:
    """As a client or a worker does that lives on."""
    for _ in range(3):
        try:
            does()
            return
        except (StoreUnavailable, RedisError):
            continue
    pytest.fail("nobody answered")


def attempt(does: Callable[[], object]) -> None:
    """As one does that does not."""
    try:
        does()
    except (StoreUnavailable, RedisError):
        return


@pytest.mark.parametrize("deed", get_args(Deed))
@pytest.mark.parametrize("when", get_args(When))
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_strike_at_a_transition_loses_nothing(scene: Scene, moment: str, when: When, deed: Deed) -> None:
    """Wherever it hits: one job, one end, one result, the whole text; nothing stays behind."""
    event = moment.rpartition(" ")[2]
    does, strike = scene.act(moment), Strike(moment, when, deed)
    scene.proxy.arm(strike)
    if deed == "cut":
        insist(does)
        held = {f"{scene.held.rec.id} {scene.held.rec.lease}"} if scene.held else set[str]()
        recover(scene.two.queue, PRIORITIES, "one", held)
    elif deed == "kill":
        attempt(does)
    else:
        sender = threading.Thread(target=attempt, args=(does,))
        sender.start()
        wait_until(lambda: bool(strike.struck), f"a strike at {moment}")
        scene.go_on(event)
        sender.join()
    assert strike.struck
    job_id = scene.go_on(event)
    if scene.far.get(job_id).state not in TERMINAL:  # the late word of one that was paused came in between
        scene.go_on(event)
    job = Accepted(job_id, calm(event), cancelled=event == "cancel")
    job.errors = frozenset({"run_timeout", "queue_timeout"} if event == "fail" else ())
    job.answers.append(scene.far.view(scene.far.get(job_id)))
    found = audit(scene.connection, [job])
    assert found == []


def calm(event: str) -> Story:
    """The undisturbed stream."""
    outcome = outcome_of("run_out" if event == "run_out" else "complete")
    deltas = [Sent(0.0, n, "delta", {"text": word}) for n, word in enumerate(WORDS, 3)]
    said: dict[str, Any] = {"result": outcome.result}
    return Story([*deltas, Sent(0.0, 6, outcome.state.value, said)], 0, done=True)
