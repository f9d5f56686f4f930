"""The check between engine steps that keeps memory under the budget. Pure: numbers in, a decision out.

Before a step that would take more than the budget: reclaimable caches are dropped, then the prefill chunk is made
shorter, then the youngest job of the lowest class is shed, as long as there is another. A job that is alone goes on
(progress rule): it fits by its estimate, or fails by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.card import ModelCard
from scheduler.footprint import copied_bytes, step_bytes, teaches, work_bytes
from scheduler.foresight import Extents, Kind, Row, next_loop
from scheduler.job import PRIORITIES


class Action(enum.StrEnum):
    """What to do before the next step."""

    GO = "go"
    DROP_CACHES = "drop_caches"
    SHED = "shed"


FRUGAL_SECONDS: Final = 60.0
"""For so long after memory ran out an engine takes no more than it must."""

LASTING: Final = 16
"""Decode steps that are foreseen as one, where they differ in their lengths alone."""

CHUNK_LEAST: Final = 16
"""Tokens of a prompt below which a shorter chunk saves nothing worth its time."""


@dataclass(frozen=True, slots=True)
class Load:
    """A job in the engine, as the guard weighs it."""

    key: str
    priority: str
    claimed_at: float
    length_tokens: int
    """What it has in its cache."""
    prompt_left: int
    """Prompt tokens that are still to be computed; 0 once it decodes."""
    answer_left: int = 1 << 20
    """Tokens that it may still write."""
    reused_tokens: int = 0
    """Of the prompt, what is kept of other jobs and is copied into the batch as this one is taken up."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the generator's next loop is expected to take."""

    growth_bytes: int = 0
    """The most that it adds to what is in use, margins counted."""
    kind: Kind = "decode"
    work_bytes: float = 0.0
    """Of the step that takes the most: its computation alone, no margin counted."""
    other_bytes: int = 0
    """Of the same step: the caches' growth and copies."""
    teaches: bool = False
    """Whether that step is alone in making the peak: no rows come or go, no copies beside it."""
    lasts: int = 0
    """So many loops after it take no more, as long as nobody comes or goes."""


def foresee(
    card: ModelCard,
    loads: Sequence[Load],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents,
    lasting: int = 0,
) -> Foreseen:
    """What the next step takes.

    Args:
        card: the model.
        loads: the batch's jobs, in the order in which they came.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together at most.
        real: the caches as they are, regrouped where rows came or went.
        lasting: over how many loops after it the same may be counted on, where they differ in lengths alone; then
            it is what the last of them takes.
    """
    rows = [
        Row(
            max(1, load.length_tokens + load.prompt_left),
            load.answer_left,
            load.length_tokens,
            reused_tokens=load.reused_tokens,
        )
        for load in loads
    ]
    loop = next_loop(card.caches, rows, chunk_tokens, prefill_rows, real)
    if not loop.steps:
        return Foreseen()
    lasts = min(lasting, loop.quiet_loops)
    if lasts:
        loop = replace(
            loop, steps=[replace(step, context_tokens=step.context_tokens + lasts) for step in loop.steps]
        )
    most = max(loop.steps, key=lambda step: step_bytes(card, step))
    grown = most.held_bytes - loop.before_bytes + int(copied_bytes(card, most)) * (most.kind == "decode")
    alone = (
        most.rows > 0
        and teaches(card, most)
        and all(step is most or not step.copied_bytes for step in loop.steps)
    )
    decodes = sum(step.kind == "decode" and step.rows > 0 for step in loop.steps)  # two where a row moves
    return Foreseen(
        growth_bytes=step_bytes(card, most) - loop.before_bytes,
        kind=most.kind,
        work_bytes=work_bytes(card, most),
        other_bytes=grown,
        teaches=alone and decodes < 2 and not any(row.reused_tokens for row in rows),  # noqa: PLR2004 - one, or none
        lasts=lasts,
    )


def check(
    used_bytes: int, cache_bytes: int, growth_bytes: int, budget_bytes: int, jobs: int, *, dropped: bool
) -> Action:
    """What to do before a step that can add ``growth_bytes``, its chunk as short as helps.

    Args:
        used_bytes: what is in use and cannot be reclaimed.
        cache_bytes: what can.
        growth_bytes: of the step.
        budget_bytes: what may be used.
        jobs: that run, of every model.
        dropped: whether the caches were dropped before this step already.
    """
    if not dropped and used_bytes + cache_bytes + growth_bytes > budget_bytes:
        return Action.DROP_CACHES
    if used_bytes + growth_bytes > budget_bytes and jobs > 1:
        return Action.SHED
    return Action.GO


def within(room_bytes: int, chunk_tokens: int, foreseen: Callable[[int], Foreseen]) -> tuple[int, Foreseen]:
    """The longest prefill chunk whose step stays within the room, halved as often as it takes; else the shortest.

    Args:
        room_bytes: what the step may add.
        chunk_tokens: the usual chunk.
        foreseen: what a step with chunks of so many tokens takes.
    """
    chunk, step = chunk_tokens, foreseen(chunk_tokens)
    while step.kind == "prefill" and step.growth_bytes > room_bytes and chunk > CHUNK_LEAST:
        chunk = max(CHUNK_LEAST, chunk // 2)
        step = foreseen(chunk)
    return chunk, step


def youngest_of_lowest(loads: Sequence[Load]) -> Load:
    """The job to shed: of the least urgent class, the one claimed last."""
    return max(loads, key=lambda load: (PRIORITIES.index(load.priority), load.claimed_at))
