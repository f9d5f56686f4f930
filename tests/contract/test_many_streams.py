"""Many open streams on one process: more than a shell's limit on descriptors, each whole."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from api.descriptors import SPARE
from benchmarks.stream_readers import Read, read_streams
from tests.conftest import MODEL
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.client import Client

SPAWN = multiprocessing.get_context("spawn")
ALLOWED = (
    "import sys; from api.descriptors import allow_connections; print(allow_connections(int(sys.argv[1])))"
)


def limited(soft: int, hard: int | None = None) -> tuple[str, ...]:
    """A command that starts another under limits on its descriptors."""
    lowers = f"ulimit -S -n {soft}" if hard is None else f"ulimit -S -n {soft} && ulimit -H -n {hard}"
    return ("sh", "-c", f'{lowers} && exec "$@"', "sh")


def allowed(wanted: int, *prefix: str) -> int:
    """What a process of its own says that it may have."""
    command = (*prefix, sys.executable, "-c", ALLOWED, str(wanted))
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("soft", [256, 1024])
def test_a_process_may_have_the_connections_it_wants(soft: int) -> None:
    """Shells allow 256 descriptors on macOS and 1,024 on Linux, and let a process raise that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard >= 2000 + SPARE, "the premise"
    assert allowed(2000, *limited(soft)) == 2000


def test_a_process_takes_no_more_connections_than_it_may_have() -> None:
    """What it must not raise it keeps to; the rest wait to be accepted."""
    assert allowed(2000, *limited(300, 600)) == 600 - SPARE
    assert allowed(100, *limited(300, 600)) == 100


def test_more_streams_than_a_shell_allows_descriptors(
    valkey_url: str, connection: Redis, tmp_path: Path
) -> None:
    """Three hundred on a server that was started with a limit of 256: each has every event, and [DONE]."""
    worker = PretendWorker(connection)
    worker.report()
    with serve(valkey_url, tmp_path, prefix=limited(256)) as url:
        with Client(url) as client:
            job_id = client.submit({"model": MODEL, "prompt": "a b c"})["id"]
        host, _, port = url.removeprefix("http://").partition(":")
        ours, theirs = SPAWN.Pipe()
        readers = SPAWN.Process(
            target=read_streams, args=(host, int(port), [job_id] * 300, theirs), daemon=True
        )
        readers.start()
        theirs.close()
        wait_until(ours.poll, "three hundred streams", 60)
        assert ours.recv() == 300
        held = worker.claim(job_id)
        for word in ("a ", "b ", "c "):
            worker.say(held, word)
        worker.complete(held, "a b c ")
        wait_until(ours.poll, "their ends", 60)
        reads: list[Read] = ours.recv()
        readers.join(10)
    names = ["queued", "started", "delta", "delta", "delta", "completed"]
    assert [[(number, name) for number, name, _ in read.events] for read in reads] == [
        list(enumerate(names, 1))
    ] * 300
    assert all(read.done for read in reads)
