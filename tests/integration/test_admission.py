"""Real workers whose memory is short: who makes room for whom, and what completions teach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.card import ModelCard
from scheduler.completions import ENOUGH
from scheduler.events import Kind
from scheduler.footprint import alone_bytes, batch_bytes
from scheduler.foresight import Row
from tests.running import Site, a_site

CHUNK = 64
LARGE, URGENT = Row(100, 1300), Row(1300, 10)


@pytest.fixture(scope="module")
def roomy(wide_model: Path) -> Iterator[Site]:
    """A site whose model takes 16 KiB a token."""
    with a_site({"wide": wide_model}, prefill_chunk=CHUNK, cache_limit=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(roomy: Site) -> ModelCard:
    """What a worker measured of the model here, with room for what its steps may teach."""
    with roomy.worker(memory_budget="1GiB") as measuring:
        report = measuring.report
        assert report is not None
        measuring.process.terminate()
        measuring.exit_code()
    found = ModelCard.from_json(report.cards["wide"])
    return replace(found, prefill_margin=1.4, decode_margin=1.4)


def test_an_interactive_job_sends_batch_work_back_and_no_other(roomy: Site, model: ModelCard) -> None:
    """The batch job goes on afterwards, and says what it says undisturbed; a standard one is waited for."""
    budget = max(alone_bytes(model, row, CHUNK) for row in (LARGE, URGENT))
    large = {"prompt": "x" * LARGE.prompt_tokens, "max_tokens": LARGE.max_tokens}
    urgent = {
        "prompt": "y" * URGENT.prompt_tokens,
        "max_tokens": URGENT.max_tokens,
        "priority": "interactive",
    }
    with roomy.worker(memory_budget=budget, reserve="worst_case"):
        undisturbed = roomy.text(roomy.submit(**large))
        for priority, preempted in (("batch", 1), ("standard", 0)):
            first = roomy.submit(**large, priority=priority)
            roomy.until_tokens([first], 1)
            second = roomy.submit(**urgent)
            assert roomy.text(first) == undisturbed and roomy.text(second)
            done, came = roomy.get(first).meta, roomy.get(second).meta
            reasons = [event.data["reason"] for event in roomy.events(first) if event.kind is Kind.REQUEUED]
            assert (done.preemptions, reasons) == (preempted, ["preempted"] * preempted)
            assert ((came.ended_at or 0) < (done.ended_at or 0)) == bool(preempted)


def test_completions_teach_a_worker_to_run_more_together(roomy: Site, model: ModelCard) -> None:
    """Under the same budget: where all of ``max_tokens`` is reserved, jobs wait that run when short answers are known."""
    asked = Row(5, 1500)
    budget = model.weights_bytes + batch_bytes(model, [asked] * 2, CHUNK, 8)
    together: dict[str, int] = {}
    for reserve in ("worst_case", "learned"):
        with roomy.worker(memory_budget=budget, reserve=reserve) as worker:
            text = roomy.text(roomy.submit(max_tokens=200))
            fields = {"max_tokens": asked.max_tokens}
            short = [roomy.submit(**fields, stop=text[6:10]) for _ in range(ENOUGH + 8)]
            assert all(len(roomy.text(job_id)) <= 6 for job_id in short)
            jobs = [roomy.submit(**fields, stop=text[150:160]) for _ in range(8)]
            spans = [(rec.meta.started_at or 0, rec.meta.ended_at or 0) for rec in map(roomy.ended, jobs)]
            together[reserve] = max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)
            worker.process.terminate()
            worker.exit_code()
    assert together["learned"] >= 2 * together["worst_case"] > 0
