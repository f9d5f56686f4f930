"""The check between engine steps that keeps memory under the budget. Pure: numbers in, an action out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.footprint import ModelCard, Row, row_bytes, transient_bytes
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
    row: Row


def next_step_bytes(card: ModelCard, rows: Sequence[Row], chunk_tokens: int, prefilling: int) -> int:
    """What the next step can add: a chunk's cache and transient for each prompt, a growth for the rest."""
    if not rows:
        return 0
    longest = max(row.tokens for row in rows)
    one_chunk = row_bytes(card, chunk_tokens, chunk_tokens) if prefilling else 0
    growth = row_bytes(card, 1, chunk_tokens)
    step = transient_bytes(card, max(1, prefilling), chunk_tokens if prefilling else 1, longest)
    return prefilling * one_chunk + (len(rows) - prefilling) * growth + step


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
