"""What `tidegate doctor` judges by: everything that can be seen of this host, the queue and the API.

Looking changes nothing, and needs nothing from the network but the queue's server and the API themselves. What cannot
be seen is a reason why, in words, in its place.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from scheduler.errors import ClientError, TidegateError
from scheduler.settings import Settings
from tidegate.client import Client
from tidegate.engine_facts import EngineFacts, Unknown, read_engine
from tidegate.mac_facts import MacFacts, read_mac
from tidegate.programs import why_not
from tidegate.server_facts import QueueFacts, queue

_ENGINE_SECONDS: Final = 120.0
"""Importing MLX takes seconds where it is read from a slow disk."""


@dataclass(frozen=True, slots=True)
class Library:
    """What is asked of a library, and the version that is here; None where it is not."""

    requirement: str
    name: str
    installed: str | None
    fits: bool


@dataclass(frozen=True, slots=True)
class ApiFacts:
    """What the API answers.

    Args:
        about: ``/``.
        ready: the status of ``/readyz``, and its body.
        ahead_seconds: its clock less this host's, to the second; None where it tells no time.
        capacity, models: their bodies; a reason where they were refused.
    """

    about: Mapping[str, Any]
    ready: tuple[int, Mapping[str, Any]]
    ahead_seconds: float | None
    capacity: Mapping[str, Any] | Unknown
    models: Mapping[str, Any] | Unknown


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was seen; sizes are bytes, times Unix seconds.

    Args:
        settings: the present ones.
        variables: names of the environment's variables.
        url: the API's, and whether it was asked for.
        python: this interpreter's version, and what is asked of it.
        libraries: those that are asked for.
        engine: what an engine would find.
        mac: what macOS tells; None elsewhere.
        queue: the queue's server.
        api: the API.
        folder: the data folder, or the nearest above it that there is; whether it may be written to.
        free_bytes: of its disk.
        port_error: why the port cannot be had; None where it can.
        descriptors: the soft and the hard limit on open files.
        now_seconds: when.
        hostname: this host's.
    """

    settings: Settings
    variables: tuple[str, ...]
    url: str
    url_given: bool
    python: tuple[str, str]
    libraries: tuple[Library, ...]
    engine: EngineFacts | Unknown
    mac: MacFacts | None
    queue: QueueFacts | Unknown
    api: ApiFacts | Unknown
    folder: tuple[Path, bool]
    free_bytes: int
    port_error: str | None
    descriptors: tuple[int, int]
    now_seconds: float
    hostname: str


def gather(settings: Settings, client: Client, *, url_given: bool) -> Facts:
    """Look at everything."""
    folder = nearest(settings.data_dir)
    return Facts(
        settings=settings,
        variables=tuple(os.environ),
        url=client.url,
        url_given=url_given,
        python=(sys.version.split()[0], metadata.metadata("tidegate")["Requires-Python"]),
        libraries=libraries(metadata.requires("tidegate") or ()),
        engine=engine(),
        mac=read_mac() if sys.platform == "darwin" else None,
        queue=queue(settings),
        api=api(client),
        folder=(folder, os.access(folder, os.W_OK | os.X_OK)),
        free_bytes=shutil.disk_usage(folder).free,
        port_error=port_error(settings.host, settings.port),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE),
        now_seconds=time.time(),
        hostname=socket.gethostname(),
    )


def libraries(requirements: Iterable[str]) -> tuple[Library, ...]:
    """What is installed of requirements (PEP 508); those of extras, or of other systems, are left out."""
    found = []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and wanted.specifier.contains(installed, prereleases=True)
        found.append(Library(f"{wanted.name}{wanted.specifier}", wanted.name, installed, fits))
    return tuple(found)


def engine(seconds: float = _ENGINE_SECONDS) -> EngineFacts | Unknown:
    """What an engine would find here, asked of the interpreter that would be one: MLX lives in a process apart."""
    command = [sys.executable, "-m", "workers.about"]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Unknown(f"MLX said nothing for {seconds:.0f} s")
    except OSError as error:
        return Unknown(f"{command[0]} cannot be started: {error}")
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"status {ended.returncode}"
        return Unknown(f"it ended with {how}: {said[-1] if said else 'without a word'}")
    return read_engine(ended.stdout)


def api(client: Client) -> ApiFacts | Unknown:
    """The API, as it answers this command."""
    try:
        before = time.time()
        status, body, clock = client.readiness()
        ahead = None if clock is None else clock - before
        about = client.look("/")
    except TidegateError as error:
        return Unknown(str(error))
    if about.get("name") != "tidegate":
        return Unknown(f"what answers at {client.url} is not tidegate")
    return ApiFacts(
        about, (status, body), ahead, _looked(client, "/v1/capacity"), _looked(client, "/v1/models")
    )


def _looked(client: Client, path: str) -> Mapping[str, Any] | Unknown:
    try:
        return client.look(path)
    except ClientError as error:
        return Unknown(f"{error.code}: {error.message}")
    except TidegateError as error:
        return Unknown(str(error))


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path("/"))


def port_error(host: str, port: int) -> str | None:
    """Why nobody could listen there; None where one could. Nothing listens meanwhile."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return why_not(error)
    return None
