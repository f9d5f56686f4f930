"""How a batch's memory goes over its life: mlx-lm's own schedule, replayed in numbers.

A batch generator's loop (mlx-lm 0.32, ``BatchGenerator._next``) makes one decode step for the rows that
decode, then takes up waiting prompts, which the engine holds back where others are about to leave, moves
those with one token left into the decode batch, then computes a chunk of the others together. A life of thousands of steps is replayed in the few where something changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scheduler.rectangles import Batch, Place
from scheduler.slots import GROWTH_TOKENS, NEVER, CacheGroup, Extent

Extents = tuple[Extent | None, Extent | None]
"""Of the prompts, and of the rows that decode; None where there are none or nothing is known."""

UNKNOWN: Final[Extents] = (None, None)

_LAST: Final = GROWTH_TOKENS + 2
"""Steps before a row's end in which a cache that can grow without end has grown once more."""

LATE_TOKENS: Final = 16
"""How far a row may have gone on since its progress was told."""


@dataclass(frozen=True, slots=True)
class Row:
    """One job's place in a batch, in tokens.

    ``cached_tokens`` of prompt and answer were computed already, at the moment that is asked about. Of the prompt,
    ``resumed_tokens`` are what earlier attempts made of the answer. ``reused_tokens`` of a prompt that waits are kept
    of other jobs, and come with it when it is taken up.
    """

    prompt_tokens: int
    max_tokens: int
    cached_tokens: int = 0
    resumed_tokens: int = 0
    reused_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.reused_tokens < max(1, self.prompt_tokens):
            raise ValueError(f"a row that reuses its prompt has one token of it to compute: {self}")
        if not 0 <= self.resumed_tokens < max(1, self.prompt_tokens):
            raise ValueError(f"a row needs a prompt before what was made of its answer: {self}")
        if self.prompt_tokens < 1 or self.max_tokens < 1 or not 0 <= self.cached_tokens <= self.tokens:
            raise ValueError(f"a row needs a prompt and a token: {self}")

    @property
    def tokens(self) -> int:
        """The longest it gets."""
        return self.prompt_tokens + self.max_tokens

    @property
    def submitted(self) -> Row:
        """As it was before its first attempt: what decides whether it ever fits."""
        return Row(self.prompt_tokens - self.resumed_tokens, self.max_tokens + self.resumed_tokens)


Kind = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine evaluates at once: what is held through it, and of what it is made.

    ``cache_bytes`` are the batch's caches after the step, ``held_bytes`` the most of caches in memory through it;
    ``copied_bytes`` what growing or regrouping a layer copies; ``kept_rows`` rows of the vocabulary stay from
    decoding.
    """

    kind: Kind
    rows: int
    """Those it computes; 0 where caches are only regrouped."""
    tokens: int
    """New tokens of each row, padding included."""
    context_tokens: int
    """What they attend to at most, themselves included."""
    cache_bytes: int
    held_bytes: int
    copied_bytes: int
    kept_rows: int
    padded: bool
    """Whether its rows have different lengths, so that attention goes by a mask for each."""
    loops: int = 0
    """Loops of the generator before this one."""


class Life:
    """The generator's three stages, and its loop's acts.

    After each loop in which rows came or went, those that decode are copied together a layer at a time.
    """

    def __init__(
        self,
        groups: Sequence[CacheGroup],
        rows: Sequence[Row],
        chunk_tokens: int,
        prefill_rows: int,
        real: Extents,
        *,
        late_tokens: int = 0,
        leaps: bool = False,
        hurries: bool = False,
    ) -> None:
        self._chunk_tokens, self._prefill_rows = chunk_tokens, prefill_rows
        self.leap_tokens = NEVER if leaps else 1
        """Decode steps at most that are taken as one, where nothing but lengths changes in them."""
        self._hurries = hurries and any(group.kind == "full" for group in groups)
        self.waiting: list[Place] = []
        self.prompts, self.decoding = Batch(groups), Batch(groups)
        self.loop = 0
        for row in rows:
            self._enter(row)
        for batch, extent in zip((self.prompts, self.decoding), real, strict=True):
            if batch.places:
                decoding = batch is self.decoding
                batch.reach(extent, chunk_tokens, late_tokens if decoding else 0, decoding=decoding)
        # What is in memory of both: it follows what the batches are when that is evaluated.
        self._prompts_bytes, self._decoding_bytes = self.prompts.held_bytes, self.decoding.held_bytes

    def _enter(self, row: Row) -> None:
        """Where a row is by what it has computed."""
        left = row.prompt_tokens - row.cached_tokens
        if row.cached_tokens == 0:
            self.waiting.append(Place(left - row.reused_tokens, row.reused_tokens, row.max_tokens))
        elif left > 0:
            self.prompts.places.append(Place(left, row.cached_tokens, row.max_tokens))
        else:
            self.decoding.places.append(Place(0, row.cached_tokens, max(1, row.max_tokens + left)))

    @property
    def over(self) -> bool:
        """Whether nothing is left to compute."""
        return not (self.waiting or self.prompts.places or self.decoding.places)

    @property
    def loops(self) -> Iterator[list[Step]]:
        """The steps of each loop to come."""
        while not self.over:
            steps = [self.decode()] if self.decoding.places else []
            self.take_up()
            yield [*steps, *self.move(), *self.prefill(), *self.regroup()]
            self.loop += 1

    @property
    def held_bytes(self) -> int:
        """The caches in memory."""
        return self._prompts_bytes + self._decoding_bytes

    def _step(self, kind: Kind, batch: Batch, rows: int, tokens: int, held_bytes: int) -> Step:
        copied, batch.copied_bytes = batch.copied_bytes, 0
        kept = 0 if batch is self.decoding else len(self.decoding.places)
        padded = any(place.length != batch.places[0].length for place in batch.places)
        cached = self.prompts.held_bytes + self.decoding.held_bytes
        return Step(kind, rows, tokens, batch.index, cached, held_bytes, copied, kept, padded, self.loop)

    def decode(self) -> Step:
        """A decode step; where it leaps, all of those in which nothing but lengths changes."""
        batch, before = self.decoding, self.held_bytes
        busy = self.waiting or self.prompts.places
        if self._hurries and not busy and (early := min(place.answer for place in batch.places) - _LAST) > 0:
            batch.hurry(early)
            self.loop += early
        quiet = 1 if busy else min(batch.quiet_steps, self.leap_tokens)
        if quiet == 1:
            batch.advance(1)
        else:
            batch.go_on(quiet)
        self.loop += quiet - 1
        self._decoding_bytes = batch.held_bytes
        step = self._step("decode", batch, len(batch.places), 1, max(before, self.held_bytes))
        for place in batch.places:
            place.length += quiet
            place.answer -= quiet
        if any(place.answer <= 0 for place in batch.places):
            batch.keep([place for place in batch.places if place.answer > 0])
        return step

    def take_up(self) -> None:
        """Waiting prompts come in where there is room, but in no loop in which others begin to decode."""
        leaving = any(place.prompt == 1 for place in self.prompts.places)
        fresh = 0 if leaving else max(0, self._prefill_rows - len(self.prompts.places))
        self.prompts.welcome(self.waiting[:fresh])
        if any(place.length for place in self.waiting[:fresh]):
            self._prompts_bytes = (
                self.prompts.held_bytes
            )  # whoever is computed first, all are laid out for it
        del self.waiting[:fresh]

    def move(self) -> Iterator[Step]:
        """Prompts with one token left begin to decode, first by themselves."""
        ready = [place for place in self.prompts.places if place.prompt == 1]
        if not ready:
            return
        before = self.held_bytes
        leaving = self.prompts.leave(ready)
        leaving.advance(1)
        for place in ready:
            place.prompt, place.length = 0, place.length + 1
        # What stays behind is cut out of the whole only when it is evaluated next.
        held = before + leaving.held_bytes
        if not self.prompts.places:
            held -= min(self._prompts_bytes, leaving.held_bytes)
            self._prompts_bytes = 0
        self._decoding_bytes += leaving.held_bytes
        step = self._step("decode", leaving, len(ready), 1, held)
        self.decoding.join(leaving)
        yield replace(step, cache_bytes=self.prompts.held_bytes + self.decoding.held_bytes)

    def prefill(self) -> Iterator[Step]:
        """A chunk of every prompt, padded to the longest."""
        if not self.prompts.places:
            return
        before = self.held_bytes
        parts = [min(place.prompt - 1, self._chunk_tokens) for place in self.prompts.places]
        self.prompts.advance(max(parts))
        if min(parts) < max(parts):
            self.prompts.roll()
        for place, part in zip(self.prompts.places, parts, strict=True):
            place.prompt, place.length = place.prompt - part, place.length + part
        self._prompts_bytes = self.prompts.held_bytes
        held = max(before, self.held_bytes)
        yield self._step("prefill", self.prompts, len(self.prompts.places), max(parts), held)

    def regroup(self) -> Iterator[Step]:
        """The rows that decode are copied together where some came or went, an array at a time."""
        before, self._decoding_bytes = self.held_bytes, self.decoding.held_bytes
        if self.decoding.copied_bytes:
            self.decoding.copied_bytes = int(self.decoding.copied_bytes * self.decoding.array_share)
            yield self._step("decode", self.decoding, 0, 0, max(before, self.held_bytes))


def replay(
    groups: Sequence[CacheGroup],
    rows: Sequence[Row],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents = UNKNOWN,
    *,
    brief: bool = False,
) -> Iterator[Step]:
    """The steps of a batch's life in which its memory can reach a new height.

    Rows that decode already may be a few tokens further than they are said to be.

    Args:
        groups: the model's caches.
        rows: the jobs, in the order in which they came; never more than the generator decodes together.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
        real: the caches as they were when the rows' progress was told.
        brief: leave out what is lower than the last growth before a row's end: the peak stays, the curve does not.
    """
    life = Life(
        groups, rows, chunk_tokens, prefill_rows, real, late_tokens=LATE_TOKENS, leaps=True, hurries=brief
    )
    for steps in life.loops:
        yield from steps


@dataclass(frozen=True, slots=True)
class Loop:
    """The steps of one loop of the generator, and the caches' bytes in memory before it."""

    steps: list[Step]
    before_bytes: int
    quiet_loops: int = 0
    """So many after it are like it but for their lengths, as long as nobody comes or goes unforeseen."""


def next_loop(
    groups: Sequence[CacheGroup],
    rows: Sequence[Row],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents,
) -> Loop:
    """The generator's next loop.

    Args:
        groups: the model's caches.
        rows: the jobs, exactly as far as they are.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
        real: the caches as they are.
    """
    life = Life(groups, rows, chunk_tokens, prefill_rows, real)
    before, quiet = life.held_bytes, 0
    if life.decoding.places and not (life.waiting or life.prompts.places):
        before_end = (
            min(place.answer for place in life.decoding.places) - 1
        )  # in the loop of an end rows are copied
        quiet = max(0, min(life.decoding.quiet_steps, before_end) - 1)
    return Loop(next(life.loops, []), before, quiet)
