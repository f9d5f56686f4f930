"""What was tampered with on the queue's server, read back by the API and the `tidegate` command: nothing of it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from redis import Redis

from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.strays import mend
from tests.conftest import MODEL
from tests.malice import MODULE, Malice
from tidegate.command import main

LOOKS: Final = (
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/result"),
    ("GET", "/v1/responses/resp_{}"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("GET", "/v1/jobs/{}/stream"),
    ("DELETE", "/v1/jobs/{}"),
)


def planted(connection: Redis, lifecycle: Lifecycle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Malice:
    """Every trap, with the planted module where this process would find it."""
    body = {"model": MODEL, "prompt": "a"}
    malice = Malice(connection, folder / "traps", lambda: lifecycle.submit(read_request(body)).id)
    monkeypatch.syspath_prepend(malice.folder)
    malice.plant()
    malice.plant_bytes()
    return malice


@pytest.fixture
def emptied(connection: Redis) -> Iterator[Redis]:
    """A client of the server, whose keys are nobody's to tidy here."""
    connection.flushall()
    yield connection
    connection.flushall()


def test_the_api_runs_nothing_that_it_reads(
    client: FlaskClient,
    emptied: Redis,
    lifecycle: Lifecycle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each job is told as far as it can be read, or is not there; none makes a 500, nor do lists."""
    malice = planted(emptied, lifecycle, tmp_path, monkeypatch)
    malice.say("any")
    for path in ("/v1/jobs", "/v1/capacity", "/v1/models", "/v1/files", "/v1/batches"):
        assert client.get(path).status_code == 200, path
    mend(lifecycle.queue)
    for name, job_id in malice.jobs.items():
        for method, path in LOOKS:
            if path.endswith("/stream") and client.get(f"/v1/jobs/{job_id}/result").status_code == 202:
                continue  # of a status that is none it would wait for the end
            said = client.open(
                path.format(job_id.removeprefix("job_") if "resp_" in path else job_id), method=method
            )
            text = said.get_data(as_text=True)
            assert said.status_code in {200, 202, 404, 409, 500}, (name, method, path, text)
            assert "its cause is in the server's log" not in text, (
                name,
                method,
                path,
            )  # 500 is how one ended
            assert MODULE not in text
    assert malice.done == []
    assert MODULE not in sys.modules


def test_the_command_runs_nothing_that_it_reads(
    url: str, emptied: Redis, lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a doctor, which looks at RQ's keys itself."""
    malice = planted(emptied, lifecycle, tmp_path, monkeypatch)
    some = [malice.jobs[name] for name in ("data", "meta", "fields")]
    words = [
        ["jobs"],
        ["top", "--once"],
        ["models"],
        ["models", "show"],
        ["doctor"],
        *(["cancel", each] for each in some),
    ]
    variables = {
        "TIDEGATE_REDIS_URL": str(emptied.connection_pool.connection_kwargs["path"]).join(("unix://", ""))
    }
    for each in words:
        said = CliRunner(env=variables).invoke(main, ["--url", url, *each])
        assert said.exception is None or isinstance(said.exception, SystemExit), (each, said.exception)
    assert malice.done == []
    assert MODULE not in sys.modules
