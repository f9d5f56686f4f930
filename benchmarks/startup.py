"""What the start takes, and for how long a long prompt keeps a running stream waiting: parts of ``benchmarks.overhead``.

``load_ratio``             seconds to load a model of 100 MB as the engine does, over those of ``mlx_lm.load``, each in a
                           process of its own that has imported both; the medians of five, in turn
``load_s``, ``mlx_lm_load_s``  both
``api_import_s``           a new interpreter imports the API: the median of five; goal: under 1
``gap_beside_prompt_s``    the longest time between two texts of a stream beside which a prompt of 3,000 tokens is
                           computed, as the worker is by default, and
``gap_unbounded_s``        where ``TIDEGATE_TOKEN_GAP`` is an hour
``prompt_first_text_s``, ``prompt_first_text_unbounded_s``  what the prompt itself takes for its first text in both
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.random_models import write_random_llama
from benchmarks.sse_clients import ask, chat_body
from benchmarks.stack import stack
from scheduler.settings import load
from workers.environment import engine_environment

MODEL: Final = "middle"
SIZE: Final[dict[str, Any]] = {"layers": 8, "hidden": 512, "heads": 8, "kv_heads": 4, "intermediate": 2048}
ROUNDS: Final = 5
PROMPT_TOKENS: Final = 3000
STREAM_TOKENS: Final = 600
UNBOUNDED_SECONDS: Final = 3600.0
_ANSWER_SECONDS: Final = 240.0

_TIMED: Final = """
import sys, time
import mlx_lm, workers.models
began = time.perf_counter()
{call}
print(time.perf_counter() - began)
"""
_LOADS: Final = {
    "load_s": _TIMED.format(call="workers.models.load_model('middle', sys.argv[1])"),
    "mlx_lm_load_s": _TIMED.format(call="mlx_lm.load(sys.argv[1])"),
}
_IMPORT: Final = (
    "import time\nbegan = time.perf_counter()\nimport api.app\nprint(time.perf_counter() - began)"
)


def measure() -> dict[str, float]:
    """Load, import and stream; the figures."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_llama(Path(folder) / MODEL, never_stops=True, **SIZE)
        figures = _starts(model)
        gap, first = _beside_prompt(model, load().token_gap)
        unbounded, first_unbounded = _beside_prompt(model, UNBOUNDED_SECONDS)
    return figures | {
        "gap_beside_prompt_s": round(gap, 3),
        "gap_unbounded_s": round(unbounded, 3),
        "prompt_first_text_s": round(first, 3),
        "prompt_first_text_unbounded_s": round(first_unbounded, 3),
    }


def _starts(model: Path) -> dict[str, float]:
    """Loads and imports, in turn."""
    programs = {name: [code, str(model)] for name, code in _LOADS.items()} | {"api_import_s": [_IMPORT]}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, words in programs.items():
            taken[name].append(_seconds(words))
    middle = {name: round(statistics.median(seconds), 3) for name, seconds in taken.items()}
    return {"load_ratio": round(middle["load_s"] / middle["mlx_lm_load_s"], 3)} | middle


def _seconds(words: list[str]) -> float:
    """What a program of Python says that it took."""
    environment = engine_environment(dict(os.environ), preload=True)
    command = [sys.executable, "-c", *words]
    return float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def _beside_prompt(model: Path, gap_seconds: float) -> tuple[float, float]:
    """The longest gap of a stream while a long prompt beside it is computed, and what that takes; seconds."""
    with stack({MODEL: model}, prefix_cache=0, token_gap=gap_seconds) as running:

        async def both() -> tuple[float, float]:
            warm = "The tide comes in. " * 60  # what a chunk takes is known afterwards
            await ask(running.url, chat_body(MODEL, warm, 2), _ANSWER_SECONDS)
            stream = asyncio.create_task(
                ask(running.url, chat_body(MODEL, "Sing.", STREAM_TOKENS), _ANSWER_SECONDS)
            )
            await asyncio.sleep(1)
            long = await ask(running.url, chat_body(MODEL, "x" * PROMPT_TOKENS, 1), _ANSWER_SECONDS)
            seen = await stream
            if not (seen.answered and long.answered and seen.ended_at > long.texts_at[0]):
                raise RuntimeError(f"the stream did not outlast the prompt: {seen.error} {long.error}")
            gaps = [
                after - before
                for before, after in itertools.pairwise(seen.texts_at)
                if after > long.asked_at and before < long.texts_at[0]
            ]
            return max(gaps), long.first_seconds

        return asyncio.run(both())
