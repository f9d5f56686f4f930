"""The table of what each route does: how an answer is put into words, and that the page has every question."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from api.batch_schemas import BatchRequest
from api.chat_request import ChatRequest
from api.completion_request import CompletionRequest
from api.response_request import ResponseRequest
from benchmarks.compatibility import PAGE, PROBES, Row, table
from benchmarks.probing import CLOSED, IGNORED, SILENT, YES, Probe, Server, put, refused, words
from scheduler.request import JobRequest


def named(param: str | None, message: str = "wrong") -> httpx.Response:
    """A refusal."""
    return httpx.Response(
        400, json={"error": {"message": message, "param": param, "code": "invalid_request"}}
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, json={"n": 2}), YES),
        (httpx.Response(200, json={"n": 1}), IGNORED),
        (httpx.Response(200, json={}), IGNORED),
        (httpx.Response(200, text="no JSON"), IGNORED),
        (named("n"), "400, names the field"),
        (named("n.0"), "400, names the field"),
        (named(None, "n must be 1"), "400, names the field"),
        (named("model"), "400"),
        (httpx.Response(400, json={"error": "n is wrong"}), "400, names the field"),
        (httpx.Response(404, text="Not Found"), "404"),
        (httpx.Response(503, json={}), "503"),
    ],
)
def test_an_answer_is_put_into_words(answer: httpx.Response, said: str) -> None:
    """What shows what was asked for is a yes; a refusal says whether it names the field."""
    assert words(answer, "n", lambda body: body["n"] == 2) == said


def test_a_refusal_must_have_an_error_object() -> None:
    """Its status alone is not enough, and neither is another code."""
    missing = {"error": {"code": "model_not_found"}}
    assert refused(404, "model_not_found")(httpx.Response(404, json=missing)) == YES
    assert refused(404, "not_found")(httpx.Response(404, json=missing)) == "other: 404"
    assert refused(404)(httpx.Response(404, text="Not Found")) == "other: 404, without an error object"
    assert refused(404)(httpx.Response(200, json={})) == "other: 200, without an error object"


@pytest.mark.parametrize(
    ("error", "said"),
    [(httpx.ReadTimeout("late"), SILENT), (httpx.RemoteProtocolError("gone"), CLOSED)],
)
def test_a_server_that_does_not_answer_is_told_too(error: Exception, said: str) -> None:
    """Silence and a closed connection are results."""

    def ask(server: Server) -> str:
        raise error

    with httpx.Client() as http:
        assert put(Probe("/", "", "", ask), Server(http, "m", lambda: 0.0)) == said


def test_the_page_has_every_question() -> None:
    """In the order of the probes, each with what is right, and two results."""
    page = PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    asked = [row for row in rows if row[0] != "| asked"]
    assert [(row[0].removeprefix("| "), row[1]) for row in asked] == [
        (each.name, each.right) for each in PROBES
    ]
    assert all(len(row) == 4 for row in asked)


ASKED_IN_WORDS = {"model", "messages", "input", "input_file_id", "endpoint", "completion_window"}
"""An unknown model, parts of text, a response; without the last three there is no batch."""

NOT_SHOWN = {
    "max_attempts",  # seen where an engine dies
}


def test_every_field_of_a_request_has_a_question() -> None:
    """On its own route or on another that reads it alike."""
    asked = {name for probe in PROBES for name in re.findall(r"[a-z_]+", f"{probe.name} {probe.right}")}
    fields = {
        name
        for model in (JobRequest, ChatRequest, CompletionRequest, ResponseRequest, BatchRequest)
        for name in model.model_fields
    }
    assert fields - asked == NOT_SHOWN | (ASKED_IN_WORDS - asked)


def test_a_table_is_made_for_each_route() -> None:
    """With the servers' names above their results."""
    ask: Callable[[Server], str] = lambda _: ""  # noqa: E731 (never called)
    rows = [Row(Probe("/a", "x", "y", ask), ("yes", "404")), Row(Probe("any", "z", "w", ask), ("1", "2"))]
    made = table(["one", "two"], rows)
    assert "### `/a`\n\n| asked | right is | one | two |\n|---|---|---|---|\n| x | y | yes | 404 |" in made
    assert made.endswith(
        "### Any route\n\n| asked | right is | one | two |\n|---|---|---|---|\n| z | w | 1 | 2 |"
    )
