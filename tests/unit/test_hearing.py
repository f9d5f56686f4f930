"""What an engine's words mean for its models: its death while it loads one, and what it learnt of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from scheduler.blame import Failure, Fault
from scheduler.card import ModelCard
from scheduler.errors import StoreUnavailable
from scheduler.holding import Holding
from scheduler.queue import JobQueue
from scheduler.record import Meta
from scheduler.settings import Settings
from scheduler.tally import Tally
from tests.cards import PLAIN
from tests.plans import WORST_CASE
from workers.counting import Counting
from workers.hearing import Hearing
from workers.insistence import Insistence
from workers.residency import Residency
from workers.supervisor import Death
from workers.wire import Message, WireBroken

HELD: Any = object()


@dataclass
class Dying:
    """A supervisor whose engine says what the test says, and dies when that was heard, of what the test says."""

    says: list[Message] = field(default_factory=list)
    fault: Fault = Fault.BUG
    clock: Callable[[], float] = time.monotonic
    account: Any = field(default_factory=lambda: SimpleNamespace(budget_bytes=0))
    killed: int = 0

    def receive(self) -> list[Message]:
        if self.says:
            return [self.says.pop(0)]
        raise WireBroken("the pipe ended")

    def bury(self) -> Death:
        return Death(self.fault, -6, "SIGABRT: /srv/secret: it broke")

    def start(self) -> None:
        """The next engine."""

    def heard(self) -> None:
        """Its silence counts from now."""

    def kill(self) -> None:
        self.killed += 1


class Desk:
    """Holds what the test says."""

    def __init__(self) -> None:
        self.running: dict[str, Any] = {}
        self.granted: set[str] = set()
        self.leaving: set[str] = set()
        self.has_begun: set[str] | None = None
        self.ledger: Any = None
        self.insistence = Insistence(Holding(cast("JobQueue", None), "one"))
        self.counting = Counting(Tally())
        self.judged: list[Failure] = []
        self.judged_jobs: list[list[Any]] = []

    @property
    def begun(self) -> set[str]:
        """Every one of them, unless a test says which."""
        return {*self.running} if self.has_begun is None else self.has_begun

    @begun.setter
    def begun(self, keys: set[str]) -> None:
        if self.has_begun is not None:
            self.has_begun = keys

    def note_progress(self, step: Message) -> int:
        return sum(step.get("computed", {}).values())

    def write(self, progress: list[Any]) -> None:
        """Nobody reads it."""

    def find(self, keys: list[str]) -> list[Any]:
        return [self.running[key] for key in keys if key in self.running]

    def judge(self, jobs: list[Any], failure: Failure) -> None:
        self.judged.append(failure)
        self.judged_jobs.append(jobs)

    def put_back_all(self, reason: str) -> None:
        self.running.clear()


class House:
    """An engine that dies while it loads `b`."""

    def __init__(self) -> None:
        self.supervisor, self.desk = Dying(), Desk()
        self.residency = Residency({"a": "a", "b": "b"}, lambda _: None)
        reporting: Any = SimpleNamespace(note=lambda _: None, changed=lambda: None, ready=lambda _: None)
        self.learnt: list[ModelCard] = []
        publishing: Any = SimpleNamespace(learnt=self.learnt.append)
        supervisor: Any = self.supervisor
        desk: Any = self.desk
        self.asked: list[dict[str, int]] = []
        sharing: Any = SimpleNamespace(ask=self.asked.append)
        self.hearing = Hearing(
            Settings(prefill_rows=4),
            supervisor,
            desk,
            self.residency,
            reporting,
            publishing,
            WORST_CASE,
            lambda: 0.0,
            sharing,
        )

    def dies(self, fault: Fault, *beside: str) -> bool:
        """One death while jobs run beside; whether `b` is served afterwards."""
        self.supervisor.fault = fault
        self.desk.running = dict.fromkeys(beside, HELD)
        self.residency.loading = "b"
        self.hearing.hear(more=True)
        assert self.residency.loading is None
        assert "a" in self.residency.served
        return "b" in self.residency.served


def test_a_reading_of_the_host_counts_in_the_account() -> None:
    """Of what the engine reads anew no job learns but those that would join others."""
    house = House()
    house.supervisor.says = [
        {"kind": "ready", "budget_bytes": 900, "steady_bytes": 1000, "steady_source": "x", "limits_bytes": {}}
    ]
    house.hearing.hear(more=True)
    account = house.desk.ledger
    assert (account.budget_bytes, account.pressure.room_bytes(1000, 0.0)) == (1000, 900)
    house.supervisor.says = [{"kind": "measured", "budget_bytes": 300, "limits_bytes": {}}]
    house.hearing.hear(more=True)
    assert account.pressure.room_bytes(1000, 0.0) == 300


def test_a_model_that_kills_its_engine_alone_is_given_up() -> None:
    """Nothing else can be to blame."""
    assert not House().dies(Fault.BUG)


@pytest.mark.parametrize("beside", [(), ("job_a/1",)], ids=["alone", "in company"])
def test_an_engine_that_was_ended_on_purpose_blames_no_model(beside: tuple[str, ...]) -> None:
    """As after a suspect fault, or by RQ's kill of a horse; however often."""
    house = House()
    assert all(house.dies(Fault.VICTIM, *beside) for _ in range(3))


def test_memory_that_ran_out_in_a_load_is_the_models_fault_the_second_time() -> None:
    """The first time, others on the host may have taken it; jobs that wait for the model are not failed for that."""
    house = House()
    assert house.dies(Fault.OUT_OF_MEMORY)
    assert not house.dies(Fault.OUT_OF_MEMORY)


def test_a_model_loading_beside_jobs_is_given_up_the_second_time() -> None:
    """The first time it may have been a job; both are told that they were not alone."""
    house = House()
    assert house.dies(Fault.OUT_OF_MEMORY, "job_a/1")
    assert house.desk.judged[0].company == 2
    assert not house.dies(Fault.OUT_OF_MEMORY, "job_a/2")


def test_who_was_let_go_of_is_company_until_the_engine_says_that_it_went() -> None:
    """It may have died of that; what it said before it heard of it proves nothing."""
    house = House()
    house.desk.running = {"job_a/1": HELD}
    house.desk.leaving = {"job_b/1"}
    house.hearing.hear(more=True)
    assert house.desk.judged[-1].company == 2
    house.desk.running, house.desk.leaving = {"job_a/2": HELD}, {"job_b/2"}
    house.supervisor.says = [{"kind": "account", "need_bytes": 1}]  # said before it heard of that
    house.hearing.hear(more=True)
    house.hearing.hear(more=True)
    assert house.desk.judged[-1].company == 2
    house.desk.running, house.desk.leaving = {"job_a/3": HELD}, {"job_b/3"}
    house.supervisor.says = [{"kind": "removed", "key": "job_b/3"}]
    house.hearing.hear(more=True)
    house.hearing.hear(more=True)
    assert house.desk.judged[-1].company == 1


def test_a_prompt_that_was_being_counted_was_company() -> None:
    """It may have ended the engine; those that computed are asked first, and are not alone."""
    house = House()
    house.desk.running, house.desk.granted = {"job_a/1": HELD, "job_b/1": HELD}, {"job_a/1"}
    house.hearing.hear(more=True)
    assert house.desk.judged[-1].company == 2


def test_an_idle_engine_died_of_no_job_that_it_never_heard_of() -> None:
    """Killed just before a claim, it cannot have died of the job; of one whose prompt it had begun to count it may."""
    house = House()
    house.desk.running, house.desk.has_begun = {"job_a/1": HELD}, set()
    house.hearing.hear(more=True)
    assert house.desk.judged_jobs[-1] == []
    house.desk.running = {"job_a/2": HELD}
    house.supervisor.says = [{"kind": "counting", "key": "job_a/2"}]
    house.hearing.hear(more=True)
    house.hearing.hear(more=True)
    assert house.desk.judged_jobs[-1] == [HELD]


def test_who_was_there_when_mlx_raised_was_company() -> None:
    """Though another worker has it now."""
    house = House()
    house.desk.running = {"job_a/1": HELD}
    raised = {"kind": "raised", "keys": ["job_a/1", "job_lost/1"], "text": "std::bad_alloc"}
    house.supervisor.says = [raised]
    house.hearing.hear(more=True)
    assert house.desk.judged == [Failure(Fault.OUT_OF_MEMORY, died=False, company=2)]


def test_what_an_engine_learnt_is_counted_with_and_published() -> None:
    """The worker's account goes by the new card, and so may the fleet."""
    house, counted = House(), list[ModelCard]()
    house.desk.ledger = SimpleNamespace(learn=counted.append)
    house.supervisor.says = [{"kind": "learnt", "card": PLAIN.to_json()}]
    house.hearing.hear(more=True)
    assert counted == house.learnt == [PLAIN]


def test_an_engine_that_read_its_host_is_given_a_share() -> None:
    """What it read is asked for; there is no account before the answer."""
    house = House()
    house.supervisor.says = [{"kind": "host", "pools": {"host_total": 9}}]
    house.hearing.hear(more=True)
    assert (house.asked, house.desk.ledger) == ([{"host_total": 9}], None)


def test_an_engines_last_words_are_not_for_clients() -> None:
    """Neither of a model that ended it nor of a job: they hear how it exited, and of what fault."""
    house = House()
    house.dies(Fault.BUG, "job_a/1")
    house.dies(Fault.BUG)
    error, failure = house.residency.why_not("b"), house.desk.judged[0]
    assert error is not None
    assert error.message == "b ended the engine while it was loaded (SIGABRT, bug)"
    assert (failure.exit_name, failure.words) == ("SIGABRT", "SIGABRT, bug")


def test_what_mlx_raised_is_not_for_clients() -> None:
    """What is known of its text is logged; what becomes of the jobs goes by the fault alone."""
    house = House()
    house.desk.running = {"job_a/1": HELD}
    text = "RuntimeError: [malloc] Unable to allocate 5 bytes in /srv/secret"
    house.supervisor.says = [{"kind": "raised", "keys": ["job_a/1"], "text": text}]
    with capture_logs() as logged:
        house.hearing.hear(more=True)
    assert house.desk.judged == [Failure(Fault.OUT_OF_MEMORY, died=False, company=1)]
    assert [line["text"] for line in logged] == ["RuntimeError: [malloc] Unable to allocate"]


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("RuntimeError: [malloc] Unable to allocate 5 bytes.", 0),
        ("RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory", 1),
        ("RuntimeError: cudaGraphLaunch(exec, s) failed: an illegal memory access was encountered", 1),
        ("ValueError: shapes", 0),
    ],
)
def test_a_process_that_is_not_to_be_trusted_any_more_is_replaced(text: str, killed: int) -> None:
    """Where what it raised is cured by no less; else it goes on with a fresh batch."""
    house = House()
    house.desk.running = {"job_a/1": HELD}
    house.supervisor.says = [{"kind": "raised", "keys": ["job_a/1"], "text": text}]
    house.hearing.hear(more=True)
    assert (house.supervisor.killed, len(house.desk.judged)) == (killed, 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Meta(sheds=6), Meta(sheds=7)),
        (Meta(sheds=6, company_most=4), Meta(sheds=7, company_most=4)),
        (Meta(sheds=7), Meta(sheds=8, company_most=1)),
        (Meta(sheds=7, company_most=4), Meta(sheds=8, company_most=1)),
    ],
)
def test_a_job_that_was_shed_too_often_runs_alone(before: Meta, after: Meta) -> None:
    """Until then in what company it may have."""
    house, back = House(), list[Meta]()
    house.desk.running["job_a/1"] = SimpleNamespace(rec=SimpleNamespace(id="job_a", meta=before))
    house.desk.ledger = SimpleNamespace(ran_out=lambda _: None)
    house.desk.shed = lambda _held, meta: back.append(meta)
    house.supervisor.says = [{"kind": "shed", "key": "job_a/1"}]
    house.hearing.hear(more=True)
    assert back == [after]


@pytest.mark.parametrize(
    ("reason", "unsupported", "told"),
    [
        ("No such file: /srv/secret", False, "the model a cannot be loaded here now"),
        ("a is a 't5', of which there is none", True, "a is a 't5', of which there is none"),
    ],
)
def test_what_loading_said_is_not_for_clients(reason: str, unsupported: bool, told: str) -> None:
    """Only that the model cannot be loaded; where it is of a kind that never can be, that, and no retry."""
    house = House()
    failed = {"kind": "load_failed", "model": "a", "reason": reason, "unsupported": unsupported}
    house.supervisor.says = [failed]
    house.hearing.hear(more=True)
    why = house.residency.why_not("a")
    assert why is not None and (str(why), why.row.retryable) == (told, not unsupported)


def test_rates_are_learnt_from_the_steps_that_an_engine_tells_of() -> None:
    """A decode step, and one in which a prompt was computed beside it; no step without its time, or for a job unknown."""
    house = House()
    house.desk.running["job_a/1"] = SimpleNamespace()
    for told in (
        {"seconds": 0.9, "computed": {"gone/1": 9}},
        {},
        {"seconds": 0.1},
        {"seconds": 0.3, "computed": {"job_a/1": 100}},
    ):
        assert house.hearing.loops.rates is None
        house.supervisor.says = [{"kind": "step", "steps": []} | told]
        house.hearing.hear(more=True)
    rates = house.hearing.loops.rates
    assert rates is not None
    assert (rates.step_seconds, rates.prompt_token_seconds) == pytest.approx((0.1, 0.002))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[House, list[str]]:
    """A house whose engine has counted six prompts, of which the fourth is too long; what is done with them."""
    house, does = House(), list[str]()
    house.desk.running = {f"job_{n}/1": SimpleNamespace(n=n) for n in range(6)}
    sized = [{"kind": "sized", "key": key} for key in house.desk.running]
    monkeypatch.setattr(house.supervisor, "receive", lambda: sized)
    monkeypatch.setattr(house.desk, "grant", lambda held: does.append(f"grant {held.n}"), raising=False)

    def fits(held: Any, _: Message) -> bool:
        does.append(f"size {held.n}")
        return bool(held.n != 3)

    monkeypatch.setattr(house.hearing, "_fits", fits)
    return house, does


def test_prompts_counted_together_are_granted_together(counted: tuple[House, list[str]]) -> None:
    """As many as the engine computes together, one right behind the other, so that none is computed by itself."""
    house, does = counted
    house.hearing.hear(more=True)
    assert does[:5] == ["size 0", "size 1", "size 2", "size 3", "size 4"]
    assert does[5:9] == ["grant 0", "grant 1", "grant 2", "grant 4"]
    assert does[9:] == ["size 5", "grant 5"]


def test_a_store_that_fails_keeps_no_grant_back(
    counted: tuple[House, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fitted before it is granted; what was heard behind it is taken up again."""
    house, does = counted
    fits = house.hearing._fits

    def fails(held: Any, message: Message) -> bool:
        if held.n == 2 and "size 2" not in does:
            fits(held, message)
            raise StoreUnavailable("away")
        return fits(held, message)

    monkeypatch.setattr(house.hearing, "_fits", fails)
    with pytest.raises(StoreUnavailable):
        house.hearing.hear(more=True)
    assert does == ["size 0", "size 1", "size 2", "grant 0", "grant 1"]
    assert house.hearing.unread
    house.hearing.hear(more=False)
    assert does[5:] == ["size 3", "size 4", "size 5", "grant 4", "grant 5"]
