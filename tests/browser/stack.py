"""A whole tidegate for a browser: a real server, the API in a process of its own, a real worker with a small random model."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.address_space import limited
from benchmarks.random_models import write_random_llama
from tests.contract.served import COMMAND
from tests.key_leaks import leaks
from tests.outages import Server, server
from tests.running import ROOT, RunningWorker, Site
from tests.waiting import wait_until

MODEL: Final = "random-llama"
BUDGET_BYTES: Final = 512 << 20
CACHE_BYTES: Final = 16 << 10
"""Of a token, in the model's cache."""

LONG_TOKENS: Final = 18_000
"""An answer that takes most of the budget, and more time than any test."""

NEVER_TOKENS: Final = 60_000
"""An answer that the budget never holds."""

SETTINGS: Final = {
    "memory_budget": BUDGET_BYTES,
    "reserve": "worst_case",
    "prefill_chunk": 64,
    "target_wait": 100_000,  # a slow machine refuses nobody
}
START_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 60.0

_SPACE_BYTES: Final = 1 << 46
_EXACT: Final = ("env", "MALLOC_ARENA_MAX=1", "MALLOC_MMAP_THRESHOLD_=131072", *limited(_SPACE_BYTES))
"""Address space is limited, though to more than anybody takes, and what a C library would put by of it counts at once:
:meth:`Stack.starve` says how much there is."""


@dataclass
class Stack:
    """What runs. The API can be ended and started again on its port; so can the server, with what it had."""

    site: Site
    server: Server
    folder: Path
    port: int
    http: httpx.Client
    worker: RunningWorker = field(init=False)
    _api: subprocess.Popen[bytes] | None = None
    _workers: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        """The API's, and so the page's."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_log(self) -> Path:
        """What its processes wrote, one after another."""
        return self.folder / "gunicorn.log"

    def start_api(self) -> None:
        """Start it on its port, and wait until it serves."""
        environment = self.site.environment()
        with socket.create_server(("127.0.0.1", self.port)) as listener, self.api_log.open("ab") as log:
            fd = listener.fileno()
            self._api = subprocess.Popen(
                (*COMMAND, "--bind", f"fd://{fd}"),
                cwd=ROOT,
                env=environment,
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._serves, f"the API at {self.url}; see {self.api_log}", START_SECONDS)

    def kill_api(self) -> None:
        """End it without a word, its children with it."""
        assert self._api is not None
        children = psutil.Process(self._api.pid).children(recursive=True)
        for process in (self._api, *children):
            process.kill()
        self._api.wait()
        psutil.wait_procs(children)  # the port is theirs until they are gone

    def stop_api(self) -> None:
        """Ask it to end."""
        assert self._api is not None
        self._api.terminate()
        self._api.wait(30)

    def start_worker(self) -> None:
        """Another in place of the one there is, if any: what memory had run out in an earlier one is not its past."""
        self._workers.close()
        prefix = _EXACT if sys.platform == "linux" else ()
        self.worker = self._workers.enter_context(self.site.worker(prefix=prefix))

    def stop_worker(self) -> None:
        """End it, if it still runs."""
        self._workers.close()

    def starve(self, room_bytes: int) -> None:
        """From now on its engine may take so much address space more; the one that replaces it, as much as it likes.

        It has computed before, so that what it takes from then on is for caches, not for its threads.
        """
        assert sys.platform == "linux"
        self.until(self.submit(max_tokens=8), "incomplete")
        engine = psutil.Process(self.worker.engine_pid)
        _, most = engine.rlimit(psutil.RLIMIT_AS)
        engine.rlimit(psutil.RLIMIT_AS, (engine.memory_info().vms + room_bytes, most))

    def submit(self, prompt: str = "Once upon a time", **fields: Any) -> str:
        """A job, as a client submits one; its id."""
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 64} | fields
        answer = self.http.post(f"{self.url}/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """A job, as a client sees it."""
        return dict(self.http.get(f"{self.url}/v1/jobs/{job_id}").raise_for_status().json())

    def until(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a job has one of these."""
        wait_until(lambda: self.job(job_id)["status"] in statuses, f"{job_id} {statuses}", IDLE_SECONDS)
        return self.job(job_id)

    @property
    def measured(self) -> bool:
        """Whether the API knows what its worker's model takes."""
        workers = self.http.get(f"{self.url}/v1/capacity").json()["workers"]
        return any(model["card"] is not None for worker in workers for model in worker["models"])

    def until_refused(self, **fields: Any) -> None:
        """Wait until the API knows that such a job would not start now; it reads its workers' reports now and then."""
        body = {"model": MODEL, "prompt": "x", "on_insufficient_memory": "fail"} | fields

        def refused() -> bool:
            answer = self.http.post(f"{self.url}/v1/jobs", json=body)
            if answer.status_code == 202:
                self.http.post(f"{self.url}/v1/jobs/{answer.json()['id']}/cancel").raise_for_status()
            return answer.status_code == 503

        wait_until(refused, "a refusal", IDLE_SECONDS)

    def text(self, job_id: str) -> str:
        """What a job has written so far: its log's, which every stream is made from."""
        return "".join(event.data.get("text", "") for event in self.site.events(job_id))

    def cancel_all(self) -> None:
        """Leave nothing that waits or runs, and a worker that could take more."""
        for status in ("queued", "in_progress"):
            listed = self.http.get(f"{self.url}/v1/jobs", params={"status": status}).raise_for_status().json()
            for job in listed["data"]:
                self.http.post(f"{self.url}/v1/jobs/{job['id']}/cancel").raise_for_status()
        wait_until(self._idle, "an idle worker", IDLE_SECONDS)

    def _idle(self) -> bool:
        report = self.worker.report
        return self.worker.ready and report is not None and not report.running

    def _serves(self) -> bool:
        assert self._api is not None and self._api.poll() is None, self.api_log.read_text()[-4000:]
        try:
            return self.http.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False


@contextmanager
def a_stack(*, with_worker: bool = True) -> Iterator[Stack]:
    """Everything, once its worker is ready; nothing of it is left where the block ends, and nothing leaked."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as name,
        server(Path(name), "everysec") as store,
        httpx.Client(timeout=60, trust_env=False) as http,
    ):
        folder = Path(name)
        model = write_random_llama(
            folder / MODEL, heads=8, kv_heads=8, head_dim=128, max_position=1 << 17, never_stops=True
        )
        site = Site(store.url, store.connection, folder, {MODEL: model}, dict(SETTINGS))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        stack = Stack(site, store, folder, port, http)
        try:
            stack.start_api()
            if with_worker:
                stack.start_worker()
            yield stack
            stack.cancel_all()
        finally:
            stack.stop_worker()
            stack.stop_api()
        said = stack.api_log.read_text()
        assert "Traceback" not in said, said
        assert leaks(store.connection) == []
