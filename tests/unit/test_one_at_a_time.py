"""Claims, promises and clocks where a model runs one job at a time."""

from __future__ import annotations

from dataclasses import replace

from scheduler.admission import Candidate, Limits, choose
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.card import ModelCard
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.outlook import Outlook, Wanted
from scheduler.preemption import Running, victims
from scheduler.slots import CacheGroup, Slots
from scheduler.verdict import WorkerView
from tests.cards import PLAIN

SOLO = replace(PLAIN, model="solo", alone=True)
RATES = Rates(step_seconds=0.1, prompt_token_seconds=0.001)
FIRST = Holder("first", 1)


def working(row: Row | None = None, rates: Rates | None = RATES) -> tuple[Ledger, Promises]:
    """A worker's account, a job of the model that runs one at a time held."""
    ledger = Ledger(1 << 30, 512, 4)
    ledger.admit_model(PLAIN)
    ledger.admit_model(SOLO)
    ledger.reserve(FIRST, "solo", row or Row(10, 100))
    return ledger, Promises()


def solo(name: str, **fields: object) -> Candidate:
    return Candidate(name, "solo", Row(10, 10), **fields)  # type: ignore[arg-type]


def other(name: str) -> Candidate:
    return Candidate(name, PLAIN.model, Row(10, 10))


def test_the_second_waits_and_is_promised_the_firsts_end() -> None:
    """Though there is memory for many: some seconds after what the first has left to write."""
    ledger, promises = working()
    look = choose([[solo("second"), solo("third")]], ledger, 5.0, Limits(32, 3), RATES, promises)
    assert look.choice is None and look.first_blocked == solo("second")
    assert promises.starts_at.keys() == {"second"}
    assert 10.0 <= promises.starts_at["second"] - 5.0 <= 2 * 10.1
    ledger.release(FIRST)
    choice = choose([[solo("second")]], ledger, 6.0, Limits(32, 3), RATES, promises).choice
    assert choice is not None and choice.candidate.job_id == "second"


def test_others_go_by_and_nobody_is_passed() -> None:
    """However many wait for the place, and however often: it is not for memory that they wait."""
    ledger, promises = working()
    waiting = [solo(f"job_{n}", passes=9) for n in range(20)]
    for classes in ([[*waiting, other("plain")]], [waiting, [other("plain")]], [[other("plain")], waiting]):
        choice = choose(classes, ledger, 0.0, Limits(32, 3), RATES, promises).choice
        assert choice is not None
        assert (choice.candidate.job_id, choice.passed) == ("plain", ())


def test_others_go_by_though_the_promise_is_overdue() -> None:
    """The one that runs takes longer than was foreseen: that is no reason for others to wait."""
    ledger, promises = working()
    promises.make("second", 0.0, 0.0)
    choice = choose([[solo("second"), other("plain")]], ledger, 99.0, Limits(32, 3), RATES, promises).choice
    assert choice is not None and choice.candidate.job_id == "plain"


def test_a_job_that_would_take_its_room_waits_and_stops_nobody() -> None:
    """One that leaves it what it needs goes by; the large one is passed."""
    ledger, promises = working()
    waiting = replace(solo("second"), row=Row(900, 100))
    large = Candidate("large", PLAIN.model, Row(900, 90))
    need = ledger.marginal_bytes(PLAIN.model, large.row)
    ledger.budget_bytes = ledger.weights_bytes + ledger.reserved_bytes + need
    assert ledger.fits(PLAIN.model, large.row, 0.0)
    look = choose([[waiting, large, other("plain")]], ledger, 0.0, Limits(32, 3), RATES, promises)
    assert look.choice is not None
    assert (look.choice.candidate.job_id, look.choice.passed) == ("plain", ("large",))
    assert choose([[waiting, large]], ledger, 0.0, Limits(32, 3), RATES, promises).choice is None


def test_an_urgent_one_takes_the_place_of_one_of_class_batch() -> None:
    """Nothing else would help it, whatever memory there is."""
    ledger, _ = working(Row(10, 1000))
    ledger.reserve(Holder("plain", 1), PLAIN.model, Row(10, 10))
    running = [Running(FIRST, "batch", 1.0, 0), Running(Holder("plain", 1), "batch", 2.0, 0)]
    urgent = solo("urgent", priority="interactive")
    sent_back = victims(
        urgent, running, ledger, 0.0, rates=RATES, starts_at=1e9, max_batch=32, max_preemptions=2
    )
    assert sent_back == (FIRST,)


def view(card: ModelCard) -> WorkerView:
    """A worker that runs two jobs, one of them of the model, with room for many more."""
    served = frozenset({card.model, "m"})
    return WorkerView(
        "w",
        1 << 30,
        512,
        served,
        {card.model: card},
        seconds_to_free=((60.0, 1000), (5.0, 1000)),
        running_models=(card.model, "m"),
        headroom_bytes=1 << 29,
        tokens_per_second=100.0,
        max_batch=32,
    )


def test_the_clock_has_one_place_for_its_jobs() -> None:
    """The next starts when the one that runs ends; a model that shares a batch has room now."""
    job = Wanted("solo", "standard", 500, 0)
    alone, shared = (
        Outlook(0.0, (view(card),), {"standard": (1, 500)}).start_seconds(job, 0)
        for card in (SOLO, replace(SOLO, alone=False))
    )
    assert (alone, shared) == (60.0, 0.0)
    assert view(SOLO).as_for("m") == view(SOLO)


def test_an_idle_model_has_its_place_free() -> None:
    """Though another model's job runs."""
    worker = replace(view(SOLO), running_models=("m", "m"))
    outlook = Outlook(0.0, (worker,), {"standard": (1, 500)})
    assert outlook.start_seconds(Wanted("solo", "standard", 500, 0), 0) == 0.0


def test_a_card_from_before_still_reads() -> None:
    """It shares its batch, as all did."""
    fields = SOLO.to_json()
    assert ModelCard.from_json(fields) == SOLO
    del fields["alone"]
    assert ModelCard.from_json(fields) == replace(SOLO, alone=False)


def test_a_chunked_cache_forgets_before_each_call() -> None:
    """Its slots while it grows, once it is over its window, and by prompts' chunks."""
    cache = Slots(CacheGroup("chunked", 1, bytes_per_token=1, window_tokens=300))
    assert [cache.advance(200), cache.slots, cache.advance(100), cache.slots] == [True, 256, True, 456]
    assert cache.index == 300 and not cache.copies
    assert cache.advance(1) is False
    assert cache.index == 301 and cache.copies and cache.until_growth() == 0
    assert cache.advance(1) and (cache.index, cache.slots) == (301, 556)
    assert cache.until_growth() > 1 << 30
    cache.many(50)
    assert (cache.index, cache.slots) == (301, 556)
    assert cache.advance(600) and (cache.index, cache.slots) == (900, 1068)
