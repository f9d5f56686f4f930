"""How a batch's memory goes over its life: mlx-lm's own schedule, replayed in numbers.

A batch generator's loop (mlx-lm 0.32, ``BatchGenerator._next``) makes one decode step for the rows that
decode, then takes up waiting prompts, moves those with one token left into the decode batch, then computes
a chunk of the others together. A life of thousands of steps is replayed in the few where something changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scheduler.rectangles import Batch, CacheGroup, Place

Extents = tuple[tuple[int, int] | None, tuple[int, int] | None]

_LATE_TOKENS: Final = 16
"""How far a row may have gone on since its progress was told."""


_CUT: Final = 4
"""Layers that cutting rows and their padding off takes at most, where a copy takes one; measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One job's place in a batch, in tokens.

    ``cached_tokens`` of prompt and answer were computed already, at the moment that is asked about.
    """

    prompt_tokens: int
    max_tokens: int
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1 or not 0 <= self.cached_tokens <= self.tokens:
            raise ValueError(f"a row needs a prompt and a token: {self}")

    @property
    def tokens(self) -> int:
        """The longest it gets."""
        return self.prompt_tokens + self.max_tokens


Kind = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine evaluates at once: what is held through it, and of what it is made.

    ``cache_bytes`` are the batch's caches after the step, ``held_bytes`` the most of them through it;
    ``copied_bytes`` what growing or regrouping a layer copies; ``kept_rows`` rows of the vocabulary stay from
    decoding.
    """

    kind: Kind
    rows: int
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


class _Life:
    """The generator's three stages, and its loop's four acts."""

    def __init__(
        self,
        groups: Sequence[CacheGroup],
        rows: Sequence[Row],
        chunk_tokens: int,
        prefill_rows: int,
        real: Extents | None = None,
    ) -> None:
        self._groups, self._chunk_tokens, self._prefill_rows = groups, chunk_tokens, prefill_rows
        self.waiting: list[Place] = []
        self.prompts, self.decoding = Batch(groups), Batch(groups)
        self.loop = 0
        for row in rows:
            self._enter(row)
        late = _LATE_TOKENS if real is None else 0
        extents = real or (None, None)
        for batch, more, extent in zip((self.prompts, self.decoding), (0, late), extents, strict=True):
            if batch.places:
                batch.advance(max(place.length for place in batch.places) + more)
                batch.copied_bytes = 0
                if extent is not None:
                    batch.reach(*extent)
        self.evaluated_bytes = self.held_bytes

    def _enter(self, row: Row) -> None:
        """Where a row is by what it has computed."""
        left = row.prompt_tokens - row.cached_tokens
        if row.cached_tokens == 0:
            self.waiting.append(Place(left, 0, row.max_tokens))
        elif left > 0:
            self.prompts.places.append(Place(left, row.cached_tokens, row.max_tokens))
        else:
            self.decoding.places.append(Place(0, row.cached_tokens, max(1, row.max_tokens + left)))

    @property
    def over(self) -> bool:
        return not (self.waiting or self.prompts.places or self.decoding.places)

    @property
    def loops(self) -> Iterator[list[Step]]:
        """The steps of each loop to come."""
        while not self.over:
            steps = [self.decode()] if self.decoding.places else []
            self.take_up()
            yield [*steps, *self.move(), *self.prefill()]
            self.loop += 1

    @property
    def held_bytes(self) -> int:
        return self.prompts.held_bytes + self.decoding.held_bytes

    def _step(self, kind: Kind, batch: Batch, tokens: int, held_bytes: int) -> Step:
        before, self.evaluated_bytes = self.evaluated_bytes, held_bytes
        copied, batch.copied_bytes = batch.copied_bytes, 0
        kept = 0 if batch is self.decoding else len(self.decoding.places)
        most = max(before, held_bytes)
        padded = any(place.length != batch.places[0].length for place in batch.places)
        size = len(batch.places)
        return Step(kind, size, tokens, batch.index, held_bytes, most, copied, kept, padded, self.loop)

    def decode(self) -> Step:
        """A decode step, or all of those in which nothing but lengths changes."""
        batch = self.decoding
        quiet = 1 if self.waiting or self.prompts.places or batch.copied_bytes else batch.quiet_steps
        if quiet == 1:
            batch.advance(1)
        else:
            batch.go_on(quiet)
        self.loop += quiet - 1
        step = self._step("decode", batch, 1, self.held_bytes)
        for place in batch.places:
            place.length += quiet
            place.answer -= quiet
        if any(place.answer <= 0 for place in batch.places):
            batch.keep([place for place in batch.places if place.answer > 0])
        return step

    def take_up(self) -> None:
        """Waiting prompts come in where there is room."""
        fresh = max(0, self._prefill_rows - len(self.prompts.places))
        self.prompts.places += self.waiting[:fresh]
        if fresh > 0 and self.waiting:
            self.prompts.copied_bytes += 2 * self.prompts.layer_bytes  # as they were, and padded
        del self.waiting[:fresh]

    def move(self) -> Iterator[Step]:
        """Prompts with one token left begin to decode, first by themselves."""
        ready = [place for place in self.prompts.places if place.prompt == 1]
        if not ready:
            return
        whole = self.prompts.held_bytes
        leaving = self.prompts.leave(ready)
        leaving.advance(1)
        for place in ready:
            place.prompt, place.length = 0, place.length + 1
        # What stays behind is cut out of the whole only when it is evaluated next.
        held = leaving.held_bytes + max(whole, self.prompts.held_bytes)
        if not self.prompts.places:
            held = max(whole, leaving.held_bytes)
        step = self._step("decode", leaving, 1, self.decoding.held_bytes + held)
        self.decoding.join(leaving)
        yield replace(step, cache_bytes=self.held_bytes)

    def prefill(self) -> Iterator[Step]:
        """A chunk of every prompt, padded to the longest."""
        if not self.prompts.places:
            return
        parts = [min(place.prompt - 1, self._chunk_tokens) for place in self.prompts.places]
        self.prompts.advance(max(parts))
        if min(parts) < max(parts):
            self.prompts.roll()
        for place, part in zip(self.prompts.places, parts, strict=True):
            place.prompt, place.length = place.prompt - part, place.length + part
        yield self._step("prefill", self.prompts, max(parts), self.held_bytes)


def replay(
    groups: Sequence[CacheGroup], rows: Sequence[Row], chunk_tokens: int, prefill_rows: int
) -> Iterator[Step]:
    """The steps of a batch's life in which its memory can reach a new height.

    Rows that decode already may be a few tokens further than they are said to be.

    Args:
        groups: the model's caches.
        rows: the jobs, in the order in which they came; never more than the generator decodes together.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
    """
    for steps in _Life(groups, rows, chunk_tokens, prefill_rows).loops:
        yield from steps


@dataclass(frozen=True, slots=True)
class Left:
    """What a loop leaves to the next.

    ``memory_bytes`` are the caches that were evaluated; rows that came or went since are copied only with the
    next step. ``held_bytes`` are the caches then, of the prompts and of the rows that decode; ``copied_bytes``
    what evaluating them copies of a layer.
    """

    memory_bytes: int = 0
    held_bytes: tuple[int, int] = (0, 0)
    copied_bytes: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Loop:
    """The steps of one loop of the generator; the caches' bytes in memory before it, and what it leaves."""

    steps: list[Step]
    before_bytes: int
    left: Left


def next_loop(
    groups: Sequence[CacheGroup],
    rows: Sequence[Row],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents,
    left: Left | None = None,
    *,
    cut: bool = False,
) -> Loop:
    """The generator's next loop.

    Args:
        groups: the model's caches.
        rows: the jobs, exactly as far as they are.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
        real: index and slots of the growing caches as they are, of the prompts and of the rows that decode;
            None where there are none.
        left: by the loop before; where it is not given, everything was evaluated.
        cut: whether rows went since that the loop before could not know of.
    """
    life = _Life(groups, rows, chunk_tokens, prefill_rows, real)
    batches = (life.prompts, life.decoding)
    left = left or Left(life.held_bytes)
    # A batch that has no row left is let go at once.
    gone = sum(held for batch, held in zip(batches, left.held_bytes, strict=True) if not batch.places)
    before = life.evaluated_bytes = max(0, left.memory_bytes - gone)
    for batch, copied in zip(batches, left.copied_bytes, strict=True):
        batch.copied_bytes = max(copied, _CUT * batch.layer_bytes if cut else 0) if batch.places else 0
    steps = next(life.loops, [])
    prompts, decoding = ((batch.held_bytes, batch.copied_bytes) for batch in batches)
    return Loop(
        steps, before, Left(life.evaluated_bytes, (prompts[0], decoding[0]), (prompts[1], decoding[1]))
    )
