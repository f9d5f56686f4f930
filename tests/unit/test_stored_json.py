"""JSON from the queue's server: what is sound is as it was written, what is not is a ValueError and nothing worse."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.batch_lines import read_entry
from scheduler.envelope import PLAIN_MOST_BYTES, read_envelope
from scheduler.errors import ClientError
from scheduler.stored_json import read_json

NUMBERS = st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS, lambda each: st.lists(each) | st.dictionaries(TEXTS, each)
)


@given(VALUES, st.booleans())
def test_what_was_written_is_read(value: object, plain: bool) -> None:
    """As bytes and as text, whatever the texts in it look like."""
    text = json.dumps(value, ensure_ascii=plain)
    assert read_json(text) == read_json(text.encode()) == value


@pytest.mark.parametrize("text", [b"[NaN]", b"[Infinity]", b"[-Infinity]", b"[1e999]", b"[-1.5E+400]"])
def test_a_number_that_json_cannot_say_is_null(text: bytes) -> None:
    """As it is in answers: an impossible token's logprob is one."""
    assert read_json(text) == [None]


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"\xff", b'"\\ud800"', b'{"\\udfff": 1}', b"[" * 100_000, b'"\xed\xa0\x80"'),
        *(b"1" + b"0" * 30, b"9" * 5000, b"-18446744073709551616"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_could_not_be_counted_or_said_is_refused(text: bytes) -> None:
    """So that nobody who takes a value apart finds out later."""
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


def test_few_bytes_that_unpack_to_many_are_refused_unread() -> None:
    """A job's request, and a batch's entry, are no larger than anything that was taken."""
    packer = zlib.compressobj(9)
    piece = b" " * (16 << 20)
    bomb = (
        b"".join(packer.compress(piece) for _ in range(PLAIN_MOST_BYTES // len(piece) + 1)) + packer.flush()
    )
    assert len(bomb) < 1 << 20
    with pytest.raises(ClientError, match="not a generation job"):
        read_envelope("job_x", bomb)
    assert read_entry(b"+" + bomb) is None
    cut = zlib.compress(b'["f", null, [], {}]')[:-1]
    with pytest.raises(ClientError, match="not a generation job"):
        read_envelope("job_x", cut)
