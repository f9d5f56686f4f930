"""Other servers for MLX models: each from PyPI in an environment of its own, started for a benchmark.

All compute with the same MLX and the same BLAS as tidegate's engine, on the loopback interface, with no other
host to ask: no model hub, no telemetry, and a home of their own instead of the user's. They are started as their
READMEs say, their options left at what they are by default.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import platformdirs

from workers.environment import with_fast_blas

MLX: Final = "mlx[cpu]==0.32.4" if sys.platform == "linux" else "mlx==0.32.4"
INSTALL_SECONDS: Final = 900.0
START_SECONDS: Final = 120.0
GRACE_SECONDS: Final = 10.0
FOLDER: Final = Path(platformdirs.user_data_dir("tidegate", appauthor=False)) / "peers"
"""Where their environments are kept from one run to the next: two of them take 6 GB each, PyTorch's CUDA build."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server: what to install, and how it is started.

    In ``command``, after the environment's ``python -m``, ``{model}`` stands for the model's folder and ``{port}``
    for the port.
    """

    name: str
    version: str
    command: tuple[str, ...]

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip is told."""
        return f"{self.name}=={self.version}", MLX

    def words(self, python: Path, model: Path, port: int) -> list[str]:
        """The command line."""
        return [str(python), "-m", *(word.format(model=model, port=port) for word in self.command)]


PEERS: Final = (
    Peer(
        "mlx-lm",
        "0.32.2",
        ("mlx_lm.server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
    ),
    Peer(
        "rapid-mlx",
        "0.16.10",
        ("rapid_mlx.cli", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
    ),
    Peer(
        "vllm-mlx",
        "0.6.0",
        (
            *("vllm_mlx.cli", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
            "--continuous-batching",
        ),
    ),
)


class PeerFailed(Exception):
    """A peer cannot be installed or started; the message has the end of what it said."""


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """A peer's process."""

    peer: Peer
    model: Path
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def model_name(self) -> str:
        """What requests call the model: all three know a local one by its path."""
        return str(self.model)

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative where a signal ended it; None while it runs."""
        return self.process.poll()


def install(peer: Peer, folder: Path) -> Path:
    """Make a peer's environment, unless it is there; its interpreter.

    Args:
        peer: which.
        folder: where the environments of all peers are.

    Raises:
        PeerFailed: pip cannot install it.
    """
    place = folder / f"{peer.name}-{peer.version}"
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = "\n".join(peer.requirements)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*command, *peer.requirements],
            check=True,
            timeout=INSTALL_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(f"{peer.name} cannot be installed: {(error.output or b'')[-2000:]!r}") from error
    stamp.write_text(wanted)
    return python


def environment(inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """A peer's variables: the BLAS that tidegate's engine has, and nobody to call."""
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "RAPID_MLX_TELEMETRY": "0"}
    homes = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hub")}
    kept = {key: value for key, value in inherited.items() if not key.startswith(("TIDEGATE_", "PYTHON"))}
    return with_fast_blas(kept) | quiet | homes


@contextmanager
def serving(
    peer: Peer, python: Path, model: Path, scratch: Path, prefix: Sequence[str] = ()
) -> Iterator[RunningPeer]:
    """Start a peer, wait until it lists its models, and end it by its id.

    Args:
        peer: which.
        python: its environment's interpreter.
        model: the folder of the model that it serves.
        scratch: a folder for its log and its home.
        prefix: a command that starts it, such as one that limits it.

    Raises:
        PeerFailed: it ends, or does not answer in time.
    """
    (scratch / "hub" / "hub").mkdir(
        parents=True, exist_ok=True
    )  # mlx_lm.server looks into it when asked for models
    port = _free_port()
    log = scratch / f"{peer.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, *peer.words(python, model, port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=environment(os.environ, scratch),
            start_new_session=True,
        )
    try:
        running = RunningPeer(peer, model, f"http://127.0.0.1:{port}", process, log)
        _wait_until_ready(running)
        yield running
    finally:
        _end(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(running: RunningPeer) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=running.url, trust_env=False, timeout=5.0) as http:
        while time.monotonic() < deadline:
            if running.exit_code is not None:
                break
            with suppress(httpx.TransportError):
                if http.get("/v1/models").is_success:
                    return
            time.sleep(0.1)
    said = running.log.read_bytes()[-2000:].decode(errors="replace")
    raise PeerFailed(f"{running.peer.name} did not start (exit code {running.exit_code}): {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it, then kill its group: a server that died leaves its helpers behind."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
