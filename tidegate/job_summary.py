"""What is said of a job once it has ended: tokens and their rate, what was waited for, memory reserved and used. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.errors import gib
from tidegate.text import fields_of, figure, on_one_line


def summary(job: Mapping[str, Any], first_token_seconds: float | None = None) -> str:
    """One line.

    Args:
        job: as it ended.
        first_token_seconds: from its submission to its first token, as this command saw it; the API's own goes first.
    """
    progress = fields_of(job, "progress")
    tokens = fields_of(fields_of(job, "result"), "usage").get("completion_tokens")
    if tokens is None:
        tokens = progress.get("completion_tokens")
    created, started, ended = (figure(job.get(f"{name}_at")) for name in ("created", "started", "completed"))
    ran = ended - started if started and ended else 0.0
    parts = [on_one_line(job.get("status"))]
    if tokens is not None:
        parts.append(f"{figure(tokens):,.0f} token{'s' * (figure(tokens) != 1)}")
    rate = figure(progress.get("tokens_per_second")) or (figure(tokens) / ran if ran > 0 else 0.0)
    if rate > 0:
        parts.append(f"{rate:,.1f} tokens/s")
    first = progress.get("first_token_seconds")
    first = first_token_seconds if first is None else figure(first)
    if first is not None:
        parts.append(f"first token after {first:.1f} s")
    if started and ended:
        parts.append(f"waited {started - created:.1f} s, ran {ran:.1f} s")
    if memory := _memory(fields_of(job, "memory")):
        parts.append(memory)
    return ", ".join(parts)


def _memory(memory: Mapping[str, Any]) -> str:
    """What it held beside its model's weights, and the most that was reserved for that; before it ran, what it needs with them."""
    estimated, peak = memory.get("estimated_bytes"), memory.get("peak_bytes")
    if peak is None:
        return (
            "" if estimated is None else f"memory estimated at {gib(int(figure(estimated)))} with its model"
        )
    ratio = figure(memory.get("footprint_ratio"))
    reserved = f", {gib(int(ratio * figure(peak)))} reserved" if ratio > 0 else ""
    return f"memory at its peak {gib(int(figure(peak)))}{reserved}"
