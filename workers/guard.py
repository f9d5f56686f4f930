"""The check between engine steps that keeps memory under the budget. Pure: numbers in, an action out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.footprint import ModelCard, row_bytes, transient_bytes
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


def next_step_bytes(
    card: ModelCard, loads: Sequence[Load], chunk_tokens: int, prefill_rows: int, free_slots: int
) -> int:
    """What the next step can add to what is in use.

    Args:
        card: the model.
        loads: the batch's jobs, in the order in which they came.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together at most.
        free_slots: tokens that the decoding rows' caches still have room for.
    """
    prompts = [load for load in loads if load.prompt_left][:prefill_rows]
    decoding = [load for load in loads if not load.prompt_left]
    need = 0
    if prompts:
        chunk = min(chunk_tokens, max(load.prompt_left for load in prompts))
        context = max(load.length_tokens for load in prompts) + chunk
        need += len(prompts) * row_bytes(card, chunk, chunk_tokens)
        need += transient_bytes(card, len(prompts), chunk, context)
    if decoding:
        longest = max(load.length_tokens for load in decoding)
        need += transient_bytes(card, len(decoding), 1, longest)
        if free_slots < 1:
            need += len(decoding) * row_bytes(card, 1, chunk_tokens)
    return need


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
