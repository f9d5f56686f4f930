"""Answers of an API as they were recorded, with which the command's pictures are drawn."""

from __future__ import annotations

from typing import Any, Final

from tests.pretend_worker import CARD

GIB: Final = 1 << 30
MIB: Final = 1 << 20

WORKER: Final[dict[str, Any]] = {
    "name": "7d1f0f2b9f3c4a5e",
    "host": "studio.local",
    "pid": 4711,
    "engine": "ready",
    "budget_bytes": 16 * GIB,
    "budget_source": "metal_working_set",
    "limits_bytes": {"metal_working_set": 16 * GIB, "host_total": 30 * GIB, "host_available": 20 * GIB},
    "weights_bytes": 4 * GIB,
    "reserved_bytes": 2 * GIB,
    "used_bytes": 7 * GIB,
    "cache_bytes": 2 * GIB,
    "prefix_cache_bytes": GIB,
    "headroom_bytes": 8 * GIB,
    "working_bytes": 16 * GIB,
    "cools_until": None,
    "running": 3,
    "tokens_per_second": 142.37,
    "work_tokens_per_second": 900.0,
    "models": [
        {"id": "mlx-community/Qwen3-4B-4bit", "card": CARD.to_json()},
        {"id": "tiny", "card": None},
    ],
    "queues": ["interactive", "standard", "batch"],
    "counters": {"completed": 41, "sheds": 2, "engine_deaths": 1},
    "footprint_ratios": {"min": 1.0, "median": 1.02, "max": 1.1},
    "version": "0.1.0",
    "updated_at": 1_764_000_000.0,
}

CAPACITY: Final[dict[str, Any]] = {
    "object": "capacity",
    "workers": [WORKER],
    "queue": {
        "jobs": 17,
        "tokens": 12_300,
        "by_priority": {
            "interactive": {"jobs": 0, "tokens": 0},
            "standard": {"jobs": 12, "tokens": 9100},
            "batch": {"jobs": 5, "tokens": 3200},
        },
    },
}

NOW: Final = 1_764_000_003.0


def job(number: int, status: str = "queued", **fields: Any) -> dict[str, Any]:
    """A job as a list has it; a higher number was made later."""
    waits = {"position": number, "eta_seconds": 4.0 * number} if status == "queued" else None
    return {
        "id": f"job_{number:026d}",
        "object": "job",
        "status": status,
        "model": "mlx-community/Qwen3-4B-4bit",
        "priority": "standard",
        "created_at": NOW - 60 + number,
        "started_at": None if status == "queued" else NOW - 30,
        "completed_at": None,
        "attempt": 0 if status == "queued" else 1,
        "queue": waits,
        "metadata": {},
        "result": None,
        "error": None,
        **fields,
    }
