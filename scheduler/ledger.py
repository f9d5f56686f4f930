"""A worker's memory account: weights + reserved + cache + headroom = budget, always.

The ledger keeps who shares a batch and how far each has come; what a batch still takes is foreseen when a job joins it
(:mod:`scheduler.batch_account`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from scheduler.batch_account import BatchAccount, Holder
from scheduler.card import ModelCard
from scheduler.errors import TransitionRefused
from scheduler.foresight import Extents, Row
from scheduler.pressure import Pressure


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
    _batches: dict[str, BatchAccount] = field(default_factory=dict)
    _expected: dict[str, int] = field(default_factory=dict)
    _urgent: set[Holder] = field(default_factory=set)

    # Models

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
        fresh = BatchAccount(card, self.chunk_tokens, self.prefill_rows)
        self._batches.setdefault(card.model, fresh).card = card
        self._shrink_cache()

    def drop_model(self, model: str) -> None:
        """Stop counting a model that holds no job.

        Raises:
            TransitionRefused: jobs still hold memory there.
        """
        if held := self.rows(model):
            raise TransitionRefused(f"{model} holds {len(held)} jobs")
        self._batches.pop(model, None)

    def learn(self, card: ModelCard) -> None:
        """Take what a resident model's own steps taught; what is held may rise by it, and falls with time."""
        if card.model in self._batches:
            self._batches[card.model].card = card
            self._settle(self._batches[card.model], more=True)

    @property
    def cards(self) -> Mapping[str, ModelCard]:
        """The resident models."""
        return {model: batch.card for model, batch in self._batches.items()}

    # What is held

    @property
    def weights_bytes(self) -> int:
        """Bytes of every resident model's weights, and of those that are being loaded."""
        resident = sum(batch.card.weights_bytes for batch in self._batches.values())
        return resident + sum(self._expected.values())

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the jobs now held can come to need."""
        return sum(batch.peak_bytes for batch in self._batches.values())

    @property
    def headroom_bytes(self) -> int:
        """What is left for another job, reclaimable cache not counted."""
        return self.budget_bytes - self.weights_bytes - self.reserved_bytes - self.cache_bytes

    @property
    def holders(self) -> Mapping[Holder, Row]:
        """Everything held."""
        return {holder: row for batch in self._batches.values() for holder, row in batch.rows.items()}

    @property
    def jobs(self) -> int:
        """How many hold memory."""
        return sum(len(batch.rows) for batch in self._batches.values())

    @property
    def prompts(self) -> Mapping[Holder, bool]:
        """Those whose prompts are still to be computed, and whether each is interactive."""
        left = (holder for holder, row in self.holders.items() if row.cached_tokens < row.prompt_tokens)
        return {holder: holder in self._urgent for holder in left}

    def rows(self, model: str) -> Mapping[Holder, Row]:
        """What is held of one model."""
        return self._batches[model].rows if model in self._batches else {}

    def share_bytes(self, holder: Holder) -> int:
        """One holder's reservation: its even share of its batch's peak; 0 where it holds none."""
        batch = self._batch_of(holder)
        return -(-batch.peak_bytes // len(batch.rows)) if batch else 0

    # Whether there is room

    def has_place(self, model: str) -> bool:
        """Whether another job may join those of its model: where they cannot share a batch, one runs at a time."""
        batch = self._batches.get(model)
        return batch is None or not (batch.card.alone and batch.rows)

    def marginal_bytes(self, model: str, row: Row) -> int:
        """What one more row in its model's batch adds to the reservations; below 0 where time has freed more."""
        batch = self._batches[model]
        return batch.joined_bytes(row, self._alone_bytes) - batch.peak_bytes

    @property
    def _alone_bytes(self) -> int | None:
        """What a job may take that would be alone here; None where others are."""
        return None if self.jobs else self.budget_bytes - self.weights_bytes

    def fits(self, model: str, row: Row, now_seconds: float) -> bool:
        """Whether a job may be admitted beside what is held; idle memory always admits (progress rule)."""
        if not self.has_place(model):
            return False
        need = self.weights_bytes + self.reserved_bytes + self.marginal_bytes(model, row)
        return need <= self._room(now_seconds, company=self.jobs > 0)

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
        if self._batches[model].card.alone and (
            (joining is not None and joining[0] == model)
            or any(each not in leaving for each in self.rows(model))
        ):
            return False
        company = joining is not None or any(holder not in leaving for holder in self.holders)
        need = self.weights_bytes
        room = None if company else self.budget_bytes - need
        for name, batch in self._batches.items():
            coming = [joining[1]] if joining is not None and joining[0] == name else []
            then = row if name == model else None
            need += batch.without_bytes(leaving, coming, then, room)
        return need <= self._room(now_seconds, company=company)

    def _room(self, now_seconds: float, *, company: bool) -> float:
        """What may be held: all of the budget by a job alone, in company what the host can give, and no pressure."""
        return self.pressure.room_bytes(self.budget_bytes, now_seconds) if company else self.budget_bytes

    # Who comes and goes

    def reserve(self, holder: Holder, model: str, row: Row, *, urgent: bool = False) -> None:
        """Hold memory for a job, evicting reclaimable cache from the account where needed.

        Args:
            holder, model, row: the job's.
            urgent: whether it is interactive; so that others of its kind do not come beside its prompt.

        Raises:
            TransitionRefused: it is held already, its model is not resident or has no place, or it does not fit.
        """
        if model not in self._batches:
            raise TransitionRefused(f"{model} is not resident")
        if holder in self.holders:
            raise TransitionRefused(f"{holder.job_id} attempt {holder.attempt} holds a reservation already")
        if not self.has_place(model):
            raise TransitionRefused(f"{model} runs one job at a time, and runs one")
        need = self.marginal_bytes(model, row)
        free = self.budget_bytes - self.weights_bytes - self.reserved_bytes
        if need > free:
            raise TransitionRefused(f"{holder.job_id} needs {need:,} bytes; {free:,} are free")
        batch = self._batches[model]
        batch.peak_bytes += need
        batch.rows[holder] = row
        if urgent:
            self._urgent.add(holder)
        self._shrink_cache()

    def resize(self, holder: Holder, row: Row) -> bool:
        """Replace a holder's row by its exact one; False, and nothing changed, where that does not fit."""
        batch = self._batch_of(holder)
        if batch is None:
            raise TransitionRefused(f"{holder.job_id} attempt {holder.attempt} holds nothing")
        before = batch.rows.pop(holder)
        peak = batch.joined_bytes(row, self._alone_bytes)
        others = self.weights_bytes + self.reserved_bytes - batch.peak_bytes
        fits = others + peak <= self.budget_bytes
        batch.rows[holder] = row if fits else before
        if fits:
            batch.peak_bytes = peak
            self._shrink_cache()
        return fits

    def release(self, holder: Holder) -> None:
        """Let go; a late release from another attempt frees nothing.

        Where a prompt goes, those behind it come sooner, beside rows that would have ended: then more may be needed.
        """
        batch = self._batch_of(holder)
        if batch is not None:
            row = batch.rows.pop(holder)
            self._urgent.discard(holder)
            self._settle(batch, more=row.cached_tokens < row.prompt_tokens)

    # How far they are

    def advance(self, holder: Holder, cached_tokens: int, max_tokens: int | None = None) -> None:
        """Note how many tokens of its prompt and answer a holder has computed.

        Args:
            holder: the job.
            cached_tokens: so many.
            max_tokens: how long its answer is now taken to become; where that is more than before, the batch's
                reservation rises by :meth:`settle` as far as there is room, and beyond that there is the guard.
        """
        batch = self._batch_of(holder)
        if batch is not None:
            batch.advance(holder, cached_tokens, max_tokens)

    def hasten(self, holder: Holder) -> None:
        """Note that a prompt was computed for others before: then more is held, as where answers become longer."""
        batch = self._batch_of(holder)
        if batch is not None:
            batch.grown = True

    def reach(self, model: str, real: Extents) -> None:
        """Note how the caches are in the engine, of rows as far as they are noted."""
        if model in self._batches:
            self._batches[model].extents = real

    def settle(self) -> None:
        """Give back what the jobs in hand will not come to need; hold more where their answers became longer."""
        for batch in self._batches.values():
            self._settle(batch, more=batch.grown)
            batch.grown = False

    def _settle(self, batch: BatchAccount, *, more: bool) -> None:
        """Reserve what is foreseen where that is less; with ``more`` where it is more too, as far as there is room."""
        batch.settle(max(0, self.headroom_bytes + self.cache_bytes) if more else 0)
        self._shrink_cache()

    @property
    def told(self) -> bool:
        """Whether the engine has told its caches since rows went last: before, what they give back is not known."""
        return all(batch.told for batch in self._batches.values())

    # Beside the jobs

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

    def _batch_of(self, holder: Holder) -> BatchAccount | None:
        for batch in self._batches.values():  # asked for every job at every look: no generator
            if holder in batch.rows:
                return batch
        return None

    def _shrink_cache(self) -> None:
        room = self.budget_bytes - self.weights_bytes - self.reserved_bytes
        self.cache_bytes = max(0, min(self.cache_bytes, room))
