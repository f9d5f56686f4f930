"""The API under gunicorn and gevent: streams that live, clients that leave, and the official client."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from redis import Redis

from api.schemas import ErrorAnswer
from scheduler.events import STEPS_CHANNEL
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from tests.conftest import MODEL
from tests.contract.served import SECRET
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.client import Client

CHAT = "/v1/chat/completions"


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """An ordinary client."""
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        yield client


def state(lifecycle: Lifecycle) -> State | None:
    """The state of the newest job."""
    records = lifecycle.page(limit=1).records
    return records[0].state if records else None


def chatting(text: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@contextmanager
def waiting(url: str, text: str) -> Iterator[None]:
    """A client that has asked and reads nothing; it leaves with the block."""
    body = json.dumps({"model": MODEL, "messages": chatting(text)}).encode()
    host, port = httpx.URL(url).host, httpx.URL(url).port
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, port)) as client:
        client.sendall(head.encode() + body)
        yield


def test_the_official_client_gets_an_answer(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Waiting, with the usage, and the list of models."""
    with worker.answering():
        said = sdk.chat.completions.create(model=MODEL, messages=chatting("a b"))
    assert said.choices[0].message.content == "a b "
    assert said.usage is not None
    assert said.usage.total_tokens == 10
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).owned_by == "tidegate"


def test_the_official_client_gets_a_stream(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Piece by piece, with the usage last."""
    with worker.answering():
        stream = sdk.chat.completions.create(
            model=MODEL, messages=chatting("a b c"), stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "a b c "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10


def test_the_official_asynchronous_client_gets_both(url: str, worker: PretendWorker) -> None:
    """Twenty at once, half of them streams."""

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as sdk:

            async def wait(number: int) -> str:
                said = await sdk.chat.completions.create(model=MODEL, messages=chatting(f"w {number}"))
                return said.choices[0].message.content or ""

            async def stream(number: int) -> str:
                said = await sdk.chat.completions.create(
                    model=MODEL, messages=chatting(f"s {number}"), stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in said])

            return await asyncio.gather(*(wait(n) for n in range(10)), *(stream(n) for n in range(10)))

    with worker.answering():
        assert asyncio.run(ask()) == [f"{way} {number} " for way in "ws" for number in range(10)]


def test_errors_are_those_that_the_official_client_names(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """By status; a stream that fails in the middle raises too."""
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="other", messages=chatting("a"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=MODEL, messages=chatting("a"), n=9)
    assert bad.value.param == "n"
    with worker.answering():
        with pytest.raises(openai.InternalServerError) as failed:
            sdk.chat.completions.create(model=MODEL, messages=chatting("fail"))
        assert (failed.value.status_code, failed.value.code) == (503, "insufficient_memory")
        assert failed.value.response.headers["Retry-After"] == "1"
        with pytest.raises(openai.APIError) as broken:
            list(sdk.chat.completions.create(model=MODEL, messages=chatting("break"), stream=True))
        assert broken.value.code == "insufficient_memory"


def test_a_waiting_client_that_leaves_cancels_its_job(
    url: str, worker: PretendWorker, lifecycle: Lifecycle
) -> None:
    """The connection is looked at while nothing happens."""
    with worker.answering():
        with waiting(url, "stall"):
            wait_until(lambda: state(lifecycle) is State.IN_PROGRESS, "the job runs")
        wait_until(lambda: state(lifecycle) is State.CANCELLED, "cancelled")


def test_a_waiting_client_that_leaves_is_missed_though_its_job_talks(
    url: str, worker: PretendWorker, lifecycle: Lifecycle
) -> None:
    """Events that come faster than silence do not keep the server from looking."""
    with waiting(url, "talk"):
        wait_until(lambda: state(lifecycle) is State.QUEUED, "the job waits")
        held = worker.claim()

    def talk() -> bool:
        worker.say(held, "a ")
        return worker.cancel_wanted(held)

    wait_until(talk, "cancelled", 5)
    worker.end(held, Outcome(State.CANCELLED))


def test_a_client_that_leaves_its_stream_cancels_its_job(
    sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle
) -> None:
    """Also where the job says nothing any more."""
    with worker.answering():
        with sdk.chat.completions.create(model=MODEL, messages=chatting("stall"), stream=True) as stream:
            next(iter(stream))
        wait_until(lambda: state(lifecycle) is State.CANCELLED, "cancelled")


def test_a_client_that_leaves_a_jobs_stream_does_not(
    http: httpx.Client, worker: PretendWorker, lifecycle: Lifecycle, connection: Redis
) -> None:
    """A job submitted as a job is a background job: the stream is let go, the job goes on."""
    body = {"model": MODEL, "prompt": "a", "stream": True}
    with http.stream("POST", "/v1/jobs", json=body) as answer:
        next(answer.iter_bytes())
    job_id = answer.headers["Location"].rpartition("/")[2]
    held = worker.claim()
    worker.say(held, "a ")
    worker.complete(held, "a ")
    assert lifecycle.get(job_id).state is State.COMPLETED


def test_a_hundred_streams_have_one_reader(url: str, worker: PretendWorker, connection: Redis) -> None:
    """One subscription in the process, and every stream whole; the tidegate command reads them."""
    with Client(url) as client:
        jobs = [client.submit({"model": MODEL, "prompt": "a b c"})["id"] for _ in range(5)]

    def follow(number: int) -> str:
        with Client(url) as each:
            events = each.stream(jobs[number % 5])
            return "".join(event.json()["text"] for event in events if event.name == "delta")

    with ThreadPoolExecutor(100) as pool:
        streams = [pool.submit(follow, number) for number in range(100)]
        wait_until(lambda: connection.pubsub_numsub(STEPS_CHANNEL)[0][1], "the reader listens")
        assert connection.pubsub_numsub(STEPS_CHANNEL)[0][1] == 1
        with worker.answering():
            assert [stream.result(20) for stream in streams] == ["a b c "] * 100


def test_twenty_jobs_at_once_by_waiting(http: httpx.Client, worker: PretendWorker) -> None:
    """`Prefer: wait` holds each until its end."""

    def ask(number: int) -> str:
        body = {"model": MODEL, "prompt": f"{number}"}
        return str(http.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"}).json()["result"]["text"])

    with worker.answering(), ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == [f"{number} " for number in range(20)]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(http: httpx.Client, connection: Redis, chunked: bool) -> None:
    """413, whether or not its length was declared; the connection can be used again."""
    body = json.dumps({"model": MODEL, "prompt": "a"}).encode() + b" " * 200_000
    content = iter([body[:100_000], body[100_000:]]) if chunked else body
    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        "GET /v1/jobs?model=%s HTTP/1.1" % ("x" * 9000),
        "GET /v1/jobs",
        f"GET / HTTP/1.1\r\nAuthorization {SECRET}",
    ],
    ids=["long", "short", "header"],
)
def test_what_is_no_request_is_refused_in_the_one_form(url: str, lines: str) -> None:
    """400 and the one body, rather than the server's own page, though no route is reached."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10) as connection:
        connection.sendall(f"{lines}\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = said.partition("\r\n\r\n")
    error = ErrorAnswer.model_validate_json(body).error
    assert (head.splitlines()[0], error.code) == ("HTTP/1.1 400 Bad Request", "invalid_request")
    assert {"x-should-retry: false", "Content-Type: application/json"} <= set(head.splitlines())
    assert "\r\nx-request-id: req_" in head


def test_a_body_in_broken_chunks_is_refused(url: str) -> None:
    """It is the client's fault, not the server's: a 400, which is not tried again, and no alarm in the log."""
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10) as connection:
        connection.sendall(f"{head}\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = said.partition("\r\n\r\n")
    assert (head.split()[1], ErrorAnswer.model_validate_json(body).error.code) == ("400", "invalid_request")
    assert "x-should-retry: false" in head


def test_a_refused_body_that_goes_on_leaves_others_their_turns(url: str, http: httpx.Client) -> None:
    """It is read to its end for its sender's sake, in turns: others are not kept waiting for as long as it comes."""
    head = f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {60 << 20}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=20) as connection:

        def send() -> None:
            connection.sendall(head.encode() + bytes(60 << 20))

        http.get("/healthz")
        sending, waits = threading.Thread(target=send), list[float]()
        sending.start()
        began = time.monotonic()
        while sending.is_alive():
            asked = time.monotonic()
            assert http.get("/healthz").status_code == 200
            waits.append(time.monotonic() - asked)
        assert max(waits) < (time.monotonic() - began) / 2
        assert connection.recv(12) == b"HTTP/1.1 404"


def test_a_list_may_have_long_filters(http: httpx.Client) -> None:
    """Longer than gunicorn reads by default."""
    assert http.get("/v1/jobs", params={f"metadata[{at}]": "x" * 500 for at in range(12)}).status_code == 200
