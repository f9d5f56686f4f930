"""What a worker marks: sentences with their numbers, for whoever may see the job and whoever may not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.blame import Failure, Fault
from scheduler.errors import ClientError
from scheduler.holding import Held
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta
from scheduler.tide import Mark
from workers import marking

MIB = 1 << 20
META = Meta(model="a-model", owner="", attempt=2, prompt_tokens=1_200, max_tokens=300, ran_seconds=1.5)
NAMES = ("job_" + "1" * 26, "job_" + "2" * 26)


def held(name: str = NAMES[0], tokens: int = 7, meta: Meta = META) -> Held:
    rec = JobRecord(name, State.IN_PROGRESS, meta, 0.0, 0.0, lease="w/2")
    return Held(rec, 1, [1] * tokens, claimed_at=10.0)


FAILURE = Failure(Fault.OUT_OF_MEMORY, True, 1, "SIGSEGV", 512 * MIB, 640 * MIB)
ERROR = ClientError("insufficient_memory", "it ran out").body()

SAID: dict[str, tuple[Mark, str]] = {
    "admitted again": (
        marking.admitted(held(), 64 * MIB, 11.0),
        "A job was admitted, in attempt 2: 64.0 MiB reserved, for 1,200 tokens of prompt and up to 300 of answer.",
    ),
    "admitted": (
        marking.admitted(held(meta=replace(META, attempt=1)), MIB, 11.0),
        "A job was admitted: 1.0 MiB reserved, for 1,200 tokens of prompt and up to 300 of answer.",
    ),
    "shed": (
        marking.shed(held(), 64 * MIB, 11.0),
        "Memory ran short: a job waits again and keeps its 7 tokens; 64.0 MiB given back.",
    ),
    "preempted": (
        marking.preempted(held(tokens=1), 64 * MIB, 11.0),
        "A job made room for an interactive one, and keeps its 1 token; 64.0 MiB given back.",
    ),
    "completed": (
        marking.ended(held(), Outcome(State.COMPLETED), MIB, 12.0),
        "A job was completed after 7 tokens and 3.5 s; 1.0 MiB given back.",
    ),
    "failed": (
        marking.ended(held(), Outcome(State.FAILED, error=ERROR), MIB, 12.0),
        "A job failed (insufficient memory) after 7 tokens and 3.5 s; 1.0 MiB given back.",
    ),
    "out of memory": (
        marking.out_of_memory(FAILURE, [held(), held(NAMES[1])], 12.0),
        "Memory ran out under 2 jobs: 640.0 MiB could not be had of a budget of 512.0 MiB (SIGSEGV, out of memory).",
    ),
    "engine died": (
        marking.engine_died("SIGKILL", 3, 12.0),
        "The engine died (SIGKILL) with 3 jobs in hand.",
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_a_mark_says_what_happened_with_its_numbers(what: str) -> None:
    """In one sentence, which names neither the job nor its model."""
    mark, words = SAID[what]
    assert mark.words == words
    assert META.model not in mark.words and not any(name in mark.words for name in NAMES)


def test_memory_that_ran_out_under_one_job_is_marked_with_that_job() -> None:
    """Of several nobody knows whose fault it was."""
    alone = marking.out_of_memory(FAILURE, [held()], 12.0)
    assert (alone.job_id, alone.bytes) == (NAMES[0], 640 * MIB)
    assert marking.out_of_memory(FAILURE, [held(), held(NAMES[1])], 12.0).job_id is None
