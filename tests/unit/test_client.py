"""The command's HTTP client, against a stand-in that answers as scripted."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from scheduler.errors import ClientError, SettingsInvalid
from tidegate import client as client_module
from tidegate.client import Client
from tidegate.command import main
from tidegate.failures import ApiUnreachable, UrlInvalid
from tidegate.reconnecting import Outage

DELTA = b'id: %d\nevent: delta\ndata: {"text": "%s"}\n\n'
COMPLETED = b'id: 9\nevent: completed\ndata: {"id": "job_1", "status": "completed"}\n\ndata: [DONE]\n\n'


@dataclass
class Script:
    """Answers to give, in order, and the requests that were seen."""

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def script() -> Iterator[Script]:
    """A server that plays a script."""
    played = Script()

    class Handler(BaseHTTPRequestHandler):
        def _play(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            played.seen.append((self.command, self.path, self.headers.get("Last-Event-ID")))
            played.keys.append(self.headers.get("Authorization"))
            status, body = played.answers.pop(0) if played.answers else (503, error("store_unavailable"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _play  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        played.url = f"http://127.0.0.1:{server.server_port}"
        yield played
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "Outage", partial(Outage, first_seconds=0.0))


def error(code: str, **fields: Any) -> bytes:
    """The API's error body."""
    return json.dumps({"error": {"code": code, "message": "because", "param": None, **fields}}).encode()


def test_a_stream_ends_with_its_terminal_event(script: Script) -> None:
    """`[DONE]` and what might follow are not waited for."""
    script.answers = [(200, DELTA % (1, b"Paris") + COMPLETED)]
    with Client(script.url) as client:
        events = list(client.stream("job_1"))
    assert [event.name for event in events] == ["delta", "completed"]
    assert script.seen == [("GET", "/v1/jobs/job_1/stream", None)]


def test_a_stream_that_breaks_goes_on_after_the_last_event(script: Script) -> None:
    """Nothing is lost and nothing comes twice."""
    script.answers = [
        (200, DELTA % (1, b"Pa") + b"id: 2\nevent: del"),
        (200, DELTA % (2, b"ris") + COMPLETED),
    ]
    with Client(script.url) as client:
        events = list(client.stream("job_1"))
    assert "".join(event.json().get("text", "") for event in events) == "Paris"
    assert [last_event_id for _, _, last_event_id in script.seen] == [None, "1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("models",),
            {"data": [{"id": "m", "object": "model"}]},
        ),  # as other servers of OpenAI's paths list them
        (("models", "--json"), {"data": [3]}),
        (("models", "show"), {"workers": 5}),
        (("jobs", "--json"), {"object": "list"}),
        (("jobs",), {"data": [None]}),
        (("submit", "--model", "m", "--json", "hi"), {"object": "text_completion"}),
        (("retry", "job_1", "--wait"), {}),
    ],
)
def test_another_servers_json_is_told_from_ours(script: Script, words: tuple[str, ...], said: Any) -> None:
    """One line that asks whether it is tidegate, and no traceback; with ``--json`` an error object."""
    script.answers = [(200, json.dumps(said).encode())]
    done = CliRunner().invoke(main, ["--url", script.url, *words])
    assert (done.exit_code, "is it tidegate?" in done.stderr) == (1, True)
    if "--json" in words:
        assert json.loads(done.stdout)["error"]["code"] == "api_unreachable"


def test_a_cancelled_jobs_status_commands_no_terminal(script: Script) -> None:
    """Whatever answers."""
    script.answers = [(200, b'{"status": "\\u001b]0;x\\u0007"}')]
    done = CliRunner().invoke(main, ["--url", script.url, "cancel", "job_1"])
    assert done.exit_code == 0
    assert "\x1b" not in done.output


def test_a_stream_waits_out_a_store_that_is_away(script: Script) -> None:
    """An error that a retry can mend is retried."""
    script.answers = [(503, error("store_unavailable")), (200, COMPLETED)]
    with Client(script.url) as client:
        assert [event.name for event in client.stream("job_1")] == ["completed"]


def test_a_stream_that_keeps_breaking_is_given_up(script: Script) -> None:
    """When patience ends; one word of it before, and the message says how to go on."""
    lost: list[int] = []
    script.answers = [(200, b": nothing\n\n")] * 6
    with (
        Client(script.url, patience_seconds=0.1) as client,
        pytest.raises(ApiUnreachable, match="because; follow the job with `tidegate stream job_1`"),
    ):
        list(client.stream("job_1", on_loss=lambda: lost.append(len(script.seen))))
    assert lost == [1]
    assert len(script.seen) > 6


def test_a_stream_outlasts_an_api_that_is_started_anew(script: Script) -> None:
    """More breaks than one would try in a hurry; each outage is told of once."""
    lost: list[int] = []
    away = [(503, error("store_unavailable"))] * 12
    script.answers = [(200, DELTA % (1, b"Pa")), *away, (200, DELTA % (2, b"ris")), *away, (200, COMPLETED)]
    with Client(script.url) as client:
        events = list(client.stream("job_1", on_loss=lambda: lost.append(len(script.seen))))
    assert [event.name for event in events] == ["delta", "delta", "completed"]
    assert lost == [1, 14]


def test_an_outage_that_a_stream_tells_of_is_waited_out(script: Script) -> None:
    """An event that is no job's, and `[DONE]`, which is not JSON."""
    outage = b'event: error\ndata: {"error": {"code": "store_unavailable"}}\n\ndata: [DONE]\n\n'
    script.answers = [(200, outage), (200, COMPLETED)]
    with Client(script.url) as client:
        assert [event.name for event in client.stream("job_1")] == ["error", "completed"]


@pytest.mark.parametrize("before", [[], [(200, DELTA % (1, b"Pa"))]], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((b"completed", data) for data in (b"{", b"[" * 100_000, b"[]", b"{}", b'{"id": "job_1"}')),
        *((b"delta", data) for data in (b"{", b"[" * 100_000, b"[]", b"null")),
    ],
)
def test_an_event_that_is_none_of_ours_is_told_from_one(
    script: Script, name: bytes, data: bytes, before: list[tuple[int, bytes]]
) -> None:
    """Whatever it is and whenever it comes: one line, no traceback, and no more tries."""
    script.answers = [*before, *[(200, b"event: %b\ndata: %b\n\n" % (name, data))] * 2]
    with Client(script.url) as client, pytest.raises(ApiUnreachable, match="is it tidegate"):
        list(client.stream("job_1"))
    assert len(script.seen) == len(before) + 1


def test_a_stream_from_nowhere_is_not_waited_for() -> None:
    """An API that never answered is not one that went away."""
    with Client("http://127.0.0.1:1") as client, pytest.raises(ApiUnreachable, match="tidegate up"):
        list(client.stream("job_1"))


def test_tries_come_less_and_less_often_for_a_minute() -> None:
    """The pauses double up to five seconds; what comes in between starts them anew."""
    now = 0.0
    outage, pauses = Outage(60.0, lambda: now), []
    while (pause := outage.pause()) is not None:
        pauses.append(pause)
        now += pause
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert now == 60.0
    outage.over()
    assert outage.pause() == 0.5


def test_unfinished_jobs_are_counted_once(script: Script) -> None:
    """One that begins between two looks is in both."""
    script.answers = [
        (200, json.dumps({"data": [{"id": each} for each in ids]}).encode()) for ids in ("ab", "bc")
    ]
    with Client(script.url) as client:
        assert client.unfinished() == 3
    assert [path.partition("status=")[2] for _, path, _ in script.seen] == ["queued", "in_progress"]


def test_jobs_are_sought_on_until_there_are_enough(script: Script) -> None:
    """A page may be short, or empty, though more follow; what is there already is not asked for again."""
    pages = [("", "job_9"), ("ab", "job_5"), ("c", "job_2")]
    script.answers = [
        (
            200,
            json.dumps(
                {"data": [{"id": each} for each in ids], "has_more": True, "next_cursor": at}
            ).encode(),
        )
        for ids, at in pages
    ]
    with Client(script.url) as client:
        assert [job["id"] for job in client.jobs(limit=3, status="failed")] == ["a", "b", "c"]
    asked = [dict(parse_qsl(urlsplit(path).query)) for _, path, _ in script.seen]
    first = {"limit": "3", "status": "failed"}
    assert asked == [first, first | {"after": "job_9"}, first | {"after": "job_5", "limit": "1"}]


@pytest.mark.parametrize("url", ["nonsense", "127.0.0.1:8400", "localhost:8400", "http://", "http://h:x"])
def test_what_is_no_url_is_said_to_be_none(url: str) -> None:
    """Nothing that is started would answer there."""
    with pytest.raises(UrlInvalid, match="not a URL"):
        Client(url)


def test_a_stream_of_no_job_is_an_error(script: Script) -> None:
    """404 is not retried."""
    script.answers = [(404, error("not_found"))]
    with Client(script.url) as client, pytest.raises(ClientError) as caught:
        list(client.stream("job_1"))
    assert caught.value.code == "not_found"


def test_an_error_body_becomes_the_error_it_says(script: Script) -> None:
    """Code, message and when to come back."""
    script.answers = [(503, error("queue_full", retry_after=7))]
    with Client(script.url) as client, pytest.raises(ClientError, match="because") as caught:
        client.submit({"model": "m", "prompt": "p"})
    assert (caught.value.code, caught.value.retry_after) == ("queue_full", 7)


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, b"[]"), (502, b"<html>"), (404, b'{"detail": 1}')]
)
def test_another_server_is_told_from_tidegate(script: Script, answer: tuple[int, bytes]) -> None:
    """The port may be somebody else's."""
    script.answers = [answer]
    with Client(script.url) as client, pytest.raises(ApiUnreachable):
        client.workers()


def test_nothing_there_is_said_so() -> None:
    """With what would start it."""
    with Client("http://127.0.0.1:1") as client:
        assert not client.ready()
        with pytest.raises(ApiUnreachable, match="tidegate up"):
            client.workers()


def test_ready_is_what_readyz_says(script: Script) -> None:
    """200 and nothing else."""
    script.answers = [(503, b"{}"), (200, b"{}")]
    with Client(script.url) as client:
        assert [client.ready(), client.ready()] == [False, True]


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8400", True),
        ("http://localhost:8400", True),
        ("http://[::1]:8400", True),
        ("http://10.0.0.7:8400", False),
        ("https://queue.example", False),
    ],
)
def test_a_proxy_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch, url: str, here: bool) -> None:
    """A proxy's loopback is another machine's."""
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with Client(url) as client:
        assert client._http.trust_env is not here


def test_a_key_is_sent_with_every_request(script: Script) -> None:
    """As a bearer token, to a stream too; without one nothing is sent."""
    script.answers = [(200, b"{}"), (200, COMPLETED), (200, b"{}")]
    with Client(script.url, key=SecretStr("tg-abc")) as client:
        client.cancel("job_1")
        list(client.stream("job_1"))
    with Client(script.url) as client:
        client.cancel("job_1")
    assert script.keys == ["Bearer tg-abc", "Bearer tg-abc", None]


@pytest.mark.parametrize("token", ["tg-ab\n", "two words", "schlüssel"])
def test_what_cannot_be_a_key_is_not_said_again(token: str) -> None:
    """The variable is named, its value is not."""
    with pytest.raises(SettingsInvalid, match="TIDEGATE_API_KEY") as caught:
        Client("http://127.0.0.1:1", key=SecretStr(token))
    assert token not in str(caught.value)


def test_a_job_is_asked_for_again_and_followed(script: Script) -> None:
    """`tidegate retry`: the new job's id, or its answer."""
    accepted = (202, b'{"id": "job_2", "status": "queued"}')
    script.answers = [accepted, accepted, (200, DELTA % (1, b"hi") + COMPLETED)]
    new = CliRunner().invoke(main, ["--url", script.url, "retry", "job_1"])
    answered = CliRunner().invoke(main, ["--url", script.url, "retry", "job_1", "--stream"])
    assert (new.exit_code, new.stdout) == (0, "job_2\n")
    assert (answered.exit_code, answered.stdout) == (0, "hi\n")
    assert [seen[:2] for seen in script.seen] == [
        ("POST", "/v1/jobs/job_1/retry"),
        ("POST", "/v1/jobs/job_1/retry"),
        ("GET", "/v1/jobs/job_2/stream"),
    ]
