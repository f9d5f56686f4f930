"""The queue's server is away, in every way that it can be: what the API answers, and what becomes of its streams."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.store import COMMAND_SECONDS, SILENT_SECONDS, connect
from scheduler.settings import load
from tests.batching import jsonl, line
from tests.conftest import MODEL
from tests.contract.served import serve
from tests.outages import READING, SILENT, Server, server
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.sse import EventReader

FAR_SECONDS: Final = 6.0
"""What a machine that is busy with other things may add to a second; without a bound it would be many."""

_NO_TLS: Final = ssl.create_default_context()  # made once: it takes longer than an answer

M: Final = {"model": MODEL}
CHAT: Final = M | {"messages": [{"role": "user", "content": "x"}]}
PROMPT: Final = M | {"prompt": "a"}
INPUT: Final = M | {"input": "x"}
BATCH: Final = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request."""

    method: str
    path: str
    sent: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """For a test that fails."""
        return f"{self.method} {self.path} {self.sent}"


@dataclass(frozen=True, slots=True)
class House:
    """A server, the API before it, and a thing of each kind there."""

    server: Server
    url: str
    reads: tuple[Call, ...]
    writes: tuple[Call, ...]

    def ask(self, call: Call) -> tuple[httpx.Response, float]:
        """An answer, and the seconds that it took; of a stream that is opened, nothing is read."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=_NO_TLS) as http:
            began = time.monotonic()
            with http.stream(call.method, call.path, **call.sent) as answer:
                took = time.monotonic() - began
                if answer.status_code != 200:
                    answer.read()
                return answer, took

    def unavailable(self, calls: tuple[Call, ...]) -> float:
        """Every call is answered by 503 `store_unavailable`, with when to come back; the longest took so many seconds."""
        with ThreadPoolExecutor(len(calls)) as clients:
            answers = list(clients.map(self.ask, calls))
        for call, (answer, _) in zip(calls, answers, strict=True):
            assert answer.status_code == 503, (str(call), answer.status_code)
            assert answer.json()["error"]["code"] == "store_unavailable", str(call)
            assert answer.json()["error"]["retry_after"] == int(answer.headers["Retry-After"]) > 0
        return max(took for _, took in answers)

    def readable(self) -> None:
        """What is there is answered."""
        for call in self.reads:
            if "wait=" not in call.path:
                assert self.ask(call)[0].status_code in {200, 202}, str(call)

    def until_ready(self) -> None:
        """The API is ready again, by itself."""
        wait_until(lambda: self.ask(Call("GET", "/readyz"))[0].status_code == 200, "the API", 20)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all."""
    folder = tmp_path_factory.mktemp("away")
    with server(folder) as away, serve(away.url, folder) as url, httpx.Client(base_url=url) as http:
        job = http.post("/v1/jobs", json=PROMPT).json()["id"]
        response = http.post("/v1/responses", json=INPUT | {"background": True}).json()["id"]
        upload = {"files": {"file": ("a.jsonl", jsonl(line(1)))}, "data": {"purpose": "batch"}}
        file = http.post("/v1/files", **upload).json()["id"]
        batch = http.post("/v1/batches", json=BATCH | {"input_file_id": file}).json()["id"]
        reads = [
            *("/readyz", "/v1/capacity", "/v1/jobs", "/v1/jobs?status=queued", "/v1/files", "/v1/batches"),
            *(
                f"/v1/jobs/{job}",
                f"/v1/jobs/{job}?wait=5",
                f"/v1/jobs/{job}/result",
                f"/v1/jobs/{job}/stream",
            ),
            *(f"/v1/responses/{response}", f"/v1/responses/{response}?stream=true"),
            *(f"/v1/responses/{response}/input_items", f"/v1/batches/{batch}"),
            *(f"/v1/files/{file}", f"/v1/files/{file}/content", "/v1/models", f"/v1/models/{MODEL}"),
        ]
        made = [
            ("/v1/jobs", PROMPT),
            ("/v1/jobs", PROMPT | {"stream": True}),
            ("/v1/jobs", PROMPT | {"on_insufficient_memory": "fail"}),
            ("/v1/chat/completions", CHAT),
            ("/v1/chat/completions", CHAT | {"stream": True}),
            ("/v1/chat/completions", CHAT | {"n": 2}),
            ("/v1/completions", PROMPT),
            ("/v1/completions", PROMPT | {"stream": True}),
            ("/v1/responses", INPUT),
            ("/v1/responses", INPUT | {"stream": True}),
            ("/v1/responses", INPUT | {"background": True}),
            ("/v1/batches", BATCH | {"input_file_id": file}),
        ]
        writes = [
            *(Call("POST", path, {"json": body}) for path, body in made),
            Call("POST", "/v1/jobs", {"json": PROMPT, "headers": {"Prefer": "wait=5"}}),
            Call("POST", "/v1/jobs", {"json": PROMPT, "headers": {"Idempotency-Key": "k"}}),
            Call("POST", "/v1/files", upload),
            Call("POST", f"/v1/jobs/{job}/cancel"),
            Call("POST", f"/v1/responses/{response}/cancel"),
            Call("POST", f"/v1/batches/{batch}/cancel"),
            *(
                Call("DELETE", path)
                for path in (f"/v1/jobs/{job}", f"/v1/responses/{response}", f"/v1/files/{file}")
            ),
        ]
        yield House(away, url, tuple(Call("GET", path) for path in reads), tuple(writes))


@pytest.mark.parametrize("how", SILENT)
def test_a_server_that_is_away_is_told_on_every_route(house: House, how: str) -> None:
    """All routes at once, streams and waits among them; then the API is back by itself, and forgot nothing."""
    models = [call for call in house.reads if "/models" in call.path]
    with SILENT[how](house.server):
        time.sleep(1)  # what was known of keys and of workers is old
        calls = tuple(call for call in (*house.reads, *house.writes) if call not in models)
        assert house.unavailable(calls) < FAR_SECONDS
        house.unavailable(tuple(models))
        assert house.ask(Call("GET", "/healthz"))[0].status_code == 200
    house.until_ready()
    house.readable()


@pytest.mark.parametrize("how", READING)
def test_a_server_that_takes_no_writes_is_read_and_accepts_nothing(house: House, how: str) -> None:
    """What is there can be read; what would be written is refused until the server takes it."""
    with httpx.Client(base_url=house.url) as http:
        waiting = http.get("/v1/capacity").json()["queue"]["jobs"]
        names = house.server.connection.sadd("tidegate:workers", "gone")  # who reads the fleet takes it out
        assert names == 1
        with READING[how](house.server):
            time.sleep(1)
            house.readable()
            asking = [call for call in house.writes if call.path in {"/v1/jobs", "/v1/chat/completions"}]
            refused = tuple(call for call in asking if "on_insufficient_memory" not in call.sent["json"])
            assert len(refused) == 7
            assert house.unavailable(refused) < FAR_SECONDS
            assert how == "full" or house.server.connection.sismember(
                "tidegate:workers", "gone"
            )  # it lets go of what it has
        house.until_ready()
        wait_until(
            lambda: not house.server.connection.sismember("tidegate:workers", "gone"), "a fleet that is read"
        )
        assert http.get("/v1/capacity").json()["queue"]["jobs"] == waiting


@pytest.mark.parametrize("how", ["refused", "frozen", "loading"])
def test_an_open_stream_goes_on_where_it_was(house: House, how: str) -> None:
    """It stays open while the server is away, and has every event once."""
    worker = PretendWorker(house.server.connection)
    worker.report()
    reader, events = EventReader(), []
    with httpx.Client(base_url=house.url, timeout=30) as http:
        job = http.post("/v1/jobs", json=PROMPT | {"priority": "interactive"}).json()["id"]
        held = worker.claim(job)
        with http.stream("GET", f"/v1/jobs/{job}/stream") as answer:
            pieces = answer.iter_raw()
            worker.say(held, "before ")
            while not any(event.name == "delta" for event in events):
                events += reader.feed(next(pieces))
            with SILENT[how](house.server):
                assert house.ask(Call("GET", "/readyz"))[0].status_code == 503
            worker.say(held, "after ")
            worker.complete(held, "before after ")
            for piece in pieces:
                events += reader.feed(piece)
    numbered = [event for event in events if event.name != "message"]
    assert [event.id for event in numbered] == [str(number) for number in range(1, len(numbered) + 1)]
    assert [event.json()["text"] for event in numbered if event.name == "delta"] == ["before ", "after "]
    assert numbered[-1].name == "completed"


def test_what_was_accepted_is_there_after_a_kill(house: House) -> None:
    """Every job that was answered 202, up to the moment at which the server is killed: it writes before it answers."""
    accepted: list[str] = []

    def submit(_: int) -> None:
        with httpx.Client(base_url=house.url, timeout=30, verify=_NO_TLS) as http:
            while True:
                answer = http.post("/v1/jobs", json=PROMPT)
                if answer.status_code != 202:
                    assert answer.json()["error"]["code"] in {"store_unavailable", "queue_full"}
                    return
                accepted.append(answer.json()["id"])

    with ThreadPoolExecutor(4) as clients:
        going = clients.map(submit, range(4))
        wait_until(lambda: len(accepted) >= 40, "jobs")
        with SILENT["refused"](house.server):
            list(going)
    house.until_ready()
    with httpx.Client(base_url=house.url) as http:
        there = {job_id: http.get(f"/v1/jobs/{job_id}").status_code for job_id in accepted}
    assert set(there.values()) == {200}


def test_a_silent_server_is_waited_for_once(tmp_path: Path) -> None:
    """Who waited in vain says so to others, who do not ask; a moment later they do."""
    path = tmp_path / "deaf.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen(16)
        deaf.settimeout(0.0)
        client = connect(load(redis_url=f"unix://{path}"))
        taken = []
        for asked in (True, False, False):
            began = time.monotonic()
            with pytest.raises(RedisTimeoutError):
                client.ping()
            assert (time.monotonic() - began >= COMMAND_SECONDS) is asked
            with pytest.raises(BlockingIOError) if not asked else nullcontext():
                taken.append(deaf.accept())
        time.sleep(SILENT_SECONDS)
        with pytest.raises(RedisTimeoutError):
            client.ping()
        taken.append(deaf.accept())
        for near, _ in taken:
            near.close()
        client.close()
