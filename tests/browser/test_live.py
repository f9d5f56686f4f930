"""What a visitor sees move: a prompt that is sent, tokens that arrive, a gauge that rises, a job that is ended."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.seen import ENDED, Seen
from tests.browser.stack import BUDGET_BYTES, LONG_TOKENS, MODEL, NEVER_TOKENS, Stack
from tests.waiting import wait_until

PARTS = ("weights", "reserved", "cache", "headroom")


def test_a_prompt_is_sent_and_its_tokens_arrive(seen: Seen, stack: Stack) -> None:
    """The form leads to the job's page; letters come while it runs, and are its log's, one for one."""
    expect(seen.form.get_by_label("Model")).to_have_value(MODEL)
    seen.fill("Tell me of the sea", LONG_TOKENS)
    seen.send()
    seen.page.wait_for_url(re.compile(r"/jobs/job_\w+$"))
    seen.until_status("in_progress")
    seen.until_output(1)
    first = seen.output
    seen.until_output(len(first) + 20)
    assert seen.status == "in_progress"
    shown = seen.output
    assert stack.text(seen.job_id).startswith(shown)
    assert shown.startswith(first)
    expect(seen.page.locator("[data-request]")).to_contain_text("Tell me of the sea")


def test_an_answer_is_shown_to_its_end(seen: Seen, stack: Stack) -> None:
    """With what it took: a timeline from queued to its end, and what was estimated beside its peak."""
    seen.fill("Tell me of the sea", 48)
    seen.send()
    seen.page.wait_for_url(re.compile(r"/jobs/job_\w+$"))
    seen.until_status(*ENDED)
    job = stack.job(seen.job_id)
    assert (seen.status, job["status"]) == ("incomplete", "incomplete")  # it is ended by its length
    wait_until(lambda: seen.output == job["result"]["text"], "the whole answer", PATIENCE_SECONDS)
    events = seen.events()
    assert (events[0], events[-1]) == ("queued", "incomplete")
    assert "started" in events
    assert seen.memory_bytes("estimated") == job["memory"]["estimated_bytes"]
    assert seen.memory_bytes("peak") == job["memory"]["peak_bytes"]
    seen.page.reload()
    seen.until_status("incomplete")
    wait_until(lambda: seen.output == job["result"]["text"], "the whole answer, once", PATIENCE_SECONDS)
    expect(seen.page.locator("[data-request]")).to_be_visible()
    assert seen.output == job["result"]["text"]


def test_the_gauge_moves_while_a_job_runs(seen: Seen, stack: Stack) -> None:
    """What is reserved rises at once, what is used as its cache grows; the parts make the budget; then it ebbs."""
    name = stack.worker.name
    assert seen.gauge_bytes(name, "budget") == BUDGET_BYTES
    wait_until(lambda: seen.gauge_bytes(name, "reserved") == 0, "nothing reserved", PATIENCE_SECONDS)
    before = int(seen.gauge(name).get_attribute("aria-valuenow") or 0)
    job = stack.submit(max_tokens=LONG_TOKENS)
    wait_until(lambda: seen.gauge_bytes(name, "reserved") > 0, "something is reserved", PATIENCE_SECONDS)
    expect(seen.row("running", job)).to_have_attribute("data-status", "in_progress")

    def risen() -> bool:
        return int(seen.gauge(name).get_attribute("aria-valuenow") or 0) > before

    wait_until(risen, "more is used", PATIENCE_SECONDS)
    gauge = seen.gauge(name).evaluate("gauge => ({...gauge.dataset})")
    assert sum(int(gauge[f"{part}Bytes"]) for part in PARTS) == BUDGET_BYTES
    assert int(seen.gauge(name).get_attribute("aria-valuemax") or 0) == BUDGET_BYTES
    stack.http.post(f"{stack.url}/v1/jobs/{job}/cancel").raise_for_status()
    wait_until(lambda: seen.gauge_bytes(name, "reserved") == 0, "it is given back", PATIENCE_SECONDS)
    expect(seen.row("running", job)).to_have_count(0)
    expect(seen.row("ended", job)).to_have_attribute("data-status", "cancelled")


def test_the_chart_has_a_mark_where_a_job_was_admitted(seen: Seen, stack: Stack) -> None:
    """The history grows, and its marks lead to what happened, in words with the number."""
    name = stack.worker.name
    points = int(seen.chart(name).get_attribute("data-points") or 0)
    admitted = seen.marks(name, "admitted").count()
    job = stack.submit(max_tokens=16)
    stack.until(job, "incomplete")
    wait_until(
        lambda: int(seen.chart(name).get_attribute("data-points") or 0) > points, "a point", PATIENCE_SECONDS
    )
    wait_until(lambda: seen.marks(name, "admitted").count() > admitted, "a mark", PATIENCE_SECONDS)
    expect(seen.mark_of(name, "admitted", job)).to_have_count(1)
    expect(seen.chart(name).locator('button[data-mark="admitted"]').first).to_be_visible()


def test_a_job_is_cancelled_and_tried_again(seen: Seen, stack: Stack) -> None:
    """Cancel stops the compute; Retry makes another job of the same request, and shows it."""
    job = stack.submit("Tell me of the tide", max_tokens=LONG_TOKENS)
    seen.row("running", job).get_by_role("link").first.click()
    seen.until_output(1)
    seen.press("Cancel")
    seen.until_status("cancelled")
    assert stack.job(job)["status"] == "cancelled"
    expect(seen.page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()
    seen.press("Retry")
    wait_until(lambda: seen.job_id not in {"", job}, "another job", PATIENCE_SECONDS)
    seen.until_output(1)
    expect(seen.page.locator("[data-request]")).to_contain_text("Tell me of the tide")
    again = seen.job_id
    assert seen.page.url.endswith(f"/jobs/{again}")
    assert stack.job(again)["status"] == "in_progress"
    seen.press("Cancel")
    seen.until_status("cancelled")


def test_what_never_fits_is_refused_with_both_numbers(seen: Seen, stack: Stack) -> None:
    """In the form, where it was asked; nothing is queued, and what was typed stays."""
    seen.watch.allowed.append("status of 413")
    seen.fill("Tell me of everything", NEVER_TOKENS)
    seen.send()
    refusal = seen.refusal("memory_never_fits")
    expect(refusal).to_contain_text("1.3 GiB")
    expect(refusal).to_contain_text("512.0 MiB")
    expect(seen.form.get_by_label("Prompt")).to_have_value("Tell me of everything")
    assert stack.http.get(f"{stack.url}/v1/jobs?status=queued").json()["data"] == []


def test_what_does_not_fit_now_is_refused_with_the_time_to_come_again(seen: Seen, stack: Stack) -> None:
    """Where the form said that it must not wait: the need, what is free, and seconds that are counted down."""
    seen.watch.allowed.append("status of 503")
    stack.until(stack.submit(max_tokens=LONG_TOKENS), "in_progress")
    stack.until_refused(max_tokens=LONG_TOKENS)
    seen.fill("And me?", LONG_TOKENS, on_insufficient_memory="fail")
    seen.send()
    refusal = seen.refusal("insufficient_memory")
    expect(refusal).to_contain_text(re.compile(r"free now\s*\d+\.\d MiB"))
    expect(refusal).not_to_contain_text("ran out")  # nothing was begun
    left = refusal.locator("[data-countdown]")

    def seconds() -> int:
        found = re.search(r"\d+", left.text_content() or "")
        assert found is not None
        return int(found[0])

    told = seconds()
    assert 1 <= told <= 120
    wait_until(lambda: seconds() < told, "fewer seconds", PATIENCE_SECONDS)


def test_a_prompt_that_is_missing_is_asked_for(seen: Seen, stack: Stack) -> None:
    """Nothing is sent, and the field that lacks it has the focus."""
    seen.fill("", 16)
    seen.send()
    expect(seen.form.get_by_label("Prompt")).to_be_focused()
    assert not any(url.endswith("/v1/jobs") for url in seen.watch.asked)


@pytest.mark.parametrize("table", ["running", "queue"])
def test_emptiness_is_said(seen: Seen, table: str) -> None:
    """Where nothing runs or waits, that is said in words."""
    expect(seen.page.locator(f'[data-empty="{table}"]').first).to_be_visible()
