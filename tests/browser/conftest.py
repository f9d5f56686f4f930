"""One browser and one running tidegate for all tests of the page; a page of its own, watched, for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.browser.seen import Seen
from tests.browser.stack import Stack, a_stack
from tests.browser.watch import Watch, last_seen

OUTCOME = pytest.StashKey[pytest.TestReport]()

Open = Callable[..., Seen]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests come one after another, where the first of them came: what they share is begun once.

    Besides, Playwright's event loop runs as long as the browser does, and other tests have loops of their own.
    """
    here = [item for item in items if "browser" in item.path.parts]
    if here:
        at = items.index(here[0])
        before = [item for item in items[:at] if item not in here]
        items[:] = [*before, *here, *(item for item in items[at:] if item not in here)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test says what its page showed."""
    report: pytest.TestReport = yield
    page = item.stash.get(SHOWN, None)
    if report.failed and page is not None and not page.is_closed():
        report.sections.append(("the page", last_seen(page)))
    return report


SHOWN = pytest.StashKey[Page]()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser; without one, where a machine checks, that is a failure."""
    program = chromium.find()
    if program is None:
        chromium.do_without(os.environ)
    with chromium.running(program) as made:
        yield made


@pytest.fixture(scope="package")
def shared_stack(browser: Browser) -> Iterator[Stack]:
    """The tidegate that all look at; not started where there is no browser."""
    with a_stack() as made:
        yield made


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """The tidegate, in which nothing waits or runs, before and after."""
    shared_stack.cancel_all()
    yield shared_stack
    shared_stack.cancel_all()


@pytest.fixture
def open_page(request: pytest.FixtureRequest, browser: Browser, stack: Stack) -> Iterator[Open]:
    """Opens the page in a context of its own, which is watched to its end; options are Playwright's for a context."""
    watches: list[Watch] = []

    def opened(path: str = "/", **options: object) -> Seen:
        context = browser.new_context(**{"locale": "en-GB", "timezone_id": "UTC"} | options)  # type: ignore[arg-type]
        context.set_default_timeout(chromium.PATIENCE_SECONDS * 1000)
        watches.append(Watch(context))
        page = context.new_page()
        request.node.stash[SHOWN] = page
        page.goto(f"{stack.url}{path}")
        return Seen(page, watches[-1])

    yield opened
    for watch in watches:
        watch.context.close()
        watch.prove()


@pytest.fixture
def seen(open_page: Open) -> Seen:
    """The page, as everybody opens it first, once it is live."""
    found = open_page()
    found.until_live()
    return found
