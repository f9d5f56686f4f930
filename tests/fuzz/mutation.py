"""Bad input made of good: a seed changed where it hurts, in its JSON or in its bytes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

_RAW: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-0", "-1", "0", "1", "1.5", "1e300", "5e-324"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809"),
    *("1" + "0" * 400, "9" * 5000, "true", "false", "null", "[]", "{}", '""', "[[]]", '[""]', '{"": null}'),
    *('"\\ud800"', '"a\\u0000b"', '"\\u202e"', '"\\r"', '"\\r\\ndata: x\\n\\n"', '"NaN"', '"1"', '"-1"'),
    *('"' + "x" * 3000 + '"', '"../../etc/passwd"', '"/dev/zero"', '"{{ 7*7 }}"', '"%s%n"', '"\xe9\u2028"'),
    *("[" * 80 + "]" * 80, "[" * 3000 + "]" * 3000, '{"a":' * 70 + "1" + "}" * 70, "[1,2,3,4,5,6,7,8,9]"),
    "[" + ",".join(["1"] * 2000) + "]",
)
"""Values that stand in for good ones, as JSON would write them, or as it would not."""

_BYTES: Final = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\r\n\r\n"),
    *(b" ", b":", b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"/", b"-", b"%00", b"..", b"NaN", b"1e999"),
    *(b"0", b"-1", b"99999999999999999999", b"\x80\x04\x95", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"),
)

_MARK: Final = "\ue000"
_PIECE_MOST: Final = 64
_SIZE_MOST: Final = 1 << 18

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutated(rng: random.Random, seeds: Sequence[bytes], most: int = _SIZE_MOST) -> bytes:
    """A seed with a few changes, now and then none.

    Args:
        rng: draws; the same draws make the same bytes.
        seeds: good inputs, of which others are made.
        most: bytes of the longest.
    """
    made = rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        made = rng.choice(_CHANGES)(rng, made, seeds)[:most]
    return made


def _in_json(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """One value, or one name, of a JSON text that is the whole or ends it."""
    head, body = _split(data)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _in_bytes(rng, data, (data,))
    marks: list[str] = []
    try:
        spacing = (",", ":") if rng.random() < 0.5 else (", ", ": ")  # some readers look at how it is written
        text = json.dumps(_changed(rng, value, marks), ensure_ascii=rng.random() < 0.5, separators=spacing)
    except (ValueError, RecursionError):
        return data
    for at, raw in enumerate(marks):
        text = text.replace(json.dumps(f"{_MARK}{at}"), raw).replace(f'"{_MARK}{at}"', raw)
    return head + text.encode("utf-8", "surrogatepass")


def _split(data: bytes) -> tuple[bytes, bytes]:
    """What stands before the JSON, as heads do before a body; and that."""
    head, gap, body = data.rpartition(b"\n\n")
    return (head + gap, body) if gap else (b"", data)


def _changed(rng: random.Random, value: Any, marks: list[str]) -> Any:
    """The value with one change somewhere inside."""
    inside = value if isinstance(value, dict | list) and value and rng.random() < 0.85 else None
    if inside is None:
        marks.append(rng.choice(_RAW))
        return f"{_MARK}{len(marks) - 1}"
    if isinstance(inside, list):
        at = rng.randrange(len(inside))
        how = rng.randrange(6)
        if how == 0:
            return inside[:at] + inside[at + 1 :]
        if how == 1:
            return inside + [inside[at]] * rng.choice((1, 2, 100))
        return [*inside[:at], _changed(rng, inside[at], marks), *inside[at + 1 :]]
    key = rng.choice(list(inside))
    how = rng.randrange(8)
    if how == 0:
        return {name: each for name, each in inside.items() if name != key}
    if how == 1:
        marks.append(rng.choice(_RAW))
        return {**inside, rng.choice((f"{key}x", "", "__proto__", "id", "kind")): f"{_MARK}{len(marks) - 1}"}
    if how == 2:
        other = rng.choice(list(inside))
        return {**inside, key: inside[other]}
    return {**inside, key: _changed(rng, inside[key], marks)}


def _in_bytes(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A few bytes cut, put in, turned or repeated."""
    at = rng.randint(0, len(data))
    to = min(len(data), at + rng.randint(0, _PIECE_MOST))
    how = rng.randrange(6)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + data[to:]
    if how == 2:
        return data[:at] + rng.choice(_BYTES) + data[at:]
    if how == 3:
        return data[:at] + data[at:to] * rng.choice((2, 3, 200)) + data[to:]
    if how == 4:
        other = rng.choice(seeds)
        return data[:at] + other[rng.randint(0, len(other)) :]
    turned = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at:to][:4])
    return data[:at] + turned + data[at + len(turned) :]


def _a_number(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """One run of digits made another number."""
    places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    start = end = rng.choice(places)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    odd = (0, -1, 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, math.nan, 1.5)
    return data[:start] + str(rng.choice(odd)).encode() + data[end:]


_CHANGES: Final[Sequence[Change]] = (_in_json, _in_json, _in_json, _in_bytes, _a_number)
