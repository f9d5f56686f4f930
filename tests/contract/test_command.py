"""The command against a served API: what it submits, lists, shows and finds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from scheduler.version import version
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.command import main


@pytest.fixture
def live(connection: Redis, worker: PretendWorker, url: str) -> PretendWorker:
    """A worker that the API knows of."""
    wait_until(lambda: httpx.get(f"{url}/v1/capacity").json()["workers"], "the worker is known")
    return worker


def tidegate(url: str, *words: str, **options: Any) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["--url", url, *words], **options)


def shown(url: str, job_id: str) -> dict[str, Any]:
    """A job as the API has it."""
    return dict(httpx.get(f"{url}/v1/jobs/{job_id}").json())


def test_a_prompt_comes_from_standard_input(url: str, live: PretendWorker) -> None:
    """Where it is `-`; the answer is what was asked, since the pretended worker says it back."""
    with live.answering():
        result = tidegate(
            url, "submit", "-", "--stream", "--priority", "batch", input="naïve\nwords\n".encode()
        )
    assert result.stdout == "naïve words \n"
    (job,) = (json.loads(line) for line in tidegate(url, "jobs", "--json").stdout.splitlines())
    assert job["priority"] == "batch"


def test_a_system_prompt_goes_before_it(url: str, live: PretendWorker) -> None:
    """As a message of its own."""
    job_id = tidegate(url, "submit", "hello", "--system", "Be brief.").stdout.strip()
    request = live.claim(job_id).rec.request
    assert [(each.role, each.text) for each in request.messages or ()] == [
        ("system", "Be brief."),
        ("user", "hello"),
    ]


@pytest.mark.parametrize(
    ("prompt", "typed", "why"),
    [
        ("", b"", "it is empty"),
        (" \n", b"", "it is empty"),
        ("-", b"\n", "it is empty"),
        ("-", b"\xff", "it is not in UTF-8"),
    ],
)
def test_a_prompt_that_is_none_is_refused(
    url: str, live: PretendWorker, prompt: str, typed: bytes, why: str
) -> None:
    """Before anything is submitted, and with the words of any other misuse."""
    result = tidegate(url, "submit", prompt, input=typed)
    assert (result.exit_code, result.stderr.splitlines()[-1].partition(": ")[0]) == (2, "Error")
    assert why in result.stderr
    assert tidegate(url, "jobs", "--json").stdout == ""


def test_jobs_are_listed_by_what_they_are(url: str, live: PretendWorker) -> None:
    """By status, model and class; with the code of what went wrong."""
    with live.answering():
        failed = tidegate(url, "submit", "fail").stdout.strip()
        wait_until(lambda: shown(url, failed)["status"] == "failed", "it failed")
    waits = tidegate(url, "submit", "wait", "--priority", "batch").stdout.strip()

    def ids(*words: str) -> list[str]:
        return [
            json.loads(line)["id"] for line in tidegate(url, "jobs", "--json", *words).stdout.splitlines()
        ]

    assert ids() == [waits, failed]
    assert ids("--limit", "1") == ids("--priority", "batch") == ids("--status", "queued") == [waits]
    assert ids("--model", MODEL) == [waits, failed]
    assert ids("--model", "other") == []
    titles, *rows = (line.split() for line in tidegate(url, "jobs").stdout.splitlines())
    assert titles[-1] == "error"
    assert [row[-1] for row in rows] == ["-", "insufficient_memory"]


def test_jobs_are_watched_as_they_change(url: str, live: PretendWorker) -> None:
    """Each change is a line, until somebody has seen enough."""
    command = [
        sys.executable,
        "-m",
        "tidegate",
        "--url",
        url,
        "jobs",
        "--watch",
        "--json",
        "--interval",
        "0.1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        job_id = tidegate(url, "submit", "hello").stdout.strip()
        assert json.loads(watching.stdout.readline())["status"] == "queued"
        live.complete(live.claim(job_id), "hello")
        said = json.loads(watching.stdout.readline())
        while said["status"] == "in_progress":
            said = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    assert (said["id"], said["status"]) == (job_id, "completed")


def test_top_shows_the_fleet_and_the_queue(url: str, live: PretendWorker) -> None:
    """One frame, in 80 columns, where the output is no terminal."""
    runs, waits = (
        tidegate(url, "submit", "hello", "--priority", each).stdout.strip() for each in ("standard", "batch")
    )
    live.claim(runs)
    result = tidegate(url, "top", env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(f"tidegate {url} · 1 worker · ")
    assert "worker pretend · ready · 1.0 GiB by set · here, pid 1" in lines
    assert next(line for line in lines if line.startswith("batch")).split()[1] == "1"
    assert [line.split()[0] for line in lines if line.startswith("job_")] == [runs, waits]
    raw = json.loads(tidegate(url, "top", "--once", "--json").stdout)
    assert [each["id"] for each in raw["in_progress"]["oldest"]] == [runs]
    assert raw["capacity"] == httpx.get(f"{url}/v1/capacity").json()
    assert raw["capacity"]["queue"]["by_priority"]["batch"]["jobs"] == 1


def test_top_of_an_api_that_is_not_there_is_an_error() -> None:
    """A frame alone has nobody to wait for it."""
    result = tidegate("http://127.0.0.1:1", "top", "--once")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: nothing answers at http://127.0.0.1:1 ")


def test_the_api_says_which_version_it_is(url: str, live: PretendWorker) -> None:
    """And which version its workers are."""
    assert httpx.get(url).json()["version"] == version()
    live.report(version="0.0.9")
    wait_until(
        lambda: httpx.get(f"{url}/v1/capacity").json()["workers"][0]["version"] == "0.0.9", "it is known"
    )


def examined(url: str, valkey_url: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The doctor's exit status, and its findings by name."""
    variables = {"TIDEGATE_REDIS_URL": valkey_url, "TIDEGATE_HOST": "127.0.0.1", **environment}
    result = tidegate(url, "doctor", "--json", env=variables)
    said = json.loads(result.stdout)
    assert said["ok"] is (result.exit_code == 0)
    return result.exit_code, {each["check"]: each for each in said["findings"]}


def test_the_doctor_sees_the_queue_the_api_and_its_workers(
    url: str, valkey_url: str, live: PretendWorker, tmp_path: Path
) -> None:
    """What is well and what is not: this worker is of no version, and this server keeps nothing on disk."""
    status, said = examined(url, valkey_url, TIDEGATE_DATA_DIR=str(tmp_path), TIDEGATE_MODELS="")
    assert status == 1
    assert said["API"]["said"] == f"tidegate {version()} at {url}"
    for name in (
        "Python",
        "libraries",
        "settings",
        "queue",
        "API",
        "API ready",
        "queue memory",
        "data folder",
        "served",
        "clock",
    ):
        assert said[name]["ok"] is True, said[name]
    assert said["queue keeps"]["ok"] is False
    assert said["worker pretend"]["said"].endswith(
        "behind the API's, or it is slow to report"
    )  # it has no clock
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_a_model_that_nobody_serves(
    url: str, connection: Redis, valkey_url: str, tmp_path: Path
) -> None:
    """And that no worker lives at all."""
    wait_until(lambda: not httpx.get(f"{url}/v1/capacity").json()["workers"], "nobody lives")
    _, said = examined(url, valkey_url, TIDEGATE_DATA_DIR=str(tmp_path), TIDEGATE_MODELS="tiny=/nope")
    assert said[f"served {MODEL}"]["said"] == "no live worker serves it: its jobs wait"
    assert said["workers"]["said"] == "none lives"
    assert said["model tiny"]["said"] == "/nope: the folder does not exist"


@pytest.mark.usefixtures("connection")
def test_a_taken_port_ends_the_api_with_one_line(valkey_url: str) -> None:
    """At once, and with what to set."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        environment |= {"TIDEGATE_PORT": str(port), "TIDEGATE_REDIS_URL": valkey_url}
        command = [sys.executable, "-m", "tidegate", "api"]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: cannot listen on 127.0.0.1:{port} (Address already in use): ")
    assert "TIDEGATE_PORT" in line


@pytest.mark.usefixtures("connection")
def test_the_api_serves_on_the_port_that_it_was_given(valkey_url: str) -> None:
    """The socket is made before gunicorn is, and handed on to it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= {"TIDEGATE_PORT": str(port), "TIDEGATE_REDIS_URL": valkey_url}
    with subprocess.Popen(
        [sys.executable, "-m", "tidegate", "api"], stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            wait_until(lambda: tidegate(f"http://127.0.0.1:{port}", "models").exit_code == 0, "it serves", 30)
        finally:
            process.terminate()
            process.wait(15)
