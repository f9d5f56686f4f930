"""What a worker publishes, and when: at its next time, again in time, and not for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from scheduler import cards
from scheduler.tokenizers import PUBLISHED_SECONDS, prompts_key, tokenizer_key
from tests.conftest import MODEL
from tests.pretend_worker import CARD
from tests.waiting import Clock
from workers import reporting
from workers.publishing import Publishing

MARKED = replace(CARD, fingerprint="f" * 32)
PROMPTS = {"sample_tokens": 3, "base_tokens": 2, "message_tokens": 1}
NOWHERE = Redis("127.0.0.1", 1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "STORE_RETRY_SECONDS", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder."""
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


@pytest.fixture
def publishing(connection: Redis, folder: Path, clock: Clock) -> Publishing:
    """A worker's, with that model."""
    return Publishing(connection, {MODEL: str(folder)}, clock)


def tokenizer_keys(connection: Redis) -> set[bytes]:
    """What is published of tokenizers."""
    return {*connection.keys("tidegate:tokenizer:*"), *connection.keys("tidegate:prompts:*")}  # type: ignore[misc]


def test_a_load_is_published(connection: Redis, publishing: Publishing) -> None:
    """Its card, its tokenizer, and what was measured of prompts."""
    publishing.loaded(MARKED, PROMPTS)
    publishing.send([MODEL])
    assert publishing.kept(MODEL) == [MARKED]
    assert len(tokenizer_keys(connection)) == 2


def test_what_was_learnt_is_kept(connection: Redis, publishing: Publishing) -> None:
    """At the next time, whether or not the model is still served."""
    publishing.loaded(MARKED, PROMPTS)
    publishing.learnt(replace(MARKED, prefill_margin=1.05))
    publishing.send([])
    assert [card.prefill_margin for card in publishing.kept(MODEL)] == [1.05]


def test_a_store_that_is_away_is_tried_again(
    connection: Redis, folder: Path, clock: Clock, publishing: Publishing
) -> None:
    """Nothing is raised, no card is found, and once it is back everything is published."""
    publishing._connection = NOWHERE
    assert publishing.kept(MODEL) == []
    publishing.loaded(MARKED, PROMPTS)
    publishing.send([MODEL])
    publishing._connection = connection
    publishing.send([MODEL])
    assert cards.kept(connection, MODEL) == [MARKED]
    assert len(tokenizer_keys(connection)) == 2


def test_a_tokenizer_is_renewed_while_its_model_is_served(
    connection: Redis, clock: Clock, publishing: Publishing
) -> None:
    """Well before it lapses, and not at every turn; where it was lost it is published again."""
    publishing.loaded(MARKED, PROMPTS)
    publishing.send([MODEL])
    keys = tokenizer_keys(connection)
    for key in keys:
        connection.expire(key, 5)
    publishing.send([MODEL])
    assert all(connection.ttl(key) <= 5 for key in keys)  # type: ignore[operator]
    clock.now += PUBLISHED_SECONDS / 2
    publishing.send([])
    assert all(connection.ttl(key) <= 5 for key in keys)  # type: ignore[operator]
    publishing.send([MODEL])
    assert all(connection.ttl(key) > 60 for key in keys)  # type: ignore[operator]
    connection.delete(*keys)
    clock.now += PUBLISHED_SECONDS / 2
    publishing.send([MODEL])
    assert tokenizer_keys(connection) == keys


def test_a_model_without_a_tokenizer_file_has_its_card_alone(
    connection: Redis, folder: Path, publishing: Publishing
) -> None:
    """As where the engine could not measure a prompt."""
    publishing.loaded(MARKED, None)
    (folder / "tokenizer.json").unlink()
    publishing.loaded(MARKED, PROMPTS)
    publishing.send([MODEL])
    assert tokenizer_keys(connection) == set()
    assert publishing.kept(MODEL) == [MARKED]


def test_a_folder_that_goes_away_is_no_error(connection: Redis, folder: Path, publishing: Publishing) -> None:
    """What is published lapses, and is not tried for ever."""
    publishing.loaded(MARKED, PROMPTS)
    (folder / "tokenizer.json").unlink()
    publishing.send([MODEL])
    publishing.send([MODEL])
    assert tokenizer_keys(connection) == set()
    assert not connection.exists(prompts_key(MODEL), tokenizer_key("0" * 64))
