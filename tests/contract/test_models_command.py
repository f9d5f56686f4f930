"""`tidegate models`: what is served and what was measured of it, from a served API."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from click.testing import CliRunner, Result
from redis import Redis

from scheduler import fleet
from scheduler.card import CARD_VERSION, MARGIN
from scheduler.slots import CacheGroup
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker
from tests.waiting import wait_until
from tidegate.client import Client
from tidegate.command import main

MIXED = replace(
    CARD,
    caches=(
        CacheGroup("full", 2, bytes_per_token=4096),
        CacheGroup("sliding", 5, bytes_per_token=2560, window_tokens=1024),
        CacheGroup("state", 1, state_bytes=3 << 20),
    ),
    decode_margin=1.05,
    fingerprint="0123456789abcdef" * 2,
)


def tidegate(url: str, *words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["--url", url, *words])


def report(connection: Redis, url: str, *cards: dict[str, object] | None, **fields: Any) -> None:
    """One worker for each card, and only those, known to the API."""
    expected = [json.loads(json.dumps(card)) for card in cards]
    said = PretendWorker(connection).report(**fields)
    for each in fleet.live_workers(connection):
        fleet.withdraw(connection, each.name)
    for at, card in enumerate(cards):
        cards_said = {} if card is None else {MODEL: card}
        fleet.report(connection, replace(said, name=f"w{at}", cards=cards_said), 60)
    with Client(url) as client:
        wait_until(
            lambda: [each["models"][0]["card"] for each in client.workers()] == expected, "they are known"
        )


def test_models_are_listed_with_their_readiness(connection: Redis, url: str) -> None:
    """Listed but not served; then served."""
    report(connection, url)
    assert tidegate(url, "models").output.split() == ["model", "ready", MODEL, "no"]
    report(connection, url, CARD.to_json())
    assert tidegate(url, "models").output.split() == ["model", "ready", MODEL, "yes"]
    (line,) = tidegate(url, "models", "--json").output.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["ready"]) == (MODEL, True)
    report(connection, url, None, engine=f"measuring {MODEL}")
    assert tidegate(url, "models").output.split() == ["model", "ready", MODEL, "measuring"]


def test_a_card_is_shown_with_its_figures(connection: Redis, url: str) -> None:
    """Every kind of cache, what steps take, what was learnt and what was not, and which files it is of."""
    report(connection, url, MIXED.to_json())
    output = " ".join(tidegate(url, "models", "show").output.split())
    assert output.startswith(f"{MODEL} on w0 ")
    for figure in (
        "weights 1.0 MiB",
        "full cache 4,096 B a token in 2 layers",
        "sliding cache 2,560 B a token in 5 layers, window of 1,024 tokens",
        "state 3.0 MiB a row in 1 layer",
        "first chunk of 64 tokens 6.2 KiB for a while",
        "copies 1.00 layers at once",
        f"margins prefill × {MARGIN:.2f}, decode × 1.05 (learnt)",
        f"fingerprint {MIXED.fingerprint} (version {CARD_VERSION})",
    ):
        assert f" {figure}" in output


def test_cards_as_json_are_those_of_the_workers(connection: Redis, url: str) -> None:
    """A line for each worker and model, as measured there; null where it was not."""
    report(connection, url, MIXED.to_json(), None)
    said = [json.loads(line) for line in tidegate(url, "models", "show", MODEL, "--json").output.splitlines()]
    assert [(each["worker"], each["model"]) for each in said] == [("w0", MODEL), ("w1", MODEL)]
    assert [each["card"] for each in said] == [json.loads(json.dumps(MIXED.to_json())), None]


def test_models_that_run_alone_are_remarked(connection: Redis, url: str) -> None:
    """In the list and on the card; so is a worker whose engine is to recover."""
    report(
        connection,
        url,
        (MIXED.to_json() | {"alone": True}),
        engine="cooling down",
        counters={"out_of_memory": 3},
    )
    titles, row = tidegate(url, "models").output.splitlines()
    assert titles.split() == ["model", "ready", "remarks"]
    assert row.endswith("runs alone on w0; w0 cools down")
    output = " ".join(tidegate(url, "models", "show").output.split())
    assert "runs alone its jobs cannot share a batch: one at a time" in output
    assert " cools down the worker's engine died again and again; " in output
    assert " out of memory 3 times since the worker began " in output


def test_what_cannot_be_shown_is_said(connection: Redis, url: str) -> None:
    """A model not measured yet, a card of another version, a model that nobody serves."""
    report(connection, url, None, MIXED.to_json() | {"version": CARD_VERSION + 1})
    output = " ".join(tidegate(url, "models", "show").output.split())
    assert "not measured yet" in output
    assert f"a model card of version {CARD_VERSION + 1}; this is {CARD_VERSION}" in output
    failed = tidegate(url, "models", "show", "nobody's")
    assert (failed.exit_code, failed.output) == (1, "Error: no live worker serves nobody's\n")
    report(connection, url)
    assert tidegate(url, "models", "show").output == "Error: no live worker serves any model\n"
