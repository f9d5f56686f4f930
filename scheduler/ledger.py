"""A worker's memory account: weights + reserved + cache + headroom = budget, always.

The ledger keeps who shares a batch and how far each has come; what a batch still takes is foreseen when a
job joins it. A job's reservation is its even share of that peak, so that they always add up to what the
batch can take. Between joins a reservation falls; it rises, as far as there is room, where a prompt goes whose
place those behind it take sooner, where an answer becomes longer than it was taken to be, and where a model's
steps teach that they take more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from scheduler.card import ModelCard
from scheduler.errors import TransitionRefused
from scheduler.footprint import batch_bytes, joined_bytes, unlearnt
from scheduler.foresight import UNKNOWN, Extents, Row
from scheduler.pressure import Pressure


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a reservation: a job and its attempt."""

    job_id: str
    attempt: int


@dataclass(slots=True)
class Ledger:
    """One worker's account.

    Args:
        budget_bytes: what the worker may use.
        chunk_tokens: the engine's prefill chunk.
        prefill_rows: how many prompts the engine computes together.
        pressure: what running out of memory left, and what the host can give just now: either keeps jobs from
            joining others, but never one from running alone.
    """

    budget_bytes: int
    chunk_tokens: int
    prefill_rows: int
    pressure: Pressure = field(default_factory=Pressure)
    cache_bytes: int = 0
    _cards: dict[str, ModelCard] = field(default_factory=dict)
    _rows: dict[str, dict[Holder, Row]] = field(default_factory=dict)
    _peaks: dict[str, int] = field(default_factory=dict)
    _extents: dict[str, Extents] = field(default_factory=dict)
    _expected: dict[str, int] = field(default_factory=dict)
    _grown: set[str] = field(default_factory=set)
    _urgent: set[Holder] = field(default_factory=set)

    def expect(self, model: str, weights_bytes: int) -> None:
        """Count the weights of a model that is being loaded."""
        self._expected[model] = weights_bytes
        self._shrink_cache()

    def expect_no_more(self, model: str) -> None:
        """A load ended, one way or the other."""
        self._expected.pop(model, None)

    def admit_model(self, card: ModelCard) -> None:
        """Count a model's weights from now on."""
        self.expect_no_more(card.model)
        self._cards[card.model] = card
        self._rows.setdefault(card.model, {})
        self._shrink_cache()

    def drop_model(self, model: str) -> None:
        """Stop counting a model that holds no job.

        Raises:
            TransitionRefused: jobs still hold memory there.
        """
        if self._rows.get(model):
            raise TransitionRefused(f"{model} holds {len(self._rows[model])} jobs")
        self._cards.pop(model, None)
        self._rows.pop(model, None)
        self._peaks.pop(model, None)
        self._extents.pop(model, None)

    def learn(self, card: ModelCard) -> None:
        """Take what a resident model's own steps taught; what is held may rise by it, and falls with time."""
        if card.model in self._cards:
            self._cards[card.model] = card
            self._settle(card.model, more=True)

    @property
    def cards(self) -> Mapping[str, ModelCard]:
        """The resident models."""
        return self._cards

    @property
    def weights_bytes(self) -> int:
        """Bytes of every resident model's weights, and of those that are being loaded."""
        return sum(card.weights_bytes for card in self._cards.values()) + sum(self._expected.values())

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the jobs now held can come to need."""
        return sum(self._peaks.values())

    @property
    def headroom_bytes(self) -> int:
        """What is left for another job, reclaimable cache not counted."""
        return self.budget_bytes - self.weights_bytes - self.reserved_bytes - self.cache_bytes

    @property
    def holders(self) -> Mapping[Holder, Row]:
        """Everything held."""
        return {holder: row for rows in self._rows.values() for holder, row in rows.items()}

    @property
    def prompts(self) -> Mapping[Holder, bool]:
        """Those whose prompts are still to be computed, and whether each is interactive."""
        left = (holder for holder, row in self.holders.items() if row.cached_tokens < row.prompt_tokens)
        return {holder: holder in self._urgent for holder in left}

    def rows(self, model: str) -> Mapping[Holder, Row]:
        """What is held of one model."""
        return self._rows.get(model, {})

    def share_bytes(self, holder: Holder) -> int:
        """One holder's reservation: its even share of its batch's peak; 0 where it holds none."""
        for model, rows in self._rows.items():
            if holder in rows:
                return -(-self._peaks[model] // len(rows))
        return 0

    def marginal_bytes(self, model: str, row: Row) -> int:
        """What one more row in its model's batch adds to the reservations; below 0 where time has freed more."""
        return self._joined_bytes(model, row) - self._peaks.get(model, 0)

    def _joined_bytes(self, model: str, row: Row) -> int:
        """A batch's peak with one more row; where nothing else is held, no more than :func:`alone_bytes` has it.

        Alone a job is held by what its model's steps taught as far as there is room, but never kept from running by it.
        """
        card, batch = self._cards[model], self._batch(model)
        peak = joined_bytes(card, row, *batch)
        room = self.budget_bytes - self.weights_bytes
        if not self.holders and peak > room:
            return joined_bytes(unlearnt(card), row, *batch)
        return peak

    def fits(self, model: str, row: Row, now_seconds: float) -> bool:
        """Whether a job may be admitted beside what is held; idle memory always admits (progress rule)."""
        need = self.weights_bytes + self.reserved_bytes + self.marginal_bytes(model, row)
        return need <= self._room(now_seconds, company=bool(self.holders))

    def fits_without(
        self,
        model: str,
        row: Row,
        leaving: Collection[Holder],
        now_seconds: float,
        joining: tuple[str, Row] | None = None,
    ) -> bool:
        """Whether a job would fit once some of those that hold memory have left, and perhaps one has joined.

        Args:
            model, row: the job's.
            leaving: they hold nothing any more; the others are taken to be as far as they are now.
            now_seconds: as for :meth:`fits`.
            joining: another job's model and row, beside which it would have to fit.
        """
        need, company = self.weights_bytes, joining is not None
        for name, held in self._rows.items():
            stay = [each for holder, each in held.items() if holder not in leaving]
            company = company or bool(stay)
            stay += [joining[1]] if joining is not None and joining[0] == name else []
            real = UNKNOWN if len(stay) != len(held) else self._extents.get(name, UNKNOWN)
            batch = (self.chunk_tokens, self.prefill_rows, real)
            if name == model:
                card = self._cards[name]
                need += joined_bytes(card if company or stay else unlearnt(card), row, stay, *batch)
            elif stay:
                need += batch_bytes(self._cards[name], stay, *batch)
        return need <= self._room(now_seconds, company=company)

    def _room(self, now_seconds: float, *, company: bool) -> float:
        """What may be held: all of the budget by a job alone, in company what the host can give, and no pressure."""
        if not company:
            return self.budget_bytes
        return self.pressure.room_bytes(self.budget_bytes, now_seconds)

    def reserve(self, holder: Holder, model: str, row: Row, *, urgent: bool = False) -> None:
        """Hold memory for a job, evicting reclaimable cache from the account where needed.

        Args:
            holder, model, row: the job's.
            urgent: whether it is interactive; so that others of its kind do not come beside its prompt.

        Raises:
            TransitionRefused: it is held already, its model is not resident, or it does not fit.
        """
        if model not in self._cards:
            raise TransitionRefused(f"{model} is not resident")
        if holder in self.holders:
            raise TransitionRefused(f"{holder.job_id} attempt {holder.attempt} holds a reservation already")
        need = self.marginal_bytes(model, row)
        free = self.budget_bytes - self.weights_bytes - self.reserved_bytes
        if need > free:
            raise TransitionRefused(f"{holder.job_id} needs {need:,} bytes; {free:,} are free")
        self._peaks[model] = self._peaks.get(model, 0) + need
        self._rows[model][holder] = row
        if urgent:
            self._urgent.add(holder)
        self._shrink_cache()

    def resize(self, holder: Holder, row: Row) -> bool:
        """Replace a holder's row by its exact one; False, and nothing changed, where that does not fit."""
        for model, rows in self._rows.items():
            if holder in rows:
                before = rows.pop(holder)
                peak = self._joined_bytes(model, row)
                fits = (
                    self.weights_bytes + self.reserved_bytes - self._peaks[model] + peak <= self.budget_bytes
                )
                rows[holder] = row if fits else before
                if not fits:
                    return False
                self._peaks[model] = peak
                self._shrink_cache()
                return True
        raise TransitionRefused(f"{holder.job_id} attempt {holder.attempt} holds nothing")

    def release(self, holder: Holder) -> None:
        """Let go; a late release from another attempt frees nothing.

        Where a prompt goes, those behind it come sooner, beside rows that would have ended: then more may be needed.
        """
        for model, rows in self._rows.items():
            row = rows.pop(holder, None)
            if row is not None:
                self._urgent.discard(holder)
                self._settle(model, more=row.cached_tokens < row.prompt_tokens)

    def advance(self, holder: Holder, cached_tokens: int, max_tokens: int | None = None) -> None:
        """Note how many tokens of its prompt and answer a holder has computed.

        Args:
            holder: the job.
            cached_tokens: so many.
            max_tokens: how long its answer is now taken to become; where that is more than before, the batch's
                reservation rises by :meth:`settle` as far as there is room, and beyond that there is the guard.
        """
        for model, rows in self._rows.items():
            if holder in rows:
                row = rows[holder]
                longest = row.max_tokens if max_tokens is None else max_tokens
                if longest > row.max_tokens:
                    self._grown.add(model)
                cached = min(row.prompt_tokens + longest, cached_tokens)
                rows[holder] = replace(row, max_tokens=longest, cached_tokens=cached)

    def reach(self, model: str, real: Extents) -> None:
        """Note how the caches are in the engine, of rows as far as they are noted."""
        if model in self._cards:
            self._extents[model] = real

    def settle(self) -> None:
        """Give back what the jobs in hand will not come to need; hold more where their answers became longer."""
        for model in self._rows:
            self._settle(model, more=model in self._grown)
        self._grown.clear()

    def _settle(self, model: str, *, more: bool = False) -> None:
        """Reserve what is foreseen where that is less; with ``more`` where it is more too, as far as there is room."""
        if model not in self._peaks:
            return
        before, foreseen = self._peaks[model], batch_bytes(self._cards[model], *self._batch(model))
        if foreseen and not self._up_to_date(model):
            foreseen = max(before, foreseen)
        room = max(0, self.headroom_bytes + self.cache_bytes) if more else 0
        self._peaks[model] = min(foreseen, before + room)
        self._shrink_cache()

    @property
    def told(self) -> bool:
        """Whether the engine has told its caches since rows went last: before, what they give back is not known."""
        return all(map(self._up_to_date, self._rows))

    def _up_to_date(self, model: str) -> bool:
        if not self._rows[model]:
            return True  # of an empty batch nothing is told
        cached = [row for row in self._rows[model].values() if row.cached_tokens]
        decoding = sum(row.cached_tokens >= row.prompt_tokens for row in cached)
        real = self._extents.get(model, UNKNOWN)
        rows = [extent.rows if extent else 0 for extent in real]
        return real is UNKNOWN or rows == [len(cached) - decoding, decoding]

    def note_cache(self, cache_bytes: int) -> None:
        """Take the engine's count of reclaimable bytes, at most what the account leaves for it."""
        self.cache_bytes = cache_bytes
        self._shrink_cache()

    def working_share(self, now_seconds: float) -> float:
        """The share of the budget in use since memory last ran out: recovers with time, never latches."""
        return self.pressure.at(now_seconds)

    def ran_out(self, now_seconds: float) -> None:
        """Memory ran out in spite of the account: admit less for a while."""
        self.pressure.ran_out(now_seconds)

    def _batch(self, model: str) -> tuple[list[Row], int, int, Extents]:
        """What shares a model's batch, and how it is computed."""
        rows = [*self._rows.get(model, {}).values()]
        return rows, self.chunk_tokens, self.prefill_rows, self._extents.get(model, UNKNOWN)

    def _shrink_cache(self) -> None:
        room = self.budget_bytes - self.weights_bytes - self.reserved_bytes
        self.cache_bytes = max(0, min(self.cache_bytes, room))
