"""The reader of server-sent events: lines, fields, events."""

from tidegate.sse import EventReader, ServerSentEvent


def read(*chunks: bytes) -> list[ServerSentEvent]:
    """The events in these chunks."""
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_an_event_has_its_name_data_and_id() -> None:
    """One event, as the API writes it."""
    (event,) = read(b'id: 7-0\nevent: delta\ndata: {"text": "Paris"}\n\n')
    assert (event.name, event.id, event.json()) == ("delta", "7-0", {"text": "Paris"})


def test_an_event_without_a_name_is_a_message() -> None:
    """As in a browser; `data: [DONE]` arrives so."""
    assert read(b"data: [DONE]\n\n") == [ServerSentEvent("message", "[DONE]", None)]


def test_heartbeats_are_no_events() -> None:
    """A line that begins with a colon is a comment."""
    assert read(b": still here\n\n: and here\n\n") == []


def test_data_of_several_lines_is_joined() -> None:
    """Each data line is a line of the data; only one space after the colon is dropped."""
    (event,) = read(b"data: one\ndata:  two\ndata\n\n")
    assert event.data == "one\n two\n"


def test_an_event_without_data_is_dropped_but_its_id_counts() -> None:
    """An id alone moves the place where a reader goes on."""
    reader = EventReader()
    assert list(reader.feed(b"id: 9\nevent: delta\n\n")) == []
    assert reader.last_id == "9"
    assert [event.name for event in reader.feed(b"data: x\n\n")] == ["message"]


def test_an_id_stays_until_the_next_one() -> None:
    """`data: [DONE]` after the terminal event carries that event's id."""
    assert [event.id for event in read(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\ndata: c\n\n")] == ["1", "1", "2"]


def test_an_unfinished_event_is_not_delivered() -> None:
    """What was cut off before its empty line has not been sent yet."""
    reader = EventReader(last_id="1")
    assert list(reader.feed(b"id: 2\ndata: half\n")) == []
    assert reader.last_id == "1"


def test_separators_that_are_text_stay_in_the_text() -> None:
    """U+2028, U+0085 and their like end no line in an event stream."""
    text = "a\u2028b\u0085c\x0bd"
    (event,) = read(f"data: {text}\n\n".encode())
    assert event.data == text


STREAM = (
    'id: 1\r\nevent: delta\r\ndata: {"text": "Pâris\u2028 🗼"}\r\n\r\n: beat\r\rid: 2\rdata: a\rdata: b\r\r'
    "event: completed\ndata: {}\n\ndata: [DONE]\n\n"
).encode()


def test_chunks_may_be_cut_anywhere() -> None:
    """The network's cuts, in the middle of a character or of CR LF, change no event."""
    whole = read(STREAM)
    assert [event.name for event in whole] == ["delta", "message", "completed", "message"]
    for cut in range(len(STREAM)):
        assert read(STREAM[:cut], STREAM[cut:]) == whole
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == whole
