"""Cards that workers keep for each other, and what else may lie under their keys."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from scheduler import cards
from scheduler.card import CARD_VERSION
from scheduler.cards import KEPT_MOST, KEPT_SECONDS, card_key, index_key, keep, kept
from tests.pretend_worker import CARD

MARKED = replace(CARD, fingerprint="f" * 32)
FIELDS = json.loads(json.dumps(MARKED.to_json()))


def test_a_card_is_read_as_it_was_kept(connection: Redis) -> None:
    """Every field, under its model's name alone."""
    keep(connection, MARKED, 1.0)
    assert kept(connection, MARKED.model) == [MARKED]
    assert kept(connection, "another") == []


def test_what_was_learnt_takes_the_place_of_what_was_measured(connection: Redis) -> None:
    """One card a fingerprint."""
    keep(connection, MARKED, 1.0)
    keep(connection, replace(MARKED, decode_margin=1.03), 2.0)
    assert [card.decode_margin for card in kept(connection, MARKED.model)] == [1.03]


def test_cards_lapse_unless_kept_again(connection: Redis) -> None:
    """Thirty days after the last time, index and card alike."""
    keys = (index_key(MARKED.model), card_key(MARKED.model, MARKED.fingerprint))
    keep(connection, MARKED, 1.0)
    for key in keys:
        assert 0 < connection.ttl(key) <= KEPT_SECONDS  # type: ignore[operator]
        connection.expire(key, 5)
    keep(connection, MARKED, 2.0)
    assert all(connection.ttl(key) > KEPT_SECONDS - 60 for key in keys)  # type: ignore[operator]


def test_the_latest_cards_stay(connection: Redis) -> None:
    """A fleet that changes its MLX every day does not pile them up; the latest is read first."""
    for at in range(KEPT_MOST + 3):
        keep(connection, replace(MARKED, fingerprint=f"{at:032x}"), float(at))
    found = [int(card.fingerprint, 16) for card in kept(connection, MARKED.model)]
    assert found == list(range(KEPT_MOST + 2, 2, -1))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x04N.",
        b"[]",
        json.dumps(FIELDS | {"version": CARD_VERSION + 1}),
        json.dumps(FIELDS | {"weights_bytes": "many"}),
        json.dumps(FIELDS | {"chunk_bytes": [[64, 1], [16, 1]]}),
        json.dumps({"version": CARD_VERSION}),
    ],
    ids=["empty", "pickle", "list", "version", "type", "order", "lacking"],
)
def test_what_is_no_card_of_this_version_is_left_out(connection: Redis, text: Any) -> None:
    """The others are still read."""
    keep(connection, MARKED, 2.0)
    keep(connection, replace(MARKED, fingerprint="0" * 32), 1.0)
    connection.set(card_key(MARKED.model, MARKED.fingerprint), text, ex=60)
    assert [card.fingerprint for card in kept(connection, MARKED.model)] == ["0" * 32]


@pytest.mark.parametrize("name", ["index_key", "card_key"])
def test_a_key_of_another_type_keeps_no_one_from_loading(connection: Redis, name: str) -> None:
    """No card is read, none is kept, nothing is raised."""
    key = {
        "index_key": index_key(MARKED.model),
        "card_key": card_key(MARKED.model, MARKED.fingerprint),
    }[name]
    connection.hset(key, "a", "b")
    connection.expire(key, 60)
    assert cards.kept(connection, MARKED.model) == []
    keep(connection, MARKED, 1.0)
