"""Real workers for tests: `rq worker -w workers.MetalWorker` with a tiny model on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from redis import Redis

from benchmarks.lone_worker import engine_pid, has_ended
from scheduler import fleet
from scheduler.events import STEPS_CHANNEL, Kind, LoggedEvent, parse_step, read_events
from scheduler.job import PRIORITIES, TERMINAL, State
from scheduler.lifecycle import Lifecycle
from scheduler.record import JobRecord
from scheduler.request import read_request
from scheduler.settings import load
from tests.valkey import valkey
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[1]
METAL: Final = ("-w", "workers.MetalWorker")
START_SECONDS: Final = 180.0
JOB_SECONDS: Final = 180.0


@dataclass(slots=True)
class RunningWorker:
    """A worker's process, its name and its log."""

    process: subprocess.Popen[bytes]
    name: str
    log_path: Path
    connection: Redis

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def report(self) -> fleet.WorkerReport | None:
        """What it last said of itself; None where it is not alive."""
        return next((each for each in fleet.live_workers(self.connection) if each.name == self.name), None)

    @property
    def ready(self) -> bool:
        """Whether it can claim, its model measured."""
        assert self.process.poll() is None, f"{self.name} ended {self.process.returncode}: {self.log[-4000:]}"
        report = self.report
        return report is not None and report.engine == "ready" and bool(report.cards)

    @property
    def engine_pid(self) -> int:
        """The engine's process id; 0 where there is none now."""
        return engine_pid(self.process.pid)

    def exit_code(self, seconds: float = 30.0) -> int:
        """Wait for its end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} goes on after {seconds} s: {self.log[-4000:]}") from None


@dataclass(slots=True)
class Site:
    """A server, a folder, the models that workers there serve, and a client's verbs.

    ``settings`` become every worker's environment, e.g. ``{"lease_seconds": 2}``.
    """

    url: str
    connection: Redis
    folder: Path
    models: dict[str, Path]
    settings: dict[str, Any] = field(default_factory=dict)
    lifecycle: Lifecycle = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        settings = load(redis_url=self.url, data_dir=self.folder, models=self._models)
        self.lifecycle = Lifecycle(self.connection, settings)

    @property
    def _models(self) -> tuple[str, ...]:
        return tuple(f"{name}={path}" for name, path in self.models.items())

    def environment(self, **settings: Any) -> dict[str, str]:
        """A worker's environment."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE_", "RQ_"))}
        chosen = {
            "redis_url": self.url,
            "data_dir": self.folder,
            "models": ",".join(self._models),
            "blas_preload": "off",  # MLX's own matmul gives equal logits in every company
            **self.settings,
            **settings,
        }
        return (
            own
            | {"PYTHONPATH": os.fspath(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
            | {f"TIDEGATE_{key.upper()}": str(value) for key, value in chosen.items()}
        )

    @contextmanager
    def worker(
        self,
        *options: str,
        queues: Sequence[str] = PRIORITIES,
        kind: Sequence[str] = METAL,
        wait: bool = True,
        prefix: Sequence[str] = (),
        tree: Path = ROOT,
        **settings: Any,
    ) -> Iterator[RunningWorker]:
        """Start a worker, wait until it is ready, end it by its id.

        Args:
            options: more of `rq worker`'s options.
            queues: names, in order.
            kind: the options that choose the worker's class.
            wait: for its being ready.
            prefix: a command that starts it, such as `prlimit`.
            tree: the code that it runs.
            settings: over the site's.
        """
        self._count += 1
        name = f"worker-{self._count}-{os.getpid()}"
        log_path = self.folder / f"{name}.log"
        command = [
            *prefix,
            sys.executable,
            "-m",
            "rq.cli",
            "worker",
            *kind,
            "--url",
            self.url,
            "--name",
            name,
        ]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*command, *options, *queues],
                cwd=tree,
                env=self.environment(**settings) | {"PYTHONPATH": os.fspath(tree)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        worker = RunningWorker(process, name, log_path, self.connection)
        try:
            if wait:
                wait_until(lambda: worker.ready, f"{name} ready", START_SECONDS)
            yield worker
        finally:
            children = _children(process)
            process.kill()
            process.wait()
            for child in children:
                _end(child)

    def submit(self, prompt: str = "Hello", **fields: Any) -> str:
        """Submit a job for the first model; its id."""
        body = {
            "model": next(iter(self.models)),
            "prompt": prompt,
            "temperature": 0,
            "max_tokens": 16,
        } | fields
        if "messages" in fields:
            del body["prompt"]
        return self.lifecycle.submit(read_request(body)).id

    def get(self, job_id: str) -> JobRecord:
        """A job."""
        return self.lifecycle.get(job_id)

    def events(self, job_id: str) -> list[LoggedEvent]:
        """Its log."""
        return read_events(self.connection, job_id)

    def tokens(self, job_id: str) -> list[int]:
        """Every token that its log says it has."""
        return [token for event in self.events(job_id) for token in event.data.get("tokens", ())]

    def until(self, job_id: str, state: State, seconds: float = JOB_SECONDS) -> JobRecord:
        """Wait until a job is in a state; fail at once where it ends otherwise."""

        def there() -> bool:
            found = self.get(job_id)
            assert found.state is state or found.state not in TERMINAL, f"{found.state}: {found.outcome}"
            return found.state is state

        wait_until(there, f"{job_id} {state.value}", seconds)
        return self.get(job_id)

    def ended(self, job_id: str, seconds: float = JOB_SECONDS) -> JobRecord:
        """Wait until a job has ended, however it did."""
        wait_until(lambda: self.get(job_id).outcome is not None, f"{job_id} ended", seconds)
        return self.get(job_id)

    def until_tokens(self, job_ids: Sequence[str], count: int, seconds: float = JOB_SECONDS) -> None:
        """Wait until each job has so many tokens."""
        for job_id in job_ids:
            wait_until(
                lambda job_id=job_id: self.tokens(job_id) or self.get(job_id).outcome, "a token", seconds
            )
            assert count == 0 or self.tokens(job_id), self.get(job_id).outcome
        wait_until(
            lambda: all(len(self.tokens(job_id)) >= count for job_id in job_ids),
            f"{count} tokens each",
            seconds,
        )

    def text(self, job_id: str, seconds: float = JOB_SECONDS) -> str:
        """A job's text, once it has ended well and its log proves whole."""
        rec = self.ended(job_id, seconds)
        assert rec.outcome is not None and rec.outcome.result is not None, rec.outcome
        self.prove_log(job_id)
        text: str = rec.outcome.result["text"]
        return text

    def prove_log(self, job_id: str) -> None:
        """Rules 3 and 4: numbers from 1 without a gap, one terminal event, which is the last; the deltas
        make the result's text, and its tokens are those of the usage.
        """
        events = self.events(job_id)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert [event.ends for event in events] == [False] * (len(events) - 1) + [True]
        rec = self.get(job_id)
        assert rec.outcome is not None
        if rec.outcome.result is not None:
            deltas = [event.data for event in events if event.kind is Kind.DELTA]
            assert "".join(delta.get("text", "") for delta in deltas) == rec.outcome.result["text"]
            assert len(self.tokens(job_id)) == rec.outcome.result["usage"]["completion_tokens"]

    @contextmanager
    def broadcast(self) -> Iterator[list[tuple[str, LoggedEvent]]]:
        """Everything that is told to readers while the block runs."""
        heard: list[tuple[str, LoggedEvent]] = []
        pubsub = self.connection.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(STEPS_CHANNEL)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                message = pubsub.get_message(timeout=0.05)
                if message is not None:
                    heard.extend(parse_step(message["data"]))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            stop.set()
            thread.join()
            pubsub.close()


@contextmanager
def a_site(models: dict[str, Path], *, cards: Path | None = None, **settings: Any) -> Iterator[Site]:
    """A place of its own: a server and a folder, whose name is short, as a socket's address must be.

    Args:
        models: what is served, by name.
        cards: where what is measured of them is kept for other places; None: it goes with this one.
        settings: of all its workers.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as name,
        valkey(Path(name)) as (url, _),
        Redis.from_url(url) as connection,
    ):
        if cards is not None:
            Path(name, "cards").symlink_to(cards)
        yield Site(url, connection, Path(name), models, settings)


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(child: psutil.Process) -> None:
    try:
        child.kill()
    except psutil.NoSuchProcess:
        return


def gone(pid: int) -> Callable[[], bool]:
    """Whether a process is no more, for `wait_until`."""
    return lambda: has_ended(pid)
