"""A batch's lines: where they end, which are sound, and what is written of them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.json_body import read_object
from scheduler import batch_lines
from scheduler.batch_lines import (
    Fault,
    Line,
    RawLine,
    answered,
    pack_entry,
    raw_lines,
    read_entry,
    read_line,
    refused,
    repeated,
    unfinished,
)
from scheduler.errors import ClientError
from tests.batching import CHAT, line

BATCH = "batch_01jd3x0v5f8k2m4n6p8r0s2t4v"


def lines_of(data: bytes, chunk_bytes: int, **start: int) -> list[RawLine]:
    """A file's lines, where it is stored in chunks of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_lines, "CHUNK_BYTES", chunk_bytes)
        start = {"most_bytes": 1 << 20} | start
        return list(raw_lines(lambda n: data[n * chunk_bytes :][:chunk_bytes], size_bytes=len(data), **start))


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=12), st.integers(1, 40))
def test_lines_are_whole_however_they_are_stored(texts: list[bytes], chunk_bytes: int) -> None:
    """Numbered from 1, with the byte behind each; a last line needs no newline."""
    data = b"\n".join(texts)
    found = lines_of(data, chunk_bytes)
    assert [raw.text.removesuffix(b"\n") for raw in found] == (texts if texts and texts[-1] else texts[:-1])
    assert [raw.number for raw in found] == list(range(1, len(found) + 1))
    assert b"".join(raw.text for raw in found) == data


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=8), st.integers(1, 20), st.data())
def test_reading_goes_on_at_any_line(texts: list[bytes], chunk_bytes: int, data: st.DataObject) -> None:
    """From the byte behind one, with the next number, the rest is the same."""
    whole = b"\n".join(texts)
    found = lines_of(whole, chunk_bytes)
    for before, raw in itertools.pairwise(found):
        assert lines_of(whole, chunk_bytes, offset=before.end, number=raw.number)[0] == raw


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 9), st.integers(0, 20))
def test_no_more_of_a_line_is_kept_than_tells_that_it_is_too_long(
    texts: list[bytes], chunk_bytes: int, most_bytes: int
) -> None:
    """Its length and its end are known all the same; one that fits is whole."""
    data = b"\n".join(texts)
    whole, found = lines_of(data, chunk_bytes), lines_of(data, chunk_bytes, most_bytes=most_bytes)
    assert [(raw.number, raw.end, raw.size_bytes) for raw in found] == [
        (raw.number, raw.end, len(raw.text)) for raw in whole
    ]
    for raw, each in zip(found, whole, strict=True):
        assert each.text.startswith(raw.text)
        assert len(raw.text) == min(len(each.text), max(len(raw.text), most_bytes + 1))
        assert len(raw.text) <= most_bytes + chunk_bytes
        assert raw.blank <= each.blank


def test_a_line_of_blanks_that_is_too_long_is_not_blank() -> None:
    """Nobody knows what stands at its end."""
    (raw,) = lines_of(b" " * 100 + b"{}", 10, most_bytes=20)
    assert not raw.blank
    found = read_line(raw, CHAT, 0, read_object)
    assert isinstance(found, Fault)


def test_a_file_that_lost_a_chunks_end_ends_there() -> None:
    """It is not read for ever."""
    found = list(raw_lines(lambda _: b"one\ntw", size_bytes=1000, most_bytes=99))
    assert [raw.text for raw in found] == [b"one\n", b"tw"]


def read(said: object, endpoint: str = CHAT, most: int = 10_000) -> Line | Fault:
    """What line 7 asks."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return read_line(RawLine(7, text + b"\n", 0, len(text) + 1), endpoint, most, read_object)


def test_a_sound_line_makes_a_request() -> None:
    """Its name and its body; fields beside are let be."""
    made = read(line(3, more="x"))
    assert isinstance(made, Line)
    assert (made.number, made.custom_id, made.body["messages"][0]["content"]) == (7, "r3", "say 3")


@pytest.mark.parametrize(
    ("said", "code", "custom_id"),
    [
        (b"not json", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'{"custom_id": "a', "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[" * 100_000, "line_too_large", None),
        (b'{"a": NaN}', "invalid_json_line", None),
        (line(1, custom_id=None), "invalid_custom_id", None),
        (line(1, custom_id=""), "invalid_custom_id", None),
        (line(1, custom_id=5), "invalid_custom_id", None),
        (line(1, custom_id="x" * 513), "invalid_custom_id", None),
        (line(1, method="GET"), "invalid_method", "r1"),
        (line(1, url="/v1/embeddings"), "mismatched_url", "r1"),
        (line(1, url=None), "mismatched_url", "r1"),
        (line(1, body=None), "invalid_body", "r1"),
        (line(1, body=["a"]), "invalid_body", "r1"),
        (line(1, text="x" * 20_000), "line_too_large", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_unsound_line_says_what_is_wrong(said: object, code: str, custom_id: str | None) -> None:
    """By its number, and by its name where it has one."""
    fault = read(said)
    assert isinstance(fault, Fault)
    assert (fault.number, fault.code, fault.custom_id) == (7, code, custom_id)
    assert fault.error.message.startswith("line 7")
    assert fault.error.row.status in {400, 413}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_a_fault(text: bytes) -> None:
    """Nothing else comes of them."""
    assert isinstance(read(text.replace(b"\n", b" ")), Line | Fault)


def test_a_repeated_name_is_told_with_the_name() -> None:
    """The first of the two runs."""
    fault = repeated(Line(7, "r1", {}))
    assert (fault.custom_id, fault.code, fault.error.param) == ("r1", "duplicate_custom_id", "custom_id")


def test_entries_have_openais_shape() -> None:
    """One of response and error; the body is the route's own."""
    names = {"id", "custom_id", "response", "error"}
    error = ClientError("model_not_found", "no such model", param="model")
    good = answered(BATCH, 3, "r3", "job_x", {"object": "chat.completion"})
    bad = refused(BATCH, 4, None, error)
    late, gone = (unfinished(BATCH, 5, "r5", expired=expired) for expired in (True, False))
    assert all(set(entry.body) == names for entry in (good, bad, late, gone))
    assert [entry.succeeded for entry in (good, bad, late, gone)] == [True, False, False, False]
    assert good.body["response"] == {
        "status_code": 200,
        "request_id": "job_x",
        "body": {"object": "chat.completion"},
    }
    assert (bad.body["custom_id"], bad.body["response"]["status_code"]) == (None, 404)
    assert bad.body["response"]["body"]["error"] == error.body()
    assert [entry.body["error"]["code"] for entry in (late, gone)] == ["batch_expired", "batch_cancelled"]
    assert len({entry.body["id"] for entry in (good, bad, late)}) == 3


@pytest.mark.parametrize("body", [{}, {"a": "\u2028\ud800 x"}])
def test_an_entry_is_read_as_it_was_kept(body: dict[str, Any]) -> None:
    """As one line of JSON; what others wrote is nothing."""
    for succeeded in (True, False):
        found = read_entry(pack_entry(batch_lines.Entry(succeeded, body)))
        assert found is not None
        assert (found[0], json.loads(found[1])) == (succeeded, body)
        assert b"\n" not in found[1]
    assert read_entry(b"") is None
    assert read_entry(b"+not compressed") is None


@pytest.mark.parametrize("number", [1, 2])
def test_a_byte_order_mark_begins_a_file_and_no_other_line(number: int) -> None:
    """As some editors write it; anywhere else it is no JSON."""
    text = b"\xef\xbb\xbf" + json.dumps(line(0)).encode() + b"\r\n"
    found = read_line(RawLine(number, text, 0, len(text)), CHAT, 1000, read_object)
    assert isinstance(found, Line if number == 1 else Fault)
