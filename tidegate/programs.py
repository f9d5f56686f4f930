"""The programs of a tidegate host, as command lines: the API, a worker, and the maker of the sample model.

All are started as modules of this interpreter: a script's first line cannot name an interpreter in a
path with a space everywhere.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from scheduler.job import PRIORITIES
from scheduler.settings import Settings, is_missing_folder
from tidegate.failures import ModelsMissing, ProcessFailed
from tidegate.processes import Program

SAMPLE_NAME: Final = "SmolLM2-135M-Instruct"
API_GRACE_SECONDS: Final = 10.0  # on its own it cuts open streams after half of it
WORKER_GRACE_SECONDS: Final = 10.0  # on top of what the worker gives its jobs


def own_command(*words: str) -> tuple[str, ...]:
    """The `tidegate` command."""
    return (sys.executable, "-m", "tidegate", *words)


def api_command(bind: str) -> tuple[str, ...]:
    """The API's server."""
    return (sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf", "--bind", bind)


def worker_command() -> tuple[str, ...]:
    """``rq worker``, with tidegate's worker class, on the queue of :func:`worker_environment`."""
    return (sys.executable, "-m", "rq.cli", "worker", "--worker-class", "workers.MetalWorker", *PRIORITIES)


def worker_environment(settings: Settings) -> dict[str, str]:
    """The variable that RQ reads its queue's address from: everybody may read a command line, password and all."""
    return {"RQ_REDIS_URL": settings.server_url}


def environment(settings: Settings) -> dict[str, str]:
    """The variables by which a child reads these settings, from whatever folder it runs in."""
    return {
        "TIDEGATE_DATA_DIR": str(settings.data_dir),
        "TIDEGATE_MODELS": ",".join(settings.models),
        "TIDEGATE_HOST": settings.host,
        "TIDEGATE_PORT": str(settings.port),
        "PYTHONUNBUFFERED": "1",
    }


def api(settings: Settings, listener: socket.socket) -> Program:
    """The API, on a socket that listens already: a taken port is known before anything starts."""
    fd = listener.fileno()
    return Program(
        "api",
        api_command(f"fd://{fd}"),
        settings.data_dir,
        environment(settings),
        pass_fds=(fd,),
        grace_seconds=API_GRACE_SECONDS,
    )


def worker(settings: Settings) -> Program:
    """One worker."""
    return Program(
        "worker",
        worker_command(),
        settings.data_dir,
        environment(settings) | worker_environment(settings),
        grace_seconds=settings.shutdown_grace + WORKER_GRACE_SECONDS,
    )


def sample_model(settings: Settings, folder: Path) -> Program:
    """Makes the sample model, unless it is there: a process of its own, since it uses MLX.

    Interrupted rather than terminated, it takes its scratch files with it.
    """
    command = (sys.executable, "-m", "workers.sample_model", str(folder))
    return Program("the sample model's maker", command, settings.data_dir, stop_signal=signal.SIGINT)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        ProcessFailed: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # "all addresses" are those of IPv4 too
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ProcessFailed(
            f"cannot listen on {host}:{port} ({why_not(error)}): "
            "give another with --port, or set TIDEGATE_HOST and TIDEGATE_PORT"
        ) from error


def why_not(error: OSError) -> str:
    """Why an address cannot be had, in the system's own words; Python's have the address in them a second time."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)  # others are the resolver's


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches what listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # it is read, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def with_absolute_paths(settings: Settings) -> Settings:
    """The settings with every folder named from the root, for children that run elsewhere."""

    def absolute(entry: str) -> str:
        name, _, source = entry.partition("=")
        folder = Path(source or name).expanduser()
        return f"{name}={folder.absolute()}" if folder.is_dir() else entry

    return settings.model_copy(
        update={
            "data_dir": settings.data_dir.expanduser().absolute(),
            "models": tuple(absolute(entry) for entry in settings.models),
        }
    )


def insist_on_models(settings: Settings, made_here: Path | None = None) -> None:
    """See to it that there is something to serve, and that every folder named is there.

    Args:
        settings: with folders named from the root, where they exist.
        made_here: the folder that is made before it is served.

    Raises:
        ModelsMissing: nothing is named, or a folder that does not exist.
    """
    if not settings.models:
        raise ModelsMissing(
            "nothing to serve: set TIDEGATE_MODELS; `tidegate up --sample` makes and serves a small model,"
            " and `tidegate worker --sample` is one more worker for it"
        )
    for source in settings.model_sources.values():
        if is_missing_folder(source) and Path(source) != made_here:
            raise ModelsMissing(f"TIDEGATE_MODELS: the folder {source} does not exist")


def with_sample(settings: Settings) -> tuple[Settings, Path]:
    """The settings with the sample model served first, and the folder it belongs in."""
    folder = settings.data_dir / "models" / SAMPLE_NAME
    if "," in str(folder):
        raise ProcessFailed(f"{folder} has a comma in it, which ends an entry of TIDEGATE_MODELS")
    others = (entry for entry in settings.models if entry.partition("=")[0].strip() != SAMPLE_NAME)
    return settings.model_copy(update={"models": (f"{SAMPLE_NAME}={folder}", *others)}), folder
