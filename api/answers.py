"""JSON answers, and the JSON inside events: plain ASCII, so that no reader of lines breaks one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from flask import Response

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
"""Made once: ``json.dumps`` would make it anew each time."""


def to_json(value: Any) -> str:
    """Compact JSON; numbers that JSON cannot say (an impossible token's logprob) become null."""
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def answer(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(to_json(body), status, headers, mimetype="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
