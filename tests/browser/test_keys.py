"""Where the API asks for a key, the page asks its reader for one: once, and keeps it to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from scheduler.keyring import KeyBook
from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.conftest import Open
from tests.browser.seen import Seen
from tests.browser.stack import Stack
from tests.keys import bearer, make_key
from tests.waiting import wait_until

REFUSED = "status of 401"


@pytest.fixture
def token(stack: Stack) -> Iterator[str]:
    """A key of an API that lets nobody in without; it is open again afterwards."""
    made, key = make_key(stack.site.connection)
    stack.http.headers.update(bearer(made))

    def status() -> int:
        return stack.http.get(f"{stack.url}/v1/jobs", headers={"Authorization": ""}).status_code

    try:
        wait_until(lambda: status() == 401, "the API knows of the key", PATIENCE_SECONDS)
        yield made
    finally:
        stack.cancel_all()
        KeyBook(stack.site.connection).remove(key.owner)
        wait_until(lambda: status() == 200, "the API is open again", PATIENCE_SECONDS)
        del stack.http.headers["Authorization"]


def enter(seen: Seen, token: str) -> None:
    """Give the page a key."""
    form = seen.page.locator("form[data-form=key]")
    form.get_by_label("API key").fill(token)
    form.get_by_role("button", name="Use this key").click()


def test_a_key_is_asked_for_and_lets_in(open_page: Open, token: str, stack: Stack) -> None:
    """A wrong one is said to be wrong; the right one shows the tide, and sends prompts."""
    seen = open_page()
    seen.watch.allowed.append(REFUSED)
    seen.until_link("key")
    expect(seen.page.locator("form[data-form=key]")).to_be_visible()
    assert seen.page.locator("article[data-worker]").count() == 0
    enter(seen, "tg-this-is-none")
    expect(seen.page.get_by_role("alert").filter(has_text="key")).to_be_visible()
    enter(seen, token)
    seen.until_live()
    expect(seen.gauge(stack.worker.name)).to_be_visible()
    seen.fill("Tell me of the sea", 16)
    seen.send()
    seen.until_status("incomplete")
    wait_until(lambda: len(seen.output) == 16, "the answer", PATIENCE_SECONDS)
    assert not any(token in url for url in seen.watch.asked)


def test_a_key_is_kept_by_this_tab_alone_and_can_be_forgotten(open_page: Open, token: str) -> None:
    """Through a reload; another visitor is asked for it; so is this one, once it is told to forget it."""
    seen = open_page()
    seen.watch.allowed.append(REFUSED)
    seen.until_link("key")
    enter(seen, token)
    seen.until_live()
    seen.page.reload()
    seen.until_live()
    assert (
        seen.page.evaluate("() => Object.values({...localStorage}).join() + document.cookie").find(token)
        == -1
    )
    other = open_page()
    other.watch.allowed.append(REFUSED)
    other.until_link("key")
    seen.page.locator("button[data-action=forget-key]").click()
    seen.until_link("key")
    assert token not in seen.page.evaluate("() => Object.values({...sessionStorage}).join()")
    seen.page.reload()
    seen.until_link("key")


def test_a_link_to_a_job_asks_for_the_key_and_then_shows_it(
    open_page: Open, token: str, stack: Stack
) -> None:
    """Its reader comes where the link leads; a job that is another key's is not there."""
    job = stack.submit(max_tokens=16)
    stack.until(job, "incomplete")
    seen = open_page(f"/jobs/{job}")
    seen.watch.allowed.append(REFUSED)
    seen.until_link("key")
    enter(seen, token)
    seen.until_status("incomplete")
    other, key = make_key(stack.site.connection)
    try:
        wait_until(
            lambda: stack.http.get(f"{stack.url}/v1/jobs", headers=bearer(other)).is_success,
            "the API knows the other key",
            PATIENCE_SECONDS,
        )
        stranger = open_page(f"/jobs/{job}")
        stranger.watch.allowed += [REFUSED, "status of 404"]
        stranger.until_link("key")
        enter(stranger, other)
        expect(stranger.page.locator("[data-problem=not_found]")).to_be_visible()
    finally:
        KeyBook(stack.site.connection).remove(key.owner)


def test_a_key_that_no_header_can_carry_is_told_at_once(open_page: Open, token: str) -> None:
    """Such as one with an unseen letter, of some other page's copy; it is not kept."""
    seen = open_page()
    seen.watch.allowed.append(REFUSED)
    seen.until_link("key")
    enter(seen, f"{token[:6]}\u200b{token[6:]}")
    expect(seen.page.get_by_role("alert")).to_contain_text("no key")
    expect(seen.body).to_have_attribute("data-link", "key")
    enter(seen, token)
    seen.until_live()


def test_who_comes_with_another_key_sees_nothing_of_the_one_before(
    open_page: Open, token: str, stack: Stack
) -> None:
    """Neither its jobs nor what was typed, in the same tab, before the API has said anything."""
    job = stack.submit(max_tokens=8)
    stack.until(job, "incomplete")
    seen = open_page()
    seen.watch.allowed.append(REFUSED)
    seen.until_link("key")
    enter(seen, token)
    expect(seen.row("ended", job)).to_be_visible()
    seen.fill("A secret", 8)
    seen.page.locator("button[data-action=forget-key]").click()
    seen.until_link("key")
    seen.page.route("**/v1/tide/stream", lambda _: None)  # it is asked for, and not yet answered
    enter(seen, "tg-another")
    expect(seen.form.get_by_label("Prompt")).to_have_value("")
    assert seen.page.locator("tr[data-job], li[data-kind], article[data-worker]").count() == 0
    seen.page.unroute_all(behavior="ignoreErrors")
