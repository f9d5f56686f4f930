"""The queue by class: who waits, in which place, for how much memory, and until when."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.seen import Seen
from tests.browser.stack import LONG_TOKENS, Stack
from tests.waiting import wait_until

CLASSES = ("interactive", "standard", "batch")


def test_jobs_wait_by_class_with_place_need_and_time(seen: Seen, stack: Stack) -> None:
    """Each in its class's table; all of them have to wait, since one job has the budget."""
    runs = stack.submit(max_tokens=LONG_TOKENS, priority="interactive")
    stack.until(runs, "in_progress")
    wait_until(lambda: stack.measured, "the model's card, by which what waits is estimated", PATIENCE_SECONDS)
    wait = {name: stack.submit(max_tokens=LONG_TOKENS, priority=name) for name in (*CLASSES, "standard")}
    second = wait["standard"]
    for name, job in wait.items():
        expect(seen.lane(name).locator(f'tr[data-job="{job}"]')).to_be_visible()
    expect(seen.lane("standard")).to_have_attribute("data-jobs", "2")
    expect(seen.lane("interactive")).to_have_attribute("data-jobs", "1")
    told = {name: stack.job(job) for name, job in wait.items()}
    weights = seen.gauge_bytes(stack.worker.name, "weights")  # of the one model, which each estimate counts
    for name, job in wait.items():
        wait_until(
            lambda job=job, name=name: (
                re.search(r"\d+", seen.cell(job, "position")) is not None
                and int(re.search(r"\d+", seen.cell(job, "position"))[0]) == told[name]["queue"]["position"]  # type: ignore[index]
            ),
            f"the place of {name}",
            PATIENCE_SECONDS,
        )
        mebibytes = (told[name]["memory"]["estimated_bytes"] - weights) / (1 << 20)
        assert f"{mebibytes:.0f}" in seen.cell(job, "need") or f"{mebibytes:.1f}" in seen.cell(job, "need")
        assert re.search(r"\d|any moment", seen.cell(job, "eta"))
    stack.http.post(f"{stack.url}/v1/jobs/{second}/cancel").raise_for_status()
    expect(seen.waiting(second)).to_have_count(0)
    expect(seen.lane("standard")).to_have_attribute("data-jobs", "1")


def test_who_waits_is_seen_to_begin(seen: Seen, stack: Stack) -> None:
    """On its own page: it says that it waits, and its answer begins without a reload when its turn has come."""
    runs = stack.submit(max_tokens=LONG_TOKENS)
    stack.until(runs, "in_progress")
    waits = stack.submit(max_tokens=LONG_TOKENS)
    seen.waiting(waits).get_by_role("link").first.click()
    seen.until_status("queued")
    loads = len([url for url in seen.watch.asked if url.endswith(".js")])
    stack.http.post(f"{stack.url}/v1/jobs/{runs}/cancel").raise_for_status()
    seen.until_status("in_progress")
    seen.until_output(1)
    assert len([url for url in seen.watch.asked if url.endswith(".js")]) == loads
    seen.page.go_back()
    expect(seen.row("running", waits)).to_be_visible()
