"""A job as launchd would run it: its own words, and no variable of this shell's."""

from __future__ import annotations

import plistlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.waiting import wait_until


@pytest.mark.usefixtures("connection")
def test_the_api_runs_by_its_property_list_alone(valkey_url: str, tmp_path: Path) -> None:
    """It serves where its file of settings says, on the server that this names, and ends at SIGTERM in time."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = tmp_path / "tidegate.env"
    file.touch(mode=0o600)
    file.write_text(f"TIDEGATE_REDIS_URL={valkey_url}\nTIDEGATE_PORT={port}\nTIDEGATE_DATA_DIR={tmp_path}\n")
    print_it = [sys.executable, "-m", "tidegate", "--settings", str(file), "launchd", "api"]
    printed = subprocess.run(print_it, capture_output=True, env={}, timeout=60, check=True)
    job = plistlib.loads(printed.stdout)
    log = (tmp_path / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            job["ProgramArguments"], env=job["EnvironmentVariables"], stdout=log, stderr=log
        ) as api,
    ):
        try:
            wait_until(lambda: api.poll() is not None or _answers(port), "it serves", 60)
            assert api.poll() is None, (tmp_path / "log").read_text()
            api.send_signal(signal.SIGTERM)
            assert api.wait(job["ExitTimeOut"]) == 0
        finally:
            api.kill()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
