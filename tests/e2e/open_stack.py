"""What the pages' commands and the examples talk to: everything that `make run` starts, with a small model in the sample's place."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from redis import Redis

from scheduler.keyring import KeyBook
from tests.e2e.whole import Whole
from tests.printed import ROOT
from tests.waiting import wait_until

SAMPLE: Final = "SmolLM2-135M-Instruct"
PRINTED_URL: Final = "http://127.0.0.1:8400"
RUN_SECONDS: Final = 120.0


@dataclass
class OpenStack:
    """A running tidegate without keys, and a folder as a reader's checkout looks after `make setup`.

    Args:
        running: what runs.
        folder: with `.venv` and `examples`; the home folder of what is run, too.
    """

    running: Whole
    folder: Path

    @property
    def url(self) -> str:
        """Without the ``/v1``."""
        return self.running.url.removesuffix("/v1")

    @property
    def connection(self) -> Redis:
        """The queue's server."""
        return self.running.connection

    @property
    def environment(self) -> dict[str, str]:
        """A reader's shell: no setting of the stack's own but where the data are, which is the reader's default."""
        own = {
            name: value
            for name, value in self.running.environment.items()
            if not name.startswith("TIDEGATE_")
        }
        kept = {name: self.running.environment[name] for name in ("TIDEGATE_DATA_DIR", "PYTHONPATH")}
        port = self.url.rpartition(":")[2]
        return own | kept | {"HOME": os.fspath(self.folder), "TIDEGATE_PORT": port, "PYTHONUNBUFFERED": "1"}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def remove_keys(self) -> None:
        """Open it again to who has no key."""
        book = KeyBook(self.connection)
        for owner in book.read()[0].by_owner:
            book.remove(owner)
        wait_until(lambda: httpx.get(f"{self.url}/v1/models", trust_env=False).is_success, "it is open again")


def furnish(folder: Path) -> Path:
    """Make a folder look like a checkout after `make setup`."""
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder
