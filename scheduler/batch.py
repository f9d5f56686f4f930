"""What a batch is: its states, the one table of transitions, its fields, and how clients see it. Pure.

A batch is *validating* until each line of its input was looked at, *in_progress* while its lines are taken one
after the other and run as jobs, *finalizing* while its files are written, and then *completed*. Where its window
closes first, what still runs is stopped and the lines that lack are told as such: *finalizing*, then *expired*.
*cancelling* is the same, asked for. *failed* is what had no line to run.

Whoever dies while a batch moves on, another goes on from what is stored: each move compares the status.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, TypeAdapter

from scheduler.errors import TransitionRefused
from scheduler.job import new_job_id
from scheduler.owner import OWNER
from scheduler.stored_json import read_json
from scheduler.webhook_delivery import DELIVERY_FIELD, Delivery

BATCH_ID: Final = re.compile("batch_[0-9a-z]{26}")

WINDOW_SECONDS: Final = 86_400
"""OpenAI's one completion window, ``24h``."""

BATCH_SECONDS: Final = 30 * 86_400
"""How long a batch is known after it began, and again after it ended."""


class BatchState(enum.StrEnum):
    """Where a batch is, in OpenAI's words."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class BatchEvent(enum.StrEnum):
    """What moves a batch."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    DRAIN = "drain"
    CLOSE = "close"
    CANCEL = "cancel"
    WRITE = "write"
    WRITE_LATE = "write_late"


TRANSITIONS: Final[dict[tuple[BatchState, BatchEvent], BatchState]] = {
    (BatchState.VALIDATING, BatchEvent.ACCEPT): BatchState.IN_PROGRESS,
    (BatchState.VALIDATING, BatchEvent.REFUSE): BatchState.FAILED,
    (BatchState.VALIDATING, BatchEvent.CANCEL): BatchState.CANCELLING,
    (BatchState.IN_PROGRESS, BatchEvent.DRAIN): BatchState.FINALIZING,
    (BatchState.IN_PROGRESS, BatchEvent.CLOSE): BatchState.FINALIZING,
    (BatchState.IN_PROGRESS, BatchEvent.CANCEL): BatchState.CANCELLING,
    (BatchState.FINALIZING, BatchEvent.WRITE): BatchState.COMPLETED,
    (BatchState.FINALIZING, BatchEvent.WRITE_LATE): BatchState.EXPIRED,
    (BatchState.CANCELLING, BatchEvent.WRITE): BatchState.CANCELLED,
}

ENDED: Final = frozenset(BatchState) - {origin for origin, _ in TRANSITIONS}
CANCELLABLE: Final = frozenset(origin for origin, event in TRANSITIONS if event is BatchEvent.CANCEL)


def advance(state: BatchState, event: BatchEvent) -> BatchState:
    """The state after ``event``.

    Raises:
        TransitionRefused: the table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionRefused(f"a batch that is {state} cannot {event}") from None


def new_batch_id(now_seconds: float) -> str:
    """A batch's id; ids sort by time of creation."""
    return f"batch_{new_job_id(now_seconds).removeprefix('job_')}"


Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a batch failed: a line of its input (None where it is the whole file) and what is wrong with it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def view(self) -> dict[str, Any]:
        """As OpenAI's clients see it."""
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, read at one moment. Times are Unix seconds.

    Lines are counted from 1, blank ones too; ``total`` counts those that are not blank. Every line below
    ``next_line`` was taken: it runs, or has its result. ``offset`` is the byte at which that line begins.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: float
    expires_at: float
    status: BatchState = BatchState.VALIDATING
    metadata: dict[str, str] | None = None
    output_seconds: Count = 0
    """How long its output is kept."""
    total: Count = 0
    completed: Count = 0
    failed: Count = 0
    next_line: Count = 1
    offset: Count = 0
    model: str | None = None
    """The one that all lines name, if they do."""
    closed: bool = False
    """Whether its window closed before its lines were done."""
    output_file: str | None = None
    error_file: str | None = None
    """The ids that its files have, or will have; None where there is nothing to write."""
    input_tokens: Count = 0
    cached_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    errors: tuple[LineError, ...] = ()
    moments: dict[BatchState, float] = field(default_factory=dict)
    """When it came into each state."""
    webhook: Delivery | None = None
    """What tells of its end, if anything does."""
    replayed: bool = False
    """Whether the request that it is told to was answered by an earlier one's batch."""

    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self.status in ENDED

    @property
    def stopping(self) -> bool:
        """Whether what still runs of it is not wanted any more."""
        return self.status is BatchState.CANCELLING or (self.status is BatchState.FINALIZING and self.closed)

    @property
    def looked_at(self) -> bool:
        """Whether its lines are known."""
        return BatchState.IN_PROGRESS in self.moments

    def view(self) -> dict[str, Any]:
        """The batch as OpenAI's clients see it."""
        moments = {
            f"{state}_at": int(self.moments[state]) if state in self.moments else None
            for state in BatchState
            if state is not BatchState.VALIDATING
        }
        errors = {"object": "list", "data": [error.view() for error in self.errors]} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status.value,
            "output_file_id": self.output_file if self.ended else None,
            "error_file_id": self.error_file if self.ended else None,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **moments,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": self.cached_tokens},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
                "total_tokens": self.input_tokens + self.output_tokens,
            },
            "metadata": self.metadata,
            "webhook": self.webhook.view() if self.webhook else None,
        }


_BATCH: Final = TypeAdapter(Batch)
_JSON_FIELDS: Final = frozenset({"metadata", "errors"})
_MOMENT: Final = "at:"


def moment_field(state: BatchState) -> str:
    """The field of the hash that tells when the batch came into a state."""
    return f"{_MOMENT}{state}"


def read_batch(batch_id: str, fields: Mapping[bytes, bytes]) -> Batch | None:
    """A batch from its hash; None where there is none, or others wrote something else there."""
    try:
        named = {name.decode(): value.decode() for name, value in fields.items()}
        moments = {
            name.removeprefix(_MOMENT): named.pop(name) for name in [*named] if name.startswith(_MOMENT)
        }
        known: dict[str, Any] = {name: value for name, value in named.items() if name in Batch.__slots__}
        for name in _JSON_FIELDS & set(known):
            known[name] = read_json(known[name])
        known["webhook"] = Delivery.parse(fields.get(DELIVERY_FIELD.encode()))
        found = _BATCH.validate_python({**known, "id": batch_id, "moments": moments})
    except ValueError:
        return None
    return found if OWNER.fullmatch(found.owner) else None
