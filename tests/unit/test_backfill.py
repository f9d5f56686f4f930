"""Promised starts, and who may pass: against a batch whose numbers are easily added up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.admission import Candidate, Limits, Look, choose
from scheduler.backfill import Promises, blocked, endings
from scheduler.batch_account import Holder
from scheduler.company import Company
from scheduler.footprint import batch_bytes
from scheduler.forecast import Rates, seconds_left
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from tests.cards import PLAIN

RATES = Rates(step_seconds=1.0, prompt_token_seconds=0.0)
CHUNK = 1024
NOW = 50.0
FIRST, SECOND = Holder("first", 1), Holder("second", 1)


def holding(budget_bytes: int, **rows: Row) -> Ledger:
    """An account that holds these, beside the weights."""
    ledger = Ledger(PLAIN.weights_bytes + budget_bytes, CHUNK, 1)
    ledger.admit_model(PLAIN)
    for name, row in rows.items():
        ledger.reserve(Holder(name, 1), PLAIN.model, row)
    return ledger


def bytes_of(*rows: Row) -> int:
    """What a batch of these takes."""
    return batch_bytes(PLAIN, rows, CHUNK, 1)


def decoding(tokens: int, left: int) -> Row:
    """A row with so many cached, and so many tokens to go."""
    return Row(tokens, left, tokens)


LARGE = Row(3000, 20)
SHORT, LONG = Row(10, 5), Row(10, 500)


def waiting(name: str, row: Row, **fields: object) -> Candidate:
    """A job."""
    return Candidate(name, PLAIN.model, row, **fields)  # type: ignore[arg-type]


def look(ledger: Ledger, promises: Promises, *jobs: Candidate, now: float = NOW, max_batch: int = 8) -> Look:
    """What is claimed next of one class."""
    return choose([jobs], ledger, now, Limits(max_batch, 64), RATES, promises)


def claimed(found: Look) -> str | None:
    """Its name."""
    return found.choice.candidate.job_id if found.choice else None


def test_a_row_ends_when_its_prompt_and_its_answer_are_computed() -> None:
    """A loop for each chunk of the prompts before it and its own, then one for each token; prompts take seconds."""
    rows = [decoding(100, 7), Row(2048, 5), Row(1024, 3)]
    assert seconds_left(rows, Rates(1.0, 0.0), CHUNK, 1) == [7.0, 7.0, 6.0]
    assert seconds_left(rows, Rates(1.0, 0.0), CHUNK, 3) == [7.0, 6.0, 4.0]
    half_way = Row(2048, 5, 1024)
    assert seconds_left([half_way], Rates(1.0, 0.001), CHUNK, 1) == [pytest.approx(6.0 + 1.024)]
    assert seconds_left([Row(10, 1, 11)], RATES, CHUNK, 1) == [1.0]
    assert seconds_left([], RATES, CHUNK, 1) == []


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_what_is_no_rate_is_refused(wrong: float) -> None:
    """Neither below nothing nor without end."""
    with pytest.raises(ValueError, match="no rates"):
        Rates(wrong, 0.0)
    with pytest.raises(ValueError, match="no rates"):
        Rates(0.0, wrong)


def test_the_promise_waits_for_no_more_ends_than_needed() -> None:
    """Soonest first, as few as are enough."""
    ledger = holding(bytes_of(LARGE, decoding(10, 90)), first=decoding(1500, 30), second=decoding(10, 90))
    assert [ending.holder for ending in endings(ledger, RATES)] == [FIRST, SECOND]
    how = blocked(ledger, (PLAIN.model, LARGE, None), RATES, NOW, Company(8))
    assert (how.leaving, how.seconds) == ((FIRST,), 30.0)
    everyone = blocked(ledger, (PLAIN.model, LARGE, 1), RATES, NOW, Company(8))
    assert (everyone.leaving, everyone.seconds) == ((FIRST, SECOND), 90.0)
    full = blocked(ledger, (PLAIN.model, SHORT, None), RATES, NOW, Company(2))
    assert full.leaving == (FIRST,)


def test_the_promise_waits_for_as_little_company_as_the_job_may_have() -> None:
    """As many end as leave a place, by its own bound and by those of others."""
    ledger = holding(1 << 30, first=decoding(10, 30), second=decoding(10, 90))
    for most, company, wanted in (
        (2, Company(8), (FIRST,)),
        (3, Company(8), ()),
        (None, Company(8, {FIRST: 2}), (FIRST,)),
        (1, Company(8, {SECOND: 2}), (FIRST, SECOND)),
    ):
        how = blocked(ledger, (PLAIN.model, SHORT, most), RATES, NOW, company)
        assert how.leaving == wanted


def test_a_promise_is_made_once() -> None:
    """Somewhat later than foreseen; it stands while the job waits, and is forgotten with it."""
    promises = Promises()
    promises.make("a", 10.0, NOW)
    promises.make("a", 99.0, NOW + 5)
    assert promises.starts_at == {"a": NOW + 15.0}
    promises.keep({"b"})
    assert promises.starts_at == {}


def tight() -> Ledger:
    """A row runs for 40 s; beside it there is room for a small job, and none for the large one; nor is there for both."""
    return holding(800_000, first=decoding(2000, 40))


def test_one_that_ends_before_the_promise_passes() -> None:
    """It uses memory that is idle until then."""
    promises = Promises()
    assert claimed(look(tight(), promises, waiting("large", LARGE), waiting("short", SHORT))) == "short"
    assert promises.starts_at == {"large": NOW + 1.5 * 40}


def test_one_that_would_delay_the_promise_does_not_pass() -> None:
    """It fits now, and would still be there; without rates nothing is promised, and it passes."""
    jobs, ledger = (waiting("large", LARGE), waiting("long", LONG)), tight()
    found = look(ledger, Promises(), *jobs)
    assert claimed(found) is None
    assert found.first_blocked == jobs[0]
    assert ledger.fits(PLAIN.model, LONG, NOW)
    unmeasured = choose([jobs], ledger, NOW, Limits(8, 64), None, Promises())
    assert claimed(unmeasured) == "long"


def test_one_that_uses_what_the_first_will_not_need_passes() -> None:
    """It stays beyond the promised start, beside the job that it passed."""
    ledger = holding(700_000, first=decoding(2000, 40))
    ledger.admit_model(replace(PLAIN, model="other", weights_bytes=0))  # in a batch of its own
    jobs = waiting("large", LARGE), replace(waiting("long", LONG), model="other")
    assert not ledger.fits(PLAIN.model, LARGE, NOW)
    assert claimed(look(ledger, Promises(), *jobs)) == "long"
    assert ledger.fits_without(PLAIN.model, LARGE, [FIRST], NOW, joining=("other", LONG))


def test_nobody_passes_one_whose_promise_is_overdue() -> None:
    """However short."""
    promises = Promises({"large": NOW})
    jobs = waiting("large", LARGE), waiting("short", SHORT)
    assert claimed(look(tight(), promises, *jobs)) is None
    assert claimed(look(tight(), promises, *jobs, now=NOW - 45)) == "short"


def test_one_that_must_be_alone_is_passed_by_those_that_will_have_ended() -> None:
    """Nothing fits beside it: whoever stays longer waits behind it."""
    ledger = holding(1 << 30, first=decoding(10, 40))
    alone = waiting("alone", SHORT, company_most=1)
    assert claimed(look(ledger, Promises(), alone, waiting("short", SHORT))) == "short"
    assert claimed(look(ledger, Promises(), alone, waiting("long", LONG))) is None


@pytest.mark.parametrize(
    ("first_most", "own_most", "bounds", "wanted"),
    [
        (2, None, {}, "long"),
        (1, None, {}, None),
        (None, 2, {}, "long"),
        (None, 1, {}, None),
        (None, None, {FIRST: 2}, "long"),
        (None, None, {FIRST: 1}, None),
    ],
)
def test_who_passes_leaves_everybody_the_company_they_may_have(
    first_most: int | None, own_most: int | None, bounds: dict[Holder, int], wanted: str | None
) -> None:
    """As above, where memory is there for all: neither the bound of one that waits, nor its own, nor a running one's."""
    ledger = holding(700_000, first=decoding(2000, 40))
    ledger.admit_model(replace(PLAIN, model="other", weights_bytes=0))
    large = waiting("large", LARGE, company_most=first_most)
    passer = replace(waiting("long", LONG, company_most=own_most), model="other")
    found = choose([[large, passer]], ledger, NOW, Limits(8, 64, bounds=bounds), RATES, Promises())
    assert claimed(found) == wanted


def test_a_small_job_kept_waiting_by_company_hides_no_larger_one() -> None:
    """It waits for no memory: that it does not run says nothing of others."""
    ledger = holding(1 << 30, first=decoding(10, 4000))
    alone = waiting("alone", SHORT, company_most=1)
    assert claimed(look(ledger, Promises(), alone, waiting("larger", Row(20, 10)))) == "larger"


def test_prompts_are_claimed_a_while_ahead_and_no_more() -> None:
    """Where those in hand take longer to compute than that, nobody is claimed; what is computed does not count."""
    rates, limits = Rates(1.0, 0.001), Limits(8, 64, prefill_ahead_seconds=1.0)
    for row, wanted in ((Row(1001, 5), None), (Row(1000, 5), "short"), (Row(1001, 5, 1), "short")):
        found = choose(
            [[waiting("short", SHORT)]], holding(1 << 30, first=row), NOW, limits, rates, Promises()
        )
        assert claimed(found) == wanted


def test_an_interactive_job_comes_beside_the_prompts_that_are_computed() -> None:
    """While there is a place among them, and one at a time: behind its own kind, or as many as are computed together,
    it would only wait in the engine.
    """
    rates, limits = Rates(1.0, 0.001), Limits(8, 64, prefill_ahead_seconds=1.0)
    urgent = replace(waiting("urgent", SHORT), priority="interactive")
    one, two = holding(1 << 30, first=Row(3000, 5)), holding(1 << 30, first=Row(3000, 5), second=Row(3000, 5))
    one.prefill_rows = two.prefill_rows = 2
    for ledger, wanted in ((one, "urgent"), (two, None)):
        found = choose([[urgent], [waiting("b", SHORT)]], ledger, NOW, limits, rates, Promises())
        assert (claimed(found), found.behind_prompts) == (wanted, True)
    one.reserve(Holder("another", 1), PLAIN.model, SHORT, urgent=True)
    one.prefill_rows = 8
    assert claimed(choose([[urgent]], one, NOW, limits, rates, Promises())) is None
    one.advance(Holder("another", 1), SHORT.prompt_tokens)
    assert claimed(choose([[urgent]], one, NOW, limits, rates, Promises())) == "urgent"


def test_nobody_comes_beside_prompts_before_one_whose_turn_it_is() -> None:
    """An interactive job, too, would pass it once too often."""
    ledger = holding(1 << 30, first=Row(3000, 5))
    ledger.prefill_rows = 2
    limits = Limits(8, 3, prefill_ahead_seconds=1.0)
    urgent = replace(waiting("urgent", SHORT), priority="interactive")
    for passes, wanted in ((2, "urgent"), (3, None)):
        owed = replace(waiting("owed", SHORT), passes=passes)
        found = choose([[urgent], [], [owed]], ledger, NOW, limits, Rates(1.0, 0.001), Promises())
        assert claimed(found) == wanted


def test_an_answer_is_reserved_as_it_is_planned() -> None:
    """The row that is claimed has the planned answer, and fits where the whole would not."""
    ledger = holding(bytes_of(Row(10, 50)))
    planned = waiting("a", Row(10, 3000), answer_tokens=50)
    whole = waiting("b", Row(10, 3000))
    found = look(ledger, Promises(), planned)
    assert found.choice is not None and found.choice.row == Row(10, 50)
    assert look(ledger, Promises(), whole).choice is None
