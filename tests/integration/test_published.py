"""What real workers let the fleet know: tokenizers that the API counts with, cards that spare a probe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import cards
from scheduler.card import CARD_VERSION
from scheduler.tokenizers import prompts_key
from tests.key_leaks import leaks
from tests.running import RunningWorker, Site, a_site
from tests.waiting import wait_until

MARK = 12_345
"""Bytes of a decode step that no probe measures."""


@pytest.fixture
def site(tiny_model: Path) -> Iterator[Site]:
    """A server of each test's own."""
    with a_site({"tiny": tiny_model}) as made:
        yield made
        assert leaks(made.connection) == []


def until_published(site: Site) -> None:
    """Wait until a worker has published all of the model."""
    wait_until(
        lambda: site.connection.exists(prompts_key("tiny")) and cards.kept(site.connection, "tiny"), "both"
    )


CHAT = [
    {"role": "system", "content": "Answer in rhyme."},
    {"role": "user", "content": "What is the capital of France? " * 20},
]


@pytest.mark.parametrize(
    ("fields", "off_most"),
    [({"prompt": "The naïve fox’s 12,345 jumps 🌊\n" * 20}, 0), ({"messages": CHAT}, 8)],
    ids=["prompt", "chat"],
)
def test_a_prompt_is_known_at_submit(site: Site, fields: dict[str, Any], off_most: int) -> None:
    """A plain one exactly, a chat within a few tokens, where its bytes were off by hundreds."""
    with site.worker():
        until_published(site)
        before = site.submit(**fields, max_tokens=2)
        estimated = site.lifecycle.get(before).meta
        rec = site.ended(before)
    assert rec.outcome is not None and rec.outcome.result is not None, rec.outcome
    counted = rec.outcome.result["usage"]["prompt_tokens"]
    assert abs(estimated.prompt_tokens - counted) <= off_most
    assert abs(rec.request.prompt_tokens_likely - counted) > 100


def second_workers_card(site: Site, **change: Any) -> tuple[dict[str, Any], RunningWorker]:
    """The card of a worker on a host without cards, after the fleet's was changed."""
    with site.worker():
        until_published(site)
    (card,) = cards.kept(site.connection, "tiny")
    key = cards.card_key("tiny", card.fingerprint)
    site.connection.set(key, json.dumps(card.to_json() | change), keepttl=True)
    with site.worker(data_dir=site.folder / "elsewhere") as second:
        assert second.report is not None
        return second.report.cards["tiny"], second


def test_a_second_host_takes_the_card_of_the_first(site: Site) -> None:
    """And measures nothing."""
    card, worker = second_workers_card(site, decode_bytes=MARK)
    assert card["decode_bytes"] == MARK
    probe = re.search(r"probe_seconds=([0-9.]+)", worker.log)
    assert probe is not None and float(probe[1]) < 0.1


def test_a_card_of_another_version_is_measured_anew(site: Site) -> None:
    """It is left out, and replaced."""
    card, _ = second_workers_card(site, decode_bytes=MARK, version=CARD_VERSION + 1)
    assert card["decode_bytes"] != MARK
    wait_until(lambda: cards.kept(site.connection, "tiny"), "a card of this version")
