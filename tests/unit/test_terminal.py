"""What the command prints, and where."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.errors import ClientError, TidegateError
from tidegate.slowness import telling
from tidegate.sse import ServerSentEvent
from tidegate.terminal import Terminal, printable, summary


def event(name: str, **data: Any) -> ServerSentEvent:
    """An event as the API sends it."""
    return ServerSentEvent(name, json.dumps(data), None)


def test_an_answer_is_on_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be piped; markup in it is text."""
    events = [
        event("started"),
        event("delta", text="[bold]Pa"),
        event("delta", text="ris."),
        event("completed", id="x"),
    ]
    assert Terminal().answer(events) == {"id": "x"}
    assert capsys.readouterr() == ("[bold]Paris.\n", "")


def test_a_long_answer_is_not_broken_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is piped is the text as it came."""
    Terminal().answer([event("delta", text="word " * 100), event("completed", id="x")])
    assert capsys.readouterr().out == "word " * 100 + "\n"


def test_an_answer_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of the break stands on a line of its own, and not in the answer."""
    terminal = Terminal()

    def breaking() -> Iterator[ServerSentEvent]:
        yield event("delta", text="Pa")
        terminal.note("connection lost")
        raise TidegateError

    with pytest.raises(TidegateError):
        terminal.answer(breaking())
    assert capsys.readouterr() == ("Pa\n", "connection lost\n")


def test_a_slow_answer_is_explained_once() -> None:
    """Not one that comes at once; being queued is no answer."""
    told = threading.Event()

    def slow() -> Iterator[ServerSentEvent]:
        yield event("queued")
        assert told.wait(10)
        yield event("delta", text="Pa")

    assert [each.name for each in telling(slow(), 0.01, told.set)] == ["queued", "delta"]
    told.clear()
    list(telling([event("delta", text="Paris")], 60.0, told.set))
    assert not told.is_set()


def test_a_failed_job_is_an_error() -> None:
    """With its code, as over HTTP."""
    failed = event("failed", id="x", status="failed", error={"code": "insufficient_memory", "message": "no"})
    with pytest.raises(ClientError) as caught:
        Terminal().answer([failed])
    assert caught.value.code == "insufficient_memory"


def test_a_cancelled_job_is_an_error() -> None:
    """There is no answer to go on with."""
    with pytest.raises(TidegateError, match="job_1 was cancelled"):
        Terminal().answer([event("cancelled", id="job_1", status="cancelled")])


def test_text_cannot_command_the_terminal() -> None:
    """A model's output, or a job's model name, may hold escape sequences."""
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9bd é🗼") == "a[2Jb\n\tcd é🗼"


def test_jobs_are_listed_with_what_they_made(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a job, however long a name is."""
    job = {
        "id": "job_1",
        "status": "completed",
        "model": "org/" + "m" * 90,
        "priority": "batch",
        "created_at": 0,
    }
    Terminal().jobs([job | {"result": {"usage": {"completion_tokens": 17}}}, job | {"result": None}])
    _, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (first[0], first[-1]) == ("job_1", "17")
    assert second[-1] == "-"


def test_a_summary_says_how_long_it_took() -> None:
    """Waiting and running apart."""
    times = {"created_at": 10.0, "started_at": 10.5, "completed_at": 12.0}
    result = {"usage": {"completion_tokens": 8}}
    assert (
        summary({"status": "completed", "result": result, **times})
        == "completed, 8 tokens, waited 0.5 s, ran 1.5 s"
    )
