"""What to accept, what to claim next, when to retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scheduler.admission import Candidate, Choice, Limits, choose, hopeless
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.footprint import alone_bytes
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.verdict import Decision, WorkerView, judge
from tests.cards import PLAIN

SMALL, LARGE = Row(10, 10), Row(900, 100)
BUDGET = alone_bytes(PLAIN, LARGE, 512)
HELD = Holder("held", 1)


def idle(budget_bytes: int = BUDGET) -> Ledger:
    """A worker's account with nothing held."""
    ledger = Ledger(budget_bytes, 512, 4)
    ledger.admit_model(PLAIN)
    return ledger


def busy(row: Row = SMALL) -> Ledger:
    """One that holds a job."""
    ledger = idle()
    ledger.reserve(HELD, PLAIN.model, row)
    return ledger


def job(name: str, row: Row = SMALL, **fields: bool | int) -> Candidate:
    """A waiting job."""
    return Candidate(name, PLAIN.model, row, **fields)  # type: ignore[arg-type]


def pick(
    ledger: Ledger, *classes: Sequence[Candidate], max_batch: int = 32, max_passes: int = 3
) -> Choice | None:
    """What is claimed next."""
    return choose(classes, ledger, 0.0, Limits(max_batch, max_passes), None, Promises()).choice


def chosen(choice: Choice | None) -> tuple[str, tuple[str, ...]] | None:
    """Its name, and whom it passes."""
    return (choice.candidate.job_id, choice.passed) if choice else None


def test_first_come_first_served() -> None:
    """Within a class, arrival is the order."""
    assert chosen(pick(idle(), [job("a"), job("b")])) == ("a", ())


def test_the_more_urgent_class_goes_first() -> None:
    """A late interactive job comes before an early batch job, and passes nobody."""
    assert chosen(pick(idle(), [job("late")], [], [job("early")])) == ("late", ())


def test_smaller_jobs_pass_one_that_waits_for_memory() -> None:
    """The one that waits is named as passed, so that its passes are counted."""
    assert chosen(pick(busy(), [job("large", LARGE), job("small")])) == ("small", ("large",))


def test_a_less_urgent_job_passes_too() -> None:
    """Passing is counted across classes."""
    assert chosen(pick(busy(), [job("large", LARGE)], [job("small")])) == ("small", ("large",))


def test_a_job_that_was_passed_often_enough_lets_nobody_by() -> None:
    """Its bound reached, memory drains for it; at a bound of zero nobody ever passes."""
    waiting = [job("large", LARGE, passes=3), job("small")]
    assert pick(busy(), waiting) is None
    assert pick(busy(), [job("large", LARGE), job("small")], max_passes=0) is None
    assert chosen(pick(busy(), [job("large", LARGE, passes=2), job("small")])) == ("small", ("large",))


def test_the_bound_does_not_stop_those_that_stand_before() -> None:
    """Jobs ahead of a job that waits at its bound go on being claimed."""
    assert chosen(pick(busy(), [job("first"), job("large", LARGE, passes=3)])) == ("first", ())


def test_who_was_passed_too_often_comes_before_more_urgent_ones_alone() -> None:
    """The first such job of a class, and not those that stand before it; where it waits, they go on, and nobody else."""
    urgent, first, owed = job("urgent"), job("first"), job("owed", passes=3)
    assert chosen(pick(busy(), [urgent], [], [first, owed])) == ("owed", ())
    large = replace(owed, row=LARGE)
    assert chosen(pick(busy(), [urgent], [], [first, large])) == ("first", ())
    assert pick(busy(), [urgent], [], [large]) is None


def test_a_look_gives_up_after_some_that_do_not_fit() -> None:
    """Each smaller than the one before: what fits stands too far behind for one look."""
    larger = [job(f"job_{n}", Row(900 - n, 100 + n)) for n in range(9)]
    assert chosen(pick(busy(), [*larger[:7], job("small")])) is not None
    assert pick(busy(), [*larger, job("small")]) is None


def test_what_company_taught_keeps_no_job_from_running_alone() -> None:
    """A job that fits by a new card's margins is claimed where nothing runs, whatever margins were learnt since."""
    card = replace(PLAIN, chunk_bytes=((16, 1 << 20), (512, 1 << 25)), later_bytes=())
    budget = alone_bytes(card, LARGE, 512)
    ledger = Ledger(budget, 512, 4)
    ledger.admit_model(card)
    ledger.learn(replace(card, prefill_margin=4.0, decode_margin=4.0))
    assert not hopeless(ledger, job("large", LARGE))
    assert chosen(pick(ledger, [job("large", LARGE)])) == ("large", ())
    ledger.reserve(HELD, card.model, LARGE)
    assert ledger.headroom_bytes >= 0
    assert pick(ledger, [job("small")]) is None


def test_nobody_waits_for_a_job_that_can_never_run_here() -> None:
    """It is skipped, does not count as passed, and its passes stop nobody."""
    giant = job("giant", Row(9000, 100), passes=99)
    assert hopeless(idle(), giant)
    assert chosen(pick(busy(), [giant, job("small")])) == ("small", ())
    assert pick(idle(), [giant]) is None


def test_an_estimate_too_large_is_counted_before_it_is_refused() -> None:
    """With nothing running, the job is claimed with the least row, so that its prompt gets counted."""
    guessed = job("guessed", Row(9000, 100), counted=False)
    choice = pick(idle(), [guessed])
    assert choice == Choice(guessed, Row(1, 100))


def test_an_estimate_is_not_doubted_while_others_run() -> None:
    """In company the job waits, passed by smaller ones within its bound."""
    guessed = job("guessed", Row(9000, 100), counted=False)
    assert chosen(pick(busy(), [guessed, job("small")])) == ("small", ("guessed",))


def test_an_answer_too_long_by_itself_is_hopeless() -> None:
    """No prompt is short enough where ``max_tokens`` alone exceeds the budget."""
    guessed = job("guessed", Row(1, 9000), counted=False)
    assert hopeless(idle(), guessed)
    assert pick(idle(), [guessed]) is None


def test_a_job_to_be_tried_alone_waits_for_an_empty_engine() -> None:
    """Company could not be told from it; alone it goes first."""
    suspect = job("suspect", company_most=1)
    assert chosen(pick(busy(), [suspect, job("small")])) == ("small", ("suspect",))
    assert pick(busy(), [replace(suspect, passes=3), job("small")]) is None
    assert chosen(pick(idle(), [suspect])) == ("suspect", ())


def test_a_job_joins_no_more_company_than_it_may_have() -> None:
    """Itself counted: it waits until few enough run, passed by others within its bound."""
    ledger = idle(1 << 40)
    ledger.reserve(HELD, PLAIN.model, SMALL)
    assert chosen(pick(ledger, [job("half", company_most=2)])) == ("half", ())
    ledger.reserve(Holder("other", 1), PLAIN.model, SMALL)
    assert chosen(pick(ledger, [job("half", company_most=2), job("small")])) == ("small", ("half",))
    assert chosen(pick(ledger, [job("half", company_most=3)])) == ("half", ())


def test_nobody_joins_those_who_may_have_no_more_company() -> None:
    """Whoever waits: the batch is full for those who run; of several bounds the least counts."""
    ledger = idle(1 << 40)
    for holder in (HELD, Holder("other", 1)):
        ledger.reserve(holder, PLAIN.model, SMALL)
    for bounds, wanted in (({HELD: 2}, None), ({HELD: 3}, "a"), ({HELD: 9, Holder("other", 1): 2}, None)):
        limits = Limits(32, 3, bounds=bounds)
        choice = choose([[job("a")]], ledger, 0.0, limits, None, Promises()).choice
        assert (choice.candidate.job_id if choice else None) == wanted


def test_one_that_waits_for_less_company_hides_no_job_behind_it() -> None:
    """It is not too large: the look goes on, however many of its like come first."""
    suspects = [job(f"job_{n}", Row(900 - n, 100 + n), company_most=1) for n in range(9)]
    assert chosen(pick(busy(), [*suspects, job("small")])) is not None


def test_a_full_batch_claims_nothing() -> None:
    """However much memory there is."""
    assert pick(busy(), [job("a")], max_batch=1) is None


def test_a_job_of_a_model_that_is_not_resident_is_passed_within_the_bound() -> None:
    """It waits like one that does not fit: passed by others at first, then by nobody, so that it loads."""
    other = Candidate("other", "elsewhere", SMALL, passes=0)
    assert chosen(pick(idle(), [other, job("a")])) == ("a", ("other",))
    assert chosen(pick(idle(), [replace(other, passes=99), job("a")])) is None


def test_nothing_waits_nothing_is_chosen() -> None:
    """Empty queues, or none."""
    assert pick(idle(), [], [], []) is None
    assert pick(idle()) is None


def view(name: str = "w", budget_bytes: int = BUDGET, **fields: object) -> WorkerView:
    """A worker as others see it."""
    base = WorkerView(name, budget_bytes, 512, frozenset({PLAIN.model}), {PLAIN.model: PLAIN})
    return replace(base, **fields)  # type: ignore[arg-type]


def test_a_job_that_some_worker_could_hold_alone_is_admitted() -> None:
    """One large enough is enough; the numbers are that worker's."""
    verdict = judge([view(budget_bytes=5), view()], PLAIN.model, LARGE)
    assert (verdict.decision, verdict.need_bytes, verdict.limit_bytes) == (Decision.ADMITTED, BUDGET, BUDGET)


def test_a_job_that_no_worker_could_hold_never_fits() -> None:
    """The limit named is that of the worker that comes closest."""
    verdict = judge(
        [view(budget_bytes=5), view(budget_bytes=BUDGET - 1), view(budget_bytes=9)], PLAIN.model, LARGE
    )
    assert (verdict.decision, verdict.limit_bytes) == (Decision.NEVER_FITS, BUDGET - 1)


@pytest.mark.parametrize(
    "workers",
    [
        [],
        [view(served=frozenset())],
        [view(budget_bytes=5), view(cards={})],
        [view(cards={}), view(budget_bytes=5)],
    ],
    ids=["none", "serves others", "unmeasured last", "unmeasured first"],
)
def test_what_is_not_known_is_not_refused(workers: list[WorkerView]) -> None:
    """Without a worker, or with one that has not measured the model, the job waits."""
    assert judge(workers, PLAIN.model, LARGE).decision is Decision.WAITS
