"""`tidegate up` as a user starts it: Valkey, gunicorn and RQ, with stand-ins for the API and the worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

WORKERS = """
import sys
from rq import SimpleWorker
class MetalWorker(SimpleWorker):
    def work(self, *args, **options):
        if %(dies)s:
            sys.exit("no such model")
        return super().work(*args, **options)
"""

API = """
import json
import time

def event(name, **data):
    return f"event: {name}\\ndata: {json.dumps(data)}\\n\\n".encode()

def slowly(chunks):
    yield b": here\\n\\n"
    time.sleep(%(slow)s)
    yield from chunks

def create_app():
    def app(environ, start_response):
        def answer(kind, *chunks):
            start_response("200 OK", [("Content-Type", kind)])
            return list(chunks)
        path = environ["PATH_INFO"]
        if path == %(closed)r:
            error = {"code": "unauthorized", "message": "an API key is needed"}
            start_response("401 Unauthorized", [("Content-Type", "application/json")])
            return [json.dumps({"error": error}).encode()]
        if path.endswith("/stream"):
            ended = {"id": "job_1", "status": "completed", "result": {"text": "Paris."}}
            chunks = (event("delta", text="Par"), event("delta", text="is."), event("completed", **ended))
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return slowly(chunks)
        live = [{"name": "one", "budget_bytes": 1 << 30, "models": [{"id": "tiny", "card": None}]}]
        jobs = {"id": "job_1", "data": [{"id": environ["QUERY_STRING"]}] if %(left)s else []}
        bodies = {"/readyz": {}, "/v1/capacity": {"workers": live if %(live)s else []}, "/v1/jobs": jobs}
        return answer("application/json", json.dumps(bodies[path]).encode())
    app.listen_on = list
    app.begin = lambda: None
    return app
"""


class Up:
    """`tidegate up` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.err = folder / "out", folder / "err"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, *arguments: str, dies: bool = False, slow: float = 0, left: bool = False, closed: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Start it.

        Args:
            dies: with a worker that ends at once.
            slow: seconds until the answer comes.
            left: with two jobs that are there already.
            closed: the path that needs a key.
        """
        sources = {
            "workers/__init__.py": WORKERS % {"dies": dies},
            "api/__init__.py": "",
            "api/app.py": API % {"live": not dies, "slow": slow, "left": left, "closed": closed},
            "api/gunicorn_conf.py": (ROOT / "api/gunicorn_conf.py").read_text(),
            "api/descriptors.py": (ROOT / "api/descriptors.py").read_text(),
            "api/http_worker.py": (ROOT / "api/http_worker.py").read_text(),
            "api/quiet_log.py": (ROOT / "api/quiet_log.py").read_text(),
        }
        for name, source in sources.items():
            file = self.folder / "stand-ins" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        environment |= {
            "PYTHONPATH": f"{self.folder / 'stand-ins'}:{ROOT}",
            "TIDEGATE_DATA_DIR": str(self.folder / "some data"),
            "TIDEGATE_MODELS": "tiny",
        }
        command = [sys.executable, "-m", "tidegate", "up", "--port", "0", *arguments]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=self.folder)
        return self.process

    def invites(self) -> bool:
        """Whether it is up and says what to try."""
        assert self.process is not None
        assert self.process.poll() is None, self.err.read_text()
        return "Ctrl-C" in self.err.read_text()

    def left(self) -> list[psutil.Process]:
        """What still runs of it."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.cwd()]
            except psutil.Error:
                continue
            if any(str(self.folder) in word for word in words):
                found.append(process)
        return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Cleans up after a test that failed."""
    made = Up(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    for process in made.left():
        process.kill()


def test_once_ends_after_the_answer(up: Up) -> None:
    """Exit status 0, the answer alone on standard output, and no process left."""
    assert up.start("--once").wait(timeout=60) == 0, up.err.read_text()
    assert up.out.read_text() == "Paris.\n"
    assert "curl" not in up.err.read_text()
    assert up.left() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stays_until_it_is_told_to_stop(up: Up, signum: signal.Signals) -> None:
    """It shows a call to try, and stops everything when asked: that is no failure."""
    process = up.start()
    wait_until(up.invites, "it invites", 60)
    assert "\nPage  http://127.0.0.1:" in up.err.read_text()
    assert "curl -N http://127.0.0.1:" in up.err.read_text()
    assert len(up.left()) >= 5
    process.send_signal(signum)
    assert process.wait(timeout=60) == 0
    assert up.left() == []


def test_what_makes_the_first_answer_late_is_told(up: Up) -> None:
    """Jobs from before, and a model that loads; neither in the answer."""
    assert up.start("--once", slow=3, left=True).wait(timeout=60) == 0, up.err.read_text()
    assert up.out.read_text() == "Paris.\n"
    before, question, after = up.err.read_text().partition("What is the capital of France?")
    assert "2 jobs from before go on as well\n" in before
    assert question and "\nloading tiny; " in after


def test_a_part_that_dies_while_the_answer_is_waited_for_is_noticed_at_once(up: Up) -> None:
    """Though the stream says nothing: long before its next word."""
    process = up.start(slow=120)
    wait_until(lambda: "France" in up.err.read_text(), "the question", 60)
    (worker,) = (each for each in up.left() if "rq.cli" in each.cmdline())
    worker.kill()
    assert process.wait(timeout=60) == 1
    assert "worker was killed by signal 9" in up.err.read_text()
    assert up.left() == []


def test_a_stop_during_the_question_says_what_it_does(up: Up) -> None:
    """As it does later; but what was asked for was not done."""
    process = up.start(slow=60)
    wait_until(lambda: "France" in up.err.read_text(), "the question", 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "\nstopping: " in up.err.read_text()
    assert up.err.read_text().endswith("stopped\n")
    assert "go on" not in up.err.read_text()
    assert up.left() == []


@pytest.mark.parametrize("path", ["/v1/capacity", "/v1/jobs", "/v1/jobs/job_1/stream"])
def test_a_first_key_that_is_made_meanwhile_ends_the_question_alone(up: Up, path: str) -> None:
    """Whatever of it is refused; with `--once` there is nothing else to stay for."""
    process = up.start(closed=path)
    wait_until(up.invites, "it invites", 60)
    assert up.err.read_text().count("now needs one too (TIDEGATE_API_KEY)") == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert up.start("--once", closed=path).wait(timeout=60) == 1
    assert "Error: unauthorized: an API key is needed: set TIDEGATE_API_KEY" in up.err.read_text()
    assert up.left() == []


def test_a_kill_leaves_nothing_behind(up: Up) -> None:
    """Not even SIGKILL: the warden stops the rest, in order."""
    process = up.start()
    wait_until(up.invites, "it invites", 60)
    process.kill()
    process.wait()
    wait_until(lambda: up.left() == [], "nothing is left", 60)
    assert "bye bye" in (up.folder / "some data/logs/valkey.log").read_text()


def test_a_worker_that_dies_is_shown_with_its_last_words(up: Up) -> None:
    """Exit status 1, the reason, and no process left."""
    assert up.start(dies=True).wait(timeout=60) == 1
    assert "worker exited with 1" in up.err.read_text()
    assert "no such model" in up.err.read_text()
    assert up.left() == []


def test_nothing_to_serve_is_said_before_anything_starts(up: Up) -> None:
    """With what to set."""
    path = str(Path(sys.executable).parent)
    environment = {"PYTHONPATH": str(ROOT), "TIDEGATE_DATA_DIR": str(up.folder), "PATH": path}
    command = [sys.executable, "-m", "tidegate", "up"]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=up.folder, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "Error: nothing to serve: set TIDEGATE_MODELS; `tidegate up --sample` makes and serves a small model, "
        "and `tidegate worker --sample` is one more worker for it\n"
    )
