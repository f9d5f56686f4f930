"""What the pages print can be run: every block of `sh` and `python`, as a reader copies it, against a real tidegate.

Three things are put in the place of what is printed, since they are the reader's own: the port, the queue's address, and
the model that is served as SmolLM2-135M-Instruct, a tiny one of random weights. What cannot be run here stands in
:data:`ELSEWHERE` with the reason; a block that is new fails until it is run or listed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from rq import Worker

from scheduler import fleet
from tests.e2e.open_stack import PRINTED_URL, SAMPLE, OpenStack
from tests.printed import ROOT, Block, blocks, pages
from tests.waiting import wait_until

_MAC = "it speaks to a Mac's launchd or its tools; tests/contract/test_launchd.py runs the list's own command"
ELSEWHERE = {
    "make run": "it makes an environment and downloads a model; .ci/run runs it, with ARGS=--once, in a clean clone",
    "TIDEGATE_MODELS=mlx-community/Qwen3-4B-4bit .venv/bin/tidegate up": "it downloads 2 GB; this stack is `tidegate up`",
    "make setup": "it changes the environment, for a host with an NVIDIA GPU",
    "install -m 600 /dev/null ~/tidegate.env": _MAC,
    "tidegate --settings ~/tidegate.env launchd worker > ~/Library/LaunchAgents/tidegate.worker.plist": _MAC,
    "sudo -u tide -H .venv/bin/tidegate --settings ~tide/tidegate.env launchd worker --boot tide \\": _MAC,
    "sudo pmset -c sleep 0 autorestart 1     # on mains power: stay awake, and start again after a power cut": _MAC,
    "mv ~/Library/Logs/tidegate/tidegate.worker.log{,.0} && launchctl kill SIGTERM gui/$(id -u)/tidegate.worker": _MAC,
    "export API=http://127.0.0.1:8400 OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=${TIDEGATE_API_KEY:-none}": (
        "tests/e2e/test_examples.py runs each example, and looks at what it says"
    ),
    "python -c 'import rq.serializers as s; s.PickleSerializer = s.JSONSerializer": (
        "it serves until it is stopped; tests/integration/test_rq_tools.py asks the same application"
    ),
    "docker run --rm -p 127.0.0.1:16686:16686 -p 127.0.0.1:4318:4318 jaegertracing/jaeger:latest": (
        "it downloads an image; tests/integration/test_traces.py sends to a collector of its own"
    ),
    "prometheus --config.file=docs/monitoring/prometheus.yml": (
        "Prometheus may not be there; tests/unit/test_monitoring.py compares the file with the metrics"
    ),
    "tidegate keys add --name prometheus > /etc/prometheus/tidegate.key   # readable by Prometheus alone": (
        "it writes where Prometheus reads; tests/contract/test_metrics_access.py asks with a key"
    ),
    "REDISCLI_AUTH=$(cat ~/queue-password) redis-cli -u rediss://queue.example:6379 --rdb /backups/tidegate-$(date +%a).rdb": (
        "it needs a server behind TLS, and its command-line tool"
    ),
}
"""By the first line of a block: why it is not run by this test."""

CLIENT = "from openai import OpenAI\nclient = OpenAI(base_url='http://127.0.0.1:8400/v1', api_key='none')\n"
"""What the README's first block of Python begins with, and later blocks go on from."""

SHELL = [block for page in pages() for block in blocks(str(page.relative_to(ROOT)), "sh", "bash", "console")]
PYTHON = [page for page in (str(page.relative_to(ROOT)) for page in pages()) if [*blocks(page, "python")]]
RUN = [block for block in SHELL if block.text.splitlines()[0] not in ELSEWHERE]


def as_here(text: str, stack: OpenStack) -> str:
    """A block with this stack's own in the place of what is the reader's."""
    own = {
        PRINTED_URL: stack.url,
        "unix:///home/me/.local/share/tidegate/valkey.sock": stack.running.server_url,
        "redis://127.0.0.1:6379/0": stack.running.server_url,
        "rediss://:the-password@queue.example:6379/0": stack.running.server_url,
        "mlx-community/Qwen3-4B-4bit": f"{SAMPLE}={stack.running.model}",
        " KEY": " laptop",
    }
    for printed, here in own.items():
        text = text.replace(printed, here)
    return text


def test_what_is_not_run_here_is_still_printed() -> None:
    """A reason whose block is gone is gone too."""
    assert {block.text.splitlines()[0] for block in SHELL} >= {*ELSEWHERE}
    assert len(RUN) >= 8


@pytest.mark.parametrize("block", [each for each in RUN if "rq.cli worker" not in each.text], ids=str)
def test_a_block_of_shell_runs(open_stack: OpenStack, block: Block) -> None:
    """To its end, each line; no call in it is answered by an error."""
    try:
        ran = open_stack.run("sh", "-euc", as_here(block.text, open_stack))
    finally:
        open_stack.remove_keys()
    assert ran.returncode == 0, ran.stderr
    assert '"error":{' not in ran.stdout.replace(" ", ""), ran.stdout
    assert ran.stdout


@pytest.mark.parametrize("page", PYTHON)
def test_a_pages_python_runs(open_stack: OpenStack, page: str) -> None:
    """Its blocks one after another in one process, as they go on from each other, and from the README's client."""
    text = CLIENT + "\n".join(block.text for block in blocks(page, "python"))
    ran = open_stack.run(sys.executable, "-c", as_here(text, open_stack))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.parametrize("block", [each for each in RUN if "rq.cli worker" in each.text], ids=str)
def test_a_printed_worker_joins(open_stack: OpenStack, tmp_path: Path, block: Block) -> None:
    """It is seen, by the fleet where it is a MetalWorker, by RQ anyhow; asked to stop it leaves."""
    seen = partial(_workers, open_stack.connection, metal="workers.MetalWorker" in block.text)
    before, log = seen(), tmp_path / "log"
    environment = open_stack.environment | {"TIDEGATE_REDIS_URL": open_stack.running.server_url}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-euc", as_here(block.text, open_stack)],
            cwd=open_stack.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def joined() -> bool:
        assert process.poll() is None, log.read_text()
        return bool(seen() - before) and "Listening on" in log.read_text()

    try:
        wait_until(joined, f"{block} joins", 100)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        wait_until(lambda: seen() == before, f"{block} has left", 30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def _workers(connection: Redis, *, metal: bool) -> set[str]:
    """The names of those that are there: MetalWorkers that have their model, or all that RQ knows."""
    if metal:
        return {each.name for each in fleet.live_workers(connection) if each.cards}
    return {each.name for each in Worker.all(connection)}
