"""Rule: running out of memory, and whatever else ends engines, costs no innocent job anything but time.

Real workers on a real server, their engines pretended: jobs of all sizes come, some of which end whatever engine
computes them; memory runs out below what the workers were told; engines are killed, workers die, sleep and
are replaced. At the end each job has ended once, as it had to, with the tokens of an undisturbed run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from hypothesis import Phase
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from structlog.testing import capture_logs

from scheduler.blame import VICTIMS_MOST, Fault
from scheduler.errors import ClientError
from scheduler.events import LoggedEvent
from scheduler.fleet import worker_key
from scheduler.holding import Held
from scheduler.job import PRIORITIES, TERMINAL, State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.record import JobRecord
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.settings import Settings, load
from scheduler.swap import Swap
from tests.cards import PLAIN
from tests.key_leaks import leaks
from tests.last_words import RUNS_OUT, TROUBLES
from tests.pretend_engine import PretendSupervisor
from tests.pretend_truth import BUDGET, UNIT, Asked, World
from tests.properties.planted import fails
from tests.properties.recovery import CHUNK, CODES, JOB, Extra, Hand, check_numbers, own_faults, too_large
from tests.running import Site
from workers.runner import Runner

TURN_SECONDS: Final = 0.02
IDLE_SECONDS: Final = 2.0
MOST_TURNS: Final = 2500
"""After which whoever has not ended never will."""

MOST_BLOWS: Final = 7
"""That nobody is to blame for, in one example."""

some = st.integers(0, 7)


class Recovery(RuleBasedStateMachine):
    """Jobs, and what befalls them."""

    server: ClassVar[Redis]
    chosen: ClassVar[Settings]
    runner_type: ClassVar[type[Runner]] = Runner

    def __init__(self) -> None:
        super().__init__()
        self.server.flushall()
        self.world = World()
        self.lifecycle = self.verbs()
        self.jobs: dict[str, tuple[Asked, Extra]] = {}
        self.cancelled: set[str] = set()
        self.hands: list[Hand] = []
        self.asleep: list[Hand] = []
        self.blows = self.names = 0
        self.loads_killed = False

    def verbs(self) -> Lifecycle:
        return Lifecycle(self.server, self.chosen, self.world.clock)

    def hire(self) -> None:
        """A worker begins."""
        self.names += 1
        name = f"worker-{self.names}"
        made = self.runner_type(
            self.verbs(),
            name,
            PRIORITIES,
            self.world.clock,
            engine=lambda settings: PretendSupervisor(settings, self.world),
        )
        self.hands.append(Hand(name, made))

    @initialize(
        device=st.sampled_from(sorted(RUNS_OUT)),
        room=st.integers(4, 24),
        ways=st.lists(some, min_size=1, max_size=4),
        buffers=st.none() | st.integers(40, 200),
        jobs=st.lists(JOB, min_size=2, max_size=6),
    )
    def begin(
        self,
        device: str,
        room: int,
        ways: list[int],
        buffers: int | None,
        jobs: list[tuple[Asked, str, Extra]],
    ) -> None:
        """What is true, whatever workers are told."""
        self.world.device, self.world.limit_bytes = device, PLAIN.weights_bytes + room * UNIT
        self.world.ways = [RUNS_OUT[device][way % len(RUNS_OUT[device])] for way in ways]
        self.world.buffers = buffers or self.world.buffers
        self.hire()
        self.turns(4)
        self.submit(jobs, 2)

    # What clients do

    @rule(jobs=st.lists(JOB, min_size=1, max_size=4), turns=st.integers(0, 2))
    def submit(self, jobs: list[tuple[Asked, str, Extra]], turns: int) -> None:
        """Jobs come; those that no worker could hold are refused."""
        for job in jobs:
            self.accept(*job)
        self.turns(turns)

    def accept(self, asked: Asked, priority: str, more: Extra) -> str | None:
        self.world.now += TURN_SECONDS
        body = {"prompt": asked.prompt, "max_tokens": asked.max_tokens, "seed": asked.seed}
        request = read_request({"model": PLAIN.model, "priority": priority} | body | more)
        refused = None
        try:
            job_id = self.lifecycle.submit(request).id
        except ClientError as error:
            refused = error.code
        if refused is not None:
            assert refused == "memory_never_fits" and too_large(asked)
            return None
        self.jobs[job_id] = asked, more
        for hand in self.hands:
            hand.runner.poke()
        return job_id

    @precondition(lambda self: self.jobs)
    @rule(pick=some, told=st.booleans())
    def cancel(self, pick: int, told: bool) -> None:
        """A client has enough; its worker hears of it at once, or with time."""
        job_id = sorted(self.jobs)[pick % len(self.jobs)]
        self.lifecycle.cancel(job_id)
        self.cancelled.add(job_id)
        for hand in self.hands if told else ():
            hand.runner.cancel([job_id])

    # What befalls workers

    @rule(count=st.integers(1, 30))
    def turns(self, count: int) -> None:
        """Everybody goes on."""
        for _ in range(count):
            engines = [hand.supervisor.engine for hand in (*self.hands, *self.asleep)]
            busy = any(engine is not None and engine.busy for engine in engines)
            self.world.now += TURN_SECONDS if busy else IDLE_SECONDS
            for hand in self.hands:
                hand.turn()
            for hand in self.asleep:
                if hand.supervisor.engine is not None:
                    hand.supervisor.engine.turn()

    @rule(seconds=st.integers(1, 60), reading=st.integers(0, BUDGET))
    def time_passes(self, seconds: int, reading: int) -> None:
        """And the host gives more, or less."""
        self.world.reading_bytes = reading
        self.world.now += seconds
        self.turns(2)

    @precondition(lambda self: self.blows < MOST_BLOWS)
    @rule(what=st.sampled_from(sorted(TROUBLES)), turns=st.integers(1, 4))
    def trouble(self, what: str, turns: int) -> None:
        """Something befalls the engine that steps next."""
        self.blows += 1
        self.world.troubles.append(TROUBLES[what])
        self.turns(turns)

    @rule()
    def press(self) -> None:
        """An engine finds less memory than it needs, and sheds."""
        self.world.sheds += 1
        self.turns(1)

    @precondition(lambda self: self.hands and self.blows < MOST_BLOWS)
    @rule(pick=some, meant=st.booleans())
    def kill(self, pick: int, meant: bool) -> None:
        """The engine is killed: by its worker, or by somebody else."""
        hand = self.hands[pick % len(self.hands)]
        loads = hand.runner._residency.loading is not None
        if hand.supervisor.engine is None or (loads and self.loads_killed):
            return  # a model whose load is killed twice is left alone for a while
        self.blows += 1
        self.loads_killed |= loads and not meant
        self.world.befell(hand.at_work, Fault.VICTIM if meant else Fault.OUT_OF_MEMORY)
        if meant:
            hand.supervisor.kill()
        else:
            hand.supervisor.engine.kill()
        hand.runner.pump(0.0)

    @precondition(lambda self: self.hands)
    @rule(pick=some)
    def worker_dies(self, pick: int) -> None:
        """Its lease lapses, and another comes."""
        hand = self.hands.pop(pick % len(self.hands))
        hand.die()
        self.server.delete(worker_key(hand.name))
        self.hire()
        self.turns(2)

    @precondition(lambda self: self.hands and not self.asleep)
    @rule(pick=some, turns=st.integers(1, 40))
    def worker_sleeps(self, pick: int, turns: int) -> None:
        """Its lease lapses, others go on with its jobs; then it goes on too."""
        hand = self.hands.pop(pick % len(self.hands))
        self.asleep.append(hand)
        self.server.delete(worker_key(hand.name))
        if not self.hands:
            self.hire()
        recover(self.lifecycle.queue, PRIORITIES, "another", set())
        for each in self.hands:
            each.runner.poke()
        self.turns(turns)
        self.asleep.remove(hand)
        self.hands.append(hand)
        hand.runner._reporting.changed()

    # What is true at the end

    def teardown(self) -> None:
        try:
            if self.hands:
                self.finish()
                self.world.troubles.clear()
                self.world.sheds, self.world.buffers = 0, float("inf")
                last = self.accept(Asked("x00", 9, 7, 3), "batch", {})
                assert last is not None
                self.finish()
                assert self.record(last).state in {State.COMPLETED, State.INCOMPLETE}
                for job_id in self.jobs:
                    self.prove(job_id)
                self.nothing_is_held()
        finally:
            for hand in (*self.hands, *self.asleep):
                hand.die()
            self.server.flushall()

    def record(self, job_id: str) -> JobRecord:
        return self.lifecycle.queue.fetch(job_id)

    def finish(self) -> None:
        """Until every job has ended."""
        left = list(self.jobs)
        for _ in range(MOST_TURNS // 10):
            left = [rec.id for rec in self.lifecycle.queue.headings(left) if rec.state not in TERMINAL]
            if not left:
                return
            self.turns(10)
        pytest.fail(f"never ended: {[self.record(job_id) for job_id in left]}")

    def prove(self, job_id: str) -> None:
        """Rules 3 and 4, and that whoever failed had to."""
        site = Site(str(self.chosen.redis_url), self.server, self.chosen.data_dir, {})
        site.prove_log(job_id)
        asked, more = self.jobs[job_id]
        rec, made = self.record(job_id), site.tokens(job_id)
        tokens, text, reason = asked.answer
        assert rec.outcome is not None and rec.state is rec.outcome.state
        assert made == [*tokens[: len(made)]]
        hits, own = Counter(self.world.hits.get(job_id, ())), own_faults(asked, self.world.limit_bytes)
        if rec.meta.suspicions < VICTIMS_MOST:
            del hits[Fault.VICTIM]
        most = more.get("max_attempts", self.chosen.max_attempts)
        if rec.state is State.FAILED:
            error = rec.outcome.error or {}
            allowed = own | {code for hit in hits for code in CODES[hit] if own or hits.total() >= most}
            assert error["code"] in allowed, (asked, rec.outcome, rec.meta, hits, own)
            check_numbers(error)
        elif rec.state is State.CANCELLED:
            assert job_id in self.cancelled
        else:
            result = rec.outcome.result or {}
            assert rec.state is (State.INCOMPLETE if reason == "length" else State.COMPLETED)
            assert not own, f"{own} did not show"
            assert (made, result["text"], result["finish_reason"]) == ([*tokens], text, reason)
            assert len(result.get("logprobs", ())) == len(tokens) * ("logprobs" in more)

    def nothing_is_held(self) -> None:
        """Rules 2 and 7."""
        for hand in self.hands:
            ledger = hand.runner._desk.ledger
            assert not hand.runner.running and not hand.runner._desk.granted
            assert ledger is None or (not ledger.holders and ledger.reserved_bytes == 0)
        assert leaks(self.server) == []


@pytest.fixture
def place(connection: Redis, valkey_url: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The server and the settings, as attributes for a machine; nothing is logged."""
    (tmp_path / "m").mkdir()
    chosen = load(
        redis_url=valkey_url,
        data_dir=tmp_path,
        models=(f"{PLAIN.model}={tmp_path / 'm'}",),
        memory_budget=BUDGET,
        prefill_chunk=CHUNK,
        progress_timeout=20.0,
        lease_seconds=600.0,
    )
    with capture_logs():
        yield {"server": connection, "chosen": chosen}


def test_running_out_costs_innocent_jobs_only_time(place: dict[str, Any]) -> None:
    """Whatever befalls whom, in whatever order."""
    machine = type("Placed", (Recovery,), place)
    chosen = how(
        max_examples=80,
        stateful_step_count=16,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # to shrink a failure takes minutes, and tells little more
    )
    run_state_machine_as_test(machine, settings=chosen)


class Forgetful(Runner):
    """A worker whose engine is not told what a job has made."""

    def launch(self, held: Held) -> None:
        """From the beginning."""
        made, held.tokens = held.tokens, []
        super().launch(held)
        held.tokens = made


class Unjust(Runner):
    """A worker that takes each job of a failed batch for the one to blame."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        judge = self._desk.judge
        self._desk.judge = lambda jobs, failure: judge(jobs, replace(failure, company=1))


class Repetitive(Runner):
    """A worker that says twice that a job ended."""

    def __init__(self, lifecycle: Lifecycle, *args: Any, **kwargs: Any) -> None:
        super().__init__(lifecycle, *args, **kwargs)
        finish = lifecycle.queue.finish

        def twice(rec: JobRecord, outcome: Outcome, events: Sequence[LoggedEvent], now: float) -> Swap:
            again = replace(events[-1], number=events[-1].number + 1)
            return finish(rec, outcome, [*events, again], now)

        lifecycle.queue.finish = twice


class Careless(Runner):
    """A worker that lets go of what it should put back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._desk.put_back = lambda held, *_: self._desk._let_go(held)


class Latched(Runner):
    """A worker that claims no more once memory ran out."""

    def claim(self) -> Held | None:
        """Nothing after that."""
        return None if self._reporting._counters["out_of_memory"] else super().claim()


@pytest.mark.parametrize("broken", [Forgetful, Unjust, Repetitive, Careless, Latched])
def test_the_machine_finds_planted_bugs(
    broken: type[Runner], place: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """With each of these it fails."""
    fails(Recovery, capsys, steps=16, runner_type=broken, **place)
