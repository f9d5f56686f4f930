"""Prompts with more tokens than the model has positions, refused at submit where they can be counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from scheduler import fleet
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.tokenizers import PromptShape
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker
from tests.store.looking import nothing_waits
from tests.store.test_tokenizers import SHAPE, say

POSITIONS = 8192


@pytest.fixture(autouse=True)
def _few_positions(worker: PretendWorker) -> None:
    card = replace(CARD, context_tokens=POSITIONS).to_json()
    fleet.report(worker.connection, replace(worker.report(), cards={MODEL: card}), 60.0)


def refusal(lifecycle: Lifecycle, **fields: Any) -> ClientError | None:
    """How a job is refused, nothing queued; None where it is taken."""
    try:
        rec = lifecycle.submit(read_request({"model": MODEL, "max_tokens": 10} | fields))
    except ClientError as error:
        assert nothing_waits(lifecycle.queue)
        assert lifecycle.page().records == ()
        return error
    assert lifecycle.cancel(rec.id).state is State.CANCELLED
    return None


def chat(words: int, role: str = "user") -> dict[str, Any]:
    talk = [{"role": role, "content": "a " * words}, {"role": "user", "content": "go on"}]
    return {"messages": talk}


def test_a_prompt_that_was_counted_whole_is_refused_by_its_count(
    connection: Redis, lifecycle: Lifecycle
) -> None:
    """To the token, in the words of a worker's claim: as many as there are positions leave no answer."""
    say(connection)
    error = refusal(lifecycle, prompt="a " * (POSITIONS - 1))
    assert error is not None
    assert (error.code, error.row.status, error.param) == ("invalid_request", 400, "prompt")
    assert error.message == f"the prompt has 8,192 tokens; {MODEL} has 8,192 positions"
    assert refusal(lifecycle, prompt="a " * (POSITIONS - 2)) is None


def test_a_longer_prompt_is_counted_until_it_is_enough(connection: Redis, lifecycle: Lifecycle) -> None:
    """Its beginning alone could mislead: what is sparse from there on is taken, and its worker counts."""
    say(connection)
    error = refusal(lifecycle, prompt="a " * 30_000)
    assert error is not None
    assert (error.code, error.message[:24]) == ("invalid_request", "the prompt has at least ")
    assert refusal(lifecycle, prompt="a " * 8000 + "b" * 100_000) is None


def test_a_chat_is_refused_by_what_its_users_said(connection: Redis, lifecycle: Lifecycle) -> None:
    """That is always rendered; what the assistant said before may be left out by the template."""
    say(connection)
    error = refusal(lifecycle, **chat(30_000))
    assert error is not None
    assert (error.code, error.param) == ("invalid_request", "messages")
    assert refusal(lifecycle, **chat(30_000, "assistant")) is None


@pytest.mark.parametrize("published", ["nothing", "another's"])
def test_a_prompt_that_cannot_be_counted_waits_for_its_worker(
    connection: Redis, lifecycle: Lifecycle, published: str
) -> None:
    """Bytes are no count, nor is what a tokenizer makes that does not count as the engine does."""
    if published != "nothing":
        say(connection, PromptShape(SHAPE.digest, SHAPE.sample_tokens + 1, 20, 7))
    assert refusal(lifecycle, prompt="a " * 30_000) is None
    assert refusal(lifecycle, **chat(30_000)) is None
