"""What a webhook's delivery is: what is promised, what is told at the end, how it stands, when it is tried again.

It stands in the hash of what it tells of (a job's is RQ's), and so lives exactly as long, in fields of its own::

    webhook         how the delivery stands, as JSON; of it clients see status, attempts, last_error
    webhook_to      the URL and the client's secret, as JSON; shown to nobody, gone once it was delivered or given up
    webhook_event   the body, written with the end; the same bytes on every try
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from scheduler.errors import ClientError
from scheduler.later import together, told_apart
from scheduler.request import Webhook
from scheduler.settings import Settings
from scheduler.webhook_address import Target, why_not

DELIVERY_FIELD: Final = "webhook"
RECIPIENT_FIELD: Final = "webhook_to"
EVENT_FIELD: Final = "webhook_event"

DELAYS_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 28_800, 28_800)
"""Between a try that failed and the next: the Standard Webhooks' schedule, its long end fitted to the day for which a
job is kept by default."""

TRIES: Final = len(DELAYS_SECONDS) + 1
_EARLIEST: Final = 0.8  # of a delay; never later, so that the last try falls within that day

About = Literal["job", "response", "batch"]
_ID_PREFIXES: Final[dict[About, str]] = {"job": "job", "response": "resp", "batch": "batch"}
_EVENT_ID: Final = re.compile(r"evt_[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where a webhook goes, and the client's own secret; without one the operator's signs."""

    url: str
    secret: str | None = None

    def __repr__(self) -> str:
        return "Recipient(…)"

    @classmethod
    def parse(cls, text: bytes | None) -> Recipient | None:
        """Read what :meth:`dump` wrote; None where it is something else."""
        try:
            return _RECIPIENT.validate_json(text or b"")
        except ValueError:
            return None

    def dump(self) -> str:
        """As it is stored."""
        return json.dumps({"url": self.url, "secret": self.secret})


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a delivery stands.

    Args:
        status: ``waiting`` for what it shall tell of, ``pending``: to be sent, or sent again; then it ended.
        attempts: tries that were begun.
        last_error: why the last one failed, for the client.
        about: what its event speaks of.
        recipient: known where it is promised only; it is not read back with the rest.
    """

    status: Literal["waiting", "pending", "delivered", "failed"] = "waiting"
    attempts: int = 0
    last_error: str | None = None
    about: About = "job"
    recipient: Recipient | None = field(default=None, compare=False, repr=False)
    stored: bytes | None = field(default=None, compare=False, repr=False)
    """As it was read: a move compares it, since each try changes it."""
    later: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a later release wrote beside; written back as it was."""

    @classmethod
    def parse(cls, text: bytes | None) -> Delivery | None:
        """Read what :meth:`dump` wrote; None where there is nothing, or something else."""
        if text is None:
            return None
        try:
            said: dict[str, Any] = _OBJECT.validate_json(text)
            return replace(_DELIVERY.validate_python(told_apart(said, _STORED)), stored=text)
        except ValueError:
            return None

    def dump(self) -> bytes:
        """As it is stored."""
        return json.dumps(together(self, _STORED)).encode()

    def view(self) -> dict[str, Any]:
        """As clients see it."""
        return {"status": self.status, "attempts": self.attempts, "last_error": self.last_error}


_STORED: Final = ("status", "attempts", "last_error", "about")
_OBJECT: Final = TypeAdapter(dict[str, Any])
_DELIVERY: Final = TypeAdapter(Delivery)
_RECIPIENT: Final = TypeAdapter(Recipient)


def promise(webhook: Webhook | None, settings: Settings, about: About = "job") -> Delivery | None:
    """The delivery that a request asks for; None where it asks for none.

    Raises:
        ClientError: ``invalid_request``; it could never be sent, or nothing would sign it: a receiver has no way to
            trust one without a signature.
    """
    if webhook is None:
        return None
    reason = why_not(Target.read(webhook.url), settings.webhook_allowed)
    if reason is not None:
        raise ClientError("invalid_request", f"webhook.url: {reason}", param="webhook.url")
    if webhook.secret is None and settings.webhook_secret is None:
        why = "webhook.secret: one is needed, since the operator has set none (TIDEGATE_WEBHOOK_SECRET)"
        raise ClientError("invalid_request", why, param="webhook.secret")
    secret = None if webhook.secret is None else webhook.secret.get_secret_value()
    return Delivery(about=about, recipient=Recipient(webhook.url, secret))


def event_body(about: About, subject_id: str, status: str, now_seconds: float) -> str:
    """The event that tells of an end, in the form of OpenAI's; its id is the same whoever makes it.

    Args:
        about: what ended, by the name that its client knows it by.
        subject_id: the id of the job or batch.
        status: how it ended.
        now_seconds: when.
    """
    number = subject_id.partition("_")[2]
    data = {"id": f"{_ID_PREFIXES[about]}_{number}"}
    if about == "job":
        data["status"] = status
    event = {
        "id": f"evt_{number}",
        "object": "event",
        "created_at": int(now_seconds),
        "type": f"{about}.{status}",
        "data": data,
    }
    return json.dumps(event, separators=(",", ":"))


def event_id(body: bytes) -> str | None:
    """The id in an event's body; None where it has none that can stand in a header."""
    try:
        name = str(_OBJECT.validate_json(body).get("id"))
    except ValueError:
        return None
    return name if _EVENT_ID.fullmatch(name) else None


def next_try_seconds(attempts: int, asked_seconds: float, draw: float) -> float | None:
    """How long after a try that failed the next one is due; None where it was the last.

    Args:
        attempts: tries so far.
        asked_seconds: what the receiver asked for by ``Retry-After``; 0 where it did not.
        draw: from 0 to 1, at random, so that those that failed together do not come back together.
    """
    if not 1 <= attempts < TRIES:
        return None
    delay = DELAYS_SECONDS[attempts - 1] * (_EARLIEST + (1 - _EARLIEST) * draw)
    return max(delay, asked_seconds)
