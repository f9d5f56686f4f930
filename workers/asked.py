"""What an engine may be asked: each message checked before anything is done with it, so that nonsense ends it with a line.

A worker of the same release writes that pipe, so nonsense is a fault of ours: the line says which, and quotes nothing.
What a job's request holds is :mod:`workers.engine_job`'s to refuse, in words for whoever asked for it.
"""

from __future__ import annotations

import os
import queue
import sys
from typing import Annotated, Any, Final, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from workers.said import first_fault
from workers.wire import Message, Receiver, WireBroken, decoded

_Count = Annotated[int, Field(strict=True, ge=0)]
_Some = Annotated[int, Field(strict=True, ge=1)]
_Whole = Annotated[int, Field(strict=True)]
_Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Moment = Annotated[float, Field(strict=True, allow_inf_nan=False)]

MISUNDERSTOOD: Final = 3
"""The exit code of an engine that was asked nonsense."""

_form: Final = with_config(ConfigDict(extra="allow"))


@_form
class _Configure(TypedDict):
    memory_budget: _Count | None
    cache_limit: _Count | None
    prefix_cache: NotRequired[_Count | None]
    chunk_tokens: _Some
    prefill_rows: _Some
    max_batch: _Some
    frugal_seconds: NotRequired[_Seconds]
    gap_seconds: _Seconds
    cards_folder: str


@_form
class _Share(TypedDict):
    share_bytes: _Count


@_form
class _OfModel(TypedDict):
    model: str


@_form
class _Load(_OfModel):
    source: str
    cards: NotRequired[list[dict[str, Any]]]


@_form
class _OfJob(TypedDict):
    key: str


@_form
class _Run(_OfJob):
    model: str
    request: dict[str, Any]
    priority: str
    claimed_at: _Moment
    so_far: list[_Whole]
    max_tokens: _Whole
    seed: _Whole
    scope: str


@_form
class _Measure(TypedDict):
    """Nothing but its kind."""


_FORMS: Final[dict[str, TypeAdapter[Any]]] = {
    kind: TypeAdapter(form)
    for kind, form in {
        "configure": _Configure,
        "share": _Share,
        "load": _Load,
        "unload": _OfModel,
        "run": _Run,
        "grant": _OfJob,
        "remove": _OfJob,
        "measure": _Measure,
    }.items()
}


def read_asked(body: bytes) -> Message:
    """A message, with the fields of its kind; a kind that is not known is for the engine to pass over.

    Raises:
        WireBroken: no worker sends such a message.
    """
    message = decoded(body)
    form = _FORMS.get(message["kind"])
    if form is not None:
        try:
            form.validate_python(message)
        except ValidationError as error:
            raise WireBroken(f"not a message {message['kind']!r}: {first_fault(error)}") from None
    return message


def in_order(messages: list[Message], *, configured: bool) -> bool:
    """Whether the engine is configured after these.

    Raises:
        WireBroken: one comes before it is, or configures it again.
    """
    for message in messages:
        if configured == (message["kind"] == "configure"):
            raise WireBroken(
                f"{message['kind'][:32]!r} {'after' if configured else 'before'} it was configured"
            )
        configured = True
    return configured


def read_forever(receiver: Receiver, inbox: queue.SimpleQueue[Message]) -> None:
    """Take in what the worker asks until its pipe ends, and this process with it: nobody is left to generate for."""
    configured = False
    try:
        while receiver.take_in():
            messages = receiver.whole()
            configured = in_order(messages, configured=configured)
            for message in messages:
                inbox.put(message)
    except WireBroken as error:
        # WireBroken's words name a field and what it should be, and never what it held.
        os.write(sys.stderr.fileno(), f"EngineMisunderstoodError: {error}\n".encode())
        os._exit(MISUNDERSTOOD)
    os._exit(0)
