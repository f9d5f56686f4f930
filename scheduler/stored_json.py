"""JSON read back from the queue's server, where anybody may have written: what it cannot say is no value. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

_RARE: Final = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{3}|\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""What may be a number beyond 64 bits, a float that is none, or half of a surrogate pair; also within a text."""

_INTEGER_LIMIT: Final = 1 << 64


def _unsayable(_: str) -> None:
    """A number that JSON does not have, such as an impossible token's logprob, becomes null, as it does in answers."""


def _finite(text: str) -> float | None:
    return number if math.isfinite(number := float(text)) else None


def _bounded(text: str) -> int:
    if not -_INTEGER_LIMIT < (number := int(text)) < _INTEGER_LIMIT:
        raise ValueError("an integer of more than 64 bits")
    return number


_PLAIN: Final = json.JSONDecoder(parse_constant=_unsayable)
_CAREFUL: Final = json.JSONDecoder(parse_constant=_unsayable, parse_float=_finite, parse_int=_bounded)
"""Three times as slow: it calls Python for every number."""


def is_rare(text: bytes) -> bool:
    """Whether it may say what :func:`read_json` does not take, or takes for null."""
    return _RARE.search(text) is not None


def read_json(text: bytes | str) -> Any:
    """A value whose integers have 64 bits and whose texts can be encoded; numbers that are not finite become null.

    Raises:
        ValueError: it is another, or no JSON, or nested too deeply to be read.
    """
    if isinstance(text, str):
        text = text.encode()
    try:
        if not is_rare(text):
            return _PLAIN.decode(text.decode())
        value = _CAREFUL.decode(text.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value
