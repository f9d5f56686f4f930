"""Request bodies: strict JSON objects, refused as a whole where any part could not be stored or said."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from scheduler.errors import ClientError

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 1 << 16
"""Objects, lists and their items; a bound on the time that checking takes, in which nobody else has a turn: so many
that are each at fault take pydantic 0.2 s. Four thousand messages with parts are a third of it."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # json.loads joins pairs; what is left stands alone
_INTEGER_LIMIT: Final = 1 << 64
_EXACT: Final = 1 << 53
"""Below it a float is the number that was written."""

Path = tuple[str | int, ...]


class JsonRequest(Request):
    """A request whose JSON is read by :func:`read_object`, whoever asks for it.

    Its body must be shorter than ``MAX_CONTENT_LENGTH``.
    """

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:  # noqa: FBT002 (Flask's own)
        """The body, which must be a JSON object.

        Raises:
            ClientError: ``unsupported_media_type``, ``invalid_request``.
            RequestEntityTooLarge: the body is larger than the limit.
        """
        if not self.is_json:
            said = self.mimetype or "none"
            raise ClientError(
                "unsupported_media_type",
                f"the body must have the content type application/json; it has {said[:64]}",
            )
        if (coding := self.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise ClientError("unsupported_media_type", f"content codings are not taken: {coding[:64]}")
        body = self.get_data(cache=cache)
        if self.max_content_length is not None and len(body) >= self.max_content_length:
            raise RequestEntityTooLarge  # Werkzeug cuts one off that came in chunks
        return read_object(body)


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ClientError: ``invalid_request``; ``param`` names the place where it is known.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ClientError("invalid_request", f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ClientError("invalid_request", f"the body is not JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise ClientError("invalid_request", f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # from _refuse and _finite, and integers of thousands of digits
        message = str(error) if isinstance(error, _NotANumber) else "the body has a number of too many digits"
        raise ClientError("invalid_request", message) from None
    if not isinstance(value, dict):
        raise ClientError("invalid_request", "the body must be a JSON object")
    _check(value)
    return value


class _NotANumber(ValueError):
    """A number that JSON, or a float, does not have."""


def _refuse(constant: str) -> float:
    raise _NotANumber(f"the body has {constant}, which is not JSON")


def _finite(text: str) -> float:
    """A number with a point or an exponent. JSON has one kind of number: 8.0 is the integer 8."""
    if math.isinf(number := float(text)):
        raise _NotANumber(f"the number {text[:32]} is out of range")
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def _check(body: dict[str, Any]) -> None:
    """Refuse depth, size, text and integers that no later step takes."""
    pending: list[tuple[Path, Any]] = [((), body)]
    count = 0
    while pending:
        path, container = pending.pop()
        if len(path) >= MAX_DEPTH:
            raise _fault(path[:3], f"nested deeper than {MAX_DEPTH} levels")
        count += len(container)
        if count > MAX_VALUES:
            raise ClientError("invalid_request", f"the body has more than {MAX_VALUES:,} values")
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(key, str) and _UNSTORABLE.search(key):
                raise _fault(path, "a name in it has a NUL or half of a surrogate pair")
            if isinstance(value, str):
                if _UNSTORABLE.search(value):
                    raise _fault((*path, key), "has a NUL or half of a surrogate pair")
            elif isinstance(value, dict | list):
                pending.append(((*path, key), value))
            elif isinstance(value, int) and not -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
                raise _fault((*path, key), "an integer of more than 64 bits")


def _fault(path: Path, what: str) -> ClientError:
    param = ".".join(str(part) for part in path) or None
    return ClientError("invalid_request", f"{param or 'the body'}: {what}", param=param)
