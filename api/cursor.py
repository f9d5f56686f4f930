"""Where a stream goes on: by the header that a browser sends when it comes again."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter, ValidationError

from api.schemas import EventNumber
from scheduler.errors import ClientError

_CURSOR: Final[TypeAdapter[int]] = TypeAdapter(EventNumber)


def cursor(header: str | None, otherwise: int) -> int:
    """The number in ``Last-Event-ID``; ``otherwise`` where there is none.

    Raises:
        ClientError: ``invalid_request``; it is no event's.
    """
    if not header:
        return otherwise
    try:
        return _CURSOR.validate_strings(header)
    except ValidationError:
        raise ClientError(
            "invalid_request", "Last-Event-ID: not the number of an event", param="Last-Event-ID"
        ) from None
