"""A job as it is stored, in RQ's own hash, and as a client sees it.

RQ's fields hold what RQ knows; ours are in its ``meta`` (JSON), beside three fields of their own that single commands
must reach: ``lease`` (who holds the job), ``cancel_requested``, and ``attending`` (how many clients wait for it,
:mod:`scheduler.attendance`). ``data``, the request, may be megabytes, and is read only where it is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, ConfigDict, TypeAdapter

from scheduler.completions import completion_of
from scheduler.envelope import ENVELOPE_VERSION, read_envelope
from scheduler.errors import ClientError
from scheduler.foresight import Row
from scheduler.job import JOB_ID, PRIORITIES, Lease, State
from scheduler.later import together, told_apart
from scheduler.outcome import Outcome
from scheduler.owner import OWNER
from scheduler.progress import Far, progress, rate
from scheduler.request import JobRequest, read_request
from scheduler.rq_status import STATES
from scheduler.shares import Turn
from scheduler.stored_json import read_json
from scheduler.traceparent import read_traceparent
from scheduler.webhook_delivery import DELIVERY_FIELD, Delivery

LEASE_FIELD: Final = "lease"
CANCEL_FIELD: Final = "cancel_requested"
ATTENDING_FIELD: Final = "attending"
HEADING_FIELDS: Final = (
    *("status", "meta", "created_at", "enqueued_at"),
    *(LEASE_FIELD, CANCEL_FIELD, ATTENDING_FIELD, DELIVERY_FIELD),
)
"""Everything but the request: what lists and claims go by."""


@dataclass(frozen=True, slots=True)
class Meta:
    """Our fields of a job. Bytes and tokens are counts; times are Unix seconds."""

    version: int = ENVELOPE_VERSION
    model: str = ""
    priority: str = "standard"
    owner: str = ""
    """Whose share the job counts against, as :func:`scheduler.owner.owner_of` names it; '' where it came without a key."""
    keyed: bool = False
    """Whether that owner is an API key: then nobody but the key is told that another prompt began as its own does."""
    work_tokens: int = 0
    """Prompt and completion tokens, as estimated when the job came."""
    prompt_tokens: int = 1
    counted: bool = False
    """Whether ``prompt_tokens`` was counted by the model's tokenizer, and not estimated."""
    max_tokens: int = 0
    seed: int = 0
    attempt: int = 0
    failures: int = 0
    """Attempts that ended badly while the job ran alone, and so by its own fault."""
    suspicions: int = 0
    """Attempts that ended badly in company."""
    victim_of: int = 0
    """Attempts that ended by the fault of another process, or by ours."""
    company_most: int | None = None
    """Jobs that may run where it runs, itself counted; 1: alone, so that blame is certain; None: any number."""
    estimated_bytes: int | None = None
    reserved_bytes: int = 0
    peak_bytes: int | None = None
    footprint_ratio: float | None = None
    """The peak that was foreseen over the one that was measured, in its last attempt."""
    budget_bytes: int | None = None
    started_at: float | None = None
    ran_seconds: float = 0.0
    """How long the attempts before this one had it."""
    granted_at: float | None = None
    """When its prompt was counted and its memory held, in the present attempt."""
    ended_at: float | None = None
    execution_id: str | None = None
    output_seen: bool = False
    """Whether a client was sent output: such a job stays in progress on the wire while it waits again."""
    ended_as: str | None = None
    queue_deadline: float | None = None
    at_once: bool = False
    """Whether that deadline is there because it would rather fail than wait."""
    sheds: int = 0
    preemptions: int = 0
    """How often it was put back to make room for an interactive job."""
    made_tokens: int = 0
    """Of its answer, what earlier attempts have made; the next one computes them as a part of the prompt. Once it ended,
    what it made in all."""
    first_token_at: float | None = None
    """When the first of these was written."""
    retry_of: str | None = None
    """The job that this one was made from, as it was asked for anew."""
    metadata: dict[str, str] | None = None
    """The request's; None in jobs of an earlier version, which have it there alone."""
    traceparent: Annotated[str | None, BeforeValidator(read_traceparent)] = None
    """The trace that it belongs to (:mod:`scheduler.traceparent`); jobs that have none say nothing of it."""
    since: float | None = None
    """Of a traced job: when its present stay, in the queue or on a worker, began; None: when it was created."""
    later: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a later release wrote beside; written back as it was."""

    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)

    @classmethod
    def parse(cls, text: bytes | str | None) -> Meta:
        """Read ``meta``; fields of later releases are carried, lacking ones take their defaults.

        Raises:
            ValueError: it is not an object, or a field is of another type.
        """
        fields = read_json(text) if text else {}
        meta = _META.validate_python(told_apart(fields, cls.__slots__))
        if meta.priority not in PRIORITIES:
            raise ValueError(f"no class {meta.priority!r}")
        if not OWNER.fullmatch(meta.owner):
            raise ValueError(f"no owner {meta.owner[:32]!r}")
        return meta if meta.company_most is None else replace(meta, company_most=max(1, meta.company_most))

    def dump(self) -> bytes:
        """The JSON that RQ's serializer would write."""
        return json.dumps(self.fields()).encode()

    def fields(self) -> dict[str, Any]:
        """By name; not copied, as :func:`dataclasses.asdict` would, whatever they hold."""
        every = together(self, self.__slots__)
        if self.traceparent is None:
            del every["traceparent"], every["since"]
        return every

    def moved(self, now_seconds: float) -> Meta:
        """The same where another stay begins: what is traced says since when."""
        return self if self.traceparent is None else replace(self, since=now_seconds)


_COUNT: Final = re.compile(rb"[0-9]{1,9}")
_META: Final = TypeAdapter(Meta)  # whoever writes to the server may have written it


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job, read at one moment."""

    id: str
    state: State
    meta: Meta
    created_at: float
    enqueued_at: float
    envelope: dict[str, Any] = field(default_factory=dict)
    """The kwargs of RQ's call; empty where only the heading was read."""
    lease: str | None = None
    cancel_requested: bool = False
    outcome: Outcome | None = None
    attending: int | None = None
    """How many clients wait for it; None where that is not counted, or it was given up."""
    replayed: bool = field(default=False, compare=False, repr=False)
    """Whether who submitted it found it, made by an earlier submission."""
    webhook: Delivery | None = None
    turn: Turn | None = field(default=None, compare=False, repr=False)
    """Where the job came in the order of its class, when that was looked at; a claim is charged by it."""
    from_end: bool = field(default=False, compare=False, repr=False)
    """Whether it seemed nearer to its list's end than to the front, so that it is sought from there."""
    stored_meta: bytes | None = field(default=None, compare=False, repr=False)
    """``meta`` as it was read: compared when a waiting job is moved, since each attempt changes it."""

    @property
    def request(self) -> JobRequest:
        """What was asked, validated again.

        Raises:
            ClientError: ``invalid_request``; the stored request is not one that this version takes.
        """
        return read_request(self.envelope.get("request"))

    @property
    def row(self) -> Row:
        """The job's place in a batch: what it has made of its answer is a part of the prompt."""
        made = max(0, self.meta.made_tokens)
        prompt = max(1, self.meta.prompt_tokens)
        return Row(prompt + made, max(1, self.meta.max_tokens - made), resumed_tokens=made)

    def overdue(self, now_seconds: float) -> bool:
        """Whether it waits longer than it was willing to."""
        deadline, waits = self.meta.queue_deadline, self.state is State.QUEUED and not self.meta.attempt
        return waits and deadline is not None and now_seconds > deadline

    @property
    def wire_state(self) -> State:
        """The state that clients see."""
        seen = self.state is State.QUEUED and self.meta.output_seen
        return State.IN_PROGRESS if seen else self.state

    def ended(self, outcome: Outcome, now_seconds: float) -> JobRecord:
        """The record as it is after it ended."""
        meta = replace(self.meta, ended_as=outcome.state.value, ended_at=now_seconds, reserved_bytes=0)
        return replace(self, state=outcome.state, meta=meta, outcome=outcome, lease=None)

    def view(
        self, position: int | None = None, eta_seconds: float | None = None, far: Far | None = None
    ) -> dict[str, Any]:
        """The job as clients see it (DESIGN, the contract); ``far`` is how far its worker is with it now."""
        meta, outcome = self.meta, self.outcome
        place = {"position": position, "eta_seconds": eta_seconds}
        request = self.envelope.get("request")  # whoever writes to the server may have written it
        metadata = meta.metadata or (request.get("metadata") if isinstance(request, dict) else None) or {}
        return {
            "id": self.id,
            "object": "job",
            "status": self.wire_state.value,
            "model": meta.model,
            "priority": meta.priority,
            "created_at": self.created_at,
            "started_at": meta.started_at,
            "completed_at": meta.ended_at,
            "attempt": meta.attempt,
            "retry_of": meta.retry_of if JOB_ID.fullmatch(meta.retry_of or "") else None,
            "queue": place if self.state is State.QUEUED else None,
            "progress": self._progress(far),
            "memory": {
                "estimated_bytes": meta.estimated_bytes,
                "reserved_bytes": meta.reserved_bytes,
                "peak_bytes": meta.peak_bytes,
                "footprint_ratio": meta.footprint_ratio,
                "budget_bytes": meta.budget_bytes,
            },
            "metadata": metadata,
            "result": outcome.result if outcome else None,
            "error": outcome.error if outcome else None,
            "webhook": self.webhook.view() if self.webhook else None,
        }

    def _progress(self, far: Far | None) -> Mapping[str, Any] | None:
        """How far it is, or was in the end; None while no worker has had it."""
        meta = self.meta
        if not meta.attempt or self.wire_state is State.QUEUED:
            return None
        whole = completion_of(self.outcome.result) if self.outcome else None
        made = whole.tokens if whole else max(0, meta.made_tokens)  # earlier releases count no last attempt
        then = Far(max(0, meta.prompt_tokens), 0, made, rate(made, meta.first_token_at, meta.ended_at))
        running = self.state is State.IN_PROGRESS
        return progress(far or then, self.created_at, meta.first_token_at, running=running)


def read_record(job_id: str, fields: dict[bytes, bytes], outcome: Outcome | None) -> JobRecord:
    """A record from RQ's hash.

    Raises:
        ClientError: ``not_found``; there is no such job, or it is not one of ours.
    """
    heading = read_heading(job_id, fields, outcome)
    return replace(heading, envelope=read_envelope(job_id, fields.get(b"data")))


def read_heading(job_id: str, fields: dict[bytes, bytes], outcome: Outcome | None = None) -> JobRecord:
    """A record without its envelope, from RQ's hash or its :data:`HEADING_FIELDS`.

    Raises:
        ClientError: ``not_found``, as above.
    """
    if b"meta" not in fields:
        raise ClientError("not_found", f"no job {job_id}", param="id")
    try:
        meta = Meta.parse(fields[b"meta"])
        status = fields.get(b"status", b"").decode()
        lease = fields.get(LEASE_FIELD.encode())
        return JobRecord(
            id=job_id,
            state=State(meta.ended_as) if meta.ended_as else STATES.get(status, State.QUEUED),
            meta=meta,
            created_at=_seconds(fields.get(b"created_at")),
            enqueued_at=_seconds(fields.get(b"enqueued_at")),
            lease=str(Lease.parse(lease.decode())) if lease else None,
            cancel_requested=CANCEL_FIELD.encode() in fields,
            attending=_count(fields.get(ATTENDING_FIELD.encode())),
            outcome=outcome,
            webhook=Delivery.parse(fields.get(DELIVERY_FIELD.encode())),
            stored_meta=fields[b"meta"],
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ClientError("not_found", f"{job_id} is not a generation job", param="id") from None


def _count(text: bytes | None) -> int | None:
    """A small count; None where there is none."""
    return int(text) if text and _COUNT.fullmatch(text) else None


def _seconds(text: bytes | None) -> float:
    """Unix seconds of a time as RQ writes it; read by its own shape, which is much quicker than by a pattern."""
    if not text:
        return 0.0
    moment = datetime.fromisoformat(text.decode())
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
