"""What a submission costs beside the least that one can: ``python -m benchmarks.submission``.

Eight clients on connections that they keep submit one job after another, in turn to the API and to a bare Flask
view that enqueues one RQ job (:mod:`benchmarks.bare_view`): both under the same gunicorn configuration and on the
same server, which is emptied between the rounds. The clients are one lean process.

``submit_per_s``        jobs accepted a second by ``POST /v1/jobs``
``bare_submit_per_s``   by the view
``submit_ratio``        the one over the other, the median of the rounds
``submit_cpu_us``       CPU time of the API's process a job, and ``bare_submit_cpu_us`` of the view's
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from benchmarks.arguments import parser
from benchmarks.bare_view import URL_VARIABLE
from benchmarks.claim_race import report_of
from benchmarks.claimer import MODEL
from benchmarks.stack import Stack, stack, wait_until
from scheduler import fleet
from tidegate import programs
from tidegate.processes import Processes, Program

CLIENTS: Final = 8
ROUNDS: Final = 8
JOBS: Final = 600  # a round and side

_BODY: Final = {"model": MODEL, "prompt": "The tide comes in. " * 6, "max_tokens": 64, "temperature": 0.7}
_LEASE_SECONDS: Final = 600.0
_START_SECONDS: Final = 60.0
_ROUND_SECONDS: Final = 120.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Side:
    """Who is submitted to: where, how, and the process that answers."""

    url: str
    path: str
    process: psutil.Process


@dataclass(frozen=True, slots=True)
class Round:
    """One side's: how long its jobs took, and what of it was CPU time of its process."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure and print."""
    parser("submission", __doc__).parse_args()
    print(json.dumps(measure()))


def measure() -> dict[str, float]:
    """Submit to both sides in turn; the figures."""
    ours, theirs = _SPAWN.Pipe()
    clients = _SPAWN.Process(target=_serve_rounds, args=(theirs,), daemon=True)
    clients.start()
    with stack({MODEL: Path("nowhere")}, workers=0) as running, _bare_view(running) as bare:
        api = Side(running.url, "/v1/jobs", psutil.Process(running.api.pid).children()[0])
        rounds = [  # the first warms both
            (_round(running, api, ours), _round(running, bare, ours)) for _ in range(ROUNDS + 1)
        ]
    ours.send(None)
    clients.join(_START_SECONDS)
    mine, its = zip(*rounds[1:], strict=True)
    return {
        "submit_per_s": round(JOBS / statistics.median(each.seconds for each in mine), 1),
        "bare_submit_per_s": round(JOBS / statistics.median(each.seconds for each in its), 1),
        "submit_ratio": round(statistics.median(b.seconds / a.seconds for a, b in rounds[1:]), 3),
        "submit_cpu_us": _cpu_us(mine),
        "bare_submit_cpu_us": _cpu_us(its),
    }


@contextmanager
def _bare_view(running: Stack) -> Iterator[Side]:
    """The view, served as the API is."""
    with Processes(running.settings.data_dir / "bare-logs") as processes:
        listener = programs.listen("127.0.0.1", 0)
        fd = listener.fileno()
        command = (*programs.api_command(f"fd://{fd}"), "benchmarks.bare_view:create_app()")
        environment = {URL_VARIABLE: running.settings.server_url}
        program = Program("bare", command, Path(__file__).parents[1], environment, pass_fds=(fd,))
        child = processes.start(program)
        process = psutil.Process(child.pid)
        processes.wait_until(lambda: bool(process.children()), "the bare view", _START_SECONDS)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield Side(url, "/jobs", process.children()[0])


def _round(running: Stack, side: Side, clients: Connection) -> Round:
    running.connection.flushdb()
    fleet.report(running.connection, report_of("w0"), _LEASE_SECONDS)
    time.sleep(0.6)  # what the API knows of the fleet is as old
    before = sum(side.process.cpu_times()[:2])
    where = urlsplit(side.url)
    clients.send((where.hostname, where.port, side.path))
    wait_until(clients.poll, "the clients' round", _ROUND_SECONDS)
    seconds: float = clients.recv()
    return Round(seconds, sum(side.process.cpu_times()[:2]) - before)


def _cpu_us(rounds: tuple[Round, ...]) -> float:
    return round(1e6 * statistics.median(each.cpu_seconds for each in rounds) / JOBS, 1)


def _serve_rounds(asked: Connection) -> None:
    """The clients' process: does the rounds that it is asked for, and says how long each took."""
    while (where := asked.recv()) is not None:
        asked.send(asyncio.run(_submit_all(*where)))


async def _submit_all(host: str, port: int, path: str) -> float:
    body = json.dumps(_BODY).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    left = iter(range(JOBS))
    clients = [
        (await loop.create_connection(lambda: _Client(said, left), host, port))[1] for _ in range(CLIENTS)
    ]
    started = time.monotonic()
    for client in clients:
        client.submit()
    await asyncio.gather(*(client.done for client in clients))
    return time.monotonic() - started


class _Client(asyncio.Protocol):
    """One connection: submits the next job when the last one's answer has come."""

    def __init__(self, said: bytes, left: Iterator[int]) -> None:
        self._said, self._left, self._answer = said, left, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def submit(self) -> None:
        """Submit a job, unless none is left."""
        if next(self._left, None) is None:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._transport.write(self._said)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not found or length is None or len(body) < int(length[1]):
            return
        if not head.startswith(b"HTTP/1.1 202 "):
            self.done.set_exception(RuntimeError(f"not accepted: {self._answer[:500]!r}"))
            return
        self._answer = b""
        self.submit()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed a connection"))


if __name__ == "__main__":
    main()
