"""A worker with a budget that its jobs can fill: who runs, who waits, who never fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.card import ModelCard
from scheduler.errors import ClientError, gib
from scheduler.events import Kind
from scheduler.footprint import alone_bytes, batch_bytes
from scheduler.foresight import Row
from scheduler.job import State
from scheduler.tokenizers import FRESH_SECONDS, prompts_key
from tests.running import RunningWorker, Site, a_site
from tests.waiting import wait_until

CHUNK = 64
LARGEST = (Row(1000, 400), Row(100, 1300), Row(1300, 10))
"""Jobs that the budget holds, each alone; no two of them."""


@pytest.fixture(scope="module")
def roomy(wide_model: Path) -> Iterator[Site]:
    """A site whose model takes 16 KiB a token."""
    with a_site({"wide": wide_model}, prefill_chunk=CHUNK, blas_preload="auto", cache_limit=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(roomy: Site) -> ModelCard:
    """What a worker measured of the model here: how much a step takes depends on the host's libraries."""
    with roomy.worker(memory_budget="1GiB") as measuring:
        found = card(measuring)
        measuring.process.terminate()  # a killed one would be taken for alive until its lease lapses
        measuring.exit_code()
    return found


@pytest.fixture(scope="module")
def budget(model: ModelCard) -> int:
    """Bytes that hold each of the largest jobs, with room for what the steps may teach meanwhile."""
    taught = replace(model, prefill_margin=1.4, decode_margin=1.4)
    return max(alone_bytes(taught, row, CHUNK) for row in LARGEST)


@pytest.fixture(scope="module")
def worker(roomy: Site, model: ModelCard, budget: int) -> Iterator[RunningWorker]:
    """The module's worker."""
    with roomy.worker(memory_budget=budget) as made:
        assert card(made) == model
        yield made


def card(worker: RunningWorker) -> ModelCard:
    report = worker.report
    assert report is not None
    return ModelCard.from_json(report.cards["wide"])


def unpublish_tokenizer(site: Site) -> None:
    """Nobody can count a prompt before it is claimed: what was read of the tokenizer has expired, too."""
    site.connection.delete(prompts_key("wide"))
    time.sleep(FRESH_SECONDS)


def test_twenty_jobs_that_do_not_fit_together_all_complete(
    roomy: Site, worker: RunningWorker, budget: int
) -> None:
    """Some wait; at no moment is more held than the budget, nor more used; each sees its own text."""
    jobs = [roomy.submit(f"{at} " * 30, max_tokens=20 + 7 * (at % 5)) for at in range(20)]
    most = used = 0
    waited = False

    def all_ended() -> bool:
        nonlocal most, used, waited
        report = worker.report
        assert report is not None
        assert (
            report.weights_bytes + report.reserved_bytes + report.cache_bytes <= report.budget_bytes == budget
        )
        assert len(report.running) == 0 or report.reserved_bytes > 0
        most, used = max(most, len(report.running)), max(used, report.used_bytes)
        states = [roomy.get(job_id) for job_id in jobs]
        waited = waited or any(rec.state is State.QUEUED and most > 0 for rec in states)
        return all(rec.outcome is not None for rec in states)

    wait_until(all_ended, "twenty results", 90)
    for job_id, at in zip(jobs, range(20), strict=True):
        assert len(roomy.text(job_id)) == 20 + 7 * (at % 5)
        rec = roomy.get(job_id)
        assert (rec.meta.failures, rec.meta.suspicions) == (0, 0)
        assert (rec.meta.peak_bytes or 0) < budget
    assert 1 < most < 20 and waited
    assert used <= budget


def test_what_never_fits_is_refused_at_once(roomy: Site, worker: RunningWorker, budget: int) -> None:
    """413 with need and limit, from the answer's length alone; nothing is queued."""
    with pytest.raises(ClientError) as refused:
        roomy.submit(max_tokens=60_000)
    error = refused.value.body()
    assert (error["status"], error["code"], error["retryable"]) == (413, "memory_never_fits", False)
    assert error["estimated_bytes"] > error["limit_bytes"] == budget
    assert gib(budget) in error["message"]


def test_what_is_seen_never_to_fit_when_counted_is_told(
    roomy: Site, worker: RunningWorker, model: ModelCard, budget: int
) -> None:
    """Where no tokenizer is published, a prompt that looks short by its bytes and is long in tokens: accepted,
    then 413 with both numbers; it computes nothing, and a fitting job behind it runs.
    """
    prompt = "x" * 3600
    unpublish_tokenizer(roomy)
    job_id = roomy.submit(prompt, max_tokens=10)
    behind = roomy.submit(max_tokens=3)
    rec = roomy.ended(job_id)
    assert rec.outcome is not None and rec.outcome.error is not None, rec.outcome
    error = rec.outcome.error
    assert (rec.state, error["status"], error["code"]) == (State.FAILED, 413, "memory_never_fits")
    assert error["estimated_bytes"] > error["limit_bytes"] == budget
    assert error["estimated_bytes"] == pytest.approx(alone_bytes(model, Row(3600, 10), CHUNK), rel=0.3)
    assert roomy.tokens(job_id) == []
    roomy.prove_log(job_id)
    assert roomy.text(behind)


def test_a_job_larger_than_estimated_waits_for_room(
    roomy: Site, worker: RunningWorker, model: ModelCard, budget: int
) -> None:
    """Its tokens are counted when it is claimed: where they do not fit beside what runs, it waits, and runs
    afterwards; it is not blamed, and no client sees an error.
    """
    unpublish_tokenizer(roomy)
    first = roomy.submit("x" * 1000, max_tokens=400)
    roomy.until_tokens([first], 1)
    assert model.weights_bytes + batch_bytes(model, [Row(1000, 400), Row(1300, 10)], CHUNK, 8) > budget
    second = roomy.submit("x" * 1300, max_tokens=10)
    assert roomy.text(first) and roomy.text(second)
    kinds = [event.kind for event in roomy.events(second)]
    assert kinds.count(Kind.STARTED) == kinds.count(Kind.REQUEUED) + 1
    ratio = roomy.get(first).meta.footprint_ratio or 0  # of a job large beside masks and positions
    assert 0.9 < ratio < 1.8
    begun = next(event.number for event in roomy.events(second) if event.kind is Kind.DELTA)
    assert begun and roomy.get(second).meta.failures == 0


def test_a_cancelled_jobs_memory_is_the_next_ones(roomy: Site, worker: RunningWorker) -> None:
    """A job that waits for room is claimed as soon as the one that holds it is cancelled."""
    holds = roomy.submit("x" * 100, max_tokens=1300)
    roomy.until_tokens([holds], 1)
    waits = roomy.submit("x" * 1300, max_tokens=10)
    roomy.lifecycle.cancel(holds)
    assert roomy.ended(holds, 5).state is State.CANCELLED
    assert roomy.text(waits, 30)


def test_a_job_that_would_rather_fail_than_wait_does(roomy: Site, worker: RunningWorker) -> None:
    """503 `insufficient_memory` with when to retry while the memory is held; accepted when it is free."""
    holds = roomy.submit("x" * 100, max_tokens=1300)
    roomy.until_tokens([holds], 1)
    report = worker.report
    wait_until(lambda: (report := worker.report) is not None and len(report.running) == 1, "a report")

    def refused() -> bool:
        try:
            roomy.lifecycle.cancel(roomy.submit("x" * 1000, max_tokens=300, on_insufficient_memory="fail"))
        except ClientError as error:
            return error.code == "insufficient_memory" and 1 <= (error.retry_after or 0) <= 120
        return False

    assert report is not None
    wait_until(refused, "a refusal")
    roomy.lifecycle.cancel(holds)
    roomy.ended(holds)
    wait_until(lambda: (report := worker.report) is not None and not report.running, "room")
    wait_until(lambda: roomy.lifecycle.workers()[0].reserved_bytes == 0, "room, as the client sees it")
    assert roomy.text(roomy.submit("x" * 600, max_tokens=10, on_insufficient_memory="fail"))
