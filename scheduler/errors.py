"""The one error tree and the one table from an error to what a client sees.

TidegateError
├── SettingsInvalid      an operator's setting cannot be used
├── TransitionRefused    the state table does not allow it, or another attempt holds the job
├── ModelUnusable        a model cannot be loaded or measured
│   └── ModelUnsupported   no worker ever could: it is of another kind
├── StoreUnavailable     the queue's server does not answer
├── HostFull             others on the host hold the memory; it stands in scheduler.host_share
├── Overtaken            the same submission came in first
└── ClientError          has a row in TABLE: a code, an HTTP status, whether a retry can help
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

RETRY_AFTER_MIN_SECONDS: Final = 1
RETRY_AFTER_MAX_SECONDS: Final = 120  # the OpenAI client ignores longer ones


class TidegateError(Exception):
    """Anything tidegate raises on purpose."""


class SettingsInvalid(TidegateError):
    """A setting has a value that cannot be used."""


class TransitionRefused(TidegateError):
    """A job cannot move as asked: its state or its holder is another."""


class ModelUnusable(TidegateError):
    """A model cannot be loaded, or cannot be served with its memory known."""


class ModelUnsupported(ModelUnusable):
    """A model of a kind that is not run here; the message is for clients too."""


class StoreUnavailable(TidegateError):
    """The queue's server does not answer."""


class Overtaken(TidegateError):
    """The same submission came in first: its job is there."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a client is told for one code."""

    status: int
    type: str
    retryable: bool


TABLE: Final[dict[str, Row]] = {
    "invalid_request": Row(400, "invalid_request_error", False),
    "unauthorized": Row(401, "authentication_error", False),
    "forbidden": Row(403, "permission_error", False),
    "not_found": Row(404, "invalid_request_error", False),
    "model_not_found": Row(404, "invalid_request_error", False),
    "method_not_allowed": Row(405, "invalid_request_error", False),
    "memory_never_fits": Row(413, "invalid_request_error", False),
    "body_too_large": Row(413, "invalid_request_error", False),
    "unsupported_media_type": Row(415, "invalid_request_error", False),
    "idempotency_mismatch": Row(422, "invalid_request_error", False),
    "rate_limit_exceeded": Row(429, "rate_limit_error", True),
    "cancelled": Row(409, "invalid_request_error", False),
    "internal_error": Row(500, "server_error", False),
    "worker_killed": Row(500, "server_error", False),
    "queue_full": Row(503, "server_error", True),
    "no_worker": Row(503, "server_error", True),
    "queue_timeout": Row(503, "server_error", True),
    "store_unavailable": Row(503, "server_error", True),
    "storage_full": Row(503, "server_error", True),
    "insufficient_memory": Row(503, "server_error", True),
    "engine_timeout": Row(504, "server_error", True),
    "run_timeout": Row(504, "server_error", False),
}


class ClientError(TidegateError):
    """An error with a row in :data:`TABLE`.

    Args:
        code: the row's name.
        message: names the thing and the numbers.
        param: the request's field at fault, dotted.
        retry_after: seconds until a retry can succeed; clamped to 1..120.
        numbers: figures beside the message, e.g. ``estimated_bytes`` and ``limit_bytes``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        **numbers: float | str | None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.row = TABLE[code]
        self.message = message
        self.param = param
        self.retry_after = clamp_retry_after(retry_after) if self.row.retryable else None
        self.numbers = numbers

    def body(self) -> dict[str, Any]:
        """The error object, the same over HTTP, in a job and in a stream."""
        fields: dict[str, Any] = {
            "status": self.row.status,
            "type": self.row.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retryable": self.row.retryable,
        }
        if self.retry_after is not None:
            fields["retry_after"] = self.retry_after
        return fields | self.numbers

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> ClientError:
        """The error whose :meth:`body` this is; an unknown code reads as ``internal_error``."""
        code = str(body.get("code"))
        known = {"status", "type", "code", "message", "param", "retryable", "retry_after"}
        return cls(
            code if code in TABLE else "internal_error",
            str(body.get("message", "")),
            param=body.get("param"),
            retry_after=body.get("retry_after"),
            **{name: value for name, value in body.items() if name not in known},
        )


def clamp_retry_after(seconds: float | None) -> int:
    """A ``Retry-After`` in whole seconds, never sooner than asked, inside 1..120."""
    if seconds is None:
        return RETRY_AFTER_MIN_SECONDS
    return math.ceil(max(RETRY_AFTER_MIN_SECONDS, min(RETRY_AFTER_MAX_SECONDS, seconds)))


def so_many(count: int, noun: str) -> str:
    """So many of a thing, as people write it: ``1 job``, ``2,000 jobs``."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def gib(count_bytes: int) -> str:
    """Bytes as people read them: ``21.4 GiB``, ``3.1 MiB``."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(count_bytes) >= size:
            return f"{count_bytes / size:.1f} {unit}"
    return f"{count_bytes} B"
