"""What a job waits for, in words."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.job_rows import eta
from tidegate.waiting_words import preparing, why_not_yet

CARD = {"model": "tiny"}
QUEUED = {"status": "queued", "model": "tiny", "queue": {"position": 3, "eta_seconds": 12.4}}


def worker(engine: str = "ready", card: dict[str, Any] | None = CARD, model: str = "tiny") -> dict[str, Any]:
    """One that serves a model."""
    return {"name": "one", "engine": engine, "models": [{"id": model, "card": card}]}


@pytest.mark.parametrize(
    ("workers", "found"),
    [
        ([worker()], {}),
        ([worker("loading tiny", None)], {"tiny": "loading"}),
        ([worker("measuring tiny", None)], {"tiny": "measuring"}),
        ([worker("measuring tiny", None), worker()], {}),
        ([worker("measuring other", None, "other"), worker()], {"other": "measuring"}),
        ([{}, {"engine": None, "models": [None, 7]}, {"engine": "loading"}], {}),
    ],
)
def test_a_model_is_prepared_where_no_worker_has_it_ready(
    workers: list[dict[str, Any]], found: dict[str, str]
) -> None:
    """While one has, jobs need not wait for the other."""
    assert preparing(workers) == found


@pytest.mark.parametrize(
    ("job", "workers", "said"),
    [
        (QUEUED, [worker()], "waiting: place 3, starts in 12 s"),
        ({"status": "queued", "queue": None}, [worker()], "waiting"),
        (QUEUED, [worker("loading tiny", None)], "loading tiny; the first time it is measured too"),
        (QUEUED, [worker("measuring tiny", None)], "measuring tiny: a minute or two"),
        (QUEUED, [], "no live worker serves tiny yet: it waits for one"),
        (QUEUED, [worker(model="other")], "no live worker serves tiny yet: it waits for one"),
        (QUEUED, [worker("starting", None)], "the worker starts its engine"),
        (QUEUED, [worker("cooling down")], "the worker's engines died again and again"),
        (QUEUED, [worker("cooling down"), worker()], "waiting: place 3, starts in 12 s"),
        ({}, [worker(card=None)], "loading tiny; "),
        ({}, [worker()], "waiting for tiny"),
    ],
)
def test_what_a_job_waits_for_is_said(job: dict[str, Any], workers: list[dict[str, Any]], said: str) -> None:
    """Its place and when it should start; or what is in its way, whatever the API says of its start."""
    assert why_not_yet(job, workers, "tiny").startswith(said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "reading the prompt"),
        ({"progress": {"prompt_tokens": 4000}}, "reading the prompt: 4,000 tokens"),
        (
            {"progress": {"prompt_tokens": 4000, "prompt_tokens_computed": 1000}},
            "reading the prompt: 25% of 4,000 tokens",
        ),
        (
            {"progress": {"prompt_tokens": 4, "prompt_tokens_computed": 9}, "attempt": 2},
            "reading the prompt: 100% of 4 tokens (attempt 2)",
        ),
        (
            {"progress": {"completion_tokens": 1200, "tokens_per_second": 31.25}},
            "1,200 tokens, 31.2 tokens/s",
        ),
        ({"progress": "odd", "attempt": "x"}, "reading the prompt"),
    ],
)
def test_a_job_that_runs_reads_its_prompt_and_then_writes(more: dict[str, Any], said: str) -> None:
    """As far as the API says how far it is."""
    assert why_not_yet({"status": "in_progress", **more}, [worker()], "tiny") == said


def test_nobody_knows_when_a_job_starts_whose_model_is_not_ready() -> None:
    """So no time is told, but what it comes after."""
    assert eta(QUEUED) == "12 s"
    assert eta(QUEUED, {"tiny": "measuring"}) == "once measured"
    assert eta(QUEUED, {"tiny": "loading"}) == "once loaded"
    assert eta({"status": "in_progress", "model": "tiny", "queue": None}, {"tiny": "loading"}) == "-"
