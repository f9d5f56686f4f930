"""The check between engine steps that keeps memory under the budget. Pure: numbers in, an action out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.card import ModelCard
from scheduler.footprint import copied_bytes, step_bytes, teaches, work_bytes
from scheduler.foresight import Extents, Kind, Row, next_loop
from scheduler.job import PRIORITIES


class Action(enum.StrEnum):
    """What to do before the next step."""

    GO = "go"
    DROP_CACHES = "drop_caches"
    SHED = "shed"


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


def foresee(
    card: ModelCard,
    loads: Sequence[Load],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents,
) -> Foreseen:
    """What the next step takes.

    Args:
        card: the model.
        loads: the batch's jobs, in the order in which they came.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together at most.
        real: the caches as they are, regrouped where rows came or went.
    """
    rows = [
        Row(max(1, load.length_tokens + load.prompt_left), load.answer_left, load.length_tokens)
        for load in loads
    ]
    loop = next_loop(card.caches, rows, chunk_tokens, prefill_rows, real)
    if not loop.steps:
        return Foreseen()
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
        teaches=alone and decodes < 2,  # noqa: PLR2004 - one, or none
    )


def check(active_bytes: int, cache_bytes: int, growth_bytes: int, budget_bytes: int, jobs: int) -> Action:
    """What to do before a step that can add ``growth_bytes``.

    A single job always goes on: alone it fits by its estimate or fails by itself (progress rule).
    """
    if active_bytes + growth_bytes + cache_bytes <= budget_bytes:
        return Action.GO
    if active_bytes + growth_bytes <= budget_bytes:
        return Action.DROP_CACHES
    return Action.SHED if jobs > 1 else Action.DROP_CACHES


def youngest_of_lowest(loads: Sequence[Load]) -> Load:
    """The job to shed: of the least urgent class, the one claimed last."""
    return max(loads, key=lambda load: (PRIORITIES.index(load.priority), load.claimed_at))
