"""Memory runs out under a job, for real, and the page says why, with the numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.conftest import Open
from tests.browser.seen import Seen
from tests.browser.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")

ROOM_BYTES = 8 << 20
TOKENS = 4000
"""Of which some hundred fit into the room."""

SHORT_TOKENS = 700
"""More than fit."""


@pytest.fixture
def fresh(stack: Stack) -> Iterator[Stack]:
    """A tidegate whose next tests get a worker that knows nothing of it."""
    yield stack
    stack.start_worker()


def test_a_job_that_ran_out_of_memory_is_explained(fresh: Stack, open_page: Open) -> None:
    """Its page shows what it wrote, the error with need, limit and when to come again; the chart has the mark."""
    stack, seen = fresh, open_page()
    seen.until_live()
    name = stack.worker.name
    stack.starve(ROOM_BYTES)
    job = stack.submit(max_tokens=TOKENS, max_attempts=1)
    seen.page.goto(f"{stack.url}/jobs/{job}")
    seen.until_output(1)
    seen.until_status("failed")
    error = stack.job(job)["error"]
    assert error["code"] == "insufficient_memory"
    shown = seen.error("insufficient_memory")
    expect(shown).to_be_visible()
    for size in ("estimated_bytes", "limit_bytes"):
        expect(shown).to_contain_text(re.compile(rf"{error[size] / (1 << 20):.1f}\sMiB"))
    expect(
        shown.locator("[data-countdown]")
        .or_(shown.get_by_text(re.compile(r"again|retry", re.IGNORECASE)))
        .first
    ).to_be_visible()
    assert seen.output == stack.text(job)
    assert len(seen.output) < TOKENS
    assert seen.events()[-1] == "failed"
    expect(seen.page.get_by_role("button", name="Retry", exact=True)).to_be_enabled()

    seen.page.goto(stack.url)
    seen.until_live()
    expect(seen.marks(name, "out_of_memory").first).to_contain_text("Memory ran out")
    expect(seen.marks(name, "engine_died")).not_to_have_count(0)
    expect(seen.row("ended", job)).to_have_attribute("data-status", "failed")


def test_its_retry_succeeds_where_there_is_room_again(fresh: Stack, open_page: Open) -> None:
    """The engine was replaced, and the next one has what it needs."""
    stack = fresh
    stack.starve(ROOM_BYTES)
    job = stack.submit(max_tokens=SHORT_TOKENS, max_attempts=1)
    stack.until(job, "failed")
    seen: Seen = open_page(f"/jobs/{job}")
    seen.until_status("failed")
    seen.press("Retry")
    wait_until(lambda: seen.job_id not in {"", job}, "another job", PATIENCE_SECONDS)
    seen.until_status("incomplete")
    assert len(seen.output) == SHORT_TOKENS
