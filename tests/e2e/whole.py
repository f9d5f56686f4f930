"""`tidegate up` for the official clients: everything it starts, a small model of random weights, and API keys."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis

from benchmarks.compatibility import write_model
from scheduler.settings import load
from tests.key_leaks import leaks
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 100.0
MODEL = "tiny"
MOST_QUEUED = 64
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"the operator's secret, of 32 byte").decode()
SETTINGS = {
    "models": f"{MODEL}={{model}}",
    "memory_budget": "256MiB",
    "lease_seconds": "4",
    "max_queued_jobs": str(MOST_QUEUED),
    "queue_without_worker": "false",
    "webhook_allow": "127.0.0.1",
    "webhook_secret": WEBHOOK_SECRET,
    "blas_preload": "off",
}


@dataclass
class Whole:
    """What runs.

    Args:
        url: the API's, with `/v1` behind it, as clients want it.
        environment: of the command.
        connection: the embedded server's.
        process: `tidegate up`.
        model: the folder of what is served.
        keys: tokens by name.
    """

    url: str
    environment: dict[str, str]
    connection: Redis
    process: subprocess.Popen[bytes]
    model: Path
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def server_url(self) -> str:
        """The embedded server's."""
        return load(data_dir=Path(self.environment["TIDEGATE_DATA_DIR"])).server_url

    def key(self, name: str, *limits: str) -> str:
        """The token of a key that `tidegate keys add` makes."""
        if name not in self.keys:
            said = _command(self.environment, "keys", "add", "--json", "--name", name, *limits)
            self.keys[name] = token = json.loads(said)["token"]
            wait_until(lambda: _look(f"{self.url}/models", token).is_success, "the API knows the key")
        return self.keys[name]

    @contextmanager
    def worker_paused(self) -> Iterator[psutil.Process]:
        """The worker does nothing until the block ends, or the test wakes it by SIGCONT."""
        children = psutil.Process(self.process.pid).children()
        (worker,) = (child for child in children if "workers.MetalWorker" in child.cmdline())
        worker.send_signal(signal.SIGSTOP)
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGCONT)
            wait_until(self.has_worker, "the worker is back", 30)

    def has_worker(self) -> bool:
        """Whether one that has its model is heard."""
        return any(worker["models"] for worker in self._workers())

    def has_pace(self) -> bool:
        """Whether one has told how fast it is: before, waits are foretold by a guess, which is a slow one."""
        return any(worker["tokens_per_second"] for worker in self._workers())

    def _workers(self) -> list[dict[str, Any]]:
        capacity: Any = _look(f"{self.url}/capacity", self.keys.get("main", "none")).json()
        return list(capacity["workers"])


def _look(url: str, key: str) -> httpx.Response:
    return httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)


@contextmanager
def whole(
    folder: Path, model_name: str = MODEL, *, cards: Path, keyed: bool = True, **settings: str
) -> Iterator[Whole]:
    """Everything, once it has answered its first question; nothing of it is left where the block ends.

    Args:
        folder: for the model, the data and what it says.
        model_name: under which the small model is served.
        cards: where what was measured of the model is kept for the next one.
        keyed: whether there is an API key, ``main``.
        settings: over :data:`SETTINGS`.
    """
    model = write_model(folder / MODEL)
    (folder / "data").mkdir(mode=0o700)
    (folder / "data/cards").symlink_to(cards)
    chosen = SETTINGS | {"models": f"{model_name}={{model}}"} | settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= {"PYTHONPATH": str(ROOT), "TIDEGATE_DATA_DIR": str(folder / "data")}
    environment |= {f"TIDEGATE_{name.upper()}": value.format(model=model) for name, value in chosen.items()}
    keys: dict[str, str] = {}
    if keyed:
        keys["main"] = json.loads(_command(environment, "keys", "add", "--json", "--name", "main"))["token"]
        environment["TIDEGATE_API_KEY"] = keys["main"]
    said = folder / "err"
    with said.open("wb") as err:
        command = [sys.executable, "-m", "tidegate", "up", "--port", "0"]
        process = subprocess.Popen(command, stdout=err, stderr=err, env=environment, cwd=folder)

    def invites() -> bool:
        assert process.poll() is None, said.read_text()
        return "Ctrl-C" in said.read_text()

    try:
        wait_until(invites, "it invites", START_SECONDS)
        (url,) = re.findall(r"for OpenAI clients (\S+)", said.read_text())
        server = load(data_dir=folder / "data").server_url
        with Redis.from_url(server) as connection:
            yield Whole(url, environment, connection, process, model, keys)
            assert leaks(connection) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
    for log in (folder / "data/logs").iterdir():
        assert "Traceback" not in log.read_text(), log.read_text()


def _command(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "tidegate", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
