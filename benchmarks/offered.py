"""How much of this machine a workload takes: a sample of it, by mlx-lm's batch generator and nothing else.

No system prompt is kept there from one job to the next, so that what shares them can be under full load and keep up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.bare_batch import bare_batch
from benchmarks.mixed_load import Job

SAMPLED: Final = 12
"""Jobs of each model."""

Run = Callable[[list[str], int, int], Mapping[str, Any]]
"""Answers prompts, so many at a time, with so many tokens each; tells the ``seconds`` that it took."""


def offered(load: Sequence[Job], models: Mapping[str, Path], seconds: float) -> dict[str, float]:
    """The time that the whole load takes, over the seconds in which it arrives.

    Args:
        load: all of it.
        models: their folders, by name.
        seconds: in which it arrives.

    Returns:
        ``one_at_a_time``, ``batched``: over 1 where the machine cannot keep up so.
    """
    took = {"one_at_a_time": 0.0, "batched": 0.0}
    for name, folder in models.items():
        mine = [job for job in load if job.model == name]
        if mine:
            with bare_batch(folder) as bare:
                bare.run(["warm"], 1, 2)
                took["one_at_a_time"] += scaled_seconds(mine, bare.run, 1)
                took["batched"] += scaled_seconds(mine, bare.run, SAMPLED)
    return {name: each / seconds for name, each in took.items()}


def scaled_seconds(jobs: Sequence[Job], run: Run, concurrency: int) -> float:
    """What all jobs would take, from a sample of them: every so many-th, each as long as they are on average."""
    sample = jobs[:: -(-len(jobs) // SAMPLED)]
    tokens = max(1, round(sum(job.max_tokens for job in jobs) / len(jobs)))
    told = run([f"{job.system}\n{job.user}" for job in sample], concurrency, tokens)
    return float(told["seconds"]) / len(sample) * len(jobs)
