"""The jobs of one model that a worker holds, and the peak that is reserved for them together. Pure.

A job's reservation is its even share of that peak, so that they always add up to what the batch can take. Between
joins the peak falls; it rises, as far as there is room, where a prompt goes whose place those behind it take sooner,
where an answer becomes longer than it was taken to be, and where a model's steps teach that they take more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from scheduler.card import ModelCard
from scheduler.footprint import batch_bytes, joined_bytes, unlearnt
from scheduler.foresight import UNKNOWN, Extents, Row


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a reservation: a job and its attempt."""

    job_id: str
    attempt: int


@dataclass(slots=True)
class BatchAccount:
    """One model's batch.

    Args:
        card: the model.
        chunk_tokens: the engine's prefill chunk.
        prefill_rows: how many prompts the engine computes together.
        peak_bytes: what is reserved.
        extents: the caches as the engine last told them.
        grown: whether an answer became longer than it was taken to be, or a prompt comes sooner, and the peak
            is to rise by it.
    """

    card: ModelCard
    chunk_tokens: int
    prefill_rows: int
    rows: dict[Holder, Row] = field(default_factory=dict)
    peak_bytes: int = 0
    extents: Extents = UNKNOWN
    grown: bool = False

    def foreseen_bytes(self, rows: Sequence[Row] | None = None, real: Extents | None = None) -> int:
        """The peak of those that are held, from now on.

        Args:
            rows: held instead of them.
            real: their caches.
        """
        held = [*self.rows.values()] if rows is None else rows
        extents = self.extents if real is None else real
        return batch_bytes(self.card, held, self.chunk_tokens, self.prefill_rows, extents)

    def joined_bytes(self, row: Row, room_bytes: int | None) -> int:
        """The peak with one more row.

        Args:
            row: it joins.
            room_bytes: where the worker holds nothing else, what there is. Alone a job is held by what its model's
                steps taught as far as there is room, but never kept from running by it; nor is one that has begun by
                what computing its tokens anew takes, since the guard makes the chunks as short as it must.
        """
        shape = ([*self.rows.values()], self.chunk_tokens, self.prefill_rows, self.extents)
        peak = joined_bytes(self.card, row, *shape)
        if room_bytes is None or peak <= room_bytes:
            return peak
        peak = joined_bytes(unlearnt(self.card), row, *shape)
        return min(peak, max(0, room_bytes)) if row.resumed_tokens else peak

    def without_bytes(
        self, leaving: Collection[Holder], joining: Sequence[Row], then: Row | None, room_bytes: int | None
    ) -> int:
        """The peak once some have left and others have joined.

        Args:
            leaving: they hold nothing any more; the others are taken to be as far as they are now.
            joining: they come.
            then: one that joins after them.
            room_bytes: as for :meth:`joined_bytes`.
        """
        stay = [*(row for holder, row in self.rows.items() if holder not in leaving), *joining]
        real = self.extents if len(stay) == len(self.rows) else UNKNOWN
        if then is None:
            return self.foreseen_bytes(stay, real) if stay else 0
        if room_bytes is not None:
            return BatchAccount(self.card, self.chunk_tokens, self.prefill_rows).joined_bytes(
                then, room_bytes
            )
        return joined_bytes(self.card, then, stay, self.chunk_tokens, self.prefill_rows, real)

    def advance(self, holder: Holder, cached_tokens: int, max_tokens: int | None) -> None:
        """Note how far a holder has come, and how long its answer is now taken to become; as the ledger's."""
        row = self.rows[holder]
        longest = row.max_tokens if max_tokens is None else max_tokens
        self.grown = self.grown or longest > row.max_tokens
        cached = min(row.prompt_tokens + longest, cached_tokens)
        if (longest, cached) != (row.max_tokens, row.cached_tokens):
            self.rows[holder] = replace(row, max_tokens=longest, cached_tokens=cached)

    def settle(self, room_bytes: int) -> None:
        """Reserve what is foreseen where that is less, and where it is more as far as there is room."""
        if room_bytes <= 0 and not self.told:
            return  # it may neither rise nor, before it is known what was given back, fall
        foreseen = self.foreseen_bytes()
        if foreseen and not self.told:
            foreseen = max(self.peak_bytes, foreseen)
        self.peak_bytes = min(foreseen, self.peak_bytes + room_bytes)

    @property
    def told(self) -> bool:
        """Whether the engine has told its caches since rows went last: before, what they give back is not known."""
        if not self.rows:
            return True  # of an empty batch nothing is told
        cached = [row for row in self.rows.values() if row.cached_tokens]
        decoding = sum(row.cached_tokens >= row.prompt_tokens for row in cached)
        rows = [extent.rows if extent else 0 for extent in self.extents]
        return self.extents is UNKNOWN or rows == [len(cached) - decoding, decoding]
