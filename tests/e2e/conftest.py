"""One running tidegate for all tests by the official clients, and one without keys for what the pages print."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.bridge import asynchronous, synchronous
from tests.e2e.open_stack import SAMPLE, OpenStack, furnish
from tests.e2e.whole import WEBHOOK_SECRET, Whole, whole


@pytest.fixture(scope="package")
def running(cards: Path) -> Iterator[Whole]:
    """A whole tidegate; its folder's name is short, as a socket's address must be."""
    with tempfile.TemporaryDirectory(prefix="tg-") as name, whole(Path(name), cards=cards) as made:
        yield made


@pytest.fixture(scope="package")
def open_stack(cards: Path) -> Iterator[OpenStack]:
    """One without keys, whose model has the sample's name."""
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        folder = Path(name)
        with whole(folder, SAMPLE, cards=cards, keyed=False) as made:
            yield OpenStack(made, furnish(folder / "home"))


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, running: Whole) -> Iterator[openai.OpenAI]:
    """The official client, and then the asynchronous one, called in the same way; neither tries again by itself."""
    options = {"base_url": running.url, "api_key": running.keys["main"], "webhook_secret": WEBHOOK_SECRET}
    if request.param == "sync":
        client = synchronous(openai.OpenAI(**options, max_retries=0, timeout=30))
    else:
        client = asynchronous(openai.AsyncOpenAI(**options, max_retries=0, timeout=30))
    with client as made:
        yield made
