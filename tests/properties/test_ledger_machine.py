"""The account under any sequence of events (rules 1 and 5), and proof that the machine can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from scheduler.batch_account import Holder
from scheduler.card import ModelCard
from scheduler.errors import TransitionRefused
from scheduler.footprint import batch_bytes, unlearnt
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.pressure import FLOOR
from tests.cards import PLAIN, SLIDING
from tests.properties.planted import fails
from tests.properties.strategies import mixed_rows

BUDGET = 1_850_000
CARDS = {
    "plain": replace(PLAIN, model="plain", weights_bytes=900_000, logits_bytes=50, decode_bytes=20_000),
    "sliding": replace(SLIDING, model="sliding", weights_bytes=800_000, chunk_bytes=((16, 144), (64, 576))),
}
models = st.sampled_from(sorted(CARDS))


class LedgerMachine(RuleBasedStateMachine):
    """Drives a ledger; keeps beside it, in the simplest form, who holds what."""

    ledger_type: ClassVar[type[Ledger]] = Ledger
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.ledger_type(BUDGET, chunk_tokens=64, prefill_rows=2)
        self.model: dict[Holder, tuple[str, Row]] = {}
        self.peaks = dict.fromkeys(CARDS, 0)
        self.cards = dict(CARDS)
        self.now, self.made = 1000.0, 0

    def peak(self, model: str, *more: Row) -> int:
        """What a model's batch takes, computed apart."""
        mine = [row for name, row in self.model.values() if name == model]
        computed = [row for row in mine if 0 < row.cached_tokens < row.prompt_tokens]
        waiting = [at for at, row in enumerate(mine) if row.cached_tokens == 0 and row.prompt_tokens > 1]
        taken_up = waiting[: max(0, 2 - len(computed))]
        ahead = [
            replace(
                row, cached_tokens=max(row.cached_tokens, min(row.cached_tokens + 64, row.prompt_tokens - 1))
            )
            if at in taken_up or row.cached_tokens
            else row
            for at, row in enumerate(mine)
        ]
        cases = [[*ahead, *more], [*mine, *more]] if more else [mine]
        peak = max(batch_bytes(self.cards[model], each, 64, 2) for each in cases)
        if more and not self.model and peak - self.peaks[model] > self.room():
            # alone, what was learnt keeps no job from running
            return max(batch_bytes(unlearnt(self.cards[model]), each, 64, 2) for each in cases)
        return peak

    def room(self) -> int:
        """What is left beside weights and reservations."""
        weights = sum(CARDS[name].weights_bytes for name in self.ledger.cards)
        return BUDGET - weights - sum(self.peaks.values())

    def settle(self, model: str, left: Row | None = None, *, more: bool = False) -> None:
        """Between joins a reservation only falls; but where a prompt goes those behind it may come too soon, and
        answers may become longer than they were taken to be: then it rises, as far as there is room.
        """
        rises = more or (left is not None and left.cached_tokens < left.prompt_tokens)
        room = max(0, self.room()) if rises else 0
        self.peaks[model] = min(self.peaks[model] + room, self.peak(model))

    @initialize(model=models)
    def serve(self, model: str) -> None:
        """A worker begins with a model."""
        self.load(model)

    @rule(model=models)
    def load(self, model: str) -> None:
        """A model comes into memory, as residency lets it: where there is room."""
        card: ModelCard = self.cards[model]
        if model not in self.ledger.cards and card.weights_bytes <= self.room():
            self.ledger.admit_model(card)

    @rule(model=models)
    def unload(self, model: str) -> None:
        """A model goes, unless jobs hold memory there."""
        if any(name == model for name, _ in self.model.values()):
            with pytest.raises(TransitionRefused):
                self.ledger.drop_model(model)
        else:
            self.ledger.drop_model(model)

    @rule(target=held, model=models, row=mixed_rows)
    def reserve(self, model: str, row: Row) -> Holder:
        """A job asks: it holds memory exactly where there is room."""
        self.made += 1
        holder = Holder(f"job_{self.made % 5}", self.made)
        if model in self.ledger.cards and self.peak(model, row) - self.peaks[model] <= self.room():
            self.ledger.reserve(holder, model, row)
            self.peaks[model] = self.peak(model, row)
            self.model[holder] = (model, row)
        else:
            with pytest.raises(TransitionRefused):
                self.ledger.reserve(holder, model, row)
        return holder

    @rule(holder=held, row=mixed_rows)
    def resize(self, holder: Holder, row: Row) -> None:
        """A prompt was counted."""
        if holder not in self.model:
            with pytest.raises(TransitionRefused):
                self.ledger.resize(holder, row)
            return
        model, before = self.model.pop(holder)
        need = self.peak(model, row)
        fits = need - self.peaks[model] <= self.room()
        assert self.ledger.resize(holder, row) == fits
        self.model[holder] = (model, row if fits else before)
        self.peaks[model] = need if fits else self.peaks[model]

    @rule(told=st.lists(st.tuples(held, st.integers(0, 2000), st.none() | st.integers(1, 3000)), max_size=4))
    def advance(self, told: list[tuple[Holder, int, int | None]]) -> None:
        """Jobs go on: what they still need is less, or the same; or more, where answers become longer."""
        longer: set[str] = set()
        for holder, cached, longest in told:
            self.ledger.advance(holder, cached, longest)
            self.within_budget()
            if holder in self.model:
                model, row = self.model[holder]
                if longest is not None and longest > row.max_tokens:
                    longer.add(model)
                row = Row(row.prompt_tokens, longest or row.max_tokens)
                self.model[holder] = (model, replace(row, cached_tokens=min(row.tokens, cached)))
        self.ledger.settle()
        for model in self.ledger.cards:  # in the order in which they were loaded: room goes to the first
            self.settle(model, more=model in longer)

    @rule(holder=held)
    def hasten(self, holder: Holder) -> None:
        """A prompt is found to have been computed for others: what its batch needs may be more."""
        self.ledger.hasten(holder)
        self.ledger.settle()
        for model in self.ledger.cards:
            self.settle(model, more=holder in self.model and self.model[holder][0] == model)

    @rule(margin=st.sampled_from([1.0, 1.15, 8.0]))
    def learn(self, margin: float) -> None:
        """The models' own steps teach that they take more, or less."""
        for model in CARDS:
            card = replace(self.cards[model], prefill_margin=margin, decode_margin=margin)
            self.ledger.learn(card)
            if model in self.ledger.cards:
                self.cards[model] = card
                self.settle(model, more=True)

    @rule(holder=consumes(held))
    def release(self, holder: Holder) -> None:
        """A job lets go, once or twice."""
        self.ledger.release(holder)
        self.ledger.release(holder)
        if holder in self.model:
            self.settle(*self.model.pop(holder))

    @rule(holder=held, off=st.sampled_from([-1, 1, 5]))
    def release_of_another_attempt(self, holder: Holder, off: int) -> None:
        """A late word frees nothing that it does not name."""
        late = Holder(holder.job_id, holder.attempt + off)
        before = self.ledger.reserved_bytes
        if late not in self.model:
            self.ledger.release(late)
            assert self.ledger.reserved_bytes == before

    @rule(count=st.integers(0, 2 * BUDGET))
    def note_cache(self, count: int) -> None:
        """The engine tells of freed buffers, more than there is room for too."""
        self.ledger.note_cache(count)

    @rule()
    def run_out(self) -> None:
        """Memory ran out all the same."""
        self.ledger.ran_out(self.now)

    @rule(reading=st.integers(0, 2 * BUDGET))
    def read_the_host(self, reading: int) -> None:
        """What the host can give just now: nothing at all, too."""
        self.ledger.pressure.read(reading, self.now)

    @rule(seconds=st.floats(-3600, 3600))
    def time_passes(self, seconds: float) -> None:
        """Forward, or backward where the clock is set."""
        self.now += seconds

    @precondition(lambda self: not self.model)
    @rule(model=models, row=mixed_rows)
    def ask_when_idle(self, model: str, row: Row) -> None:
        """Nothing held: what fits by the numbers fits, whatever was read before (rule 5)."""
        if model in self.ledger.cards:
            assert self.ledger.fits(model, row, self.now) == (self.peak(model, row) <= self.room())

    @rule(model=models, row=mixed_rows)
    def what_fits_can_be_held(self, model: str, row: Row) -> None:
        """``fits`` never promises what ``reserve`` refuses."""
        if model in self.ledger.cards and self.ledger.fits(model, row, self.now):
            holder = Holder("probe", 1)
            self.ledger.reserve(holder, model, row)
            self.within_budget()
            self.ledger.release(holder)
            self.peaks[model] = self.peak(model, row)
            self.settle(model, row)

    @invariant()
    def within_budget(self) -> None:
        """All parts together: weights + reserved + cache ≤ budget, and with headroom it is the budget (rule 1)."""
        ledger = self.ledger
        used = ledger.weights_bytes + ledger.reserved_bytes + ledger.cache_bytes
        assert used <= BUDGET
        assert used + ledger.headroom_bytes == BUDGET
        assert ledger.cache_bytes >= 0

    @invariant()
    def holds_what_is_held(self) -> None:
        """The account names each holder once, and shares cover each batch."""
        assert dict(self.ledger.holders) == {holder: row for holder, (_, row) in self.model.items()}
        assert self.ledger.reserved_bytes == sum(self.peaks.values())
        assert sum(map(self.ledger.share_bytes, self.model)) >= self.ledger.reserved_bytes

    @invariant()
    def never_latches(self) -> None:
        """The working share stays above its floor, and comes back to the whole."""
        assert FLOOR <= self.ledger.working_share(self.now) <= 1.0
        assert self.ledger.working_share(self.now + 7200) == 1.0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class FreesAnyAttempt(Ledger):
    """A planted bug: a release by the job's name alone."""

    def release(self, holder: Holder) -> None:
        for other in [each for each in self.holders if each.job_id == holder.job_id]:
            super().release(other)


class ForgetsCache(Ledger):
    """A planted bug: the engine's count is taken as it is."""

    def note_cache(self, cache_bytes: int) -> None:
        self.cache_bytes = cache_bytes


class Latches(Ledger):
    """A planted bug: a lowered budget binds an idle worker too."""

    def fits(self, model: str, row: Row, now_seconds: float) -> bool:
        used = self.weights_bytes + self.reserved_bytes + self.marginal_bytes(model, row)
        return used <= self.budget_bytes * self.working_share(now_seconds)


class CountsRowsApart(Ledger):
    """A planted bug: a row's cost is its own, as if there were no rectangle."""

    def marginal_bytes(self, model: str, row: Row) -> int:
        return batch_bytes(self.cards[model], [row], self.chunk_tokens, 1)


class GrowsBeyondTheBudget(Ledger):
    """A planted bug: a longer answer gets what it will need, whether there is room or not."""

    def settle(self) -> None:
        for batch in self._batches.values():
            batch.peak_bytes = batch.foreseen_bytes()


class LearnsBeyondTheBudget(Ledger):
    """A planted bug: what a model teaches counts at once, whether there is room or not."""

    def learn(self, card: ModelCard) -> None:
        if (batch := self._batches.get(card.model)) is not None:
            batch.card = card
            batch.peak_bytes = batch.foreseen_bytes()


class TakesReadingsToHeart(Ledger):
    """A planted bug: a host that can give nothing keeps an idle worker from its work."""

    def _room(self, now_seconds: float, *, company: bool) -> float:
        return super()._room(now_seconds, company=True)


BROKEN = [
    FreesAnyAttempt,
    ForgetsCache,
    Latches,
    CountsRowsApart,
    GrowsBeyondTheBudget,
    LearnsBeyondTheBudget,
    TakesReadingsToHeart,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_machine_finds_planted_bugs(broken: type[Ledger], capsys: pytest.CaptureFixture[str]) -> None:
    """A test that cannot fail is a defect: with each of these it fails."""
    fails(LedgerMachine, capsys, ledger_type=broken)
