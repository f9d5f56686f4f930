"""The API as it is served: gunicorn with gevent, a process of its own, on a loopback port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx

from tests.conftest import MODEL
from tests.waiting import wait_until

SECRET = "tg-secret"
"""What tests send where it must not be quoted: no server's log may have it."""

COMMAND = (sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf")


@contextmanager
def serve(
    valkey_url: str,
    folder: Path,
    models: str = MODEL,
    prefix: tuple[str, ...] = (),
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """The URL of a running server, whose log must be free of tracebacks.

    Args:
        models: as ``TIDEGATE_MODELS`` has them.
        prefix: a command that starts it, such as one that limits it.
        more: other variables of its environment.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= {
        "TIDEGATE_REDIS_URL": valkey_url,
        "TIDEGATE_MODELS": models,
        "TIDEGATE_MAX_BODY_BYTES": "100000",
    }
    environment |= more
    logged = folder / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, logged.open("wb") as log:
        fd = listener.fileno()
        process = subprocess.Popen(
            (*prefix, *COMMAND, "--bind", f"fd://{fd}"),
            env=environment,
            pass_fds=(fd,),
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            wait_until(lambda: _ready(url), f"the API at {url}; see {logged}", 30)
            yield url
        finally:
            process.terminate()
            process.wait(15)
    said = logged.read_text()
    assert "Traceback" not in said, said
    assert "Warning" not in said, said
    assert SECRET not in said, said


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False
