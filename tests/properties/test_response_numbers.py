"""Whatever a log says, its response's events have the same numbers for every reader, and OpenAI's client takes them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from api.response_answer import response
from api.response_events import ResponseEvents
from api.response_note import ResponseNote
from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent
from scheduler.job import State
from scheduler.outcome import Outcome
from tests.response_logs import USAGE, record, streamed

PIECES = st.text(alphabet="ab \n", max_size=3)
CALLS = [
    {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for number in range(2)
]
NOTES = st.builds(ResponseNote, logprobs=st.booleans(), parallel_tool_calls=st.booleans())


@st.composite
def deltas(draw: st.DrawFn) -> dict[str, Any]:
    """What a step brings, as workers write it: empty fields are left out."""
    tokens = list(range(draw(st.integers(0, 3))))
    data = {"text": draw(PIECES), "reasoning": draw(PIECES), "tokens": tokens}
    if draw(st.booleans()):
        data["logprobs"] = [
            {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []} for _ in tokens
        ]
    return {name: value for name, value in data.items() if value}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[LoggedEvent], Outcome]:
    """A log from its first event to its end, with attempts that end early, and how the job ended."""
    middle = st.one_of(deltas().map(lambda data: (Kind.DELTA, data)), st.just((Kind.REQUEUED, {})))
    events: list[tuple[Kind, dict[str, Any]]] = [(Kind.QUEUED, {}), (Kind.STARTED, {"attempt": 1})]
    for kind, data in draw(st.lists(middle, max_size=12)):
        events.append((kind, data))
        if kind is Kind.REQUEUED:
            events.append((Kind.STARTED, {}))
    state = draw(st.sampled_from([State.COMPLETED, State.INCOMPLETE, State.FAILED, State.CANCELLED]))
    events.append((Kind(state.value), {}))
    said = {name: "".join(data.get(name, "") for _, data in events) for name in ("text", "reasoning")}
    calls = CALLS[: draw(st.integers(0, 2))] if state is State.COMPLETED else []
    result = {"text": said["text"], "reasoning": said["reasoning"], "tool_calls": calls, "usage": USAGE}
    outcome = {
        State.FAILED: Outcome(state, error=ClientError("worker_killed", "it died").body()),
        State.CANCELLED: Outcome(state),
    }.get(state, Outcome(state, result))
    return [LoggedEvent(number, *event) for number, event in enumerate(events, 1)], outcome


@given(histories(), NOTES, st.data())
def test_a_stream_cut_anywhere_goes_on_where_it_was(
    history: tuple[list[LoggedEvent], Outcome], note: ResponseNote, data: st.DataObject
) -> None:
    """At another process too: it reads the log from the beginning and leaves out what was seen."""
    log, outcome = history
    whole = streamed(log, outcome, note)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    cut = data.draw(st.integers(0, len(log) - 1))
    before = streamed(log[:cut], None, note)
    assert before == whole[: len(before)]
    after = data.draw(st.integers(-1, max(-1, len(before) - 1)))
    rest = [event for event in streamed(log, outcome, note) if event["sequence_number"] > after]
    assert whole[: after + 1] + rest == whole


@given(histories(), NOTES)
def test_the_end_is_what_the_stream_made(
    history: tuple[list[LoggedEvent], Outcome], note: ResponseNote
) -> None:
    """Every item is closed as it is in the response; a response fetched later is the one of the last event."""
    log, outcome = history
    events = streamed(log, outcome, note)
    last = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert done == last["output"]
    assert added == list(range(len(done)))
    assert last == response(record(outcome), note, log)
    deltas: dict[str, str] = {}
    for event in events:
        if event["type"].endswith("_text.delta"):
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
    said = {item["id"]: item["content"][0]["text"] for item in done if "content" in item}
    assert deltas == said
    if outcome.result is not None and not outcome.result["tool_calls"]:
        text = "".join(item["content"][0]["text"] for item in done if item["type"] == "message")
        whole = outcome.result["text"]
        assert whole.startswith(text)
        assert text.strip() == whole.strip()


@settings(deadline=None)
@given(histories(), NOTES)
def test_openais_client_follows(history: tuple[list[LoggedEvent], Outcome], note: ResponseNote) -> None:
    """Its own account of the stream objects to nothing, and ends with the same text."""
    log, outcome = history
    account: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    events = ResponseEvents(record(), note, lambda: record(outcome))
    made = [event for each in log for event in events.take(each)]
    for event in made:
        account.handle_event(construct_type(type_=ResponseStreamEvent, value=event))  # type: ignore[arg-type]
    final = account._completed_response
    assert (final is not None) == (outcome.state is State.COMPLETED)
    if final is not None:
        output = made[-1]["response"]["output"]
        assert [item.type for item in final.output] == [item["type"] for item in output]
