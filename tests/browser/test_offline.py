"""The page while what it shows is away: it says so, keeps what it knows, and goes on by itself."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.conftest import Open
from tests.browser.seen import Seen
from tests.browser.stack import LONG_TOKENS, Stack
from tests.browser.watch import NOT_LOADED
from tests.waiting import wait_until

AWAY = (NOT_LOADED, "ERR_", "network error")
"""What the browser itself says of an API that is not there."""


def test_a_stream_goes_on_after_the_api_was_started_again(open_page: Open, stack: Stack) -> None:
    """Killed in mid-stream; the job runs on, and the page has every letter of it once."""
    job = stack.submit(max_tokens=LONG_TOKENS)
    seen = open_page(f"/jobs/{job}")
    seen.watch.allowed.extend(AWAY)
    seen.until_output(20)
    stack.kill_api()
    try:
        seen.until_link("reconnecting")
        said = seen.link_words.inner_text()
        assert said.strip()
        shown = seen.output
        assert len(shown) >= 20
        wait_until(lambda: len(stack.text(job)) > len(shown) + 20, "the job goes on", PATIENCE_SECONDS)
        assert seen.output == shown
    finally:
        stack.start_api()
    seen.until_live()
    seen.until_output(len(shown) + 20)
    more = seen.output
    assert stack.text(job).startswith(more)
    assert more.startswith(shown)
    stack.http.post(f"{stack.url}/v1/jobs/{job}/cancel").raise_for_status()
    seen.until_status("cancelled")
    assert seen.output == stack.text(job)
    assert seen.link_words.inner_text() != said


def test_the_tide_goes_on_after_the_api_was_started_again(seen: Seen, stack: Stack) -> None:
    """What was last known stays to be read, and is said to be old; what ran meanwhile is there afterwards."""
    seen.watch.allowed.extend(AWAY)
    name = stack.worker.name
    points = int(seen.chart(name).get_attribute("data-points") or 0)
    stack.kill_api()
    try:
        seen.until_link("reconnecting")
        expect(seen.gauge(name)).to_be_visible()
        meanwhile = stack.site.submit(max_tokens=16)
        stack.site.ended(meanwhile)
    finally:
        stack.start_api()
    seen.until_live()
    expect(seen.row("ended", meanwhile)).to_be_visible()
    wait_until(
        lambda: int(seen.chart(name).get_attribute("data-points") or 0) > points, "points", PATIENCE_SECONDS
    )


def test_a_store_that_is_away_is_said_so(seen: Seen, stack: Stack) -> None:
    """The API is there and says what is not; when the store is back, so is the tide, without a reload."""
    seen.watch.allowed.extend(AWAY)
    stack.server.kill()
    try:
        seen.until_link("trouble")
        assert seen.link_words.inner_text().strip()
        expect(seen.gauge(stack.worker.name)).to_be_visible()
    finally:
        stack.server.start()
    seen.until_live()


def test_a_page_that_is_opened_while_the_store_is_away_waits_for_it(open_page: Open, stack: Stack) -> None:
    """It is told what is missing, and then shown the tide."""
    stack.server.kill()
    try:
        seen = open_page()
        seen.watch.allowed.extend(AWAY)
        seen.until_link("trouble")
    finally:
        stack.server.start()
    seen.until_live()
    expect(seen.gauge(stack.worker.name)).to_be_visible()
