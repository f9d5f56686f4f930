"""A response by its id, and the conversation that it ends: what later requests may build on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from api.answers import to_json
from api.caller import find
from api.response_answer import response
from api.response_items import ITEM_ID, Item, messages_of, with_ids, without_instructions
from api.response_note import ResponseNote, read_note
from api.services import Services
from scheduler.errors import ClientError
from scheduler.events import LoggedEvent, read_events
from scheduler.job import TERMINAL, State
from scheduler.record import JobRecord

_RESPONSE_ID: Final = re.compile(r"resp_([0-9a-z]{26})")

_PAGE_EVENTS: Final = 500
_REFERENCES_MOST: Final = 256
"""Items that one request may take from earlier responses: a bound on what is read for it."""


def look_up(here: Services, response_id: str) -> tuple[JobRecord, ResponseNote]:
    """A response's job that the present request may see, and what was noted of it.

    Raises:
        ClientError: ``not_found``; there is none, it is another's, or it was asked not to be stored.
    """
    named = _RESPONSE_ID.fullmatch(response_id)
    if named:
        try:
            rec = find(here, f"job_{named[1]}")
        except ClientError as error:
            if error.code != "not_found":
                raise
        else:
            note = read_note(rec)
            if note is not None and note.store:
                return rec, note
    raise ClientError("not_found", f"no response {response_id[:64]!r}", param="response_id")


def response_now(here: Services, rec: JobRecord, note: ResponseNote) -> dict[str, Any]:
    """A response as it is; of one that ended the log is read, which has its output."""
    return response(rec, note, _log(here, rec) if rec.state in TERMINAL else ())


def _log(here: Services, rec: JobRecord) -> Iterator[LoggedEvent]:
    """A job's log, in pages, between which others have a turn: a long answer is tens of thousands of events."""
    after = 0
    while page := read_events(here.lifecycle.connection, rec.id, after, _PAGE_EVENTS):
        yield from page
        after = page[-1].number


def conversation(here: Services, response_id: str) -> list[dict[str, Any]]:
    """The messages of the conversation that a response ends, without its instructions.

    Its job's request holds all that came before it, so that one response is read, however long the chain is, and
    those further back may be gone.

    Raises:
        ClientError: ``invalid_request``; there is no such response, or it has no output to go on from.
    """
    param = "previous_response_id"
    try:
        rec, note = look_up(here, response_id)
    except ClientError as error:
        if error.code != "not_found":
            raise
        message = f"{param}: previous response with id {response_id[:64]!r} not found"
        raise ClientError("invalid_request", message, param=param) from None
    if rec.state not in {State.COMPLETED, State.INCOMPLETE}:
        message = f"{param}: {response_id} is {rec.wire_state.value}; go on from one that is completed"
        raise ClientError("invalid_request", message, param=param)
    asked = rec.request.model_dump(mode="json", exclude_none=True).get("messages", [])
    said = messages_of(response_now(here, rec, note)["output"])
    return [*without_instructions(asked, note.instructions), *said]


def resolved(here: Services, items: Sequence[Item]) -> list[Item]:
    """Items with those of earlier responses in the places where they are referred to.

    Raises:
        ClientError: ``invalid_request``; a reference names no item that the present request may see, or together
            they are larger than a request may be that brings its items itself.
    """
    referring = [item for item in items if item["type"] == "item_reference"]
    if len(referring) > _REFERENCES_MOST:
        message = f"input: at most {_REFERENCES_MOST} item references are taken; it has {len(referring)}"
        raise ClientError("invalid_request", message, param="input")
    wanted = {item["id"] for item in referring}
    known: dict[str, dict[str, Item]] = {}
    found: list[Item] = []
    room = here.settings.max_body_bytes
    for place, item in enumerate(items):
        if item["type"] != "item_reference":
            found.append(item)
            continue
        named = ITEM_ID.fullmatch(item["id"])
        if named and named[1] not in known:
            theirs = _items_of(here, named[1])
            known[named[1]] = {name: theirs[name] for name in wanted & theirs.keys()}
        one = known[named[1]].get(item["id"]) if named else None
        if one is None:
            message = f"input.{place}.id: no item {item['id']!r}"
            raise ClientError("invalid_request", message, param=f"input.{place}.id")
        room -= len(to_json(one))
        if room < 0:
            message = (
                f"input: the items that it refers to are more than {here.settings.max_body_bytes:,} bytes"
            )
            raise ClientError("invalid_request", message, param="input")
        found.append(one)
    return found


def _items_of(here: Services, name: str) -> dict[str, Item]:
    """Every item of a response by its id; none where there is no such response."""
    try:
        rec, note = look_up(here, f"resp_{name}")
    except ClientError as error:
        if error.code != "not_found":
            raise
        return {}
    output = response_now(here, rec, note)["output"]
    return {item["id"]: item for item in [*with_ids(note.input, rec.id), *output]}
