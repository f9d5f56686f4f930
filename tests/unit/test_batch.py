"""A batch's state table, and how it is read from the server."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from openai.types import Batch as OpenAIBatch

from scheduler.batch import (
    BATCH_ID,
    CANCELLABLE,
    ENDED,
    TRANSITIONS,
    Batch,
    BatchEvent,
    BatchState,
    LineError,
    advance,
    new_batch_id,
    read_batch,
)
from scheduler.errors import TransitionRefused

PAIRS = list(itertools.product(BatchState, BatchEvent))
ID = new_batch_id(1.0)
STORED = {
    b"owner": b"",
    b"endpoint": b"/v1/chat/completions",
    b"input_file_id": b"file-x",
    b"created_at": b"5.5",
    b"expires_at": b"86405.5",
    b"status": b"in_progress",
    b"metadata": b'{"a": "b"}',
    b"total": b"3",
    b"at:in_progress": b"6.5",
    b"of a later version": b"x",
}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{s}-{e}" for s, e in PAIRS])
def test_a_batch_moves_by_the_table_or_not_at_all(state: BatchState, event: BatchEvent) -> None:
    """Each of the 56 pairs leads where its row says, or raises, naming both."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionRefused, match=f"{state} cannot {event}"):
            advance(state, event)


def test_a_batch_ends_in_one_of_openais_four_ways() -> None:
    """Each can be reached, and from every other state some end can."""
    assert {
        BatchState.COMPLETED,
        BatchState.FAILED,
        BatchState.EXPIRED,
        BatchState.CANCELLED,
    } == ENDED
    assert {BatchState.VALIDATING, BatchState.IN_PROGRESS} == CANCELLABLE

    def reached(start: BatchState) -> set[BatchState]:
        seen, wave = {start}, {start}
        while wave:
            wave = {to for (origin, _), to in TRANSITIONS.items() if origin in wave} - seen
            seen |= wave
        return seen

    assert reached(BatchState.VALIDATING) == set(BatchState)
    assert all(reached(state) & ENDED for state in BatchState)


def test_ids_are_of_one_form_and_sort_by_time() -> None:
    """As jobs' do."""
    ids = [new_batch_id(moment) for moment in (1.0, 2.0, 1e9)]
    assert ids == sorted(ids)
    assert all(BATCH_ID.fullmatch(each) for each in ids)


def test_a_batch_is_read_from_text() -> None:
    """Numbers, JSON and moments; what a later version adds is let be."""
    batch = read_batch(ID, STORED)
    assert batch is not None
    assert (batch.id, batch.total, batch.metadata, batch.created_at) == (ID, 3, {"a": "b"}, 5.5)
    assert batch.moments == {BatchState.IN_PROGRESS: 6.5}
    assert batch.looked_at


@pytest.mark.parametrize(
    "planted",
    [
        {b"status": b"happy"},
        {b"total": b"-1"},
        {b"total": b"x"},
        {b"metadata": b"{"},
        {b"metadata": b"[" * 100_000},
        {b"errors": b"7"},
        {b"at:nowhere": b"1"},
        {b"owner": b"bob"},
        {b"endpoint": b"\xff"},
    ],
)
def test_what_others_wrote_is_no_batch(planted: dict[bytes, bytes]) -> None:
    """Nor is a hash without its fields."""
    assert read_batch(ID, STORED | planted) is None
    assert read_batch(ID, {}) is None


def test_clients_see_openais_shape() -> None:
    """Whole seconds; files only once it ended; every field of OpenAI's own type, and how its webhook stands."""
    batch = read_batch(ID, STORED)
    assert batch is not None
    batch = replace(
        batch,
        output_file="file-y",
        input_tokens=7,
        output_tokens=3,
        errors=(LineError("empty_file", "no lines"),),
    )
    said = batch.view()
    assert {*OpenAIBatch.model_fields, "webhook"} == set(said)
    assert (said["created_at"], said["in_progress_at"], said["output_file_id"]) == (5, 6, None)
    read = OpenAIBatch.model_validate(said, strict=True)
    assert read.usage is not None
    assert read.usage.total_tokens == 10
    assert replace(batch, status=BatchState.COMPLETED).view()["output_file_id"] == "file-y"


def test_a_batch_knows_what_is_not_wanted_any_more() -> None:
    """Cancelled, or its window closed; a batch whose lines are done stops nothing."""
    batch = Batch(ID, "", "/v1/x", "file-x", 1.0, 2.0)
    assert not batch.stopping
    assert replace(batch, status=BatchState.CANCELLING).stopping
    assert not replace(batch, status=BatchState.FINALIZING).stopping
    assert replace(batch, status=BatchState.FINALIZING, closed=True).stopping
