"""The account: who holds what, what fits, and what running out of memory changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.batch_account import Holder
from scheduler.card import ModelCard
from scheduler.errors import TransitionRefused
from scheduler.footprint import alone_bytes, batch_bytes
from scheduler.foresight import Extents, Row
from scheduler.ledger import Ledger
from scheduler.pressure import FLOOR, READING_SECONDS
from scheduler.slots import Extent, Written
from tests.cards import PLAIN, SLIDING

LONG = Row(900, 100)
ALONE = alone_bytes(PLAIN, LONG, 512)
FIRST, SECOND = Holder("job_a", 1), Holder("job_b", 1)


def account(budget_bytes: int, card: ModelCard = PLAIN, *, chunk: int = 512, together: int = 4) -> Ledger:
    """A ledger with one model resident."""
    ledger = Ledger(budget_bytes, chunk_tokens=chunk, prefill_rows=together)
    ledger.admit_model(card)
    return ledger


def balance(ledger: Ledger) -> int:
    """The four parts, added up."""
    return ledger.weights_bytes + ledger.reserved_bytes + ledger.cache_bytes + ledger.headroom_bytes


def test_a_job_that_fits_exactly_is_held() -> None:
    """To the byte: its own footprint is enough, a byte less is not."""
    assert account(ALONE).fits(PLAIN.model, LONG, 0)
    assert not account(ALONE - 1).fits(PLAIN.model, LONG, 0)
    ledger = account(ALONE)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    assert (ledger.reserved_bytes, ledger.headroom_bytes) == (ALONE - PLAIN.weights_bytes, 0)


def test_a_job_that_has_begun_is_held_alone_though_its_tokens_take_larger_chunks() -> None:
    """As a prompt they may take more than the job did: all there is where it is alone, what they take in company."""
    short, made = Row(8, 900), 890
    need, again = (alone_bytes(PLAIN, row, 512) for row in (short, Row(8 + made, 10)))
    assert need < again
    resumed = Row(8 + made, 10, resumed_tokens=made)
    assert resumed.submitted == short
    ledger = account(need)
    assert not ledger.fits(PLAIN.model, Row(8 + made, 10), 0)
    assert ledger.fits(PLAIN.model, resumed, 0)
    assert ledger.fits_without(PLAIN.model, resumed, [], 0)
    ledger.reserve(FIRST, PLAIN.model, resumed)
    assert (ledger.reserved_bytes, ledger.headroom_bytes) == (need - PLAIN.weights_bytes, 0)
    ledger.settle()
    assert ledger.headroom_bytes == 0
    beside = account(again)
    beside.reserve(FIRST, PLAIN.model, Row(1, 1))
    assert not beside.fits(PLAIN.model, resumed, 0)
    assert beside.fits_without(PLAIN.model, resumed, [FIRST], 0)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    """The second job finds the first one's memory taken."""
    ledger = account(ALONE + 1000)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    before = ledger.reserved_bytes
    with pytest.raises(TransitionRefused, match=r"job_b needs [\d,]+ bytes; 1,000 are free"):
        ledger.reserve(SECOND, PLAIN.model, LONG)
    assert (ledger.reserved_bytes, list(ledger.holders)) == (before, [FIRST])


def test_an_empty_batch_has_nothing_to_tell() -> None:
    """Its last job was removed, and the engine says no more of its caches: what it gave back is known."""
    ledger = account(10 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    ledger.advance(FIRST, 950)
    ledger.reach(PLAIN.model, (None, Extent(1, 950, (Written(950, 950, 1024, rotated=False),))))
    assert ledger.told
    ledger.release(FIRST)
    assert ledger.told and ledger.reserved_bytes == 0


def test_a_hold_is_taken_once() -> None:
    """The same attempt cannot hold twice."""
    ledger = account(10 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    with pytest.raises(TransitionRefused, match="holds a reservation already"):
        ledger.reserve(FIRST, PLAIN.model, LONG)


def test_a_model_must_be_resident() -> None:
    """Memory is held beside weights that are counted."""
    with pytest.raises(TransitionRefused, match="other is not resident"):
        account(10 * ALONE).reserve(FIRST, "other", LONG)


def test_a_late_release_frees_nothing() -> None:
    """The word of attempt 1 does not touch attempt 2."""
    ledger = account(ALONE)
    ledger.reserve(Holder("job_a", 2), PLAIN.model, LONG)
    ledger.release(Holder("job_a", 1))
    assert ledger.headroom_bytes == 0
    ledger.release(Holder("job_a", 2))
    ledger.release(Holder("job_a", 2))
    assert ledger.reserved_bytes == 0


def test_shares_add_up_to_the_rectangle() -> None:
    """A job's reservation is its even share of its batch, rounded up; a stranger has none."""
    ledger = account(100 * ALONE)
    rows = [Row(10, 10), Row(20, 20), LONG]
    for number, row in enumerate(rows):
        ledger.reserve(Holder(f"job_{number}", 1), PLAIN.model, row)
    shares = [ledger.share_bytes(holder) for holder in ledger.holders]
    assert len(set(shares)) == 1
    assert 0 <= sum(shares) - ledger.reserved_bytes < 3
    assert ledger.reserved_bytes >= batch_bytes(PLAIN, rows, 512, 4)
    assert ledger.share_bytes(FIRST) == 0


def test_models_have_batches_of_their_own() -> None:
    """A long row of one model does not lengthen another's rows."""
    ledger = account(100 * ALONE)
    ledger.admit_model(replace(PLAIN, model="n"))
    ledger.reserve(FIRST, PLAIN.model, LONG)
    ledger.reserve(SECOND, "n", Row(1, 1))
    parts = [batch_bytes(PLAIN, [row], 512, 4) for row in (LONG, Row(1, 1))]
    assert ledger.reserved_bytes == sum(parts)
    assert ledger.weights_bytes == 2 * PLAIN.weights_bytes


def test_a_model_that_holds_jobs_stays() -> None:
    """Its weights are in use; without jobs it may go, and going twice is once."""
    ledger = account(ALONE)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    with pytest.raises(TransitionRefused, match="m holds 1 jobs"):
        ledger.drop_model(PLAIN.model)
    ledger.release(FIRST)
    ledger.drop_model(PLAIN.model)
    ledger.drop_model(PLAIN.model)
    assert (ledger.weights_bytes, ledger.reserved_bytes) == (0, 0)


def test_a_counted_prompt_replaces_its_estimate_where_it_fits() -> None:
    """Larger than what is free: refused, and the old reservation stands."""
    ledger = account(ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(1, 100))
    held = ledger.reserved_bytes
    assert not ledger.resize(FIRST, Row(1201, 100))
    assert ledger.reserved_bytes == held
    assert ledger.resize(FIRST, LONG)
    assert ledger.headroom_bytes == 0
    with pytest.raises(TransitionRefused, match="job_b attempt 1 holds nothing"):
        ledger.resize(SECOND, LONG)


def test_cache_gives_way_to_jobs() -> None:
    """Freed buffers count only as far as the account has room for them."""
    ledger = account(ALONE)
    ledger.note_cache(10 * ALONE)
    assert (ledger.cache_bytes, ledger.headroom_bytes) == (ALONE - PLAIN.weights_bytes, 0)
    assert ledger.fits(PLAIN.model, LONG, 0)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    assert (ledger.cache_bytes, balance(ledger)) == (0, ALONE)


def test_cache_gives_way_to_weights() -> None:
    """A model that is loaded pushes cache out of the account as a job does (rule 1)."""
    ledger = account(5 * ALONE)
    ledger.note_cache(5 * ALONE)
    ledger.admit_model(replace(PLAIN, model="n"))
    assert ledger.headroom_bytes >= 0
    assert balance(ledger) == 5 * ALONE


def test_cache_gives_way_to_a_counted_prompt() -> None:
    """A row that grows takes cache's place."""
    ledger = account(ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(1, 1))
    ledger.note_cache(ALONE)
    assert ledger.resize(FIRST, LONG)
    assert (ledger.cache_bytes, ledger.headroom_bytes) == (0, 0)


def test_running_out_lowers_what_is_admitted_in_company() -> None:
    """A fifth less each time, never below half; a percent comes back each second."""
    ledger = account(ALONE)
    shares = []
    for second in range(5):
        ledger.ran_out(100.0 + second)
        ledger.ran_out(100.5 + second)  # the same squeeze
        shares.append(ledger.working_share(100.0 + second))
    assert shares == pytest.approx([0.8, 0.648, 0.5264, FLOOR, FLOOR])
    assert ledger.working_share(114.0) == pytest.approx(0.6)
    assert ledger.working_share(1000.0) == 1.0


def test_a_lowered_budget_refuses_company_and_recovers() -> None:
    """The second job waits while memory is believed short, and not for ever."""
    roomy = account(100 * ALONE)
    for holder in (FIRST, SECOND):
        roomy.reserve(holder, PLAIN.model, LONG)
    ledger = account(roomy.weights_bytes + roomy.reserved_bytes)
    ledger.reserve(FIRST, PLAIN.model, LONG)
    assert ledger.fits(PLAIN.model, LONG, 50.0)
    ledger.ran_out(50.0)
    assert not ledger.fits(PLAIN.model, LONG, 50.0)
    assert ledger.fits(PLAIN.model, LONG, 75.0)


def test_idle_memory_admits_what_fits_whatever_happened() -> None:
    """No reading latches: a hundred exhaustions do not refuse a job that would run alone (rule 5)."""
    ledger = account(ALONE)
    for _ in range(100):
        ledger.ran_out(0.0)
    assert ledger.fits(PLAIN.model, LONG, 0.0)


def test_a_clock_set_back_does_not_shut_the_door() -> None:
    """The share stays within its floor though the last exhaustion seems to lie in the future."""
    ledger = account(ALONE)
    ledger.ran_out(1_000_000.0)
    assert FLOOR <= ledger.working_share(0.0) <= 1.0


def test_what_was_computed_gives_memory_back() -> None:
    """A job that has computed its prompt and half of its answer needs less; its reservation never rises."""
    ledger = account(10 * ALONE)
    row = Row(2000, 20)
    card = replace(PLAIN, chunk_bytes=((16, 16_000), (512, 512_000)))
    ledger.admit_model(card)
    ledger.reserve(FIRST, card.model, row)
    reserved = [ledger.reserved_bytes]
    for cached in (512, 1500, 1999, 2010, 512):
        ledger.advance(FIRST, cached)
        ledger.settle()
        reserved.append(ledger.reserved_bytes)
    assert reserved == sorted(reserved, reverse=True)
    assert reserved[-1] < reserved[0] - 300_000


def test_a_newcomers_prompt_may_be_padded_to_those_under_way() -> None:
    """Whoever joins while a prompt is computed gets a cache as long as that one's: it is counted."""
    ledger = account(100 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(600, 20))
    together = batch_bytes(PLAIN, [Row(600, 20)] * 2, 512, 4)
    assert ledger.marginal_bytes(PLAIN.model, Row(600, 20)) > together - ledger.reserved_bytes


def test_no_more_prompts_are_taken_for_late_than_are_computed_together() -> None:
    """Twelve that wait reserve what twelve take one after the other, not what a rectangle of twelve would."""
    ledger = account(1000 * ALONE)
    for number in range(12):
        ledger.reserve(Holder(f"job_{number}", 1), PLAIN.model, Row(3000, 50))
    together = batch_bytes(PLAIN, [Row(3000, 50)] * 12, 512, 4)
    assert together <= ledger.reserved_bytes <= 1.2 * together


def extents(rows: int, at: int, slots: int, longest: int) -> Extents:
    return None, Extent(rows, longest, (Written(at, at, slots, rotated=False),))


def test_padding_that_the_engine_tells_of_counts() -> None:
    """Rows that joined others are as long as those were: what they come to is more than their own tokens."""
    ledger = account(1 << 30)
    holder = Holder("a", 1)
    ledger.reserve(holder, PLAIN.model, Row(100, 200))
    ledger.advance(holder, 150)
    ledger.settle()
    before = ledger.reserved_bytes
    ledger.reserve(Holder("b", 1), PLAIN.model, Row(100, 200))
    together = ledger.reserved_bytes
    ledger.release(Holder("b", 1))
    ledger.reach(PLAIN.model, extents(1, at=900, slots=1024, longest=150))
    ledger.reserve(Holder("b", 1), PLAIN.model, Row(100, 200))
    assert ledger.reserved_bytes > 2 * together > 2 * before


def test_what_a_window_holds_is_what_the_engine_tells() -> None:
    """A row far beyond its window holds the window, however long it is."""
    ledger = account(1 << 30, SLIDING)
    holder = Holder("a", 1)
    ledger.reserve(holder, SLIDING.model, Row(3000, 900))
    ledger.advance(holder, 3100)
    ledger.reach(SLIDING.model, (None, Extent(1, 3100, (Written(28, 3100, 512, rotated=True),))))
    ledger.settle()
    assert ledger.reserved_bytes == pytest.approx(512 * 100, rel=0.02, abs=1 << 16)


def test_nothing_is_given_back_before_the_engine_tells_how_its_caches_are() -> None:
    """Where a decoding row goes, what the others come to is known when their caches were regrouped."""
    ledger = account(1 << 30)
    for name, done in (("a", 250), ("b", 150)):
        ledger.reserve(Holder(name, 1), PLAIN.model, Row(100, 900))
        ledger.advance(Holder(name, 1), done)
    ledger.reach(PLAIN.model, extents(2, at=250, slots=256, longest=250))
    ledger.settle()
    both = ledger.reserved_bytes
    ledger.release(Holder("a", 1))
    assert ledger.reserved_bytes == both
    ledger.reach(PLAIN.model, extents(1, at=150, slots=156, longest=150))
    ledger.settle()
    assert ledger.reserved_bytes < 0.7 * both


def test_a_prompt_that_goes_brings_the_next_ones_forward() -> None:
    """Beside a row that would have ended by then: more is needed than with it, and is reserved."""
    ledger = account(1 << 30, chunk=16, together=1)
    decoding, first, second = (Holder(name, 1) for name in "abc")
    ledger.reserve(decoding, PLAIN.model, Row(300, 30))
    ledger.advance(decoding, 318)
    ledger.reserve(first, PLAIN.model, Row(300, 1))
    ledger.reserve(second, PLAIN.model, Row(100, 30))
    ledger.reach(PLAIN.model, extents(1, at=318, slots=512, longest=318))
    ledger.settle()
    before = ledger.reserved_bytes
    ledger.release(first)
    assert ledger.reserved_bytes > before


def test_a_prompt_that_others_computed_comes_forward() -> None:
    """It decodes beside a row that would have ended: where that is known it is reserved."""
    ledger = account(1 << 30, chunk=16, together=1)
    ledger.reserve(FIRST, PLAIN.model, Row(300, 5, 301))
    ledger.reserve(SECOND, PLAIN.model, Row(100, 30))
    before = ledger.reserved_bytes
    ledger.advance(SECOND, 96)
    prompt = Extent(1, 96, (Written(96, 96, 96, rotated=False),))
    ledger.reach(PLAIN.model, (prompt, extents(1, at=301, slots=512, longest=301)[1]))
    ledger.hasten(SECOND)
    ledger.settle()
    assert ledger.reserved_bytes > before


def test_what_would_fit_without_some_is_what_fits_once_they_left() -> None:
    """The same answer before as afterwards, to the byte; beside a joiner too."""
    for budget in range(ALONE, 3 * ALONE, ALONE // 7):
        ledger = account(budget)
        if not ledger.fits(PLAIN.model, LONG, 0):
            continue
        ledger.reserve(FIRST, PLAIN.model, LONG)
        foreseen = ledger.fits_without(PLAIN.model, LONG, [FIRST], 0)
        beside = ledger.fits_without(PLAIN.model, LONG, [FIRST], 0, joining=(PLAIN.model, LONG))
        ledger.release(FIRST)
        assert foreseen == ledger.fits(PLAIN.model, LONG, 0)
        ledger.reserve(SECOND, PLAIN.model, LONG)
        assert beside == ledger.fits(PLAIN.model, LONG, 0)


def test_an_old_reading_keeps_nobody_out() -> None:
    """What the host could give once binds those who join for half a minute, also where the clock was set back."""
    ledger = account(4 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(10, 10))
    ledger.pressure.read(0, 1000.0)
    assert not ledger.fits(PLAIN.model, Row(10, 10), 1000.0 + READING_SECONDS / 2)
    assert ledger.fits(PLAIN.model, Row(10, 10), 1000.0 + READING_SECONDS)
    ledger.pressure.read(0, 1000.0)
    assert not ledger.fits(PLAIN.model, Row(10, 10), 0.0)
    assert ledger.fits(PLAIN.model, Row(10, 10), READING_SECONDS)


def test_in_company_less_would_fit_after_memory_ran_out() -> None:
    """Where somebody stays; a job that would be alone gets all of the budget."""
    ledger = account(2 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(10, 10))
    assert ledger.fits_without(PLAIN.model, LONG, [FIRST], 0, joining=(PLAIN.model, LONG))
    ledger.ran_out(0)
    ledger.pressure.read(0, 0)
    assert not ledger.fits_without(PLAIN.model, LONG, [FIRST], 0, joining=(PLAIN.model, LONG))
    assert ledger.fits_without(PLAIN.model, LONG, [FIRST], 0)


def test_an_answer_longer_than_planned_is_reserved_as_far_as_there_is_room() -> None:
    """All of it where there is room; else what there is, and never more than the budget; cache makes way."""
    planned, longer = Row(900, 100), Row(900, 2000)
    whole = batch_bytes(PLAIN, [longer], 512, 4)
    for spare, cache in ((1 << 20, 5000), (1000, 1000), (0, 0)):
        ledger = account(ALONE + spare)
        ledger.reserve(FIRST, PLAIN.model, planned)
        before = ledger.reserved_bytes
        ledger.note_cache(cache)
        ledger.advance(FIRST, 0, longer.max_tokens)
        assert ledger.reserved_bytes == before
        ledger.settle()
        assert ledger.reserved_bytes == min(whole, before + spare)
        assert balance(ledger) == ledger.budget_bytes and ledger.headroom_bytes >= 0
        assert ledger.holders[FIRST] == longer


def test_an_answer_found_shorter_gives_back() -> None:
    """What it was taken to need beyond that is room for others at once."""
    ledger = account(10 * ALONE)
    ledger.reserve(FIRST, PLAIN.model, Row(900, 2000))
    ledger.advance(FIRST, 0, 100)
    ledger.settle()
    assert ledger.reserved_bytes == ALONE - PLAIN.weights_bytes
